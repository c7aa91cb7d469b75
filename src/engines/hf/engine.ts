/** A model as HuggingFace transformers saves it: config.json, safetensors, tokenizer files. */
import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import type { Engine, Match, Verdict } from '../engine.ts'
import type { SafetensorsFiles } from '../containers/safetensors-files.ts'
import type { TorchFiles } from '../containers/torch-files.ts'
import { CONFIG_FILE, findModels, type ModelFiles } from '../transformers/files.ts'
import { readQuantization } from '../transformers/quantization.ts'
import { loadModel, openOutline } from './open.ts'
import { validateModel } from './validate.ts'
import { planHuggingFace, WRITE_OPTIONS } from './write.ts'

/** How sure a match is: a whole model; something that opening will refuse with a reason better than "not a model". */
const WHOLE = 0.9
const REFUSED = 0.3
const SEVERAL = 0.2

async function detect(folder: Folder): Promise<Match | null> {
  const models = await findModels(folder)
  const [model] = models
  if (model === undefined) return null
  const { root, weights } = model
  const match = (confidence: number, because: string, entry = root + (weights?.path ?? CONFIG_FILE)): Match => ({
    format: 'huggingface',
    confidence,
    because,
    entry,
  })
  if (models.length > 1) return match(SEVERAL, `${models.length} models in folders of their own`)
  if (weights === null) return match(REFUSED, `${CONFIG_FILE} without weights`)
  if (weights.kind === 'refused') return match(REFUSED, weights.what)
  const what = describeFiles(weights)
  return model.hasConfig
    ? match(WHOLE, `${CONFIG_FILE} with ${what}${await describeQuantization(folder, model)}`)
    : match(REFUSED, `${what} without ${CONFIG_FILE}`)
}

/** How the weights are quantised; nothing where that cannot be told, which opening will say. */
async function describeQuantization(folder: Folder, model: ModelFiles): Promise<string> {
  try {
    const declared = await readQuantization(folder, model)
    return declared === null ? '' : `, ${declared.title}`
  } catch {
    return ''
  }
}

function describeFiles(weights: SafetensorsFiles | TorchFiles): string {
  if (weights.kind === 'torch') return weights.sharded ? 'sharded pytorch_model.bin' : weights.path
  return weights.kind === 'index' ? 'sharded safetensors' : weights.path
}

async function open(folder: Folder): Promise<Checkpoint> {
  const { checkpoint } = await loadModel(folder)
  return checkpoint
}

function canInfer(checkpoint: Checkpoint): Verdict {
  return { can: false, because: `the forward pass of ${checkpoint.architecture} is not described yet` }
}

/** HuggingFace transformers. */
export const huggingface: Engine = {
  id: 'huggingface',
  title: 'HuggingFace (transformers)',
  options: WRITE_OPTIONS,
  detect,
  open,
  outline: openOutline,
  needs: () => [],
  convert: (checkpoint, options) => planHuggingFace(checkpoint, options),
  validate: validateModel,
  canInfer,
}

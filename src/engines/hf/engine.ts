/** A model as HuggingFace transformers saves it: config.json, safetensors, tokenizer files. */
import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import type { Engine, InputKind, Match, Verdict } from '../engine.ts'
import type { SafetensorsFiles } from '../containers/safetensors-files.ts'
import type { TorchFiles } from '../containers/torch-files.ts'
import { CONFIG_FILE, findModels, type ModelFiles } from '../transformers/files.ts'
import { readQuantization, type DeclaredQuantization, type Quantization } from '../transformers/quantization.ts'
import { loadModel, openOutline } from './open.ts'
import { validateModel } from './validate.ts'
import { planHuggingFace, WRITE_OPTIONS } from './write.ts'

/** How sure a match is: a whole model; something that opening will refuse with a reason better than "not a model". */
const WHOLE = 0.9
const REFUSED = 0.3
const SEVERAL = 0.2

const OTHERWISE = 'A model of no architecture known here is cast and split only, into a folder or bare safetensors.'

const KINDS = {
  safetensors: {
    id: 'huggingface',
    title: 'HuggingFace folder',
    help: 'config.json with safetensors, one file or shards, in F32, F16 or BF16.',
    otherwise: OTHERWISE,
  },
  torch: {
    id: 'pytorch',
    title: 'pytorch_model.bin',
    help: 'config.json with PyTorch weights: zip, the format before it, or a whole module; one file or shards.',
    otherwise: OTHERWISE,
  },
  gptq: { id: 'gptq', title: 'GPTQ folder', help: '2, 3, 4 or 8 bits, act-order or not; dequantised on the way.' },
  awq: { id: 'awq', title: 'AWQ folder', help: '4 bits, GEMM or GEMV; dequantised on the way.' },
  'compressed-tensors': {
    id: 'compressed-tensors',
    title: 'compressed-tensors folder',
    help: 'As llm-compressor writes it: packed or plain integers, FP8, MXFP4; dequantised on the way.',
  },
  fp8: { id: 'fp8', title: 'FP8 folder', help: 'With a scale for each block, row or matrix; dequantised on the way.' },
  mxfp4: { id: 'mxfp4', title: 'MXFP4 folder', help: 'Blocks and scales side by side; dequantised on the way.' },
} satisfies Record<Quantization['method'] | 'safetensors' | 'torch', InputKind>

async function detect(folder: Folder): Promise<Match | null> {
  const models = await findModels(folder)
  const [model] = models
  if (model === undefined) return null
  const { root, weights } = model
  const method = await quantizationOf(folder, model)
  const kind = KINDS[method?.quantization.method ?? (weights?.kind === 'torch' ? 'torch' : 'safetensors')].id
  const match = (confidence: number, because: string, entry = root + (weights?.path ?? CONFIG_FILE)): Match => ({
    format: 'huggingface',
    kind,
    confidence,
    because,
    entry,
  })
  if (models.length > 1) return match(SEVERAL, `${models.length} models in folders of their own`)
  if (weights === null) return match(REFUSED, `${CONFIG_FILE} without weights`)
  if (weights.kind === 'refused') return match(REFUSED, weights.what)
  const what = describeFiles(weights)
  return model.hasConfig
    ? match(WHOLE, `${CONFIG_FILE} with ${what}${method === null ? '' : `, ${method.title}`}`)
    : match(REFUSED, `${what} without ${CONFIG_FILE}`)
}

/** How the weights are quantised; null where that cannot be told, which opening will say. */
async function quantizationOf(folder: Folder, model: ModelFiles): Promise<DeclaredQuantization | null> {
  try {
    return await readQuantization(folder, model)
  } catch {
    return null
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

function canInfer(): Verdict {
  return { can: false, because: 'only GGUF files can be run so far' }
}

/** HuggingFace transformers. */
export const huggingface: Engine = {
  id: 'huggingface',
  title: 'HuggingFace (transformers)',
  options: WRITE_OPTIONS,
  inputs: Object.values(KINDS),
  refuses: () => null,
  detect,
  open,
  outline: openOutline,
  needs: () => [],
  convert: (checkpoint, options) => planHuggingFace(checkpoint, options),
  validate: validateModel,
  canInfer,
}

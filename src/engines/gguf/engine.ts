import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Plan } from '../../core/plan.ts'
import { GGUF_MAGIC } from '../containers/gguf/types.ts'
import type { Engine, Evidence, Match, Measurement } from '../engine.ts'
import { refusesArchitecture } from './arch/index.ts'
import { AUTHORSHIP_OPTIONS } from './metadata/authorship.ts'
import { EDIT_OPTIONS } from './metadata/edit.ts'
import { modelEntries, partOf, withoutCompanions } from './files.ts'
import { canInferGguf } from './read/infer.ts'
import { SPLIT_OPTIONS } from './lay.ts'
import { ggufNeeds, planGguf } from './layout.ts'
import { ggufModelOf, openGguf } from './read/open.ts'
import { planFromGguf, requantiseNeeds } from './requantise.ts'
import { PRE_OPTION } from './tokenizer.ts'
import { validateGguf } from './validate.ts'
import { WEIGHT_OPTIONS, weightOptions } from './weights/options.ts'

const OPTIONS: readonly OptionSpec[] = [
  ...WEIGHT_OPTIONS,
  ...SPLIT_OPTIONS,
  PRE_OPTION,
  ...AUTHORSHIP_OPTIONS,
  ...EDIT_OPTIONS,
]

/** Bytes of the magic and the version. */
const PREFIX_BYTES = 8

/** Below that of a complete HuggingFace model: where both lie in one folder, the GGUF file was made from it. */
const CONFIDENCE = 0.8

async function detect(folder: Folder): Promise<Match | null> {
  const files = (await folder.list()).filter(({ path, size }) => /\.gguf$/i.test(path) && size >= PREFIX_BYTES)
  for (const path of withoutCompanions(modelEntries(files))) {
    const source = await folder.open(path)
    try {
      const prefix = new Uint8Array(PREFIX_BYTES)
      await source.read(0, prefix)
      if (!GGUF_MAGIC.every((byte, index) => prefix[index] === byte)) continue
      const version = new DataView(prefix.buffer).getUint32(4, true)
      const part = partOf(path)
      const because = `${path}, GGUF version ${version}${part === null ? '' : `, split into ${part.count} files`}`
      return { format: 'gguf', kind: 'gguf', confidence: CONFIDENCE, because, entry: path }
    } finally {
      await source.close()
    }
  }
  return null
}

async function needs(checkpoint: Checkpoint, options: OptionValues): Promise<readonly Measurement[]> {
  const weights = await weightOptions(options)
  const model = ggufModelOf(checkpoint)
  return model === null ? ggufNeeds(checkpoint, weights) : requantiseNeeds(model, weights)
}

async function convert(checkpoint: Checkpoint, options: OptionValues, evidence: Evidence): Promise<Plan> {
  const weights = await weightOptions(options)
  const model = ggufModelOf(checkpoint)
  return model === null
    ? planGguf(checkpoint, weights, options, evidence)
    : planFromGguf(model, weights, options, evidence)
}

/** GGUF, the format of llama.cpp. */
export const gguf: Engine = {
  id: 'gguf',
  title: 'GGUF (llama.cpp)',
  options: OPTIONS,
  inputs: [
    {
      id: 'gguf',
      title: 'GGUF file',
      help: 'One file or a split set, of any type of weights.',
      otherwise: 'A model of any other architecture that llama.cpp has becomes GGUF only.',
    },
  ],
  refuses: refusesArchitecture,
  detect,
  open: openGguf,
  needs,
  convert,
  validate: (folder, match, thorough) => validateGguf(folder, match.entry, thorough),
  canInfer: canInferGguf,
}

import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValue, OptionValues } from '../../core/option.ts'
import type { Plan } from '../../core/plan.ts'
import { GGUF_MAGIC } from '../containers/gguf/types.ts'
import type { Engine, Match } from '../engine.ts'
import { EDIT_OPTIONS } from './edit.ts'
import { modelEntries, partOf } from './files.ts'
import { SPLIT_OPTIONS } from './lay.ts'
import { planGguf } from './layout.ts'
import { DEFAULT_MIX, MIXES, type Mix } from './mix.ts'
import { ggufModelOf, openGguf } from './open.ts'
import { planFromGguf } from './requantise.ts'
import { validateGguf } from './validate.ts'

/** llama-quantize's name for changing nothing. */
const COPY = {
  value: 'copy',
  title: 'As it is',
  help: 'Each tensor keeps its type: to split, merge or edit a GGUF file, or for an exact copy of other weights.',
}

const OPTIONS: readonly OptionSpec[] = [
  {
    name: 'quant',
    title: 'Weights',
    help: 'How the weights are stored: fewer bits make a smaller and faster model that is a little less exact.',
    kind: {
      kind: 'choice',
      choices: [...MIXES.map(({ id, title, help }) => ({ value: id, title, help })), COPY],
      default: DEFAULT_MIX,
    },
  },
  {
    name: 'pre',
    title: 'Pre-tokenizer',
    help: "llama.cpp's name for the way the tokenizer splits text; needed only where it is not recognised.",
    kind: { kind: 'text', default: null },
  },
  ...SPLIT_OPTIONS,
  ...EDIT_OPTIONS,
]

/** Bytes of the magic and the version. */
const PREFIX_BYTES = 8

/** Below that of a complete HuggingFace model: where both lie in one folder, the GGUF file was made from it. */
const CONFIDENCE = 0.8

async function detect(folder: Folder): Promise<Match | null> {
  const files = (await folder.list()).filter(({ path, size }) => /\.gguf$/i.test(path) && size >= PREFIX_BYTES)
  for (const path of modelEntries(files)) {
    const source = await folder.open(path)
    try {
      const prefix = new Uint8Array(PREFIX_BYTES)
      await source.read(0, prefix)
      if (!GGUF_MAGIC.every((byte, index) => prefix[index] === byte)) continue
      const version = new DataView(prefix.buffer).getUint32(4, true)
      const part = partOf(path)
      const because = `${path}, GGUF version ${version}${part === null ? '' : `, split into ${part.count} files`}`
      return { format: 'gguf', confidence: CONFIDENCE, because, entry: path }
    } finally {
      await source.close()
    }
  }
  return null
}

function convert(checkpoint: Checkpoint, options: OptionValues): Promise<Plan> {
  const model = ggufModelOf(checkpoint)
  const copy = options['quant'] === COPY.value
  if (model !== null) {
    const quant = options['quant'] ?? DEFAULT_MIX
    return planFromGguf(model, copy ? null : requireMix(quant), options)
  }
  // another format's weights have a type too: the mixture of that name keeps it
  const own = MIXES.find(({ base }) => base === checkpoint.config.dtype)?.id ?? 'f32'
  return planGguf(checkpoint, copy ? { ...options, quant: own } : options)
}

function requireMix(quant: OptionValue): Mix {
  const mix = MIXES.find(({ id }) => id === quant)
  if (mix !== undefined) return mix
  throw new AppError('bad-option', `--quant cannot be ${JSON.stringify(quant)}`)
}

/** GGUF, the format of llama.cpp. */
export const gguf: Engine = {
  id: 'gguf',
  title: 'GGUF (llama.cpp)',
  options: OPTIONS,
  detect,
  open: openGguf,
  needs: () => [],
  convert,
  validate: (folder, match) => validateGguf(folder, match.entry),
  canInfer: () => ({ can: true, by: 'llama.cpp' }),
}

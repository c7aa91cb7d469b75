import type { Folder } from '../../core/bytes.ts'
import type { OptionSpec } from '../../core/option.ts'
import { GGUF_MAGIC } from '../containers/gguf/types.ts'
import type { Engine, Match } from '../engine.ts'
import { planGguf } from './layout.ts'
import { DEFAULT_MIX, MIXES } from './mix.ts'
import { validateGguf } from './validate.ts'

const OPTIONS: readonly OptionSpec[] = [
  {
    name: 'quant',
    title: 'Weights',
    help: 'How the weights are stored: fewer bits make a smaller and faster model that is a little less exact.',
    kind: {
      kind: 'choice',
      choices: MIXES.map(({ id, title, help }) => ({ value: id, title, help })),
      default: DEFAULT_MIX,
    },
  },
  {
    name: 'pre',
    title: 'Pre-tokenizer',
    help: "llama.cpp's name for the way the tokenizer splits text; needed only where it is not recognised.",
    kind: { kind: 'text', default: null },
  },
]

/** Bytes of the magic and the version. */
const PREFIX_BYTES = 8

/** Below that of a complete HuggingFace model: where both lie in one folder, the GGUF file was made from it. */
const CONFIDENCE = 0.8

/** The part's number in the name of a split model's file; 1 for a file that is whole. */
function partOf(path: string): number {
  return Number(/-(\d{5})-of-\d{5}\.gguf$/i.exec(path)?.[1] ?? 1)
}

async function detect(folder: Folder): Promise<Match | null> {
  const files = (await folder.list()).filter(({ path, size }) => /\.gguf$/i.test(path) && size >= PREFIX_BYTES)
  for (const { path } of files.sort((a, b) => partOf(a.path) - partOf(b.path))) {
    const source = await folder.open(path)
    try {
      const prefix = new Uint8Array(PREFIX_BYTES)
      await source.read(0, prefix)
      if (!GGUF_MAGIC.every((byte, index) => prefix[index] === byte)) continue
      const version = new DataView(prefix.buffer).getUint32(4, true)
      return { format: 'gguf', confidence: CONFIDENCE, because: `${path}, GGUF version ${version}`, entry: path }
    } finally {
      await source.close()
    }
  }
  return null
}

/** GGUF, the format of llama.cpp. */
export const gguf: Engine = {
  id: 'gguf',
  title: 'GGUF (llama.cpp)',
  options: OPTIONS,
  detect,
  open: null,
  needs: () => [],
  convert: (checkpoint, options) => planGguf(checkpoint, options),
  validate: (folder, match) => validateGguf(folder, match.entry),
  canInfer: () => ({ can: true, by: 'llama.cpp' }),
}

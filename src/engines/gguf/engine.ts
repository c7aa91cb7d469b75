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

/** Whether the name is that of a part other than the first of a split model. */
function isLaterPart(path: string): boolean {
  const part = /-(\d{5})-of-\d{5}\.gguf$/i.exec(path)?.[1]
  return part !== undefined && part !== '00001'
}

async function detect(folder: Folder): Promise<Match | null> {
  for (const { path, size } of await folder.list()) {
    if (!path.toLowerCase().endsWith('.gguf') || isLaterPart(path) || size < PREFIX_BYTES) continue
    const source = await folder.open(path)
    try {
      const prefix = new Uint8Array(PREFIX_BYTES)
      await source.read(0, prefix)
      if (!GGUF_MAGIC.every((byte, index) => prefix[index] === byte)) continue
      const version = new DataView(prefix.buffer).getUint32(4, true)
      return { format: 'gguf', confidence: 1, because: `${path}, GGUF version ${version}`, entry: path }
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

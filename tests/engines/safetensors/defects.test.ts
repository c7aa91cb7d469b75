import { safetensors as engine } from '../../../src/engines/safetensors/engine.ts'
import { testDefects, type Defects } from '../defects.ts'
import { edit, jsonOf, safetensors, sharded, tinyLlama, rawTensors, utf8, without, type Files } from '../hf/folder.ts'

const Q = 'model.layers.1.self_attn.q_proj.weight'
const WEIGHTS = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const LAST = 'model-00003-of-00003.safetensors'

/** Weights and their index, of a model whose other files are not there. */
const bare = (files: Files): Files =>
  Object.fromEntries(Object.entries(files).filter(([path]) => path.includes('.safetensors')))
const whole = bare(tinyLlama())
const split = bare(sharded(tinyLlama(), 3))

/** Rewrites the header of the weights as text of the same length. */
function header(change: (text: string) => string): () => Files {
  return () => {
    const bytes = Uint8Array.from(whole[WEIGHTS]!)
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true))
    const old = new TextDecoder().decode(bytes.subarray(8, 8 + length))
    const text = change(old).padEnd(old.length)
    if (text === old || text.length !== old.length) throw new Error('nothing changed')
    bytes.set(utf8(text), 8)
    return { [WEIGHTS]: bytes }
  }
}

function index(change: (map: Record<string, string>) => Record<string, string>): () => Files {
  return () => edit(split, INDEX, { weight_map: change(jsonOf(split, INDEX)['weight_map'] as Record<string, string>) })
}

/** What a file of tensors without a model can be wrong in: which tensors there are to be, and of which shape, nobody says. */
const DEFECTS: Defects = [
  [
    'a shape that its bytes are too few for',
    header((text) => text.replace(new RegExp(`("${Q}":\\{"dtype":"BF16","shape":\\[)64,64`), '$166,64')),
    { code: 'malformed', tensor: Q, file: WEIGHTS },
  ],
  [
    'a type that its bytes are too few for',
    header((text) => text.replace(new RegExp(`("${Q}":\\{"dtype":")BF16`), '$1F32')),
    { code: 'malformed', tensor: Q, file: WEIGHTS },
  ],
  [
    'a type that is none',
    header((text) => text.replace(new RegExp(`("${Q}":\\{"dtype":")BF16`), '$1BF17')),
    { code: 'malformed', tensor: Q, file: WEIGHTS, says: 'BF17' },
  ],
  [
    'an offset that is wrong',
    header((text) =>
      text.replace(/("data_offsets":\[\d*)(\d),/, (_, a: string, b: string) => `${a}${(Number(b) + 2) % 10},`),
    ),
    { code: 'malformed', tensor: 'lm_head.weight', file: WEIGHTS },
  ],
  ['a header that is no JSON', header((text) => `[${text.slice(1)}`), { code: 'malformed', file: WEIGHTS }],
  [
    'a NaN',
    () => ({
      [WEIGHTS]: safetensors(
        rawTensors(whole[WEIGHTS]!).map((tensor) => {
          if (tensor.name !== Q) return tensor
          const data = tensor.data.slice()
          data.set([0xc0, 0x7f], 30)
          return { ...tensor, data }
        }),
      ),
    }),
    // of which it is not known whether they are weights
    { code: 'bad-weights', tensor: Q, file: WEIGHTS, severity: 'warning' },
  ],
  [
    'a file cut short',
    () => ({ [WEIGHTS]: whole[WEIGHTS]!.slice(0, -3) }),
    { code: 'truncated', tensor: 'model.norm.weight', file: WEIGHTS },
  ],
  [
    'a tensor that is missing',
    index((map) => ({ ...map, gone: LAST })),
    { code: 'missing-tensor', tensor: 'gone', file: LAST },
  ],
  [
    'a tensor too many',
    index((map) => Object.fromEntries(Object.entries(map).filter(([name]) => name !== Q))),
    { code: 'index-incomplete', tensor: Q, file: INDEX },
  ],
  [
    'an index that names a shard that is not there',
    index((map) => ({ ...map, [Q]: 'model-00009-of-00009.safetensors' })),
    { code: 'missing-file', file: 'model-00009-of-00009.safetensors' },
  ],
  ['a shard that is missing', () => without(split, LAST), { code: 'missing-file', file: LAST }],
  ['an index that is no JSON', () => ({ ...split, [INDEX]: utf8('weights') }), { code: 'malformed', file: INDEX }],
  [
    'an index with another size',
    () => edit(split, INDEX, { metadata: { total_size: 12 } }),
    { code: 'total-size', file: INDEX, says: '12' },
  ],
]

testDefects('bare safetensors files', engine, DEFECTS)

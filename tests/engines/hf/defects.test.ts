import { expect, test } from 'vitest'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { testDefects, validationOf, type Defects } from '../defects.ts'
import { edit, editWeights, jsonOf, sharded, tinyLlama, utf8, without, type Files, type RawTensor } from './folder.ts'

const Q = 'model.layers.1.self_attn.q_proj.weight'
const NORM = 'model.norm.weight'
const HEAD = 'lm_head.weight'
const WEIGHTS = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const CONFIG = 'config.json'

const tiny = tinyLlama()
const split = sharded(tiny, 3)

/** Changes one tensor. */
function poke(name: string, change: (tensor: RawTensor) => RawTensor): () => Files {
  return () =>
    editWeights(tiny, (all) => {
      if (!all.some((tensor) => tensor.name === name)) throw new Error(`no ${name}`)
      return all.map((tensor) => (tensor.name === name ? change(tensor) : tensor))
    })
}

/** Rewrites the header of the weights as text of the same length. */
function header(change: (text: string) => string): () => Files {
  return () => {
    const bytes = Uint8Array.from(tiny[WEIGHTS]!)
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true))
    const old = new TextDecoder().decode(bytes.subarray(8, 8 + length))
    const text = change(old)
    if (text === old || text.length !== old.length) throw new Error('nothing changed')
    bytes.set(utf8(text), 8)
    return { ...tiny, [WEIGHTS]: bytes }
  }
}

function index(change: (map: Record<string, string>) => Record<string, string>): () => Files {
  return () => edit(split, INDEX, { weight_map: change(jsonOf(split, INDEX)['weight_map'] as Record<string, string>) })
}

const drop = (...names: readonly string[]): Files =>
  editWeights(tiny, (all) => all.filter(({ name }) => !names.includes(name)))
const extra = { name: 'model.rope', dtype: 'f32', shape: [1], data: new Uint8Array(4) } as const
const patched =
  (at: number, ...bytes: readonly number[]) =>
  (tensor: RawTensor): RawTensor => {
    const data = tensor.data.slice()
    data.set(bytes, at)
    return { ...tensor, data }
  }

const DEFECTS: Defects = [
  [
    'a tensor of another shape',
    poke('model.layers.1.mlp.down_proj.weight', (old) => ({ ...old, shape: old.shape.toReversed() })),
    { code: 'bad-tensor', tensor: 'model.layers.1.mlp.down_proj.weight', file: WEIGHTS, says: '[160, 64]' },
  ],
  ['a tensor that is missing', () => drop(Q), { code: 'missing-tensor', tensor: Q, file: WEIGHTS }],
  [
    'a tensor too many',
    () => editWeights(tiny, (all) => [...all, extra]),
    { code: 'tensor-ignored', tensor: 'model.rope', file: WEIGHTS },
  ],
  [
    'a layer too many',
    () => edit(tiny, CONFIG, { num_hidden_layers: 1 }),
    { code: 'tensor-ignored', tensor: 'model.layers.1.input_layernorm.weight', file: WEIGHTS },
  ],
  [
    'an offset that is wrong',
    header((text) =>
      text.replace(/("data_offsets":\[\d*)(\d),/, (_, a: string, b: string) => `${a}${(Number(b) + 1) % 10},`),
    ),
    { code: 'malformed', tensor: HEAD, file: WEIGHTS },
  ],
  [
    'a type of weights that never is',
    poke(Q, (old) => ({ ...old, dtype: 'i16' })),
    { code: 'bad-tensor', tensor: Q, file: WEIGHTS, says: 'i16' },
  ],
  [
    'a type that is not that of config.json',
    () => edit(tiny, CONFIG, { dtype: 'float32', torch_dtype: 'float32' }),
    { code: 'dtype-mismatch', file: CONFIG, severity: 'warning', says: 'f32' },
  ],
  ['a NaN', poke(Q, patched(30, 0xc0, 0x7f)), { code: 'bad-weights', tensor: Q, file: WEIGHTS }],
  ['an infinity', poke(NORM, patched(2, 0x80, 0xff)), { code: 'bad-weights', tensor: NORM, file: WEIGHTS }],
  [
    'a matrix of zeros',
    poke(Q, (old) => ({ ...old, data: new Uint8Array(old.data.length) })),
    { code: 'zero-weights', tensor: Q, file: WEIGHTS, severity: 'warning' },
  ],
  [
    'a file cut short',
    () => ({ ...tiny, [WEIGHTS]: tiny[WEIGHTS]!.slice(0, -3) }),
    { code: 'truncated', tensor: NORM, file: WEIGHTS },
  ],
  [
    'an index that names a shard that is not there',
    index((map) => ({ ...map, [Q]: 'model-00009-of-00009.safetensors' })),
    { code: 'missing-file', file: 'model-00009-of-00009.safetensors' },
  ],
  [
    'an index that puts a tensor where it is not',
    index((map) => ({ ...map, [Q]: 'model-00001-of-00003.safetensors' })),
    { code: 'missing-tensor', tensor: Q, file: 'model-00001-of-00003.safetensors' },
  ],
  [
    'an index that names a tensor that is nowhere',
    index((map) => ({ ...map, 'model.rope': map[NORM]! })),
    { code: 'missing-tensor', tensor: 'model.rope', file: 'model-00003-of-00003.safetensors' },
  ],
  [
    'an index that leaves one out',
    index((map) => Object.fromEntries(Object.entries(map).filter(([name]) => name !== Q))),
    { code: 'index-incomplete', tensor: Q, file: INDEX },
  ],
  ['an index that is no JSON', () => ({ ...split, [INDEX]: utf8('weights') }), { code: 'malformed', file: INDEX }],
  [
    'an index with another size',
    () => edit(split, INDEX, { metadata: { total_size: 12 } }),
    { code: 'total-size', file: INDEX, says: '12' },
  ],
  [
    'a shard that is missing',
    () => without(split, 'model-00002-of-00003.safetensors'),
    { code: 'missing-file', file: 'model-00002-of-00003.safetensors' },
  ],
  [
    'a tensor in two shards',
    () => {
      const [first, last] = ['model-00001-of-00003.safetensors', 'model-00003-of-00003.safetensors']
      return { ...split, [last]: split[first]!, [INDEX]: bothIn(first, last) }
    },
    {
      code: 'malformed',
      tensor: Object.keys(shardMap('model-00001-of-00003.safetensors'))[0]!,
      file: 'model-00003-of-00003.safetensors',
    },
  ],
  [
    'a head that config.json ties to another embedding',
    () => edit(tiny, CONFIG, { tie_word_embeddings: true }),
    { code: 'tie-contradicts', tensor: HEAD, file: WEIGHTS },
  ],
  [
    'no head where config.json does not tie it',
    () => drop(HEAD),
    { code: 'missing-tensor', tensor: HEAD, file: WEIGHTS },
  ],
  [
    'a vocabulary that the embedding has not',
    () => edit(tiny, CONFIG, { vocab_size: 4096 }),
    { code: 'bad-tensor', tensor: 'model.embed_tokens.weight', file: WEIGHTS, says: '4096' },
  ],
  ['a config.json that is no JSON', () => ({ ...tiny, [CONFIG]: utf8('{') }), { code: 'malformed', file: CONFIG }],
]

function shardMap(shard: string): Record<string, string> {
  const map = jsonOf(split, INDEX)['weight_map'] as Record<string, string>
  return Object.fromEntries(Object.entries(map).filter(([, file]) => file === shard))
}

/** An index that knows the tensors of one shard, and says that another has none of its own. */
function bothIn(first: string, last: string): Uint8Array {
  const map = jsonOf(split, INDEX)['weight_map'] as Record<string, string>
  const names = Object.keys(shardMap(first))
  const kept = Object.entries(map).filter(([, file]) => file !== last)
  // the second name goes to the last shard, which then holds all of them once more
  return utf8(JSON.stringify({ metadata: {}, weight_map: { ...Object.fromEntries(kept), [names[1]!]: last } }))
}

testDefects('a HuggingFace folder', huggingface, DEFECTS)

test('a head that is the embedding it is tied to is no defect', async () => {
  const embedding = 'model.embed_tokens.weight'
  const same = editWeights(edit(tiny, CONFIG, { tie_word_embeddings: true }), (all) => {
    const { data } = all.find(({ name }) => name === embedding)!
    return all.map((tensor) => (tensor.name === HEAD ? { ...tensor, data } : tensor))
  })
  expect(await validationOf(huggingface, same)).toEqual([])
})

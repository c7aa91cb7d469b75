import { beforeAll } from 'vitest'
import { pickledDict, pickledGlobal, pickledTuple, writePickle } from '../../../src/engines/containers/pickle-write.ts'
import { isCall, isSequence, type PickleValue } from '../../../src/engines/containers/pickle.ts'
import { megatron } from '../../../src/engines/megatron/engine.ts'
import { testDefects, type Defects } from '../defects.ts'
import { jsonBytes, utf8, without } from '../hf/folder.ts'
import {
  added,
  CONFIG,
  dropped,
  edited,
  inDist,
  INDEX,
  inMetadata,
  inSingle,
  LAYER,
  made,
  make,
  METADATA,
  PART,
  patchDirectory,
  PROJ,
  reshaped,
  size,
  asI16,
  wider,
  withNaN,
} from './defects.ts'
import { distOf, editMetadata, tensorsOf } from './mutate.ts'

beforeAll(make, 60_000)

const DIST: Defects = [
  [
    'a tensor of another shape',
    inDist(edited(`${LAYER}.mlp.linear_fc2.weight`, reshaped)),
    { code: 'bad-tensor', tensor: `${LAYER}.mlp.linear_fc2.weight`, file: PART, says: '[48, 32]' },
  ],
  [
    'a shape in the metadata that its part has not',
    inMetadata(({ described, chunk }) => {
      described.set('size', size(16, 64))
      chunk.set('sizes', size(16, 64))
      return null
    }),
    { code: 'bad-tensor', tensor: PROJ, file: PART, says: '[16, 64]' },
  ],
  [
    'a shape that its parts do not make up',
    inMetadata(({ described }) => {
      described.set('size', size(64, 32))
      return null
    }),
    { code: 'missing-tensor', tensor: PROJ, file: INDEX, says: '[64, 32]' },
  ],
  ['a tensor that is missing', inDist(dropped(PROJ)), { code: 'missing-tensor', tensor: PROJ, file: PART }],
  [
    'a tensor whose place is missing',
    inMetadata(() => 'drop-place'),
    { code: 'missing-tensor', tensor: PROJ, file: INDEX },
  ],
  [
    'a tensor that is nowhere described',
    inMetadata(() => 'drop-described'),
    { code: 'missing-tensor', tensor: PROJ, file: PART },
  ],
  ['a tensor too many', inDist(added('decoder.rope')), { code: 'tensor-ignored', tensor: 'decoder.rope', file: PART }],
  [
    'an offset that is wrong',
    inMetadata(({ place }) => {
      place.set('offset', Number(place.get('offset')) + 64)
      return null
    }),
    { code: 'malformed', tensor: PROJ, file: PART },
  ],
  [
    'a length that is wrong',
    inMetadata(({ place }) => {
      place.set('length', Number(place.get('length')) - 8)
      return null
    }),
    { code: 'truncated', tensor: PROJ, file: PART },
  ],
  [
    'an offset beyond the file',
    inMetadata(({ place }) => {
      place.set('offset', 1e9)
      return null
    }),
    { code: 'truncated', tensor: PROJ, file: PART },
  ],
  [
    'the place of another tensor',
    async () => {
      let place = new Map<string, PickleValue>()
      editMetadata(made.dist[INDEX]!, `${LAYER}.mlp.linear_fc2.weight`, (about) => {
        place = about.place
        return null
      })
      return inMetadata((about) => {
        for (const [key, value] of place) about.place.set(key, value)
        return null
      })()
    },
    { code: 'bad-tensor', tensor: PROJ, file: PART, says: '[32, 48]' },
  ],
  [
    'a type in the metadata that its part has not',
    inMetadata(({ described }) => {
      const properties = described.get('properties')
      if (!isCall(properties) || !isSequence(properties.state)) throw new Error('no properties')
      const [, ...rest] = properties.state.items
      described.set('properties', {
        ...properties,
        state: pickledTuple(pickledGlobal('torch', 'float16'), ...rest),
      })
      return null
    }),
    { code: 'bad-tensor', tensor: PROJ, file: PART, says: 'f16' },
  ],
  [
    'a type that is not that of the run',
    inDist(edited(PROJ, wider)),
    { code: 'dtype-mismatch', tensor: PROJ, file: PART, severity: 'warning', says: 'f32' },
  ],
  ['a NaN', inDist(edited(PROJ, withNaN)), { code: 'bad-weights', tensor: PROJ, file: PART }],
  [
    'metadata that is no pickle',
    async () => ({ ...made.dist, [INDEX]: utf8('{"no": "pickle"}') }),
    { code: 'malformed', file: INDEX },
  ],
  [
    'metadata that is cut short',
    async () => ({ ...made.dist, [INDEX]: made.dist[INDEX]!.slice(0, 900) }),
    { code: 'truncated', file: INDEX },
  ],
  [
    'metadata that describes nothing',
    async () => {
      return { ...made.dist, [INDEX]: writePickle(pickledDict([['storage_data', pickledDict([])]])) }
    },
    { code: 'malformed', file: INDEX },
  ],
  [
    'metadata.json that is no JSON',
    async () => ({ ...made.dist, 'iter_0000001/metadata.json': utf8('{') }),
    { code: 'malformed', file: 'iter_0000001/metadata.json' },
  ],
  [
    'metadata.json of another backend',
    async () => ({ ...made.dist, 'iter_0000001/metadata.json': jsonBytes({ sharded_backend: 'zarr' }) }),
    { code: 'bad-index', file: 'iter_0000001/metadata.json', says: 'zarr' },
  ],
  [
    'no metadata.json',
    async () => without(made.dist, 'iter_0000001/metadata.json'),
    { code: 'no-backend', file: 'iter_0000001/metadata.json', severity: 'warning' },
  ],
  [
    'no arguments',
    async () => without(made.dist, 'iter_0000001/common.pt'),
    { code: 'missing-file', file: 'iter_0000001/common.pt' },
  ],
  [
    'a .distcp that is missing',
    async () => ({ ...without(made.dist, PART), 'iter_0000001/__1_0.distcp': made.dist[PART]! }),
    { code: 'missing-file', tensor: 'embedding.word_embeddings.weight', file: PART },
  ],
  [
    'no head where the arguments do not tie it',
    inDist(dropped('output_layer.weight')),
    { code: 'missing-tensor', tensor: 'output_layer.weight', file: PART },
  ],
  [
    'a head that was trained apart where the arguments tie it',
    async () => ({
      ...made.dist,
      ...distOf(
        await tensorsOf(made.single['model.pt']!),
        new Map(Object.entries({ ...METADATA, untie_embeddings_and_output_weights: false })),
        4,
      ),
    }),
    { code: 'tie-contradicts', tensor: 'output_layer.weight', file: PART },
  ],
]

const SINGLE: Defects = [
  [
    'a tensor of another shape',
    inSingle(edited(`${LAYER}.mlp.linear_fc2.weight`, reshaped)),
    { code: 'bad-tensor', tensor: `${LAYER}.mlp.linear_fc2.weight`, file: 'model.pt' },
  ],
  ['a tensor that is missing', inSingle(dropped(PROJ)), { code: 'missing-tensor', tensor: PROJ, file: 'model.pt' }],
  ['a tensor too many', inSingle(added('rope')), { code: 'tensor-ignored', tensor: 'rope', file: 'model.pt' }],
  [
    'an offset in a zip that is wrong',
    async () => ({ ...made.single, 'model.pt': patchDirectory(made.single['model.pt']!, '/data/3', 42, 77) }),
    { code: 'malformed', file: 'model.pt', says: 'data/3' },
  ],
  [
    'a type that is none of weights',
    inSingle(edited(PROJ, asI16)),
    { code: 'unsupported', tensor: PROJ, file: 'model.pt', says: 'i16' },
  ],
  [
    'a type that is not that of the run',
    inSingle(edited(PROJ, wider)),
    { code: 'dtype-mismatch', tensor: PROJ, file: 'model.pt', severity: 'warning' },
  ],
  ['a NaN', inSingle(edited(PROJ, withNaN)), { code: 'bad-weights', tensor: PROJ, file: 'model.pt' }],
  [
    'metadata.json that is no JSON',
    async () => ({ ...made.single, 'metadata.json': utf8('num_layers: 4') }),
    { code: 'malformed', file: 'metadata.json' },
  ],
  [
    'metadata.json that says too little',
    async () => ({ ...made.single, 'metadata.json': jsonBytes({ num_layers: 4 }) }),
    { code: 'malformed', file: 'metadata.json', says: 'hidden_size' },
  ],
  [
    'metadata.json that says another number of layers',
    async () => ({ ...made.single, 'metadata.json': jsonBytes({ ...METADATA, num_layers: 5 }) }),
    { code: 'missing-tensor', tensor: 'decoder.layers.4.input_layernorm.weight', file: 'metadata.json' },
  ],
  [
    'metadata.json that says fewer layers',
    async () => ({ ...made.single, 'metadata.json': jsonBytes({ ...METADATA, num_layers: 3 }) }),
    { code: 'tensor-ignored', tensor: 'decoder.layers.3.input_layernorm.weight', file: 'model.pt' },
  ],
  [
    'a config.json of another model',
    async () => ({ ...made.single, 'config.json': jsonBytes({ ...CONFIG, hidden_size: 64 }) }),
    { code: 'malformed', file: 'metadata.json', says: 'hidden_size' },
  ],
  [
    'a config.json that ties a head that was trained apart',
    async () => ({ ...made.single, 'config.json': jsonBytes({ ...CONFIG, tie_word_embeddings: true }) }),
    { code: 'tie-contradicts', tensor: 'output_layer.weight', file: 'model.pt' },
  ],
  [
    'no head where it is not tied',
    inSingle(dropped('output_layer.weight')),
    { code: 'missing-tensor', tensor: 'output_layer.weight', file: 'model.pt' },
  ],
  [
    'a file cut short',
    async () => ({ ...made.single, 'model.pt': made.single['model.pt']!.slice(0, 20_000) }),
    { code: 'truncated', file: 'model.pt' },
  ],
]

testDefects('a distributed checkpoint', megatron, DIST)
testDefects('model.pt', megatron, SINGLE)

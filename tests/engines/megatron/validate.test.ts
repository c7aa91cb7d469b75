import { beforeAll, expect, test } from 'vitest'
import { megatron } from '../../../src/engines/megatron/engine.ts'
import { testDefects, type Defects } from '../defects.ts'
import { utf8, without } from '../hf/folder.ts'
import {
  added,
  asF16,
  asI16,
  at,
  dropped,
  edited,
  findingsOf,
  inRanks,
  LAYER,
  made,
  make,
  other,
  patchDirectory,
  PROJ,
  reshaped,
  same,
  wider,
  withNaN,
} from './defects.ts'
import { megatronFiles, noMegatron } from './folder.ts'
import { editRank } from './mutate.ts'

beforeAll(make, 60_000)

const RANKS: Defects = [
  [
    'a tensor of another shape on one rank',
    inRanks(['01_000'], edited(PROJ, reshaped)),
    { code: 'bad-tensor', tensor: PROJ, file: at('01_000'), says: '[16, 32]' },
  ],
  [
    'a tensor of another shape on all ranks',
    inRanks(['00_001', '01_001'], edited('decoder.layers.1.mlp.linear_fc2.weight', reshaped)),
    { code: 'bad-tensor', tensor: 'decoder.layers.3.mlp.linear_fc2.weight', file: at('00_001') },
  ],
  [
    'a tensor that is missing on one rank',
    inRanks(['01_000'], dropped(PROJ)),
    { code: 'missing-tensor', tensor: PROJ, file: at('01_000') },
  ],
  [
    'a tensor that is missing on the first rank alone',
    inRanks(['00_000'], dropped(PROJ)),
    { code: 'missing-tensor', tensor: PROJ, file: at('00_000') },
  ],
  [
    'a tensor that is missing everywhere',
    inRanks(['00_001', '01_001'], dropped(PROJ)),
    {
      code: 'missing-tensor',
      tensor: 'decoder.layers.3.self_attention.linear_proj.weight',
      file: at('00_001'),
    },
  ],
  [
    'a tensor too many',
    inRanks(['00_001', '01_001'], added('decoder.layers.0.rope')),
    { code: 'tensor-ignored', tensor: 'decoder.layers.2.rope', file: at('00_001') },
  ],
  [
    'a tensor too many on one rank',
    inRanks(['01_001'], added('rope')),
    { code: 'missing-tensor', tensor: 'rope', file: at('00_001') },
  ],
  [
    'a layer too many',
    inRanks(['00_001', '01_001'], (tensors) => [
      ...tensors,
      ...tensors
        .filter(({ name }) => name.startsWith('decoder.layers.1.'))
        .map((tensor) => ({ ...tensor, name: tensor.name.replace('layers.1.', 'layers.2.') })),
    ]),
    { code: 'malformed', file: at('00_000'), says: 'The stages hold 2 + 3 = 5 layers, but num_layers is 4' },
  ],
  [
    'another type on one rank',
    inRanks(['01_000'], edited(PROJ, asF16)),
    { code: 'bad-tensor', tensor: PROJ, file: at('01_000'), says: 'f16' },
  ],
  [
    'a type that is none of weights',
    inRanks(['00_000', '01_000'], edited(PROJ, asI16)),
    { code: 'unsupported', tensor: PROJ, file: at('00_000'), says: 'i16' },
  ],
  [
    'a type that is not that of the run',
    inRanks(['00_000', '01_000'], edited(PROJ, wider)),
    { code: 'dtype-mismatch', tensor: PROJ, file: at('00_000'), severity: 'warning', says: 'f32' },
  ],
  [
    'a NaN',
    inRanks(['01_001'], edited('decoder.layers.0.mlp.linear_fc1.weight', withNaN)),
    { code: 'bad-weights', tensor: 'decoder.layers.0.mlp.linear_fc1.weight', file: at('01_001') },
  ],
  [
    'a rank that is missing',
    async () => without(made.ranks, at('01_001')),
    { code: 'missing-file', file: at('01_001') },
  ],
  [
    'a stage that is missing',
    async () => without(made.ranks, at('00_000'), at('01_000')),
    { code: 'missing-file', file: at('00_000') },
  ],
  [
    'a norm that is not the same on all ranks',
    inRanks(['01_001'], edited('decoder.final_layernorm.weight', other)),
    { code: 'ranks-disagree', tensor: 'decoder.final_layernorm.weight', file: at('01_001'), says: at('00_001') },
  ],
  [
    'a rank of another iteration',
    inRanks(['01_000'], same, { root: { iteration: 7 } }),
    { code: 'malformed', file: at('01_000'), says: 'the iteration is 7' },
  ],
  [
    'a rank of another run',
    inRanks(['00_001'], same, { args: { hidden_size: 64 } }),
    { code: 'malformed', file: at('00_001'), says: 'hidden_size is 64' },
  ],
  [
    'a rank that is a copy of another stage',
    async () => ({ ...made.ranks, [at('01_001')]: made.ranks[at('01_000')]! }),
    { code: 'missing-tensor', tensor: 'decoder.final_layernorm.weight', file: at('01_001'), says: at('00_001') },
  ],
  [
    'arguments that say another number of layers',
    inRanks(['00_000', '01_000', '00_001', '01_001'], same, { args: { num_layers: 5 } }),
    { code: 'malformed', file: at('00_000'), says: 'The stages hold 2 + 2 = 4 layers, but num_layers is 5' },
  ],
  [
    'a vocabulary that is padded otherwise than the arguments say',
    inRanks(['00_000', '01_000', '00_001', '01_001'], same, { args: { padded_vocab_size: 1024 } }),
    { code: 'bad-tensor', tensor: 'embedding.word_embeddings.weight', file: at('00_000'), says: '1024' },
  ],
  [
    'no head where the arguments do not tie it',
    inRanks(['00_001', '01_001'], dropped('output_layer.weight')),
    { code: 'missing-tensor', tensor: 'output_layer.weight', file: at('00_000') },
  ],
  [
    'a head that is not the embedding it is tied to',
    inRanks(['01_001'], edited('output_layer.weight', other), {}, () => made.tiedRanks),
    { code: 'tie-contradicts', tensor: 'output_layer.weight', file: at('01_001') },
  ],
  [
    'a head that was trained apart where the arguments tie it',
    inRanks(['00_000', '01_000', '00_001', '01_001'], same, { args: { untie_embeddings_and_output_weights: false } }),
    { code: 'tie-contradicts', tensor: 'output_layer.weight', file: at('00_001') },
  ],
  [
    'an offset in a zip that is wrong',
    async () => ({ ...made.ranks, [at('01_000')]: patchDirectory(made.ranks[at('01_000')]!, '/data/3', 42, 77) }),
    { code: 'malformed', file: at('01_000'), says: 'data/3' },
  ],
  [
    'a storage that is smaller than its tensor',
    async () => ({
      ...made.ranks,
      [at('01_000')]: patchDirectory(patchDirectory(made.ranks[at('01_000')]!, '/data/3', 20, 64), '/data/3', 24, 64),
    }),
    { code: 'malformed', file: at('01_000'), says: 'data/3' },
  ],
  [
    'a file cut short',
    async () => ({ ...made.ranks, [at('00_001')]: made.ranks[at('00_001')]!.slice(0, -9) }),
    { code: 'truncated', file: at('00_001') },
  ],
  [
    'a pickle that is damaged',
    async () => {
      const bytes = made.ranks[at('00_001')]!.slice()
      const start = bytes.findIndex((byte, index) => byte === 0x80 && bytes[index + 1] === 2)
      bytes.fill(0xff, start + 2, start + 40)
      return { ...made.ranks, [at('00_001')]: bytes }
    },
    { code: 'malformed', file: at('00_001') },
  ],
  [
    'a file that holds no model',
    async () => {
      const bytes = await editRank(made.ranks[at('00_001')]!, same)
      const text = new TextDecoder('latin1').decode(bytes)
      bytes.set(utf8('modem'), text.lastIndexOf('model'))
      return { ...made.ranks, [at('00_001')]: bytes }
    },
    { code: 'malformed', file: at('00_001'), says: 'holds no model' },
  ],
  [
    'a tracker that names no iteration',
    async () => ({ ...made.ranks, 'latest_checkpointed_iteration.txt': utf8('soon') }),
    { code: 'malformed', file: 'latest_checkpointed_iteration.txt' },
  ],
  [
    'a tracker of an iteration that is not there',
    async () => ({ ...made.ranks, 'latest_checkpointed_iteration.txt': utf8('12') }),
    { code: 'missing-file', file: 'iter_0000012/' },
  ],
  [
    'ranks of experts that have different routers',
    inRanks(['01_001'], edited(`${LAYER}.mlp.router.weight`, other), {}, () => made.experts),
    { code: 'ranks-disagree', tensor: `${LAYER}.mlp.router.weight`, file: at('01_001') },
  ],
  [
    'ranks of experts that have different attention',
    inRanks(['01_001'], edited(PROJ, other), {}, () => made.experts),
    { code: 'ranks-disagree', tensor: PROJ, file: at('01_001'), says: at('01_000') },
  ],
  [
    'a rank of experts that lacks one',
    inRanks(['01_001'], dropped(`${LAYER}.mlp.experts.local_experts.1.linear_fc2.weight`), {}, () => made.experts),
    {
      code: 'missing-tensor',
      tensor: `${LAYER}.mlp.experts.local_experts.1.linear_fc2.weight`,
      file: at('01_001'),
    },
  ],
  [
    'ranks of experts that lack a norm',
    inRanks(['00_001', '01_001'], dropped('decoder.final_layernorm.weight'), {}, () => made.experts),
    { code: 'missing-tensor', tensor: 'decoder.final_layernorm.weight', file: at('00_001') },
  ],
]

testDefects('ranks', megatron, RANKS)

test('what was written has no fault', async () => {
  for (const files of Object.values(made)) expect(await findingsOf(files)).toEqual([])
})

test.skipIf(noMegatron)('the shared checkpoints have none (../shared/megatron)', async () => {
  for (const name of ['llama-tp2-pp2', 'llama-dist', 'llama-single'])
    expect(await findingsOf(megatronFiles(name)), name).toEqual([])
})

import { describe, expect, test } from 'vitest'
import { jsonOf, noShared, sharedFiles, utf8, without } from '../hf/folder.ts'
import { convert, failure, megatronFiles, noMegatron, weightsOf } from './folder.ts'

const NAMES = ['llama-tp2-pp2', 'llama-dist', 'llama-single']
const KEYS = [
  'architectures',
  'hidden_size',
  'intermediate_size',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'num_hidden_layers',
  'max_position_embeddings',
  'rms_norm_eps',
  'tie_word_embeddings',
  'vocab_size',
  'bos_token_id',
  'eos_token_id',
]

describe.skipIf(noMegatron || noShared)('checkpoints of Megatron-Core (../shared/megatron)', () => {
  test.each(NAMES)('%s is the Llama that it was made from', async (name) => {
    const wanted = sharedFiles('llama-spm')
    const { files } = await convert(megatronFiles(name), 'huggingface')
    expect(weightsOf(files)).toEqual(weightsOf(wanted))
    const [ours, theirs] = [jsonOf(files, 'config.json'), jsonOf(wanted, 'config.json')]
    for (const key of KEYS) expect(ours[key], key).toEqual(theirs[key])
    expect(ours['rope_theta']).toBe(10_000)
    for (const path of ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json'])
      expect(files[path]).toEqual(megatronFiles(name)[path])
  })

  test.each(NAMES)('%s takes the configuration that is given', async (name) => {
    const config = jsonOf(sharedFiles('llama-spm'), 'config.json')
    const hfConfig = JSON.stringify({
      ...config,
      architectures: ['MistralForCausalLM'],
      model_type: 'mistral',
      sliding_window: 99,
    })
    const { files } = await convert(megatronFiles(name), 'huggingface', {}, { hfConfig })
    expect(jsonOf(files, 'config.json')).toMatchObject({ model_type: 'mistral', sliding_window: 99 })
    const beside = { ...megatronFiles(name), 'config.json': utf8(hfConfig) }
    expect(jsonOf((await convert(beside, 'huggingface')).files, 'config.json')).toMatchObject({ sliding_window: 99 })
  })

  test('a rank that is missing is named', async () => {
    const path = 'iter_0000100/mp_rank_01_001/model_optim_rng.pt'
    expect(await failure(without(megatronFiles('llama-tp2-pp2'), path))).toMatchObject({
      code: 'missing-file',
      where: { file: path },
    })
    const last = without(megatronFiles('llama-tp2-pp2'), path, path.replace('01_001', '00_001'))
    expect((await failure(last)).code).toBe('missing-file')
  })

  test('ranks of different shapes, or of another stage, are refused', async () => {
    const files = megatronFiles('llama-tp2-pp2')
    const at = (rank: string): string => `iter_0000100/mp_rank_${rank}/model_optim_rng.pt`
    const mixed = { ...files, [at('01_001')]: files[at('01_000')]! }
    expect(await failure(mixed)).toMatchObject({ code: 'missing-tensor', where: { file: at('01_001') } })
  })

  test('a configuration of another model is refused', async () => {
    const config = jsonOf(sharedFiles('llama-spm'), 'config.json')
    const given = (changes: Record<string, unknown>) => ({ hfConfig: JSON.stringify({ ...config, ...changes }) })
    const files = megatronFiles('llama-dist')
    expect(await failure(files, given({ hidden_size: 32 }))).toMatchObject({ code: 'malformed' })
    expect(await failure(files, given({ vocab_size: 2000 }))).toMatchObject({ code: 'bad-tensor' })
    expect((await failure(files, given({ num_attention_heads: 2 }))).message).toContain('num_attention_heads')
    expect(await failure(files, { hfConfig: '[]' })).toMatchObject({ code: 'bad-option' })
  })

  test('a missing or short file of a distributed checkpoint is named', async () => {
    const files = megatronFiles('llama-dist')
    const path = 'iter_0000100/__0_0.distcp'
    expect(await failure({ ...files, [path]: files[path]!.subarray(0, 300_000) })).toMatchObject({
      code: 'truncated',
      where: { file: path },
    })
    const renamed = { ...without(files, path), 'iter_0000100/__1_0.distcp': files[path]! }
    expect(await failure(renamed)).toMatchObject({ code: 'missing-file', where: { file: path } })
  })

  test('a tracker that names an iteration that is not there', async () => {
    const files = { ...megatronFiles('llama-dist'), 'latest_checkpointed_iteration.txt': utf8('200') }
    expect((await failure(files)).code).toMatch(/missing-file|not-a-model/)
  })
})

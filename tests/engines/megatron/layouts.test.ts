import { describe, expect, test } from 'vitest'
import { literal, type Recipe } from '../../../src/core/tensor.ts'
import { pickledCall, pickledDict, pickledGlobal } from '../../../src/engines/containers/pickle-write.ts'
import type { PickleValue } from '../../../src/engines/containers/pickle.ts'
import { TorchFileWriter } from '../../../src/engines/containers/torch-write.ts'
import { utf8, type Files } from '../hf/folder.ts'
import { convert, failure } from './folder.ts'

/** A file of torch.save from nested dicts, whose leaves are shapes with the value of their first element. */
type Leaf = { readonly shape: readonly number[]; readonly first: number }
type Tree = { readonly [key: string]: Tree | Leaf }

const isLeaf = (value: Tree | Leaf): value is Leaf => Array.isArray(value['shape'])

/** Consecutive whole numbers in f32: each element tells where it comes from. */
function numbers({ shape, first }: Leaf): Recipe {
  const count = shape.reduce((a, b) => a * b, 1)
  const values = Float32Array.from({ length: count }, (_, i) => first + i)
  return literal({ dtype: 'f32', shape }, new Uint8Array(values.buffer))
}

type Values = Record<string, number | boolean | string | readonly number[]>

/** `model`: one model, or the chunks of a stage that has several. */
function torchFile(args: Values, model: Tree | readonly Tree[], version = 3): Uint8Array {
  const writer = new TorchFileWriter()
  const value = (of: Tree | Leaf, name: string): PickleValue =>
    isLeaf(of)
      ? writer.tensor(name, numbers(of))
      : pickledDict(Object.entries(of).map(([key, item]) => [key, value(item, key)]))
  const entries = Object.entries(args).map(([key, item]): [string, PickleValue] => [
    key,
    typeof item === 'object' ? { kind: 'list', items: [...item] } : item,
  ])
  const namespace = pickledCall(pickledGlobal('argparse', 'Namespace'), [], 'new', pickledDict(entries))
  const models = Array.isArray(model)
    ? (model as readonly Tree[]).map((chunk, at): [string, PickleValue] => [`model${at}`, value(chunk, `model${at}`)])
    : [['model', value(model as Tree, 'model')] as [string, PickleValue]]
  const root = pickledDict([['args', namespace], ['checkpoint_version', version], ...models])
  const { size, segments } = writer.plan('x.pt', 'x', root)
  const bytes = new Uint8Array(size)
  for (const segment of segments) {
    if (segment.kind === 'bytes' || segment.kind === 'seal') bytes.set(segment.bytes, segment.offset)
    else if (segment.kind === 'tensor' && segment.recipe.op === 'literal')
      bytes.set(segment.recipe.bytes, segment.offset)
  }
  return bytes
}

const ARGS = {
  num_layers: 1,
  hidden_size: 4,
  ffn_hidden_size: 6,
  num_attention_heads: 2,
  kv_channels: 2,
  max_position_embeddings: 16,
  vocab_size: 3,
  norm_epsilon: 1e-5,
  swiglu: true,
  untie_embeddings_and_output_weights: true,
  tensor_model_parallel_size: 1,
}

const leaf = (first: number, ...shape: number[]): Leaf => ({ shape, first })

const rank = (name: string, bytes: Uint8Array): Files => ({
  [`iter_0000007/mp_rank_${name}/model_optim_rng.pt`]: bytes,
})

/** Values of a tensor in a HuggingFace folder. */
async function valuesOf(files: Files, name: string): Promise<number[]> {
  const out = (await convert(files, 'huggingface')).files['model.safetensors']!
  const { rawTensors } = await import('../hf/folder.ts')
  const { data } = rawTensors(out).find((tensor) => tensor.name === name)!
  return [...new Float32Array(data.slice().buffer)]
}

const run = (first: number, length: number): number[] => Array.from({ length }, (_, i) => first + i)

describe('names from before Megatron-Core', () => {
  const legacy = (output: Record<string, Leaf> = { weight: leaf(900, 3, 4) }): Tree => ({
    language_model: {
      embedding: { word_embeddings: { weight: leaf(0, 3, 4) } },
      encoder: {
        'layers.0.input_norm.weight': leaf(100, 4),
        'layers.0.self_attention.query_key_value.weight': leaf(200, 12, 4),
        'layers.0.self_attention.dense.weight': leaf(300, 4, 4),
        'layers.0.post_attention_norm.weight': leaf(400, 4),
        'layers.0.mlp.dense_h_to_4h.weight': leaf(500, 12, 4),
        'layers.0.mlp.dense_4h_to_h.weight': leaf(600, 4, 6),
        'final_norm.weight': leaf(700, 4),
      },
      output_layer: output,
    },
  })

  test('are those of the same model', async () => {
    const files = rank('00', torchFile(ARGS, legacy()))
    // two heads of two channels: q0 k0 v0 q1 k1 v1
    expect(await valuesOf(files, 'model.layers.0.self_attn.k_proj.weight')).toEqual([...run(208, 8), ...run(232, 8)])
    expect(await valuesOf(files, 'model.layers.0.mlp.up_proj.weight')).toEqual(run(524, 24))
    expect(await valuesOf(files, 'model.layers.0.post_attention_layernorm.weight')).toEqual(run(400, 4))
    expect(await valuesOf(files, 'lm_head.weight')).toEqual(run(900, 12))
  })

  test('in version 0 queries, keys and values are outermost', async () => {
    const files = rank('00', torchFile(ARGS, legacy(), 0))
    expect(await valuesOf(files, 'model.layers.0.self_attn.q_proj.weight')).toEqual(run(200, 16))
    expect(await valuesOf(files, 'model.layers.0.self_attn.v_proj.weight')).toEqual(run(232, 16))
  })

  test('in version 1 they are innermost', async () => {
    const files = rank('00', torchFile(ARGS, legacy(), 1))
    const rows = (start: number): number[] => [0, 3, 6, 9].flatMap((row) => run(200 + (row + start) * 4, 4))
    expect(await valuesOf(files, 'model.layers.0.self_attn.k_proj.weight')).toEqual(rows(1))
  })

  test('rows that do not fit are refused', async () => {
    const few = rank('00', torchFile({ ...ARGS, vocab_size: 5 }, legacy()))
    expect(await failure(few)).toMatchObject({ code: 'bad-tensor' })
    const padded = rank('00', torchFile({ ...ARGS, padded_vocab_size: 128 }, legacy()))
    expect(await failure(padded)).toMatchObject({ code: 'bad-tensor' })
    const heads = rank('00', torchFile({ ...ARGS, group_query_attention: true, num_query_groups: 1 }, legacy()))
    expect(await failure(heads)).toMatchObject({ code: 'bad-tensor' })
  })
})

describe('pipelines', () => {
  const LAYERS = 5
  /** Layer `global`, whose tensors begin with that many thousands, as layer `local` of a stage. */
  const layer = (local: number, global: number): Tree => {
    const name = (rest: string): string => `decoder.layers.${local}.${rest}`
    const at = 1000 * (global + 1)
    return {
      [name('self_attention.linear_qkv.layer_norm_weight')]: leaf(at, 4),
      [name('self_attention.linear_qkv.weight')]: leaf(at + 100, 12, 4),
      [name('self_attention.linear_proj.weight')]: leaf(at + 200, 4, 4),
      [name('mlp.linear_fc1.layer_norm_weight')]: leaf(at + 300, 4),
      [name('mlp.linear_fc1.weight')]: leaf(at + 400, 12, 4),
      [name('mlp.linear_fc2.weight')]: leaf(at + 500, 4, 6),
    }
  }
  const first = { 'embedding.word_embeddings.weight': leaf(0, 3, 4) }
  const last = { 'decoder.final_layernorm.weight': leaf(0, 4), 'output_layer.weight': leaf(900, 3, 4) }
  const chunk = (...globals: readonly number[]): Tree =>
    Object.assign({}, ...globals.map((global, local) => layer(local, global))) as Tree
  const args = (stages: number, more: Values = {}): Values => ({
    ...ARGS,
    num_layers: LAYERS,
    pipeline_model_parallel_size: stages,
    ...more,
  })
  const pipeline = (own: Values, ...stages: readonly (Tree | readonly Tree[])[]): Files =>
    Object.assign({}, ...stages.map((stage, at) => rank(`00_00${at}`, torchFile(own, stage))), {
      'latest_checkpointed_iteration.txt': utf8('7'),
    }) as Files

  async function expectInOrder(files: Files): Promise<void> {
    for (let global = 0; global < LAYERS; global++) {
      const name = `model.layers.${global}.mlp.down_proj.weight`
      expect(await valuesOf(files, name), name).toEqual(run(1000 * (global + 1) + 500, 24))
    }
  }

  test('fewer layers in the first and in the last stage', async () => {
    const own = args(3, { decoder_first_pipeline_num_layers: 1, decoder_last_pipeline_num_layers: 2 })
    await expectInOrder(pipeline(own, { ...first, ...chunk(0) }, chunk(1, 2), { ...chunk(3, 4), ...last }))
  })

  test('stages without layers, of the embedding and of the head', async () => {
    const own = args(3, { account_for_embedding_in_pipeline_split: true, account_for_loss_in_pipeline_split: true })
    await expectInOrder(pipeline(own, first, chunk(0, 1, 2, 3, 4), last))
  })

  test('virtual stages, of different numbers of layers', async () => {
    const own = args(2, { num_layers_per_virtual_pipeline_stage: 1, virtual_pipeline_model_parallel_size: 2 })
    // the first chunks of all stages come before the second ones
    await expectInOrder(pipeline(own, [{ ...first, ...chunk(0) }, chunk(2, 3)], [chunk(1), { ...chunk(4), ...last }]))
  })

  test('a layout of one’s own, with layers counted through the model', async () => {
    const own = args(2, { pipeline_model_parallel_layout: 'Et*4|tL' })
    const moved = Object.assign({}, layer(4, 4), last) as Tree
    await expectInOrder(pipeline(own, { ...first, ...chunk(0, 1, 2, 3) }, moved))
  })

  test.each([
    [
      'fewer layers than the model has',
      [chunk(0, 1), chunk(2, 3)],
      'The stages hold 2 + 2 = 4 layers, but num_layers is 5',
    ],
    ['more layers', [chunk(0, 1, 2), chunk(3, 4, 5)], 'The stages hold 3 + 3 = 6 layers, but num_layers is 5'],
    [
      'layers that begin anywhere',
      [chunk(0, 1), Object.assign({}, layer(3, 3), layer(4, 4)) as Tree],
      'begin at 3, not at 0, and before them are 2',
    ],
    [
      'chunks in one stage only',
      [[chunk(0, 1), chunk(2, 3)], chunk(4)],
      'holds 1 chunks of the model (model0, model1, ...), others 2',
    ],
  ] as const)('%s are refused', async (_, [one, other], message) => {
    const with1 = (model: Tree | readonly Tree[], more: Tree): Tree | readonly Tree[] =>
      Array.isArray(model) ? [{ ...(model[0] as Tree), ...more }, ...model.slice(1)] : { ...(model as Tree), ...more }
    const error = await failure(pipeline(args(2), with1(one, first), with1(other, last)))
    expect(error.code).toBe('malformed')
    expect(error.message).toContain(message)
  })
})

describe('experts', () => {
  const EXPERTS = { ...ARGS, num_experts: 4, moe_router_topk: 2, expert_model_parallel_size: 2 }
  const half = (first: number, experts: Tree): Tree => ({
    'embedding.word_embeddings.weight': leaf(0, 3, 4),
    'decoder.layers.0.self_attention.linear_qkv.layer_norm_weight': leaf(0, 4),
    'decoder.layers.0.self_attention.linear_qkv.weight': leaf(0, 12, 4),
    'decoder.layers.0.self_attention.linear_proj.weight': leaf(0, 4, 4),
    'decoder.layers.0.pre_mlp_layernorm.weight': leaf(0, 4),
    'decoder.layers.0.mlp.router.weight': leaf(0, 4, 4),
    'decoder.final_layernorm.weight': leaf(0, 4),
    'output_layer.weight': leaf(first, 3, 4),
    ...experts,
  })
  const w = (expert: number, part: number): string =>
    `model.layers.0.block_sparse_moe.experts.${expert}.w${part}.weight`

  test('each on its own, over two ranks', async () => {
    const own = (base: number): Tree =>
      Object.fromEntries(
        [0, 1].flatMap((e): [string, Leaf][] => [
          [`decoder.layers.0.mlp.experts.local_experts.${e}.linear_fc1.weight`, leaf(base + e * 100, 12, 4)],
          [`decoder.layers.0.mlp.experts.linear_fc2.weight${e}`, leaf(base + e * 100 + 50, 4, 6)],
        ]),
      )
    const files = {
      ...rank('00_000', torchFile(EXPERTS, half(0, own(1000)))),
      ...rank('00_001', torchFile(EXPERTS, half(0, own(2000)))),
    }
    expect(await valuesOf(files, w(3, 1))).toEqual(run(2100, 24))
    expect(await valuesOf(files, w(1, 3))).toEqual(run(1124, 24))
    expect(await valuesOf(files, w(2, 2))).toEqual(run(2050, 24))
    const { [Object.keys(files)[1]!]: _, ...alone } = files
    expect(await failure(alone)).toMatchObject({ code: 'missing-file' })
  })

  test.each([
    [{ moe_layer_freq: [0, 1] }, 'experts in some layers only'],
    [{ moe_layer_freq: 2 }, 'experts in some layers only'],
    [{ moe_router_score_function: 'sigmoid' }, 'a router that scores by sigmoid'],
    [{ moe_router_enable_expert_bias: true }, 'biases on the choice of experts'],
    [{ moe_router_pre_softmax: true }, 'routing weights that are not normalised'],
    [{ moe_shared_expert_intermediate_size: 8 }, 'shared experts without a gate'],
  ])('what changes their choice is refused: %j', async (more: Values, message) => {
    const own = {
      'decoder.layers.0.mlp.experts.weight1': leaf(0, 4, 48),
      'decoder.layers.0.mlp.experts.weight2': leaf(0, 24, 4),
    }
    const files = rank('00', torchFile({ ...EXPERTS, expert_model_parallel_size: 1, ...more }, half(0, own)))
    const error = await failure(files)
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain(message)
  })

  test('grouped in one matrix, the other way round', async () => {
    const grouped = {
      'decoder.layers.0.mlp.experts.weight1': leaf(1000, 4, 48),
      'decoder.layers.0.mlp.experts.weight2': leaf(5000, 24, 4),
    }
    const files = {
      ...rank('00', torchFile({ ...EXPERTS, expert_model_parallel_size: 1 }, half(0, grouped))),
      'latest_checkpointed_iteration.txt': utf8('7'),
    }
    // [experts, in, out]: expert 2's gate is columns 0 to 5 of a [4, 12] matrix
    const gate = run(0, 6).flatMap((out) => run(0, 4).map((into) => 1000 + 2 * 48 + into * 12 + out))
    expect(await valuesOf(files, w(2, 1))).toEqual(gate)
    const down = run(0, 4).flatMap((out) => run(0, 6).map((into) => 5000 + 2 * 24 + into * 4 + out))
    expect(await valuesOf(files, w(2, 2))).toEqual(down)
  })
})

/** Checkpoints with one defect each. */
import type { Finding } from '../../../src/core/plan.ts'
import { pickledCall, pickledGlobal, pickledTuple } from '../../../src/engines/containers/pickle-write.ts'
import type { PickleValue } from '../../../src/engines/containers/pickle.ts'
import { megatron } from '../../../src/engines/megatron/engine.ts'
import { canonicalName } from '../../../src/engines/megatron/names.ts'
import { validationOf } from '../defects.ts'
import { jsonBytes, utf8, type Files, type RawTensor } from '../hf/folder.ts'
import { convert, madeUp } from './folder.ts'
import { distOf, editMetadata, editRank, stateDict, tensorsOf, type About } from './mutate.ts'

export const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 48,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 4,
  vocab_size: 300,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}

/** What validation finds, but for what every checkpoint without a config.json, or without a tokenizer, has. */
export async function findingsOf(files: Files): Promise<Finding[]> {
  const findings = await validationOf(megatron, files)
  return findings.filter(({ code }) => code !== 'config-assumed' && code !== 'tokenizer-unsupported')
}

/** Without what a run of Megatron does not write. */
export function alone(files: Files): Files {
  const kept = Object.entries(files).filter(([path]) => path.startsWith('iter_') || path.startsWith('latest_'))
  return Object.fromEntries(kept)
}

/** Checkpoints without a fault. */
export const made = {} as { ranks: Files; tiedRanks: Files; experts: Files; dist: Files; single: Files }

/** Makes them: two ranks by two stages; the same with a tied head; two by two ranks of experts; and all in one. */
export async function make(): Promise<void> {
  const source = await madeUp(CONFIG)
  const tied = await madeUp({ ...CONFIG, tie_word_embeddings: true })
  const mixtral = await madeUp({
    ...CONFIG,
    architectures: ['MixtralForCausalLM'],
    model_type: 'mixtral',
    num_local_experts: 4,
    num_experts_per_tok: 2,
  })
  const { files: one } = await convert(source, 'megatron', { 'checkpoint-format': 'torch' })
  const whole = (await tensorsOf(one['iter_0000001/mp_rank_00/model_optim_rng.pt']!)).map((tensor) => ({
    ...tensor,
    name: canonicalName(tensor.name),
  }))
  const tracker = { 'latest_checkpointed_iteration.txt': utf8('1') }
  made.ranks = alone((await convert(source, 'megatron', { tp: 2, pp: 2 })).files)
  made.tiedRanks = alone((await convert(tied, 'megatron', { tp: 2, pp: 2 })).files)
  made.experts = alone((await convert(mixtral, 'megatron', { tp: 2, ep: 2 })).files)
  made.single = { 'model.pt': stateDict(whole), 'metadata.json': jsonBytes(METADATA) }
  made.dist = { ...distOf(whole, new Map(Object.entries(METADATA)), 4), ...tracker }
}

export const METADATA = {
  num_layers: 4,
  hidden_size: 32,
  ffn_hidden_size: 48,
  num_attention_heads: 4,
  num_query_groups: 2,
  group_query_attention: true,
  kv_channels: 8,
  max_position_embeddings: 128,
  vocab_size: 300,
  swiglu: true,
  norm_epsilon: 1e-5,
  untie_embeddings_and_output_weights: true,
  params_dtype: 'bfloat16',
}

export const at = (rank: string): string => `iter_0000001/mp_rank_${rank}/model_optim_rng.pt`
/** Of layer 1 in the model: the second of the first stage. */
export const LAYER = 'decoder.layers.1'
export const PROJ = `${LAYER}.self_attention.linear_proj.weight`
export const PART = 'iter_0000001/__0_0.distcp'
export const INDEX = 'iter_0000001/.metadata'

export type Change = (tensors: RawTensor[]) => RawTensor[]

export const edited =
  (name: string, change: (tensor: RawTensor) => RawTensor): Change =>
  (tensors) => {
    if (!tensors.some((tensor) => tensor.name === name)) throw new Error(`no ${name}`)
    return tensors.map((tensor) => (tensor.name === name ? change(tensor) : tensor))
  }
export const dropped =
  (name: string): Change =>
  (tensors) => {
    if (!tensors.some((tensor) => tensor.name === name)) throw new Error(`no ${name}`)
    return tensors.filter((tensor) => tensor.name !== name)
  }
export const reshaped = (tensor: RawTensor): RawTensor => ({ ...tensor, shape: [tensor.shape[1]!, tensor.shape[0]!] })
export const wider = (tensor: RawTensor): RawTensor => {
  const wide = new Uint32Array(tensor.data.length / 2)
  new Uint16Array(tensor.data.slice().buffer).forEach((half, index) => (wide[index] = half << 16))
  return { ...tensor, dtype: 'f32', data: new Uint8Array(wide.buffer) }
}
export const asF16 = (tensor: RawTensor): RawTensor => ({ ...tensor, dtype: 'f16' })
export const asI16 = (tensor: RawTensor): RawTensor => ({ ...tensor, dtype: 'i16' })
export const withNaN = (tensor: RawTensor): RawTensor => {
  const data = tensor.data.slice()
  data.set([0xc0, 0x7f], 30)
  return { ...tensor, data }
}
export const other = (tensor: RawTensor): RawTensor => {
  const data = tensor.data.slice()
  data[4]! ^= 1
  return { ...tensor, data }
}
export const added =
  (name: string): Change =>
  (tensors) => [...tensors, { name, dtype: 'bf16', shape: [2], data: new Uint8Array(4).fill(1) }]

export const inRanks =
  (names: readonly string[], change: Change, changes: Parameters<typeof editRank>[2] = {}, of = () => made.ranks) =>
  async (): Promise<Files> => {
    const files = of()
    const parts = await Promise.all(
      names.map(async (name): Promise<[string, Uint8Array]> => {
        return [at(name), await editRank(files[at(name)]!, change, changes)]
      }),
    )
    return { ...files, ...Object.fromEntries(parts) }
  }

export const same: Change = (tensors) => tensors

export const inSingle = (change: Change) => async (): Promise<Files> => ({
  ...made.single,
  'model.pt': stateDict(change([...(await tensorsOf(made.single['model.pt']!))])),
})

/** Parts and metadata both say so. */
export const inDist = (change: Change) => async (): Promise<Files> => {
  const whole = await tensorsOf(made.single['model.pt']!)
  return { ...made.dist, ...distOf(change([...whole]), new Map(Object.entries(METADATA)), 4) }
}

/** Only the metadata says so. */
export const inMetadata =
  (change: (about: About) => 'drop-described' | 'drop-place' | null, name = PROJ) =>
  async (): Promise<Files> => ({ ...made.dist, [INDEX]: editMetadata(made.dist[INDEX]!, name, change) })

export const size = (...values: readonly number[]): PickleValue =>
  pickledCall(pickledGlobal('torch', 'Size'), [pickledTuple(...values)])

/** Overwrites the entry of a zip's directory that ends in `name`: `field` bytes from its start. */
export function patchDirectory(bytes: Uint8Array, name: string, field: number, value: number): Uint8Array {
  const copy = bytes.slice()
  const view = new DataView(copy.buffer)
  const wanted = utf8(name)
  for (let start = copy.length - 46; start >= 0; start--) {
    if (view.getUint32(start, true) !== 0x0201_4b50) continue
    const length = view.getUint16(start + 28, true)
    const found = copy.subarray(start + 46 + length - wanted.length, start + 46 + length)
    if (!wanted.every((byte, index) => byte === found[index])) continue
    view.setUint32(start + field, value, true)
    return copy
  }
  throw new Error(`no ${name}`)
}

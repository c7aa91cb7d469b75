import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture, ModelFacts, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt } from './llama.ts'
import { routedExperts } from './qwen-moe.ts'

/** DeepseekV2Config's and DeepseekV3Config's own. */
interface Defaults {
  readonly experts: number
  readonly used: number
  readonly width: number
  readonly shared: number
  readonly scale: number
  readonly dense: number
}
const DEFAULTS2: Defaults = { experts: 64, used: 6, width: 1407, shared: 2, scale: 1, dense: 0 }
const DEFAULTS3: Defaults = { experts: 256, used: 8, width: 2048, shared: 1, scale: 2.5, dense: 3 }
const GROUPS3 = { groups: 8, used: 4 }
const LATENT = { queryRank: 1536, rank: 512, plainDim: 128, valueDim: 128 }

const latent = (config: ModelConfig): NonNullable<ModelConfig['latent']> => config.latent ?? LATENT
/** Channels of a query: those that do not turn, and those that do. */
const queryDim = (config: ModelConfig): number => latent(config).plainDim + config.headDim
const compressed = (config: ModelConfig): boolean => latent(config).queryRank !== null
const queryRank = (config: ModelConfig): number => latent(config).queryRank ?? 0
const dense = (config: ModelConfig, block: number | null): boolean => (block ?? 0) < (config.experts?.denseBlocks ?? 0)
const sharedWidth = (config: ModelConfig): number => config.experts?.sharedIntermediateSize ?? 0

/** Keys and values by way of a latent that all heads share, and queries by way of one of their own or straight. */
const attention: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.attn.q.weight',
    hf: 'model.layers.{i}.self_attn.q_proj.weight',
    shape: (c) => [c.heads * queryDim(c), c.hiddenSize],
    when: (c) => !compressed(c),
  },
  {
    role: 'blocks.{i}.attn.q_a.weight',
    hf: 'model.layers.{i}.self_attn.q_a_proj.weight',
    shape: (c) => [queryRank(c), c.hiddenSize],
    when: compressed,
  },
  {
    role: 'blocks.{i}.attn.q_a_norm.weight',
    hf: 'model.layers.{i}.self_attn.q_a_layernorm.weight',
    shape: (c) => [queryRank(c)],
    when: compressed,
  },
  {
    role: 'blocks.{i}.attn.q_b.weight',
    hf: 'model.layers.{i}.self_attn.q_b_proj.weight',
    shape: (c) => [c.heads * queryDim(c), queryRank(c)],
    when: compressed,
  },
  {
    role: 'blocks.{i}.attn.kv_a.weight',
    hf: 'model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight',
    shape: (c) => [latent(c).rank + c.headDim, c.hiddenSize],
  },
  {
    role: 'blocks.{i}.attn.kv_a_norm.weight',
    hf: 'model.layers.{i}.self_attn.kv_a_layernorm.weight',
    shape: (c) => [latent(c).rank],
  },
  {
    role: 'blocks.{i}.attn.kv_b.weight',
    hf: 'model.layers.{i}.self_attn.kv_b_proj.weight',
    shape: (c) => [c.heads * (latent(c).plainDim + latent(c).valueDim), latent(c).rank],
    // keys are not made: queries go to the latent instead, through the transpose
    parts: (c) => {
      const { rank, plainDim, valueDim } = latent(c)
      return {
        view: [c.heads, plainDim + valueDim, rank],
        axis: 1,
        of: [
          { role: 'blocks.{i}.attn.k_b.weight', length: plainDim, axes: [0, 2, 1], shape: [c.heads, rank, plainDim] },
          { role: 'blocks.{i}.attn.v_b.weight', length: valueDim, shape: [c.heads, valueDim, rank] },
        ],
      }
    },
  },
  {
    role: 'blocks.{i}.attn.o.weight',
    hf: 'model.layers.{i}.self_attn.o_proj.weight',
    shape: (c) => [c.hiddenSize, c.heads * latent(c).valueDim],
  },
]

function mlp(role: string, hf: string, width: (config: ModelConfig) => number, when: TensorRow['when']): TensorRow[] {
  const row = (part: string, shape: TensorRow['shape']): TensorRow => ({
    role: `blocks.{i}.${role}.${part}.weight`,
    hf: `model.layers.{i}.${hf}.${part}_proj.weight`,
    shape,
    ...(when === undefined ? {} : { when }),
  })
  return [
    row('gate', (c) => [width(c), c.hiddenSize]),
    row('up', (c) => [width(c), c.hiddenSize]),
    row('down', (c) => [c.hiddenSize, width(c)]),
  ]
}

const sparse = (config: ModelConfig, block: number | null): boolean => !dense(config, block)

const shared = mlp('mlp.shared', 'mlp.shared_experts', sharedWidth, (c, i) => sparse(c, i) && sharedWidth(c) > 0)

const correction: TensorRow = {
  role: 'blocks.{i}.mlp.correction.bias',
  hf: 'model.layers.{i}.mlp.gate.e_score_correction_bias',
  shape: (c) => [c.experts?.count ?? 0],
  when: sparse,
}

function rows(more: readonly TensorRow[]): readonly TensorRow[] {
  return decoderRows({
    insteadOfMlp: [
      ...mlp('mlp', 'mlp', (c) => c.intermediateSize, dense),
      ...routedExperts.map((row) => ({ ...row, when: sparse })),
      ...more,
      ...shared,
    ],
  }).flatMap((row) => {
    if (row.role === 'blocks.{i}.attn.q.weight') return attention
    return /\.attn\.[kvo]\.weight$/.test(row.role) ? [] : [row]
  })
}

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  if ((numberAt(config, 'moe_layer_freq') ?? 1) !== 1) return 'experts in some blocks only (moe_layer_freq)'
  if (config.has('n_routed_experts') && numberAt(config, 'n_routed_experts') === null) return 'no experts'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
}

function unsupported2(config: JsonObject): string | null {
  if (config.get('norm_topk_prob') === true) return 'normalised routing weights (norm_topk_prob)'
  if ((config.get('scoring_func') ?? 'softmax') !== 'softmax') return 'another score than softmax (scoring_func)'
  const method = config.get('topk_method') ?? 'greedy'
  if (method !== 'greedy') return `experts chosen in another way than greedily (topk_method ${JSON.stringify(method)})`
  return unsupported(config)
}

function unsupported3(config: JsonObject): string | null {
  if (config.get('rope_interleave') === false) return 'rotary channels in halves (rope_interleave)'
  if ((config.get('scoring_func') ?? 'sigmoid') !== 'sigmoid') return 'another score than sigmoid (scoring_func)'
  const method = config.get('topk_method') ?? 'noaux_tc'
  if (method !== 'noaux_tc') return `experts chosen in another way (topk_method ${JSON.stringify(method)})`
  return unsupported(config)
}

/** A number, a null that stands for none, or what the class takes. */
function orNone(config: JsonObject, key: string, fallback: number): number | null {
  return config.has(key) ? numberAt(config, key) : fallback
}

function facts({ raw, layers }: ModelConfig, defaults: Defaults): Required<Pick<ModelFacts, 'latent' | 'experts'>> {
  const at = (key: string, fallback: number): number => numberAt(raw, key) ?? fallback
  const width = at('moe_intermediate_size', defaults.width)
  const sharedCount = orNone(raw, 'n_shared_experts', defaults.shared) ?? 0
  return {
    latent: {
      queryRank: orNone(raw, 'q_lora_rank', LATENT.queryRank),
      rank: at('kv_lora_rank', LATENT.rank),
      plainDim: at('qk_nope_head_dim', LATENT.plainDim),
      valueDim: at('v_head_dim', LATENT.valueDim),
    },
    experts: {
      count: at('n_routed_experts', defaults.experts),
      used: at('num_experts_per_tok', defaults.used),
      intermediateSize: width,
      ...(sharedCount > 0 ? { sharedIntermediateSize: sharedCount * width } : {}),
      denseBlocks: Math.min(layers, at('first_k_dense_replace', defaults.dense)),
      weightScale: at('routed_scaling_factor', defaults.scale),
    },
  }
}

const base = {
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 2048,
    activation: 'silu',
    headDim: 64,
    kvHeads: null,
    bosId: 1,
    eosId: 2,
  },
  // the channels that turn; the others have a key of their own
  keys: { headDim: 'qk_rope_head_dim' },
  ignored: decoderIgnored,
  slidingWindow: () => null,
  rotary: 'interleaved',
  scaledYarn: true,
} as const

/** DeepSeek V2: attention by way of a latent (MLA), dense blocks first, then experts beside one for all. */
export const deepseekV2: Architecture = {
  ...base,
  id: 'deepseek_v2',
  classNames: ['DeepseekV2ForCausalLM'],
  baseClassName: 'DeepseekV2Model',
  modelTypes: ['deepseek_v2'],
  facts: (config) => facts(config, DEFAULTS2),
  tensors: rows([]),
  unsupported: unsupported2,
}

/** DeepSeek V3 and R1: experts in groups, chosen by sigmoid scores and a correction that balances them. */
export const deepseekV3: Architecture = {
  ...base,
  id: 'deepseek_v3',
  classNames: ['DeepseekV3ForCausalLM'],
  baseClassName: 'DeepseekV3Model',
  modelTypes: ['deepseek_v3'],
  defaults: { ...base.defaults, contextLength: 4096, bosId: 0, eosId: 1 },
  facts: (config) => {
    const { experts, ...rest } = facts(config, DEFAULTS3)
    const groups = numberAt(config.raw, 'n_group') ?? GROUPS3.groups
    return {
      ...rest,
      experts: {
        ...experts,
        scores: 'sigmoid',
        normalised: config.raw.get('norm_topk_prob') !== false,
        ...(groups > 1 ? { groups, groupsUsed: numberAt(config.raw, 'topk_group') ?? GROUPS3.used } : {}),
      },
    }
  },
  tensors: rows([correction]),
  unsupported: unsupported3,
}

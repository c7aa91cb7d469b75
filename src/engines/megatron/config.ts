/** Megatron's arguments and HuggingFace's configuration, each from the other. */
import type { ModelConfig } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, withFloats, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import type { Recipe } from '../../core/tensor.ts'
import type { Args } from './pickled.ts'

/** What the weights themselves say where arguments are missing. */
export interface Observed {
  readonly tensors: ReadonlyMap<string, Recipe>
  /** Ids in the tokenizer beside them; null if there is none. */
  readonly tokens: number | null
  /** For messages. */
  readonly file: string
}

const EMBEDDING = 'embedding.word_embeddings.weight'
const HEAD = 'output_layer.weight'
const FIRST = 'decoder.layers.0'

const SHARED_GATE = 'mlp.shared_experts.gate_weight'
const UNNORMALISED = 'routing weights that are not normalised (moe_router_pre_softmax)'

/** Megatron's own defaults. */
const DEFAULT_ROTARY_BASE = 10_000
const DEFAULT_EPSILON = 1e-5
const DEFAULT_DIVISOR = 128
const LLAMA3 = { low: 1, high: 4, original: 8192, factor: 8 }

/** What a Megatron model does that no class of transformers here does. */
function refuse(args: Args, { tensors, file }: Observed): void {
  const set = (key: string): boolean => args.get(key) === true
  const shared = typeof args.get('moe_shared_expert_intermediate_size') === 'number'
  const score = args.get('moe_router_score_function') ?? 'softmax'
  const reasons: readonly (readonly [boolean, string])[] = [
    [set('attention_output_gate'), 'gates on attention (attention_output_gate)'],
    [set('multi_latent_attention'), 'multi-latent attention'],
    [set('rotary_interleaved'), 'interleaved rotary positions (rotary_interleaved)'],
    [shared && !tensors.has(`${FIRST}.${SHARED_GATE}`), 'shared experts without a gate'],
    [!everyLayer(args.get('moe_layer_freq')), 'experts in some layers only (moe_layer_freq)'],
    [score !== 'softmax', `a router that scores by ${String(score)} (moe_router_score_function)`],
    [set('moe_router_enable_expert_bias'), 'biases on the choice of experts (moe_router_enable_expert_bias)'],
    [typeof args.get('num_experts') === 'number' && !shared && set('moe_router_pre_softmax'), UNNORMALISED],
    [shared && args.get('moe_router_pre_softmax') === false, 'shared experts beside normalised routing weights'],
    [set('apply_residual_connection_post_layernorm'), 'residuals after the norm'],
    [set('squared_relu'), 'squared ReLU'],
  ]
  for (const [refused, what] of reasons) {
    if (!refused) continue
    throw new AppError('unsupported', `A Megatron model with ${what} is not converted yet`, {
      where: { file },
      hint: 'Convert it with the tools of the framework that trained it.',
    })
  }
}

/** Whether a frequency, or a list of ones and zeros, puts experts in all layers; so does its absence. */
function everyLayer(frequency: Json | undefined): boolean {
  const value = frequency ?? 1
  return isArray(value) ? value.every((one) => one === 1) : value === 1
}

/** A config.json that says of a model what its arguments and tensors do. Throws `malformed` naming what is missing. */
export function configFromArgs(args: Args, observed: Observed, findings: Finding[]): JsonObject {
  const { tensors, file } = observed
  refuse(args, observed)
  const need = (key: string, ...others: readonly string[]): number => {
    for (const name of [key, ...others]) {
      const value = args.get(name)
      if (typeof value === 'number') return value
    }
    throw new AppError('malformed', `${file} does not say ${key}`, {
      where: { file },
      hint: 'Give the config.json of the model with --hf-config, or put it beside the checkpoint.',
    })
  }
  const optional = (key: string): number | null => {
    const value = args.get(key)
    return typeof value === 'number' ? value : null
  }
  const hidden = need('hidden_size')
  const heads = need('num_attention_heads')
  const rope = args.get('position_embedding_type') !== 'learned_absolute'
  const headDim = optional('kv_channels') ?? hidden / heads
  const kvHeads = groupsOf(args, tensors, heads, headDim)
  const bias = (name: string): boolean => tensors.has(`${FIRST}.${name}.bias`)
  const experts = optional('num_experts')
  const headNorms = tensors.has(`${FIRST}.self_attention.q_layernorm.weight`)
  const untied = args.get('untie_embeddings_and_output_weights')
  const tied = typeof untied === 'boolean' ? !untied : !tensors.has(HEAD)
  const vocab = vocabularyOf(args, observed, findings)
  const context = optional('max_position_embeddings') ?? optional('seq_length')
  const epsilon = optional('norm_epsilon') ?? optional('layernorm_epsilon') ?? DEFAULT_EPSILON
  const dtype = args.get('params_dtype')
  const common: (readonly [string, Json])[] = [
    ['vocab_size', vocab],
    ['tie_word_embeddings', tied],
    ...(context === null || !rope ? [] : ([['max_position_embeddings', context]] as const)),
    ...(typeof dtype === 'string' ? ([['torch_dtype', dtype]] as const) : []),
  ]
  if (!rope) {
    if (args.get('swiglu') === true || headNorms || experts !== null || kvHeads !== heads) {
      throw new AppError('unsupported', 'A Megatron model with learned positions that is no GPT-2', {
        where: { file },
        hint: 'Give the config.json of the model with --hf-config.',
      })
    }
    return new Map<string, Json>([
      ['architectures', ['GPT2LMHeadModel']],
      ['model_type', 'gpt2'],
      ['n_embd', hidden],
      ['n_layer', need('num_layers')],
      ['n_head', heads],
      ['n_inner', need('ffn_hidden_size')],
      ['n_positions', tensors.get('embedding.position_embeddings.weight')?.shape[0] ?? context ?? 0],
      ['layer_norm_epsilon', epsilon],
      ['activation_function', 'gelu_new'],
      ...common,
    ])
  }
  const qkvBias = bias('self_attention.linear_qkv')
  const sharedWidth = experts === null ? null : optional('moe_shared_expert_intermediate_size')
  const queries = qkvBias && !bias('self_attention.linear_proj')
  const [className, modelType] = classOf(experts, sharedWidth !== null, headNorms, queries)
  if (sharedWidth !== null && (headNorms || !queries)) {
    throw new AppError('unsupported', 'A Megatron model with shared experts that is no Qwen2-MoE', {
      where: { file },
      hint: 'Give the config.json of the model with --hf-config.',
    })
  }
  const json = new Map<string, Json>([
    ['architectures', [className]],
    ['model_type', modelType],
    ['hidden_size', hidden],
    ['num_hidden_layers', need('num_layers')],
    ['intermediate_size', need('ffn_hidden_size')],
    ['num_attention_heads', heads],
    ['num_key_value_heads', kvHeads],
    ['head_dim', headDim],
    ['hidden_act', 'silu'],
    ['rms_norm_eps', epsilon],
    ['rope_theta', optional('rotary_base') ?? DEFAULT_ROTARY_BASE],
    ...common,
  ])
  if (modelType === 'llama') {
    json.set('attention_bias', qkvBias)
    json.set('mlp_bias', bias('mlp.linear_fc1'))
  }
  const partial = optional('rotary_percent') ?? 1
  if (partial !== 1) json.set('partial_rotary_factor', partial)
  if (args.get('use_rope_scaling') === true) {
    json.set(
      'rope_scaling',
      new Map<string, Json>([
        ['rope_type', 'llama3'],
        ['factor', optional('rope_scaling_factor') ?? LLAMA3.factor],
        ['low_freq_factor', LLAMA3.low],
        ['high_freq_factor', LLAMA3.high],
        ['original_max_position_embeddings', LLAMA3.original],
      ]),
    )
  }
  if (experts !== null) {
    const used = need('moe_router_topk')
    const width = optional('moe_ffn_hidden_size') ?? need('ffn_hidden_size')
    json.set('num_experts_per_tok', used)
    if (modelType === 'mixtral') {
      json.set('num_local_experts', experts)
      json.set('intermediate_size', width)
    } else {
      json.set('num_experts', experts)
      json.set('moe_intermediate_size', width)
      json.set('norm_topk_prob', sharedWidth === null)
      if (sharedWidth !== null) json.set('shared_expert_intermediate_size', sharedWidth)
    }
  }
  return withFloats(json, new Set(['rope_theta']))
}

function classOf(
  experts: number | null,
  shared: boolean,
  headNorms: boolean,
  qkvBias: boolean,
): readonly [string, string] {
  if (shared) return ['Qwen2MoeForCausalLM', 'qwen2_moe']
  if (experts !== null) return headNorms ? ['Qwen3MoeForCausalLM', 'qwen3_moe'] : ['MixtralForCausalLM', 'mixtral']
  if (headNorms) return ['Qwen3ForCausalLM', 'qwen3']
  return qkvBias ? ['Qwen2ForCausalLM', 'qwen2'] : ['LlamaForCausalLM', 'llama']
}

/** Without group_query_attention every head has its own key, whatever num_query_groups says; silent arguments: the rows tell. */
function groupsOf(args: Args, tensors: ReadonlyMap<string, Recipe>, heads: number, headDim: number): number {
  const grouped = args.get('group_query_attention')
  const groups = args.get('num_query_groups')
  if (grouped === true && typeof groups === 'number') return groups
  if (grouped === false) return heads
  const rows = tensors.get(`${FIRST}.self_attention.linear_qkv.weight`)?.shape[0]
  const inferred = rows === undefined ? heads : (rows / headDim - heads) / 2
  return Number.isInteger(inferred) && inferred >= 1 ? inferred : heads
}

/** Rows of the embedding that stand for tokens: Megatron pads them. */
function vocabularyOf(args: Args, { tensors, tokens, file }: Observed, findings: Finding[]): number {
  const rows = tensors.get(EMBEDDING)?.shape[0] ?? 0
  const said = args.get('vocab_size')
  const exact = typeof said === 'number'
  const vocab = exact ? said : tokens
  const divisor = args.get('make_vocab_size_divisible_by')
  const tp = args.get('tensor_model_parallel_size')
  const unit = (typeof divisor === 'number' ? divisor : DEFAULT_DIVISOR) * (typeof tp === 'number' ? tp : 1)
  if (vocab === null || (!exact && Math.ceil(vocab / unit) * unit !== rows)) {
    findings.push({
      severity: 'info',
      code: 'vocabulary-kept',
      message: `Nothing says how many of the ${rows} rows of the embedding are padding: all are kept`,
      where: { file },
      hint: 'Give the config.json of the model with --hf-config.',
    })
    return rows
  }
  return vocab
}

/** Throws `malformed` where a given configuration contradicts the arguments. */
export function requireAgreement(config: ModelConfig, args: Args, file: string, given: string): void {
  const grouped = args.get('group_query_attention') === true
  const pairs: readonly (readonly [string, number])[] = [
    ['num_layers', config.layers],
    ['hidden_size', config.hiddenSize],
    ['num_attention_heads', config.heads],
    ['kv_channels', config.headDim],
    ...(grouped ? ([['num_query_groups', config.kvHeads]] as const) : []),
    ...(config.experts === undefined ? ([['ffn_hidden_size', config.intermediateSize]] as const) : []),
  ]
  for (const [key, value] of pairs) {
    const said = args.get(key)
    if (typeof said !== 'number' || said === value) continue
    throw new AppError('malformed', `${given} is of another model: ${key} is ${said} in ${file}, but ${value} there`, {
      where: { file },
      hint: 'Give the config.json of the model that was trained.',
    })
  }
}

export interface Parallelism {
  readonly tensor: number
  readonly pipeline: number
  readonly expert: number
}

/** What Megatron calls its formats: a file for each rank, or a distributed checkpoint. */
export type CheckpointFormat = 'torch' | 'torch_dist'

const DTYPES: ReadonlyMap<string, string> = new Map([
  ['f32', 'float32'],
  ['f16', 'float16'],
  ['bf16', 'bfloat16'],
])

/** Rows of a vocabulary are padded to whole multiples of this for each rank. */
export const VOCABULARY_DIVISOR = DEFAULT_DIVISOR

/** The arguments of a model written here; `dtype` by its name in torch (params_dtype is added by the writer). */
export function argsFromConfig(
  config: ModelConfig,
  facts: { readonly qkvBias: boolean; readonly bias: boolean; readonly headNorms: boolean; readonly gated: boolean },
  { tensor, pipeline, expert }: Parallelism,
  paddedVocabulary: number,
  dtype: string,
  format: CheckpointFormat,
): ReadonlyMap<string, Json> {
  const { experts, rope } = config
  const learned = config.modelType === 'gpt2'
  const width = experts?.intermediateSize ?? config.intermediateSize
  return new Map<string, Json>([
    ['num_layers', config.layers],
    ['hidden_size', config.hiddenSize],
    ['ffn_hidden_size', width],
    ['num_attention_heads', config.heads],
    ['group_query_attention', config.kvHeads !== config.heads],
    ['num_query_groups', config.kvHeads],
    ['kv_channels', config.headDim],
    ['seq_length', config.contextLength],
    ['max_position_embeddings', config.contextLength],
    ['position_embedding_type', learned ? 'learned_absolute' : 'rope'],
    ['add_position_embedding', learned],
    ['use_rotary_position_embeddings', !learned],
    ['rotary_base', rope.theta],
    ['rotary_percent', 1],
    ['rotary_interleaved', false],
    ['use_rope_scaling', rope.scaling.kind === 'llama3'],
    ...(rope.scaling.kind === 'llama3' ? ([['rope_scaling_factor', rope.scaling.factor]] as const) : []),
    ['swiglu', facts.gated],
    ['normalization', learned ? 'LayerNorm' : 'RMSNorm'],
    ['norm_epsilon', config.normEpsilon],
    ['layernorm_epsilon', config.normEpsilon],
    ['add_bias_linear', facts.bias],
    ['add_qkv_bias', facts.qkvBias],
    ['qk_layernorm', facts.headNorms],
    ['untie_embeddings_and_output_weights', !config.tied],
    ['vocab_size', config.vocabSize],
    ['padded_vocab_size', paddedVocabulary],
    ['make_vocab_size_divisible_by', VOCABULARY_DIVISOR],
    ['tokenizer_type', 'HuggingFaceTokenizer'],
    ['fp16', dtype === 'f16'],
    ['bf16', dtype === 'bf16'],
    ['tensor_model_parallel_size', tensor],
    ['pipeline_model_parallel_size', pipeline],
    ['expert_model_parallel_size', expert],
    ['num_experts', experts?.count ?? null],
    ...(experts === undefined
      ? []
      : ([
          ['moe_router_topk', experts.used],
          ['moe_ffn_hidden_size', experts.intermediateSize],
          // probabilities of all experts, of which those chosen are left as they are
          ['moe_router_pre_softmax', config.modelType === 'qwen2_moe'],
          ...(experts.sharedIntermediateSize === undefined
            ? []
            : ([
                ['moe_shared_expert_intermediate_size', experts.sharedIntermediateSize],
                ['moe_shared_expert_gate', true],
              ] as const)),
          ['moe_grouped_gemm', false],
          ['expert_tensor_parallel_size', tensor],
        ] as const)),
    ['use_mcore_models', true],
    ['transformer_impl', 'transformer_engine'],
    ['ckpt_format', format],
    ['iteration', 1],
    ['consumed_train_samples', 0],
    ['consumed_valid_samples', 0],
    ['apply_query_key_layer_scaling', false],
    ['attention_dropout', 0],
    ['hidden_dropout', 0],
  ])
}

/** `bfloat16` for `bf16`; null for types that Megatron does not train in. */
export function torchName(dtype: string): string | null {
  return DTYPES.get(dtype) ?? null
}

/**
 * The parameters of mlx-lm's model classes, from its own sources: what a strict loader expects, with their shapes. Each
 * `L` is a Linear, `E` an Embedding, `S` a SwitchLinear (all of which quantise), `N` a norm.
 */
import { FAMILY_MODULES } from './family-modules.ts'
import { number, type Module } from './module.ts'
import { quantOf, type Config, type Stored } from './naive.ts'

/** Keys that the class has no default for. */
const REQUIRED: Record<string, readonly string[]> = {
  llama: ['hidden_size', 'num_hidden_layers', 'intermediate_size', 'num_attention_heads', 'rms_norm_eps', 'vocab_size'],
  qwen2: ['num_key_value_heads', 'rms_norm_eps'],
  qwen3: ['num_key_value_heads', 'max_position_embeddings', 'rope_theta', 'head_dim', 'tie_word_embeddings'],
  gemma2: ['head_dim', 'num_key_value_heads', 'rms_norm_eps'],
  gemma: ['head_dim', 'num_key_value_heads', 'rms_norm_eps'],
  smollm3: ['rms_norm_eps'],
  exaone4: [
    'num_key_value_heads',
    'max_position_embeddings',
    'rope_theta',
    'head_dim',
    'tie_word_embeddings',
    'rope_scaling',
    'sliding_window',
    'sliding_window_pattern',
  ],
  seed_oss: ['num_key_value_heads', 'head_dim'],
  ernie4_5: [
    'max_position_embeddings',
    'num_key_value_heads',
    'head_dim',
    'rope_theta',
    'use_bias',
    'tie_word_embeddings',
  ],
  glm: ['head_dim', 'num_key_value_heads'],
  hunyuan_v1_dense: ['num_key_value_heads', 'rms_norm_eps'],
  glm4: ['attention_bias', 'head_dim', 'num_key_value_heads', 'partial_rotary_factor', 'rope_theta'],
  olmo2: ['rms_norm_eps'],
  olmo3: ['rms_norm_eps', 'max_position_embeddings', 'sliding_window', 'rope_theta'],
  gpt2: ['n_ctx', 'n_embd', 'n_head', 'n_layer', 'n_positions', 'layer_norm_epsilon', 'vocab_size'],
  minicpm: ['dim_model_base', 'num_key_value_heads', 'scale_depth', 'scale_emb', 'rms_norm_eps'],
  qwen2_moe: ['num_experts_per_tok', 'num_experts', 'moe_intermediate_size', 'shared_expert_intermediate_size'],
  qwen3_moe: [
    'num_experts',
    'num_experts_per_tok',
    'decoder_sparse_step',
    'mlp_only_layers',
    'moe_intermediate_size',
    'head_dim',
    'rope_theta',
    'tie_word_embeddings',
    'max_position_embeddings',
    'norm_topk_prob',
  ],
  granite: [
    'attention_bias',
    'mlp_bias',
    'max_position_embeddings',
    'num_key_value_heads',
    'logits_scaling',
    'attention_multiplier',
    'embedding_multiplier',
    'residual_multiplier',
    'rope_theta',
  ],
}

const BIASED_AS_SAID: ReadonlySet<string> = new Set(['seed_oss', 'glm', 'glm4'])

/** Classes that take the embedding for the head. */
const ALWAYS_TIED: ReadonlySet<string> = new Set(['gemma', 'gemma2', 'cohere', 'cohere2'])

const TIED_UNLESS_SAID: ReadonlySet<string> = new Set([
  'llama',
  'qwen2',
  'granite',
  'olmo2',
  'smollm3',
  'seed_oss',
  'glm',
])

const HEAD_NORMED: ReadonlySet<string> = new Set(['qwen3', 'qwen3_moe', 'gemma3_text', 'exaone4'])

const PRE_NORMS = ['input_layernorm', 'post_attention_layernorm']
const SANDWICH_NORMS = [...PRE_NORMS, 'pre_feedforward_layernorm', 'post_feedforward_layernorm']
const POST_NORMS = ['post_attention_layernorm', 'post_feedforward_layernorm']

/** Norms of a block, where they are not those before attention and MLP. */
const BLOCK_NORMS: Readonly<Record<string, readonly string[]>> = {
  gemma2: SANDWICH_NORMS,
  gemma3_text: SANDWICH_NORMS,
  exaone4: POST_NORMS,
  glm4: [...PRE_NORMS, 'post_self_attn_layernorm', 'post_mlp_layernorm'],
  cohere: ['input_layernorm'],
  cohere2: ['input_layernorm'],
  olmo2: POST_NORMS,
  olmo3: POST_NORMS,
}

export function mlxModules(config: Config): readonly Module[] {
  const type = config['model_type'] === 'mistral' ? 'llama' : String(config['model_type'])
  for (const key of REQUIRED[type] ?? []) if (config[key] === undefined) throw new Error(`${type} lacks ${key}`)
  if (type === 'gpt2') return gpt2Modules(config)
  const own = FAMILY_MODULES[type]
  if (own !== undefined) return own(config)
  const hidden = number(config, 'hidden_size')
  const layers = number(config, 'num_hidden_layers')
  const heads = number(config, 'num_attention_heads')
  const kv = number(config, 'num_key_value_heads', heads)
  const head = number(config, 'head_dim', hidden / heads)
  const inner = number(config, 'intermediate_size')
  const vocabulary = number(config, 'vocab_size')
  const modules: Module[] = [['model.embed_tokens', 'E', [vocabulary, hidden]]]
  for (let i = 0; i < layers; i++) {
    const at = `model.layers.${i}`
    const qkv =
      type === 'qwen2' || type === 'qwen2_moe' || (BIASED_AS_SAID.has(type) && config['attention_bias'] === true)
    if (type === 'phi3') {
      modules.push([`${at}.self_attn.qkv_proj`, 'L', [(heads + 2 * kv) * head, hidden]])
    } else {
      modules.push([`${at}.self_attn.q_proj`, 'L', [heads * head, hidden], qkv])
      modules.push([`${at}.self_attn.k_proj`, 'L', [kv * head, hidden], qkv])
      modules.push([`${at}.self_attn.v_proj`, 'L', [kv * head, hidden], qkv])
    }
    modules.push([`${at}.self_attn.o_proj`, 'L', [hidden, heads * head]])
    if (HEAD_NORMED.has(type)) {
      modules.push([`${at}.self_attn.q_norm`, 'N', [head]], [`${at}.self_attn.k_norm`, 'N', [head]])
    }
    if (type === 'hunyuan_v1_dense') {
      const scaling = config['rope_scaling'] as Config | null | undefined
      for (const key of scaling ? ['alpha', 'factor', 'type'] : [])
        if (scaling?.[key] === undefined) throw new Error(`its rope_scaling lacks ${key}`)
      modules.push([`${at}.self_attn.query_layernorm`, 'N', [head]], [`${at}.self_attn.key_layernorm`, 'N', [head]])
    }
    if (type.startsWith('olmo')) {
      modules.push([`${at}.self_attn.q_norm`, 'N', [heads * head]], [`${at}.self_attn.k_norm`, 'N', [kv * head]])
    }
    if (type === 'mixtral') {
      const experts = number(config, 'num_local_experts', 8)
      modules.push([`${at}.block_sparse_moe.gate`, 'L', [experts, hidden]])
      modules.push([`${at}.block_sparse_moe.switch_mlp.gate_proj`, 'S', [experts, inner, hidden]])
      modules.push([`${at}.block_sparse_moe.switch_mlp.up_proj`, 'S', [experts, inner, hidden]])
      modules.push([`${at}.block_sparse_moe.switch_mlp.down_proj`, 'S', [experts, hidden, inner]])
    } else if (type.endsWith('_moe')) {
      const experts = number(config, 'num_experts')
      const width = number(config, 'moe_intermediate_size')
      modules.push([`${at}.mlp.gate`, 'L', [experts, hidden]])
      modules.push([`${at}.mlp.switch_mlp.gate_proj`, 'S', [experts, width, hidden]])
      modules.push([`${at}.mlp.switch_mlp.up_proj`, 'S', [experts, width, hidden]])
      modules.push([`${at}.mlp.switch_mlp.down_proj`, 'S', [experts, hidden, width]])
      if (type === 'qwen2_moe') {
        const shared = number(config, 'shared_expert_intermediate_size')
        modules.push([`${at}.mlp.shared_expert.gate_proj`, 'L', [shared, hidden]])
        modules.push([`${at}.mlp.shared_expert.down_proj`, 'L', [hidden, shared]])
        modules.push([`${at}.mlp.shared_expert.up_proj`, 'L', [shared, hidden]])
        modules.push([`${at}.mlp.shared_expert_gate`, 'L', [1, hidden]])
      }
    } else if (type === 'phi3' || type === 'glm' || type === 'glm4') {
      modules.push([`${at}.mlp.gate_up_proj`, 'L', [2 * inner, hidden]], [`${at}.mlp.down_proj`, 'L', [hidden, inner]])
    } else {
      modules.push([`${at}.mlp.gate_proj`, 'L', [inner, hidden]])
      modules.push([`${at}.mlp.down_proj`, 'L', [hidden, inner]])
      modules.push([`${at}.mlp.up_proj`, 'L', [inner, hidden]])
    }
    for (const norm of BLOCK_NORMS[type] ?? PRE_NORMS) modules.push([`${at}.${norm}`, 'N', [hidden]])
  }
  modules.push(['model.norm', 'N', [hidden]])
  const tied = config['tie_word_embeddings'] ?? TIED_UNLESS_SAID.has(type)
  if (type === 'minicpm' && tied === true)
    throw new Error('the loader adds a head that a tied MiniCPM has no place for')
  if (type === 'qwen2_moe' || type === 'glm4' || (!ALWAYS_TIED.has(type) && tied !== true))
    modules.push(['lm_head', 'L', [vocabulary, hidden]])
  return modules
}

function gpt2Modules(config: Config): readonly Module[] {
  const width = number(config, 'n_embd')
  const modules: Module[] = [
    ['model.wte', 'E', [number(config, 'vocab_size'), width]],
    ['model.wpe', 'E', [number(config, 'n_positions'), width]],
  ]
  for (let i = 0; i < number(config, 'n_layer'); i++) {
    const at = `model.h.${i}`
    modules.push([`${at}.attn.c_attn`, 'L', [3 * width, width], true], [`${at}.attn.c_proj`, 'L', [width, width], true])
    modules.push([`${at}.mlp.c_fc`, 'L', [4 * width, width], true], [`${at}.mlp.c_proj`, 'L', [width, 4 * width], true])
    modules.push([`${at}.ln_1`, 'N', [width], true], [`${at}.ln_2`, 'N', [width], true])
  }
  return [...modules, ['model.ln_f', 'N', [width], true]]
}

/** What the loader compares the weights with: names and shapes, quantised by its own rule. */
export function strictNames(config: Config, tensors: ReadonlyMap<string, Stored>): Map<string, readonly number[]> {
  const names = new Map<string, readonly number[]>()
  for (const [path, kind, shape, bias = false] of mlxModules(config)) {
    if (kind === 'P') {
      names.set(path, shape)
      continue
    }
    const quant = kind === 'N' ? null : quantOf(config, path, tensors)
    if (quant === null) names.set(`${path}.weight`, shape)
    else {
      const rows = shape.slice(0, -1)
      const columns = shape.at(-1)!
      if (columns % quant.group_size !== 0)
        throw new Error(`${path}: rows of ${columns} in groups of ${quant.group_size}`)
      names.set(`${path}.weight`, [...rows, (columns * quant.bits) / 32])
      names.set(`${path}.scales`, [...rows, columns / quant.group_size])
      if ((quant.mode ?? 'affine') === 'affine') names.set(`${path}.biases`, [...rows, columns / quant.group_size])
    }
    if (bias) names.set(`${path}.bias`, shape.length === 1 ? shape : shape.slice(0, -1))
  }
  return names
}

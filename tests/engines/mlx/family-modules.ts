/** The parameters of mlx-lm's classes for families that are built in ways of their own: see modules.ts. */
import { number, type Module } from './module.ts'
import type { Config } from './naive.ts'

function qkvo(config: Config, at: string, bias: boolean): Module[] {
  const hidden = number(config, 'hidden_size')
  const heads = number(config, 'num_attention_heads')
  const kv = number(config, 'num_key_value_heads', heads)
  const head = number(config, 'head_dim', hidden / heads)
  return [
    [`${at}.self_attn.q_proj`, 'L', [heads * head, hidden], bias],
    [`${at}.self_attn.k_proj`, 'L', [kv * head, hidden], bias],
    [`${at}.self_attn.v_proj`, 'L', [kv * head, hidden], bias],
    [`${at}.self_attn.o_proj`, 'L', [hidden, heads * head], bias],
  ]
}

function switched(at: string, count: number, width: number, hidden: number, bias = false): Module[] {
  return [
    [`${at}.gate_proj`, 'S', [count, width, hidden], bias],
    [`${at}.up_proj`, 'S', [count, width, hidden], bias],
    [`${at}.down_proj`, 'S', [count, hidden, width], bias],
  ]
}

/** Embedding, blocks of `block`, final norm; a head where the class has one. */
function decoder(config: Config, head: boolean, block: (at: string, index: number) => Module[]): Module[] {
  const [vocabulary, hidden] = [number(config, 'vocab_size'), number(config, 'hidden_size')]
  const norm = (name: string): Module => [name, 'N', [hidden]]
  const modules: Module[] = [['model.embed_tokens', 'E', [vocabulary, hidden]]]
  for (let i = 0; i < number(config, 'num_hidden_layers'); i++) {
    const at = `model.layers.${i}`
    modules.push(...block(at, i), norm(`${at}.input_layernorm`), norm(`${at}.post_attention_layernorm`))
  }
  modules.push(norm('model.norm'))
  if (head) modules.push(['lm_head', 'L', [vocabulary, hidden]])
  return modules
}

function gptOss(config: Config): Module[] {
  const count = number(config, 'num_local_experts')
  const hidden = number(config, 'hidden_size')
  if ((config['layer_types'] as string[]).length !== number(config, 'num_hidden_layers')) throw new Error('layer_types')
  number(config, 'sliding_window', 128)
  return decoder(config, true, (at) => [
    [`${at}.self_attn.sinks`, 'P', [number(config, 'num_attention_heads')]],
    ...qkvo(config, at, true),
    ...switched(`${at}.mlp.experts`, count, number(config, 'intermediate_size'), hidden, true),
    [`${at}.mlp.router`, 'L', [count, hidden], true],
  ])
}

function olmoe(config: Config): Module[] {
  const [count, hidden] = [number(config, 'num_experts'), number(config, 'hidden_size')]
  const kv = number(config, 'num_key_value_heads', number(config, 'num_attention_heads'))
  const head = hidden / number(config, 'num_attention_heads')
  // tied if config.json does not say
  return decoder(config, config['tie_word_embeddings'] === false, (at) => [
    ...qkvo(config, at, false),
    [`${at}.self_attn.q_norm`, 'N', [hidden]],
    [`${at}.self_attn.k_norm`, 'N', [kv * head]],
    [`${at}.mlp.gate`, 'L', [count, hidden]],
    ...switched(`${at}.mlp.switch_mlp`, count, number(config, 'intermediate_size'), hidden),
  ])
}

const GRANITE_KEYS = ['logits_scaling', 'attention_multiplier', 'embedding_multiplier', 'residual_multiplier']

function graniteMoe(config: Config): Module[] {
  const [count, hidden] = [number(config, 'num_local_experts'), number(config, 'hidden_size')]
  for (const key of [...GRANITE_KEYS, 'max_position_embeddings', 'num_key_value_heads', 'rope_theta'])
    number(config, key)
  if (config['attention_bias'] !== false) throw new Error('attention_bias')
  return decoder(config, config['tie_word_embeddings'] === false, (at) => [
    ...qkvo(config, at, false),
    ...switched(`${at}.block_sparse_moe.switch_mlp`, count, number(config, 'intermediate_size'), hidden),
    [`${at}.block_sparse_moe.router.layer`, 'L', [count, hidden]],
  ])
}

function deepseekV3(config: Config): Module[] {
  const at = (key: string): number => number(config, key)
  const [hidden, heads, rank] = [at('hidden_size'), at('num_attention_heads'), at('kv_lora_rank')]
  const [plain, rotary, value] = [at('qk_nope_head_dim'), at('qk_rope_head_dim'), at('v_head_dim')]
  const [count, width] = [at('n_routed_experts'), at('moe_intermediate_size')]
  const queries = at('q_lora_rank')
  const gated = (name: string, inner: number): Module[] => [
    [`${name}.gate_proj`, 'L', [inner, hidden]],
    [`${name}.up_proj`, 'L', [inner, hidden]],
    [`${name}.down_proj`, 'L', [hidden, inner]],
  ]
  return decoder(config, true, (layer, index) => [
    [`${layer}.self_attn.q_a_proj`, 'L', [queries, hidden]],
    [`${layer}.self_attn.q_a_layernorm`, 'N', [queries]],
    [`${layer}.self_attn.q_b_proj`, 'L', [heads * (plain + rotary), queries]],
    [`${layer}.self_attn.kv_a_proj_with_mqa`, 'L', [rank + rotary, hidden]],
    [`${layer}.self_attn.kv_a_layernorm`, 'N', [rank]],
    [`${layer}.self_attn.embed_q`, 'S', [heads, rank, plain]],
    [`${layer}.self_attn.unembed_out`, 'S', [heads, value, rank]],
    [`${layer}.self_attn.o_proj`, 'L', [hidden, heads * value]],
    ...(index < at('first_k_dense_replace')
      ? gated(`${layer}.mlp`, at('intermediate_size'))
      : [
          ...switched(`${layer}.mlp.switch_mlp`, count, width, hidden),
          [`${layer}.mlp.gate.weight`, 'P', [count, hidden]] as const,
          [`${layer}.mlp.gate.e_score_correction_bias`, 'P', [count]] as const,
          ...gated(`${layer}.mlp.shared_experts`, at('n_shared_experts') * width),
        ]),
  ])
}

/** Norms with biases, which the other classes do not have. */
function withNormBiases(modules: readonly Module[]): Module[] {
  return modules.map((module) => (module[1] === 'N' ? [module[0], 'N', module[2], true] : module))
}

function starcoder2(config: Config): Module[] {
  const [hidden, inner] = [number(config, 'hidden_size'), number(config, 'intermediate_size')]
  number(config, 'num_key_value_heads')
  // tied if config.json does not say
  return withNormBiases(
    decoder(config, config['tie_word_embeddings'] === false, (at) => [
      ...qkvo(config, at, true),
      [`${at}.mlp.c_fc`, 'L', [inner, hidden], true],
      [`${at}.mlp.c_proj`, 'L', [hidden, inner], true],
    ]),
  )
}

function stablelm(config: Config): Module[] {
  const [hidden, inner] = [number(config, 'hidden_size'), number(config, 'intermediate_size')]
  for (const key of ['num_key_value_heads', 'rope_theta', 'partial_rotary_factor', 'layer_norm_eps'])
    number(config, key)
  if (typeof config['use_qkv_bias'] !== 'boolean') throw new Error('use_qkv_bias')
  const [output, ...rest] = qkvo(config, '', config['use_qkv_bias']).toReversed()
  const attention = [...rest.toReversed(), [output![0], 'L', output![2]] as const]
  const modules = decoder(config, true, (at) => [
    ...attention.map(([name, kind, shape, bias]): Module => [`${at}${name}`, kind, shape, bias ?? false]),
    [`${at}.mlp.gate_proj`, 'L', [inner, hidden]],
    [`${at}.mlp.down_proj`, 'L', [hidden, inner]],
    [`${at}.mlp.up_proj`, 'L', [inner, hidden]],
  ])
  const parallel = config['use_parallel_residual'] === true
  return withNormBiases(modules).filter(([name]) => !(parallel && name.endsWith('.post_attention_layernorm')))
}

function phi(config: Config): Module[] {
  const [hidden, inner] = [number(config, 'hidden_size'), number(config, 'intermediate_size')]
  const modules = decoder(config, true, (at) => [
    ...qkvo(config, at, true),
    [`${at}.mlp.fc1`, 'L', [inner, hidden], true],
    [`${at}.mlp.fc2`, 'L', [hidden, inner], true],
  ])
  return withNormBiases(modules)
    .filter(([name]) => !name.endsWith('.post_attention_layernorm'))
    .map(([name, kind, shape, bias = false]): Module => {
      const own = name.replace('self_attn.o_proj', 'self_attn.dense').replace(/^model\.norm$/, 'model.final_layernorm')
      return [own, kind, shape, bias || own === 'lm_head']
    })
}

function gptNeox(config: Config): Module[] {
  const [hidden, vocabulary] = [number(config, 'hidden_size'), number(config, 'vocab_size')]
  for (const key of ['max_position_embeddings', 'layer_norm_eps', 'rotary_emb_base', 'rotary_pct']) number(config, key)
  const modules: Module[] = [
    ['model.embed_in', 'E', [vocabulary, hidden]],
    ['model.embed_out', 'L', [vocabulary, hidden]],
  ]
  for (let i = 0; i < number(config, 'num_hidden_layers'); i++) {
    const at = `model.h.${i}`
    modules.push([`${at}.attention.query_key_value`, 'L', [3 * hidden, hidden], true])
    modules.push([`${at}.attention.dense`, 'L', [hidden, hidden], true])
    modules.push([`${at}.mlp.dense_h_to_4h`, 'L', [4 * hidden, hidden], true])
    modules.push([`${at}.mlp.dense_4h_to_h`, 'L', [hidden, 4 * hidden], true])
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) modules.push([`${at}.${norm}`, 'N', [hidden]])
  }
  return withNormBiases([...modules, ['model.final_layer_norm', 'N', [hidden]]])
}

export const FAMILY_MODULES: Readonly<Record<string, (config: Config) => Module[]>> = {
  gpt_oss: gptOss,
  olmoe,
  granitemoe: graniteMoe,
  deepseek_v3: deepseekV3,
  starcoder2,
  stablelm,
  phi,
  gpt_neox: gptNeox,
}

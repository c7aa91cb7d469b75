import { ExpertsModel } from './experts-model.ts'
import { attend, heads, largest, sigmoid, SIZES, softmax, turn, type NaiveModel, type Vector } from './naive-model.ts'

/** DeepseekV2ForCausalLM and DeepseekV3ForCausalLM. */
class DeepSeek extends ExpertsModel {
  override get rotaryDim(): number {
    return this.size('qk_rope_head_dim')
  }

  attention(layer: string, states: readonly Vector[]): number[][] {
    const { config } = this
    const count = config.num_attention_heads
    const [rank, plain] = [this.size('kv_lora_rank'), this.size('qk_nope_head_dim')]
    const [rotary, width] = [this.rotaryDim, this.size('v_head_dim')]
    const at = `${layer}.self_attn`
    const queries = (x: Vector): number[] => {
      const rows = count * (plain + rotary)
      if (config['q_lora_rank'] === null) return this.linear(`${at}.q_proj`, x, rows)
      const compressed = this.linear(`${at}.q_a_proj`, x, this.size('q_lora_rank'))
      return this.linear(`${at}.q_b_proj`, this.rmsNorm(`${at}.q_a_layernorm`, compressed, 1e-6), rows)
    }
    const turned = (head: Vector, position: number): number[] => turn(head, position, this.rotation, true)
    const q = states.map((x, t) =>
      heads(queries(x), count).map((head) => [...head.slice(0, plain), ...turned(head.slice(plain), t)]),
    )
    const k: Vector[][] = []
    const v: Vector[][] = []
    for (const [t, x] of states.entries()) {
      const both = this.linear(`${at}.kv_a_proj_with_mqa`, x, rank + rotary)
      const shared = turned(both.slice(rank), t)
      const latent = this.rmsNorm(`${at}.kv_a_layernorm`, both.slice(0, rank), 1e-6)
      const each = heads(this.linear(`${at}.kv_b_proj`, latent, count * (plain + width)), count)
      k.push(each.map((head) => [...head.slice(0, plain), ...shared]))
      v.push(each.map((head) => head.slice(plain)))
    }
    const scaling = config['rope_scaling'] as Record<string, number> | undefined
    const mscale = scaling === undefined ? 1 : 0.1 * scaling['mscale_all_dim']! * Math.log(scaling['factor']!) + 1
    return attend(q, k, v, (plain + rotary) ** -0.5 * mscale ** 2).map((joined) =>
      this.linear(`${at}.o_proj`, joined, config.hidden_size),
    )
  }

  mlp(layer: string, x: Vector, index: number): number[] {
    if (index < this.size('first_k_dense_replace')) return this.gated(`${layer}.mlp`, x, this.size('intermediate_size'))
    const [count, width] = [this.size('n_routed_experts'), this.size('moe_intermediate_size')]
    const routed = this.mixed(x, this.weights3(layer, x, count), count, (e) =>
      this.gated(`${layer}.mlp.experts.${e}`, x, width),
    )
    const shared = this.gated(`${layer}.mlp.shared_experts`, x, this.size('n_shared_experts') * width)
    return routed.map((value, i) => value + shared[i]!)
  }

  /** The weights of the experts that a token takes. */
  private weights3(layer: string, x: Vector, count: number): ReadonlyMap<number, number> {
    const [used, scale] = [this.size('num_experts_per_tok'), this.size('routed_scaling_factor')]
    const scores = this.linear(`${layer}.mlp.gate`, x, count)
    if (this.config.model_type === 'deepseek_v2') {
      const shares = softmax(scores)
      return new Map(largest(shares, used).map((e) => [e, shares[e]! * scale]))
    }
    const shares = scores.map(sigmoid)
    const correction = this.bias(`${layer}.mlp.gate.e_score_correction_bias`, count)
    const corrected = shares.map((share, e) => share + correction[e]!)
    const groups = this.size('n_group')
    const best = largest(
      heads(corrected, groups).map((group) => largest(group, 2).reduce((sum, e) => sum + group[e]!, 0)),
      this.size('topk_group'),
    )
    const open = corrected.map((score, e) => (best.includes(Math.floor((e * groups) / count)) ? score : 0))
    const chosen = largest(open, used)
    const sum = this.config['norm_topk_prob'] === true ? chosen.reduce((total, e) => total + shares[e]!, 0) : 1
    return new Map(chosen.map((e) => [e, (shares[e]! / sum) * scale]))
  }
}

const LATENT = {
  ...SIZES,
  rms_norm_eps: 1e-6,
  hidden_act: 'silu',
  num_key_value_heads: 4,
  first_k_dense_replace: 1,
  kv_lora_rank: 64,
  qk_nope_head_dim: 32,
  qk_rope_head_dim: 16,
  v_head_dim: 32,
  n_routed_experts: 8,
  num_experts_per_tok: 2,
  moe_intermediate_size: 64,
  n_shared_experts: 2,
}

const YARN = {
  type: 'yarn',
  factor: 4,
  beta_fast: 32,
  beta_slow: 1,
  original_max_position_embeddings: 128,
}

/** DeepSeek V2 without a latent of the queries, as its small model is, and V3 with everything that it has. */
export const DEEPSEEKS: readonly NaiveModel[] = [
  new DeepSeek({
    ...LATENT,
    architectures: ['DeepseekV2ForCausalLM'],
    model_type: 'deepseek_v2',
    // llama.cpp knows models without a latent of the queries by their 27 blocks
    num_hidden_layers: 27,
    hidden_size: 64,
    intermediate_size: 64,
    kv_lora_rank: 32,
    n_routed_experts: 4,
    moe_intermediate_size: 32,
    q_lora_rank: null,
    routed_scaling_factor: 1,
    norm_topk_prob: false,
    scoring_func: 'softmax',
    topk_method: 'greedy',
    rope_scaling: { ...YARN, mscale: 0.8, mscale_all_dim: 0.8 },
  }),
  new DeepSeek({
    ...LATENT,
    architectures: ['DeepseekV3ForCausalLM'],
    model_type: 'deepseek_v3',
    q_lora_rank: 96,
    routed_scaling_factor: 2.5,
    norm_topk_prob: true,
    scoring_func: 'sigmoid',
    topk_method: 'noaux_tc',
    n_group: 4,
    topk_group: 2,
    rope_scaling: { ...YARN, mscale: 1, mscale_all_dim: 1 },
  }),
]

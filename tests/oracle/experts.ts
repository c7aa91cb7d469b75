import { DEEPSEEKS } from './deepseek.ts'
import { ExpertsModel } from './experts-model.ts'
import {
  attend,
  heads,
  largest,
  sigmoid,
  silu,
  SIZES,
  softmax,
  times,
  turn,
  yarnRotation,
  type NaiveModel,
  type Rotation,
  type Vector,
} from './naive-model.ts'

/** Queries, keys and values of heads that all turn whole. */
abstract class RotaryModel extends ExpertsModel {
  protected projected(
    layer: string,
    states: readonly Vector[],
    biased: boolean,
    norm: (which: 'q' | 'k', flat: Vector) => Vector = (_, flat) => flat,
  ): Record<'q' | 'k' | 'v', Vector[][]> {
    const of = (which: 'q' | 'k' | 'v'): Vector[][] => {
      const count = which === 'q' ? this.config.num_attention_heads : this.size('num_key_value_heads')
      return states.map((x, position) => {
        const flat = this.linear(`${layer}.self_attn.${which}_proj`, x, count * this.headDim, biased)
        if (which === 'v') return heads(flat, count)
        return heads(norm(which, flat), count).map((head) => turn(head, position, this.rotation))
      })
    }
    return { q: of('q'), k: of('k'), v: of('v') }
  }
}

/** GptOssForCausalLM. */
class GptOss extends RotaryModel {
  /** llama.cpp rounds YaRN's bounds, whatever the model says: a finding tells so. */
  override get rotation(): Rotation {
    const { truncate: _, ...scaling } = this.config['rope_scaling'] as Record<string, number>
    return yarnRotation(this.headDim, this.size('rope_theta'), scaling)
  }

  attention(layer: string, states: readonly Vector[], index: number): number[][] {
    const { q, k, v } = this.projected(layer, states, true)
    const sinks = this.bias(`${layer}.self_attn.sinks`, this.config.num_attention_heads)
    const window = index % 2 === 0 ? { window: this.size('sliding_window') } : {}
    return attend(q, k, v, this.headDim ** -0.5, { ...window, sinks }).map((joined) =>
      this.linear(`${layer}.self_attn.o_proj`, joined, this.config.hidden_size, true),
    )
  }

  mlp(layer: string, x: Vector): number[] {
    const [count, used] = [this.size('num_local_experts'), this.size('num_experts_per_tok')]
    const [hidden, width] = [x.length, this.size('intermediate_size')]
    const scores = this.linear(`${layer}.mlp.router`, x, count, true)
    const chosen = largest(scores, used)
    const shares = softmax(chosen.map((e) => scores[e]!))
    const at = `${layer}.mlp.experts`
    // stored [experts, inputs, outputs], gate and up in turns
    const project = (name: string, e: number, input: Vector, rows: number): number[] => {
      const all = this.weight(`${at}.${name}`, [count, input.length, rows], 2 / Math.sqrt(input.length))
      const bias = this.weight(`${at}.${name}_bias`, [count, rows], 0.3)
      const sums = Array.from(bias.subarray(e * rows, (e + 1) * rows))
      for (const [i, value] of input.entries())
        for (let row = 0; row < rows; row++) sums[row]! += value * all[(e * input.length + i) * rows + row]!
      return sums
    }
    return this.mixed(x, new Map(chosen.map((e, at) => [e, shares[at]!])), count, (e) => {
      const both = project('gate_up_proj', e, x, 2 * width)
      const inner = Array.from({ length: width }, (_, i) => {
        const gate = Math.min(7, both[2 * i]!)
        const up = Math.min(7, Math.max(-7, both[2 * i + 1]!))
        return (up + 1) * gate * sigmoid(1.702 * gate)
      })
      return project('down_proj', e, inner, hidden)
    })
  }
}

/** OlmoeForCausalLM. */
class Olmoe extends RotaryModel {
  attention(layer: string, states: readonly Vector[]): number[][] {
    const { q, k, v } = this.projected(layer, states, false, (which, flat) =>
      this.rmsNorm(`${layer}.self_attn.${which}_norm`, flat, this.epsilon),
    )
    return attend(q, k, v, this.headDim ** -0.5).map((joined) =>
      this.linear(`${layer}.self_attn.o_proj`, joined, this.config.hidden_size),
    )
  }

  mlp(layer: string, x: Vector): number[] {
    const count = this.size('num_experts')
    const shares = softmax(this.linear(`${layer}.mlp.gate`, x, count))
    const chosen = largest(shares, this.size('num_experts_per_tok'))
    return this.mixed(x, new Map(chosen.map((e) => [e, shares[e]!])), count, (e) =>
      this.gated(`${layer}.mlp.experts.${e}`, x, this.size('intermediate_size')),
    )
  }
}

/** GraniteMoeForCausalLM. */
class GraniteMoe extends RotaryModel {
  attention(layer: string, states: readonly Vector[]): number[][] {
    const { q, k, v } = this.projected(layer, states, false)
    return attend(q, k, v, this.size('attention_multiplier')).map((joined) =>
      this.linear(`${layer}.self_attn.o_proj`, joined, this.config.hidden_size),
    )
  }

  mlp(layer: string, x: Vector): number[] {
    const [count, width] = [this.size('num_local_experts'), this.size('intermediate_size')]
    const at = `${layer}.block_sparse_moe`
    const scores = this.linear(`${at}.router.layer`, x, count)
    const chosen = largest(scores, this.size('num_experts_per_tok'))
    const shares = softmax(chosen.map((e) => scores[e]!))
    const project = (name: string, e: number, input: Vector, rows: number): number[] => {
      const all = this.weight(`${at}.${name}.weight`, [count, rows, input.length], 2 / Math.sqrt(input.length))
      const size = rows * input.length
      return times(all.subarray(e * size, (e + 1) * size), input, new Float32Array(rows))
    }
    return this.mixed(x, new Map(chosen.map((e, i) => [e, shares[i]!])), count, (e) => {
      const both = project('input_linear', e, x, 2 * width)
      const inner = both.slice(0, width).map((gate, i) => silu(gate) * both[width + i]!)
      return project('output_linear', e, inner, x.length)
    })
  }
}

const RMS = { ...SIZES, rms_norm_eps: 1e-5, hidden_act: 'silu' }

/** A GPT-OSS with weights of its own. */
export const gptOss = (): NaiveModel =>
  new GptOss({
    ...RMS,
    architectures: ['GptOssForCausalLM'],
    model_type: 'gpt_oss',
    head_dim: 32,
    rope_theta: 150_000,
    num_local_experts: 4,
    num_experts_per_tok: 2,
    sliding_window: 6,
    layer_types: ['sliding_attention', 'full_attention'],
    rope_scaling: {
      rope_type: 'yarn',
      factor: 8,
      beta_fast: 32,
      beta_slow: 1,
      truncate: false,
      original_max_position_embeddings: 512,
    },
    max_position_embeddings: 4096,
  })

/** Families with experts of which no trained test model is here. */
export const EXPERT_FAMILIES: readonly NaiveModel[] = [
  gptOss(),
  new Olmoe({
    ...RMS,
    architectures: ['OlmoeForCausalLM'],
    model_type: 'olmoe',
    num_key_value_heads: 4,
    num_experts: 4,
    num_experts_per_tok: 2,
    norm_topk_prob: false,
  }),
  new GraniteMoe({
    ...RMS,
    architectures: ['GraniteMoeForCausalLM'],
    model_type: 'granitemoe',
    num_local_experts: 4,
    num_experts_per_tok: 2,
    embedding_multiplier: 12,
    residual_multiplier: 0.22,
    attention_multiplier: 0.15,
    logits_scaling: 8,
  }),
  ...DEEPSEEKS,
]

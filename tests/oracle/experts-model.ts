import { add, NaiveModel, plainRotation, silu, yarnRotation, type Rotation, type Vector } from './naive-model.ts'

/** What decoders with experts share: norms before attention and MLP, and rotary attention of their own. */
export abstract class ExpertsModel extends NaiveModel {
  abstract attention(layer: string, states: readonly Vector[], index: number): number[][]
  abstract mlp(layer: string, x: Vector, index: number): number[]

  get epsilon(): number {
    return this.size('rms_norm_eps')
  }

  scale(key: string): number {
    const value = this.config[key]
    return typeof value === 'number' ? value : 1
  }

  get rotation(): Rotation {
    const scaling = this.config['rope_scaling'] as Record<string, number> | undefined
    const dim = this.rotaryDim
    const theta = this.size('rope_theta')
    return scaling === undefined ? plainRotation(dim, theta) : yarnRotation(dim, theta, scaling)
  }

  get rotaryDim(): number {
    return this.headDim
  }

  get headDim(): number {
    const { config } = this
    return typeof config['head_dim'] === 'number' ? config['head_dim'] : config.hidden_size / config.num_attention_heads
  }

  logits(ids: readonly number[]): number[] {
    const { config } = this
    let states = ids.map((id) =>
      this.row('model.embed_tokens.weight', config.vocab_size, config.hidden_size, id).map(
        (x) => x * this.scale('embedding_multiplier'),
      ),
    )
    const residual = this.scale('residual_multiplier')
    for (let i = 0; i < config.num_hidden_layers; i++) {
      const layer = `model.layers.${i}`
      const normed = states.map((x) => this.rmsNorm(`${layer}.input_layernorm`, x, this.epsilon))
      const attended = this.attention(layer, normed, i)
      states = states.map((x, t) => add(x, attended[t]!, residual))
      states = states.map((x) =>
        add(x, this.mlp(layer, this.rmsNorm(`${layer}.post_attention_layernorm`, x, this.epsilon), i), residual),
      )
    }
    return states.flatMap((x) =>
      this.linear('lm_head', this.rmsNorm('model.norm', x, this.epsilon), config.vocab_size).map(
        (logit) => logit / this.scale('logits_scaling'),
      ),
    )
  }

  gated(name: string, x: Vector, width: number): number[] {
    const up = this.linear(`${name}.up_proj`, x, width)
    const inner = this.linear(`${name}.gate_proj`, x, width).map((gate, i) => silu(gate) * up[i]!)
    return this.linear(`${name}.down_proj`, inner, x.length)
  }

  /** The weight of each expert times its output; those that a token does not take are part of the checkpoint too. */
  mixed(x: Vector, weights: ReadonlyMap<number, number>, count: number, expert: (index: number) => number[]): number[] {
    let sum: number[] = x.map(() => 0)
    for (let e = 0; e < count; e++) {
      const output = expert(e)
      const weight = weights.get(e)
      if (weight !== undefined) sum = add(sum, output, weight)
    }
    return sum
  }
}

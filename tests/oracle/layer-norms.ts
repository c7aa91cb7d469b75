import { add, attend, heads, NaiveModel, plainRotation, silu, SIZES, turn, type Vector } from './naive-model.ts'

/** GELU, and what most call by that name: its approximation by a hyperbolic tangent. */
const tanhGelu = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2))

/** By its series, which converges everywhere. */
function erf(x: number): number {
  if (Math.abs(x) > 5) return Math.sign(x)
  let [term, sum] = [x, x]
  for (let n = 1; n < 120; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

/** What differs from class to class. */
interface Class {
  readonly embedding: string
  readonly layers: string
  readonly finalNorm: string
  readonly head: string
  readonly output: string
  readonly epsilon: string
  /** How attention and MLP meet: one after the other, or beside each other behind one norm or one each. */
  readonly residual: 'after' | 'one norm' | 'two norms'
  readonly headBias?: true
  readonly mlp: (model: LayerNormModel, layer: string, x: Vector) => number[]
}

class LayerNormModel extends NaiveModel {
  readonly #class: Class

  constructor(config: NaiveModel['config'], of: Class) {
    super(config)
    this.#class = of
  }

  logits(ids: readonly number[]): number[] {
    const { config } = this
    const { embedding, layers, finalNorm, head, epsilon, residual, headBias = false, mlp } = this.#class
    const norm = (name: string, x: Vector): number[] => this.layerNorm(name, x, this.size(epsilon))
    let states = ids.map((id) => this.row(`${embedding}.weight`, config.vocab_size, config.hidden_size, id))
    for (let i = 0; i < config.num_hidden_layers; i++) {
      const layer = `${layers}.${i}`
      const normed = states.map((x) => norm(`${layer}.input_layernorm`, x))
      const attended = this.#attention(layer, normed)
      states = states.map((x, t) => {
        const after = add(x, attended[t]!)
        if (residual === 'one norm') return add(after, mlp(this, layer, normed[t]!))
        const from = residual === 'after' ? after : x
        return add(after, mlp(this, layer, norm(`${layer}.post_attention_layernorm`, from)))
      })
    }
    return states.flatMap((x) => {
      const last = norm(finalNorm, x)
      if (config['tie_word_embeddings'] !== true) return this.linear(head, last, config.vocab_size, headBias)
      return Array.from({ length: config.vocab_size }, (_, id) =>
        this.row(`${embedding}.weight`, config.vocab_size, config.hidden_size, id).reduce(
          (sum, value, at) => sum + value * last[at]!,
          0,
        ),
      )
    })
  }

  /** Queries, keys and values of one position, head by head. */
  #project(layer: string, x: Vector): Record<'q' | 'k' | 'v', Vector[]> {
    const { config } = this
    const count = config.num_attention_heads
    if (config.model_type === 'gpt_neox') {
      const each = heads(this.linear(`${layer}.attention.query_key_value`, x, 3 * x.length, true), count)
      const third = (index: number): Vector[] => each.map((head) => heads(head, 3)[index]!)
      return { q: third(0), k: third(1), v: third(2) }
    }
    const biased = config.model_type !== 'stablelm' || config['use_qkv_bias'] === true
    const width = x.length / count
    const of = (which: string, n: number): Vector[] =>
      heads(this.linear(`${layer}.self_attn.${which}_proj`, x, n * width, biased), n)
    const kv = this.size('num_key_value_heads')
    return { q: of('q', count), k: of('k', kv), v: of('v', kv) }
  }

  #attention(layer: string, states: readonly Vector[]): number[][] {
    const { config } = this
    const width = config.hidden_size / config.num_attention_heads
    const part = config['partial_rotary_factor'] ?? config['rotary_pct'] ?? 1
    const theta = config['rotary_emb_base'] ?? config['rope_theta']
    const rotation = plainRotation(width * (part as number), theta as number)
    const all = states.map((x) => this.#project(layer, x))
    const turned = (which: 'q' | 'k'): Vector[][] =>
      all.map((one, position) => one[which].map((head) => turn(head, position, rotation)))
    const joined = attend(
      turned('q'),
      turned('k'),
      all.map(({ v }) => v),
      width ** -0.5,
    )
    const biased = config.model_type !== 'stablelm'
    return joined.map((x) => this.linear(`${layer}.${this.#class.output}`, x, config.hidden_size, biased))
  }
}

const plainMlp =
  (up: string, down: string, activation: (x: number) => number): Class['mlp'] =>
  (model, layer, x) => {
    const inner = model.linear(`${layer}.mlp.${up}`, x, model.config['intermediate_size'] as number, true)
    return model.linear(`${layer}.mlp.${down}`, inner.map(activation), x.length, true)
  }

const LLAMA_LIKE = {
  embedding: 'model.embed_tokens',
  layers: 'model.layers',
  finalNorm: 'model.norm',
  head: 'lm_head',
  output: 'self_attn.o_proj',
} as const

const gatedMlp: Class['mlp'] = (model, layer, x) => {
  const width = model.config['intermediate_size'] as number
  const up = model.linear(`${layer}.mlp.up_proj`, x, width)
  const inner = model.linear(`${layer}.mlp.gate_proj`, x, width).map((gate, i) => silu(gate) * up[i]!)
  return model.linear(`${layer}.mlp.down_proj`, inner, x.length)
}

const { num_key_value_heads: _, rope_theta: _theta, ...NEOX_SIZES } = SIZES

const stablelm = (parallel: boolean, biased: boolean): NaiveModel =>
  new LayerNormModel(
    {
      ...SIZES,
      architectures: ['StableLmForCausalLM'],
      model_type: 'stablelm',
      hidden_act: 'silu',
      layer_norm_eps: 1e-5,
      partial_rotary_factor: 0.25,
      use_qkv_bias: biased,
      use_parallel_residual: parallel,
    },
    { ...LLAMA_LIKE, epsilon: 'layer_norm_eps', residual: parallel ? 'one norm' : 'after', mlp: gatedMlp },
  )

const neox = (parallel: boolean): NaiveModel =>
  new LayerNormModel(
    {
      ...NEOX_SIZES,
      architectures: ['GPTNeoXForCausalLM'],
      model_type: 'gpt_neox',
      intermediate_size: 1024,
      hidden_act: 'gelu',
      layer_norm_eps: 1e-5,
      rotary_pct: 0.25,
      rotary_emb_base: 10_000,
      use_parallel_residual: parallel,
    },
    {
      embedding: 'gpt_neox.embed_in',
      layers: 'gpt_neox.layers',
      finalNorm: 'gpt_neox.final_layer_norm',
      head: 'embed_out',
      output: 'attention.dense',
      epsilon: 'layer_norm_eps',
      residual: parallel ? 'two norms' : 'after',
      mlp: plainMlp('dense_h_to_4h', 'dense_4h_to_h', gelu),
    },
  )

/** Decoders with LayerNorms, by what they are called in tests. */
export const LAYER_NORMS: Readonly<Record<string, NaiveModel>> = {
  starcoder2: new LayerNormModel(
    {
      ...SIZES,
      architectures: ['Starcoder2ForCausalLM'],
      model_type: 'starcoder2',
      hidden_act: 'gelu_pytorch_tanh',
      norm_epsilon: 1e-5,
      tie_word_embeddings: true,
    },
    { ...LLAMA_LIKE, epsilon: 'norm_epsilon', residual: 'after', mlp: plainMlp('c_fc', 'c_proj', tanhGelu) },
  ),
  phi: new LayerNormModel(
    {
      ...SIZES,
      architectures: ['PhiForCausalLM'],
      model_type: 'phi',
      hidden_act: 'gelu_new',
      layer_norm_eps: 1e-5,
      partial_rotary_factor: 0.5,
    },
    {
      ...LLAMA_LIKE,
      finalNorm: 'model.final_layernorm',
      output: 'self_attn.dense',
      epsilon: 'layer_norm_eps',
      residual: 'one norm',
      headBias: true,
      mlp: plainMlp('fc1', 'fc2', tanhGelu),
    },
  ),
  gpt_neox: neox(true),
  'gpt_neox, one after the other': neox(false),
  stablelm: stablelm(false, true),
  'stablelm, beside each other': stablelm(true, false),
}

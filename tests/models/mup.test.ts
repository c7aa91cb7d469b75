import { describe, expect, test } from 'vitest'
import type { Checkpoint } from '../../src/core/checkpoint.ts'
import { AppError } from '../../src/core/errors.ts'
import { parseJsonObject, type JsonObject } from '../../src/core/json.ts'
import { affine, cast, literalF32, type Recipe } from '../../src/core/tensor.ts'
import { normalizeConfig } from '../../src/engines/transformers/config.ts'
import { expectedTensors } from '../../src/models/architecture.ts'
import { architectureFor } from '../../src/models/index.ts'
import { foldMup } from '../../src/models/mup.ts'
import { ArrayInputs, evaluate } from '../api/run.ts'
import { forward, type Multipliers } from './naive-llama.ts'

const IDS = [3, 1, 4, 1, 5, 9, 2, 6]

const SIZES = {
  hidden_size: 16,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 24,
  vocab_size: 32,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 500,
  torch_dtype: 'float32',
}
const MINICPM = {
  ...SIZES,
  architectures: ['MiniCPMForCausalLM'],
  model_type: 'minicpm',
  scale_emb: 12,
  scale_depth: 1.4,
  dim_model_base: 4,
}
/** MiniCPMConfig's own defaults are not neutral. */
const BARE_MINICPM = { ...SIZES, architectures: ['MiniCPMForCausalLM'], model_type: 'minicpm' }
const NAMED_LLAMA = { architectures: ['LlamaForCausalLM'], model_type: 'llama' }
const GRANITE = {
  ...SIZES,
  architectures: ['GraniteForCausalLM'],
  model_type: 'granite',
  embedding_multiplier: 12,
  residual_multiplier: 0.22,
  attention_multiplier: 0.4,
  logits_scaling: 8,
  attention_bias: true,
  mlp_bias: true,
}
const LLAMA = { ...SIZES, architectures: ['LlamaForCausalLM'], model_type: 'llama' }

const raw = (config: object): JsonObject => parseJsonObject(new TextEncoder().encode(JSON.stringify(config)), 'c')

/** A model of random weights, norms and biases among them. */
async function randomModel(config: object): Promise<Checkpoint> {
  const json = raw(config)
  const architecture = await architectureFor(String((json.get('architectures') as string[])[0]), 'c')
  const normalized = normalizeConfig(json, 'c', architecture)
  let state = 12345
  const next = (): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return state / 2 ** 32 - 0.5
  }
  const tensors = new Map<string, Recipe>()
  for (const { role, shape } of expectedTensors(architecture, normalized.config)) {
    const count = shape.reduce((product, size) => product * size, 1)
    const centre = role.endsWith('norm.weight') ? 1 : 0
    tensors.set(
      role,
      literalF32(
        shape,
        Array.from({ length: count }, () => centre + next()),
      ),
    )
  }
  return {
    format: 'huggingface',
    name: 'random',
    architecture: architecture.id,
    config: normalized.config,
    tokenizer: null,
    tensors,
    extras: new Map(),
    sources: [],
    findings: [],
  }
}

async function logitsOf(checkpoint: Checkpoint, multipliers: Multipliers): Promise<Float64Array> {
  const values = new Map<string, Float64Array>()
  for (const [role, recipe] of checkpoint.tensors) {
    const { bytes } = await evaluate(cast(recipe, 'f32'), new ArrayInputs({}))
    values.set(role, Float64Array.from(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)))
  }
  return forward(checkpoint.config, values, multipliers, IDS)
}

/** The multipliers as the models' own classes apply them, from the config's own keys. */
function asPublished({ config }: Checkpoint): Multipliers {
  const number = (key: string): number => Number(config.raw.get(key) ?? 1)
  const plain = 1 / Math.sqrt(config.headDim)
  return config.modelType !== 'granite'
    ? {
        embedding: number('scale_emb'),
        residual: number('scale_depth') / Math.sqrt(config.layers),
        attention: plain,
        logits: config.hiddenSize / number('dim_model_base'),
      }
    : {
        embedding: number('embedding_multiplier'),
        residual: number('residual_multiplier'),
        attention: number('attention_multiplier'),
        logits: number('logits_scaling'),
      }
}

const plainly = ({ config }: Checkpoint): Multipliers => ({
  embedding: 1,
  residual: 1,
  attention: 1 / Math.sqrt(config.headDim),
  logits: 1,
})

function relative(found: Float64Array, wanted: Float64Array): number {
  const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  return found.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0) / largest
}

/** How far the logits of a folded model, run as a plain Llama, are from those of the model as published. */
async function errorOf(config: object, fold: (model: Checkpoint) => Checkpoint): Promise<number> {
  const model = await randomModel(config)
  const folded = fold(model)
  return relative(await logitsOf(folded, plainly(folded)), await logitsOf(model, asPublished(model)))
}

describe('folding muP models', () => {
  test.each([
    ['MiniCPM, tied', { ...MINICPM, tie_word_embeddings: true }],
    ['MiniCPM, tied as its class has it', MINICPM],
    ['MiniCPM, untied', { ...MINICPM, tie_word_embeddings: false }],
    ['MiniCPM with biases in attention', { ...MINICPM, attention_bias: true }],
    ['MiniCPM whose config leaves its scales to the class', BARE_MINICPM],
    ['a Llama with all of MiniCPM’s keys', { ...MINICPM, ...NAMED_LLAMA, tie_word_embeddings: true }],
    ['Granite, tied, with biases', { ...GRANITE, tie_word_embeddings: true }],
    ['Granite, untied', { ...GRANITE, tie_word_embeddings: false, attention_bias: false }],
    ['Granite with a head of its own width', { ...GRANITE, head_dim: 8 }],
  ])('%s: the same logits', async (_, config) => {
    expect(await errorOf(config, (model) => foldMup(model))).toBeLessThan(1e-5)
    expect(await errorOf(config, (model) => foldMup(model, { keepTied: true }))).toBeLessThan(1e-5)
  })

  test('the config is a Llama’s, says what was done, and has no multiplier left', async () => {
    const { architecture, config, tensors, findings } = foldMup(await randomModel(MINICPM))
    expect(architecture).toBe('llama')
    expect(config).toMatchObject({ className: 'LlamaForCausalLM', modelType: 'llama', tied: false })
    for (const key of ['embeddingScale', 'residualScale', 'logitDivisor', 'attentionScale']) {
      expect(config).not.toHaveProperty(key)
    }
    expect(config.raw.get('architectures')).toEqual(['LlamaForCausalLM'])
    expect(config.raw.get('tie_word_embeddings')).toBe(false)
    for (const key of ['scale_emb', 'scale_depth', 'dim_model_base']) expect(config.raw.has(key)).toBe(false)
    expect(config.raw.get('mup_folded')).toBeInstanceOf(Map)
    // what Llama's reader makes of the new config is the same model
    const llama = await architectureFor('LlamaForCausalLM', 'c')
    const again = normalizeConfig(config.raw, 'c', llama).config
    expect({ ...again, raw: null }).toEqual({ ...config, raw: null })
    expect(
      expectedTensors(llama, config)
        .map(({ role }) => role)
        .toSorted(),
    ).toEqual([...tensors.keys()].toSorted())
    expect(findings.map(({ code }) => code)).toEqual(['mup-folded', 'mup-untied'])
  })

  test('kept tied, no tensor is added', async () => {
    const model = await randomModel(MINICPM)
    const { config, tensors } = foldMup(model, { keepTied: true })
    expect(config.tied).toBe(true)
    expect([...tensors.keys()]).toEqual([...model.tensors.keys()])
  })

  test('where nothing is tied there is nothing to be kept, and it is said', async () => {
    const codes = async (tied: boolean): Promise<string[]> => {
      const model = await randomModel({ ...MINICPM, tie_word_embeddings: tied })
      return foldMup(model, { keepTied: true }).findings.map(({ code }) => code)
    }
    expect(await codes(false)).toEqual(['mup-folded', 'mup-never-tied'])
    expect(await codes(true)).toEqual(['mup-folded'])
  })

  test('neutral multipliers change names only', async () => {
    const neutral = {
      ...MINICPM,
      scale_emb: 1,
      scale_depth: Math.sqrt(3),
      dim_model_base: 16,
      tie_word_embeddings: false,
    }
    const model = await randomModel(neutral)
    const { tensors } = foldMup(model)
    expect([...tensors]).toEqual([...model.tensors])
  })

  test('bf16 weights are scaled in f32 and rounded once', async () => {
    const model = await randomModel(MINICPM)
    const bf16 = {
      ...model,
      tensors: new Map([...model.tensors].map(([role, recipe]) => [role, cast(recipe, 'bf16')])),
    }
    const { tensors, findings } = foldMup(bf16)
    expect(tensors.get('embed.weight')?.dtype).toBe('f32')
    expect(tensors.get('blocks.0.attn.q.weight')?.dtype).toBe('bf16')
    expect(findings.map(({ code }) => code)).toContain('mup-rounding')
  })
})

describe('what is no muP model', () => {
  async function failure(model: Checkpoint): Promise<AppError> {
    try {
      foldMup(model)
    } catch (error) {
      if (error instanceof AppError) return error
    }
    throw new Error('no AppError')
  }

  test('a Llama is an error, not a copy', async () => {
    const error = await failure(await randomModel(LLAMA))
    expect([error.code, error.message]).toEqual([
      'bad-option',
      'LlamaForCausalLM is not a muP model: there is nothing to fold',
    ])
  })

  test('a Llama with some of the keys is refused, naming them', async () => {
    const error = await failure(await randomModel({ ...LLAMA, scale_emb: 12, dim_model_base: 4 }))
    expect([error.code, error.message]).toEqual([
      'unsupported',
      'LlamaForCausalLM has scale_emb, dim_model_base, but is not known to use muP',
    ])
  })

  test('with --force those that are missing are as MiniCPM’s class has them, and it is said', async () => {
    const some = { ...LLAMA, scale_emb: 12, dim_model_base: 4, tie_word_embeddings: false }
    expect(await errorOf(some, (model) => foldMup(model, { keepTied: false, force: true }))).toBeLessThan(1e-5)
    const { findings, config } = foldMup(await randomModel(some), { keepTied: false, force: true })
    expect(findings.find(({ code }) => code === 'mup-assumed')?.message).toContain('scale_depth 1 as its class')
    expect(config.raw.has('scale_emb')).toBe(false)
    // neither a plain Llama, nor a folded one, nor one of another family can be forced
    const force = (model: Checkpoint): Checkpoint => foldMup(model, { keepTied: false, force: true })
    const plain = await randomModel(LLAMA)
    expect(() => force(plain)).toThrow('is not a muP model')
    const folded = foldMup(await randomModel(MINICPM))
    expect(() => force(folded)).toThrow('were folded into its weights before')
    const again = { ...folded, config: { ...folded.config, raw: new Map(folded.config.raw).set('scale_emb', 12) } }
    expect(() => force(again)).toThrow('were folded into its weights before')
    const qwen = { ...SIZES, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', scale_emb: 12 }
    const other = await randomModel(qwen)
    expect(() => force(other)).toThrow('is not known to use muP')
  })

  test('folding twice is refused', async () => {
    const once = foldMup(await randomModel(GRANITE))
    const error = await failure(once)
    expect([error.code, error.message]).toEqual([
      'bad-option',
      'The multipliers of this model were folded into its weights before',
    ])
  })

  test.each([
    ['minicpm3', 'its attention is compressed (MLA), which a Llama has no tensors for'],
    ['granitemoe', 'it has experts, which a Llama has not'],
    ['cohere', 'its blocks run attention and MLP side by side, which a Llama does not'],
  ])('%s is refused with the reason', async (modelType, why) => {
    const model = await randomModel(MINICPM)
    const error = await failure({ ...model, config: { ...model.config, modelType } })
    expect([error.code, error.message]).toEqual(['unsupported', `MiniCPMForCausalLM cannot become a Llama: ${why}`])
  })
})

describe('the mistakes of the tool before this one are seen', () => {
  const scaled = (model: Checkpoint, role: RegExp, factor: number): Checkpoint => ({
    ...model,
    tensors: new Map([...model.tensors].map(([name, of]) => [name, role.test(name) ? affine(of, factor) : of])),
  })
  const divisor = SIZES.hidden_size / MINICPM.dim_model_base
  const residual = MINICPM.scale_depth / Math.sqrt(SIZES.num_hidden_layers)

  const mistakes: readonly (readonly [string, (model: Checkpoint) => Checkpoint])[] = [
    ['logits multiplied, not divided', (model) => scaled(foldMup(model), /^lm_head/, divisor * divisor)],
    ['gate and up scaled as well as down', (model) => scaled(foldMup(model), /mlp\.(?:gate|up)/, residual)],
    ['the output projection overlooked', (model) => scaled(foldMup(model), /attn\.o/, 1 / residual)],
    [
      'the head made of the scaled embedding, not untied first',
      (model) => {
        const folded = foldMup(model)
        const head = affine(folded.tensors.get('embed.weight')!, 1 / divisor)
        return { ...folded, tensors: new Map(folded.tensors).set('lm_head.weight', head) }
      },
    ],
    [
      'no layer found, because the list was none of Python’s',
      (model) => scaled(foldMup(model), /attn\.o|mlp\.down/, 1 / residual),
    ],
    ['nothing done but the name changed', (model) => ({ ...foldMup(model), tensors: withHead(model) })],
  ]

  function withHead(model: Checkpoint): Map<string, Recipe> {
    return new Map(model.tensors).set('lm_head.weight', model.tensors.get('embed.weight')!)
  }

  test.each(mistakes)('%s', async (_, fold) => {
    expect(await errorOf({ ...MINICPM, tie_word_embeddings: true }, fold)).toBeGreaterThan(1e-2)
  })
})

import type { ModelConfig, RopeConfig } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { pow } from '../../core/math.ts'
import { literalF32 } from '../../core/tensor.ts'
import type { Placed } from './lay.ts'
import { ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, ROPE_FREQS } from './names.ts'

type Llama3Scaling = Extract<RopeConfig['scaling'], { readonly kind: 'llama3' }>

/** The tensors of rotary factors that llama.cpp reads beside a model's own. Throws `unsupported` for odd widths. */
export function ropeTensors(config: ModelConfig): readonly Placed[] {
  const { scaling, theta, dim = config.headDim } = config.rope
  const place = (name: string, values: ArrayLike<number>): Placed => ({
    name,
    recipe: literalF32([values.length], values),
  })
  if (scaling.kind === 'longrope')
    return [place(ROPE_FACTORS_LONG, scaling.longFactors), place(ROPE_FACTORS_SHORT, scaling.shortFactors)]
  if (scaling.kind !== 'llama3') return []
  if (dim % 2 === 0) return [place(ROPE_FREQS, llama3Factors(theta, scaling, dim))]
  throw new AppError('unsupported', `Heads of ${dim} channels have no rotary pairs`, {
    hint: 'Check head_dim, hidden_size and num_attention_heads in config.json.',
  })
}

/**
 * The factors of `rope_freqs.weight`, [headDim / 2], by which llama.cpp divides each rotary frequency: 1 for short
 * wavelengths, `factor` for long ones, and a smooth way between them. Every step is rounded to f32 as the PyTorch of
 * llama.cpp's own converter does.
 */
export function llama3Factors(theta: number, scaling: Llama3Scaling, headDim: number): Float32Array<ArrayBuffer> {
  const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling
  const f32 = Math.fround
  const factors = new Float32Array(headDim / 2)
  for (let i = 0; i < factors.length; i++) {
    const frequency = f32(1 / f32(pow(theta, f32((2 * i) / headDim))))
    const wavelength = f32(f32(2 * Math.PI) / frequency)
    if (wavelength < originalContext / highFreqFactor) factors[i] = 1
    else if (wavelength > originalContext / lowFreqFactor) factors[i] = factor
    else {
      const turns = f32(originalContext / wavelength)
      const smooth = f32(f32(turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor))
      factors[i] = 1 / f32(f32(f32(1 - smooth) / factor) + smooth)
    }
  }
  return factors
}

/** Contexts that models were first trained on: where factors fit several, the usual one is taken. */
const USUAL_CONTEXTS = [8192, 4096, 16_384, 2048, 32_768, 131_072]
/** Llama 3's own; multiplying the context and both factors by the same number changes nothing. */
const LOW_FREQ_FACTOR = 1
/** Llama 3's own first; the others for what else there may be. */
const HIGH_FREQ_FACTORS = [4, 2, 3, 8, 16, 32]

/**
 * The parameters whose {@link llama3Factors} are these, bit for bit; null if none were found. Several sets may give the
 * same factors: the one that models have is preferred, and each means the same.
 */
export function solveLlama3(factors: Float32Array, theta: number, headDim: number): Llama3Scaling | null {
  if (factors.length !== headDim / 2) return null
  const factor = factors.reduce((most, value) => Math.max(most, value), 0)
  if (!(factor > 1) || !Number.isFinite(factor)) return null
  for (const originalContext of [...USUAL_CONTEXTS, ...fittedContexts(factors, factor, theta, headDim)]) {
    for (const highFreqFactor of HIGH_FREQ_FACTORS) {
      const candidate = { factor, lowFreqFactor: LOW_FREQ_FACTOR, highFreqFactor, originalContext }
      const found = llama3Factors(theta, { kind: 'llama3', ...candidate }, headDim)
      if (found.every((value, index) => value === factors[index])) return { kind: 'llama3', ...candidate }
    }
  }
  return null
}

/**
 * Contexts that the factors between 1 and the largest suggest: there `1 / f` is linear in `1 / wavelength`, and reaches
 * `1 / factor` where the wavelength is the context.
 */
function fittedContexts(factors: Float32Array, factor: number, theta: number, headDim: number): readonly number[] {
  const points = [...factors].flatMap((value, i) =>
    value > 1 && value < factor ? [{ x: 1 / (2 * Math.PI * pow(theta, (2 * i) / headDim)), y: 1 / value }] : [],
  )
  const [first] = points
  const last = points.at(-1)
  if (first === undefined || last === undefined || first === last) return []
  const slope = (first.y - last.y) / (first.x - last.x)
  const x = last.x - (last.y - 1 / factor) / slope
  const context = Math.round(LOW_FREQ_FACTOR / x)
  return Number.isSafeInteger(context) && context > 0 ? [context - 1, context, context + 1] : []
}

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
  return Float32Array.from(rotaryWavelengths(theta, headDim), (wavelength) => llama3Factor(wavelength, scaling))
}

/** Tokens in which each pair of channels turns once, [dim / 2]. */
function rotaryWavelengths(theta: number, dim: number): Float32Array {
  const f32 = Math.fround
  return Float32Array.from({ length: dim / 2 }, (_, i) => {
    return f32(f32(2 * Math.PI) / f32(1 / f32(pow(theta, f32((2 * i) / dim)))))
  })
}

function llama3Factor(wavelength: number, scaling: Llama3Scaling): number {
  const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling
  const f32 = Math.fround
  if (wavelength < originalContext / highFreqFactor) return 1
  if (wavelength > originalContext / lowFreqFactor) return f32(factor)
  const turns = f32(originalContext / wavelength)
  const smooth = f32(f32(turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor))
  return f32(1 / f32(f32(f32(1 - smooth) / factor) + smooth))
}

/** What a fitted factor may be where no channel's wavelength is long enough to get it whole. */
const USUAL_FACTORS = [8, 32, 16, 4, 2, 64]
/** Contexts that models were first trained on: Llama 3's own, then every power of two, then what lies between. */
const USUAL_CONTEXTS = [8192, ...Array.from({ length: 18 }, (_, i) => 2 ** (i + 4)), 6144, 12_288, 24_576, 49_152]
/** Llama 3's own; multiplying the context and both factors by the same number changes nothing. */
const LOW_FREQ_FACTOR = 1
/** Llama 3's own first. */
const HIGH_FREQ_FACTORS = [4, 2, 3, 8, 16, 32]

/**
 * The parameters whose {@link llama3Factors} are these, bit for bit; null if none were found. Several sets may give the
 * same factors: the one that models have is preferred, and each means the same.
 */
export function solveLlama3(factors: Float32Array, theta: number, dim: number): Llama3Scaling | null {
  if (factors.length !== dim / 2) return null
  const largest = factors.reduce((most, value) => Math.max(most, value), 0)
  if (!(largest > 1) || !Number.isFinite(largest)) return null
  const wavelengths = rotaryWavelengths(theta, dim)
  for (const factor of new Set([largest, ...USUAL_FACTORS])) {
    const smooth = [...factors].flatMap((value, i) =>
      value > 1 && value < factor ? [{ turns: 1 / (wavelengths[i] ?? 1), share: shareOf(value, factor) }] : [],
    )
    for (const highFreqFactor of new Set([...HIGH_FREQ_FACTORS, ...fittedHigh(smooth)])) {
      for (const originalContext of new Set([...USUAL_CONTEXTS, ...fittedContexts(smooth, highFreqFactor)])) {
        const scaling: Llama3Scaling = {
          kind: 'llama3',
          factor,
          lowFreqFactor: LOW_FREQ_FACTOR,
          highFreqFactor,
          originalContext,
        }
        if (factors.every((value, i) => value === llama3Factor(wavelengths[i] ?? 0, scaling))) return scaling
      }
    }
  }
  return null
}

/** A channel between short and long wavelengths: turns in a token, and how much it is of the short ones, 0 to 1. */
interface SmoothPoint {
  readonly turns: number
  readonly share: number
}

function shareOf(value: number, factor: number): number {
  return (1 / value - 1 / factor) / (1 - 1 / factor)
}

/** The share is `(context * turns - low) / (high - low)`: a line, of which two points tell `high`. */
function fittedHigh(smooth: readonly SmoothPoint[]): readonly number[] {
  const first = smooth[0]
  const last = smooth.at(-1)
  if (first === undefined || last === undefined || first === last) return []
  const slope = (first.share - last.share) / (first.turns - last.turns)
  const high = LOW_FREQ_FACTOR - LOW_FREQ_FACTOR / (first.share - slope * first.turns)
  return [Math.round(high), Math.round(high * 2) / 2].filter(
    (value) => value > LOW_FREQ_FACTOR && Number.isFinite(value),
  )
}

function fittedContexts(smooth: readonly SmoothPoint[], high: number): readonly number[] {
  return smooth.flatMap(({ turns, share }) => {
    const context = Math.round((LOW_FREQ_FACTOR + share * (high - LOW_FREQ_FACTOR)) / turns)
    return Number.isSafeInteger(context) && context > 1 ? [context, context - 1, context + 1] : []
  })
}

import type { RopeConfig } from '../../core/checkpoint.ts'
import { pow } from '../../core/math.ts'

type Llama3Scaling = Extract<RopeConfig['scaling'], { readonly kind: 'llama3' }>

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

/** How the module's functions are called for schemes whose parts are tensors of their own. */
import { gemvZeroWords } from '../../core/matrix-scheme.ts'
import { schemeGroups } from '../../core/tensor.ts'
import type { SchemeOp } from '../backend.ts'
import type { KernelCalls, WasmMemory } from './module.ts'
import { floatCode } from './ops.ts'
import { writePowerEdges } from './power-edges.ts'

/** A function of the module and its arguments. */
export interface SchemeCall {
  readonly name: keyof KernelCalls
  /** Elements per second of one thread, as of tests/bench/kernels.mjs, roughly. */
  readonly speed: number
  /** Jobs begin at multiples of so many rows. */
  readonly step: number
  /** Puts what the function looks things up in into the memory. */
  readonly prepare?: (memory: WasmMemory) => void
  /** All arguments but the last two, which are the first row of a job and its end. `part` tells where a part lies. */
  args(part: (name: string) => number, values: number, rows: number, columns: number): readonly number[]
}

const AFFINE_BITS: ReadonlySet<number> = new Set([2, 3, 4, 5, 6, 8])
/** Of wasm/affine.c: groups are whole steps of the one and fit its scratch, the other. */
const [AFFINE_STEP, LARGEST_GROUP] = [32, 2048]

const GPTQ_BITS: ReadonlySet<number> = new Set([2, 3, 4, 8])
/** `enum codes` of wasm/scaled.c. */
const SCALED_CODES = { f8_e4m3: 0, f8_e5m2: 1, i8: 2 } as const

/** How an op is called, or null if the module cannot do it. */
export function schemeCall(op: SchemeOp): SchemeCall | null {
  return op.kind === 'quantize' ? quantizeCall(op) : dequantizeCall(op)
}

function quantizeCall({ from, scheme }: SchemeOp & { readonly kind: 'quantize' }): SchemeCall | null {
  const type = floatCode(from)
  if (type === null) return null
  const { bits, group } = schemeGroups(scheme)
  if (scheme.kind !== 'affine') {
    return {
      name: 'quantize_floats',
      speed: 400e6,
      step: 1,
      ...(scheme.kind === 'nvfp4' ? {} : { prepare: writePowerEdges }),
      args: (part, values) => [type, bits, group, values, part('codes'), part('scales')],
    }
  }
  if (!AFFINE_BITS.has(bits) || group % AFFINE_STEP !== 0 || group > LARGEST_GROUP) return null
  return {
    name: 'quantize_affine',
    speed: 600e6,
    step: 1,
    args: (part, values) => [type, bits, group, values, part('codes'), part('scales'), part('biases')],
  }
}

function dequantizeCall({ scheme }: SchemeOp & { readonly kind: 'dequantize' }): SchemeCall | null {
  switch (scheme.kind) {
    case 'affine': {
      const { bits, group } = scheme
      if (!AFFINE_BITS.has(bits) || group % AFFINE_STEP !== 0) return null
      return {
        name: 'dequantize_affine',
        speed: 1e9,
        step: 1,
        args: (part, values) => [bits, group, part('codes'), part('scales'), part('biases'), values],
      }
    }
    case 'mxfp4':
    case 'mxfp8':
    case 'nvfp4': {
      const { bits, group } = schemeGroups(scheme)
      return {
        name: 'dequantize_floats',
        speed: 1e9,
        step: 1,
        args: (part, values) => [bits, group, part('codes'), part('scales'), values],
      }
    }
    case 'gptq': {
      const { bits, zeroOffset } = scheme
      if (!GPTQ_BITS.has(bits)) return null
      return {
        name: 'dequantize_gptq',
        speed: 600e6,
        step: 32,
        args(part, values, rows, columns) {
          const parts = [part('codes'), part('zeros'), part('scales'), part('groups')]
          return [bits, Math.min(scheme.group, columns), zeroOffset, ...parts, rows, columns, values]
        },
      }
    }
    case 'awq':
      return scheme.layout === 'gemm' ? gemmCall(scheme.group) : gemvCall(scheme.group)
    case 'packed':
      return {
        name: 'dequantize_packed',
        speed: 1e9,
        step: 1,
        args(part, values, _, columns) {
          const { bits, group } = scheme
          const words = Math.ceil((columns * bits) / 32)
          const groups = Math.ceil(columns / group)
          const own = [part('zeros'), 0, part('scales'), groups, part('groups')]
          return [bits, Math.min(group, columns), part('codes'), words, ...own, columns, values]
        },
      }
    case 'scaled':
      return {
        name: 'dequantize_scaled',
        speed: 1e9,
        step: 1,
        args(part, values, rows, columns) {
          const block = [Math.min(scheme.rows, rows), Math.min(scheme.columns, columns)]
          return [SCALED_CODES[scheme.codes], ...block, part('codes'), part('scales'), part('zeros'), columns, values]
        },
      }
  }
}

function gemmCall(group: number): SchemeCall {
  return {
    name: 'dequantize_awq',
    speed: 600e6,
    step: 64,
    args(part, values, rows, columns) {
      return [Math.min(group, columns), part('codes'), part('zeros'), part('scales'), rows, columns, values]
    },
  }
}

/** Its codes lie along the rows, and so do its zeros. */
function gemvCall(group: number): SchemeCall {
  return {
    name: 'dequantize_packed',
    speed: 1e9,
    step: 1,
    args(part, values, _, columns) {
      const zeros = gemvZeroWords(columns, group)
      const own = [part('zeros'), zeros, part('scales'), zeros * 8, 0]
      return [4, Math.min(group, columns), part('codes'), columns / 8, ...own, columns, values]
    },
  }
}

import type { DType } from '../core/dtype.ts'
import type { GroupScheme, Scheme } from '../core/tensor.ts'

/**
 * What a kernel does, as data. Every op maps a run of elements to a run of the same number of elements; what moves
 * elements about (slices, permutations) is the evaluator's business.
 */
export type KernelOp =
  /**
   * Convert between types: scalar to scalar, scalar to block (quantise), block to scalar (dequantise). `weighted`: with
   * an importance for each column, which each run is given.
   */
  { readonly kind: 'cast'; readonly from: DType; readonly to: DType; readonly weighted?: boolean }

/**
 * Values to or from a quantisation whose parts are tensors of their own: `from` is the type of the values, which come
 * back as f32.
 */
export type SchemeOp =
  | { readonly kind: 'quantize'; readonly from: DType; readonly scheme: GroupScheme }
  | { readonly kind: 'dequantize'; readonly scheme: Scheme }

/** Types that random values are drawn in. */
export type DrawType = 'f32' | 'f16' | 'bf16'

/**
 * Draw random values, each from a seed and its own index alone, with integer arithmetic: uniform ones, or those of a table
 * of the {@link QUANTILES} of a normal distribution, each as likely as the others.
 */
export interface DrawOp {
  readonly kind: 'draw'
  readonly how: 'uniform' | 'normal'
  readonly to: DrawType
}

/** Values in the table of a normal distribution. */
export const QUANTILES = 1 << 16

/** Add a product of two narrow matrices to a matrix: what a LoRA adapter is. */
export interface LowRankOp {
  readonly kind: 'low-rank'
  readonly rank: number
}

/** All that a backend may do. */
export type AnyOp = KernelOp | SchemeOp | DrawOp | LowRankOp

/** How much each column of a matrix counts (one tensor's entry in an importance matrix): finite, not negative. */
export interface Importance {
  /** f32, `columns` of them. */
  readonly values: Uint8Array
  /** The length of a row; runs are whole rows. */
  readonly columns: number
}

/**
 * The outcome of one run. `bad` is the index of the first input element that must not pass: NaN or Inf always, or a
 * finite value that overflows the output type; null if all is well. What is wrong with it the caller finds out by
 * looking at the element: the fast path need not know.
 */
export interface KernelResult {
  readonly bad: number | null
}

/** A prepared op. It keeps no state between runs; several runs may be in flight at once. */
export interface Kernel {
  readonly op: KernelOp
  /**
   * Converts `elements` elements (whole blocks of both types) from `input` to `output`. Neither may be touched by the
   * caller before the promise settles. Buffers from the backend's own arena are used in place, others are copied.
   * `importance` is given if and only if the op is weighted.
   */
  run(
    input: Uint8Array,
    output: Uint8Array,
    elements: number,
    signal?: AbortSignal,
    importance?: Importance,
  ): Promise<KernelResult>
}

/** The parts of a scheme by name, as `schemeFields` lists them for f32 scales. */
export type Parts = Readonly<Record<string, Uint8Array>>

/** A prepared {@link SchemeOp}, as {@link Kernel} otherwise. */
export interface SchemeKernel {
  readonly op: SchemeOp
  /**
   * Codes `rows` rows of `columns` values, or decodes them. Of a group scheme a row is a group; of a matrix scheme rows
   * begin and end where words of its parts do. `bad` is the index of the first value that is NaN or Inf. Throws AppError
   * `bad-tensor` for parts that contradict themselves.
   */
  run(parts: Parts, values: Uint8Array, rows: number, columns: number, signal?: AbortSignal): Promise<KernelResult>
}

/** Which random values a run draws. */
export interface Draw {
  /** 0 to 2^32 - 1. */
  readonly seed: number
  /** Index in the tensor of the run's first element. */
  readonly start: number
  /**
   * Uniform: from `low` up to `high`, `fround(low + fround(fround(high - low) * u))` with u from 0 up to 1 in steps of
   * 2^-24. Normal: a table of {@link QUANTILES} values of the op's type.
   */
  readonly from: { readonly low: number; readonly high: number } | { readonly table: Uint8Array }
}

/** A prepared {@link DrawOp}, as {@link Kernel} otherwise. */
export interface DrawKernel {
  readonly op: DrawOp
  /** Fills `output` with `elements` values. `bad` is the index of the first that the type cannot hold. */
  run(draw: Draw, output: Uint8Array, elements: number, signal?: AbortSignal): Promise<KernelResult>
}

/** The two factors of a low-rank update, in f32. */
export interface Factors {
  /** [rows, rank]. */
  readonly up: Uint8Array
  /** [rank, columns]. */
  readonly down: Uint8Array
  readonly columns: number
  /** Rounded to f32. */
  readonly scale: number
}

/** A prepared {@link LowRankOp}, as {@link Kernel} otherwise. */
export interface LowRankKernel {
  readonly op: LowRankOp
  /**
   * Adds `scale * up · down` to `values`, f32 [rows, columns]. Sums go by ascending rank, from 0, in f32; no step is fused
   * with another. What is not finite is not looked for.
   */
  run(factors: Factors, values: Uint8Array, rows: number, signal?: AbortSignal): Promise<void>
}

/** Memory that kernels read and write without a copy. Buffers are 64-byte aligned. */
export interface Arena {
  /** A buffer of exactly `bytes` bytes with undefined content. Throws AppError `memory` when the arena is exhausted. */
  alloc(bytes: number): Uint8Array
  free(buffer: Uint8Array): void
}

/** Somewhere kernels run: the reference, WASM with SIMD, WebGPU, the native core. */
export interface Backend {
  readonly id: 'reference' | 'wasm' | 'webgpu' | 'native'
  /** For people: "WASM SIMD, 2 threads". */
  readonly label: string
  /** Why this backend is less than it could be ("one thread: the page is not cross-origin isolated"); null if it is not. */
  readonly limitation: string | null
  /** How many runs make progress at once. */
  readonly threads: number
  readonly arena: Arena
  /** Whether its bytes equal the reference's for this op. */
  exact(op: AnyOp): boolean
  /** Elements per second of one thread, roughly; 0 if it cannot do the op. The dispatcher's only criterion. */
  speed(op: AnyOp): number
  /** Throws AppError `unsupported` if it cannot do the op. */
  prepare(op: KernelOp): Kernel
  /** The same. */
  prepareScheme(op: SchemeOp): SchemeKernel
  prepareDraw(op: DrawOp): DrawKernel
  prepareLowRank(op: LowRankOp): LowRankKernel
  close(): Promise<void>
}

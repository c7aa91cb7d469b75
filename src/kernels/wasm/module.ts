/**
 * The compiled kernels: bytes to module to instance. What WebAssembly offers is described here by hand, since neither
 * DOM nor Node types are in scope.
 */
import { AppError } from '../../core/errors.ts'

/** A `WebAssembly.Module`: opaque, and cloned to workers by postMessage. */
export type WasmModule = object

/** A `WebAssembly.Memory`. */
export interface WasmMemory {
  readonly buffer: ArrayBufferLike
  grow(pages: number): number
}

interface WasmApi {
  compile(bytes: Uint8Array): Promise<WasmModule>
  instantiate(module: WasmModule, imports: object): Promise<{ readonly exports: unknown }>
  readonly Memory: new (limits: { initial: number; maximum: number; shared?: boolean }) => WasmMemory
}

/**
 * The functions that do the work, by name. Their arguments are numbers and addresses; the result is the index of the first
 * bad element, -1 if all are good, -2 if there is no such conversion.
 */
export interface KernelCalls {
  /** From type, to type (`enum type` of wasm/kernels.h), input, output, elements. */
  convert(...args: readonly number[]): number
  /** The same by importance: behind those, the address of a row's importances (f32) and how many they are. */
  convert_weighted(...args: readonly number[]): number
  /** Type of the values, bits, group, values, codes, scales, biases, first group, end. */
  quantize_affine(...args: readonly number[]): number
  /** Bits, group, codes, scales, biases, values, first group, end. */
  dequantize_affine(...args: readonly number[]): number
  /** Type, output, elements, seed, lower and upper word of the first index, low, span; the lower word must not overflow. */
  draw_uniform(...args: readonly number[]): number
  /** Type, table, output, elements, seed, lower and upper word of the first index. */
  draw_normal(...args: readonly number[]): number
  /** Values, up, down, rows, rank, columns, scale. */
  low_rank(...args: readonly number[]): number
  /** Type of the values, bits and group (which tell the mode), values, codes, scales, first group, end. */
  quantize_floats(...args: readonly number[]): number
  /** Bits, group, codes, scales, values, first group, end. */
  dequantize_floats(...args: readonly number[]): number
  /** Bits, group, what zeros lack, codes, zeros, scales, groups of the inputs or 0, rows, columns, values, first row, end. */
  dequantize_gptq(...args: readonly number[]): number
  /** Group, codes, zeros, scales, rows, columns, values, first row, end. */
  dequantize_awq(...args: readonly number[]): number
  /**
   * Bits, group, codes, words of a row, zeros or 0, words of a row's zeros or 0, scales, scales of a row, groups of the inputs
   * or 0, columns, values, first row, end.
   */
  dequantize_packed(...args: readonly number[]): number
  /** Type of the codes, rows and columns of a block, codes, scales, zeros or 0, columns, values, first row, end. */
  dequantize_scaled(...args: readonly number[]): number
}

/** What the kernels export. */
export interface KernelExports extends KernelCalls {
  readonly __heap_base: { readonly value: number }
  readonly __stack_pointer: { value: number }
}

/** Bytes of a page of WASM memory. */
export const PAGE = 65536
/** What the module was linked for (wasm/build.mjs); a memory may have less. */
export const MAX_BYTES = 1 << 30
/** Stack of a thread: 8 KiB of converted input, 9 KiB of search state and 4 KiB of a last group filled up, and room to spare. */
export const STACK_BYTES = 65536

function api(): WasmApi {
  const found = (globalThis as { WebAssembly?: unknown }).WebAssembly
  if (found === undefined) throw new AppError('device', 'This browser has no WebAssembly.')
  return found as WasmApi
}

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

function bytesFromBase64(text: string): Uint8Array {
  const values = new Uint8Array(128)
  for (let i = 0; i < ALPHABET.length; i++) values[ALPHABET.charCodeAt(i)] = i
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  const bytes = new Uint8Array((text.length / 4) * 3)
  for (let i = 0, at = 0; i < text.length; i += 4) {
    let word = 0
    for (let j = 0; j < 4; j++) word = (word << 6) | (values[text.charCodeAt(i + j)] ?? 0)
    bytes[at++] = word >> 16
    bytes[at++] = word >> 8
    bytes[at++] = word
  }
  return bytes.subarray(0, bytes.length - padding)
}

/** Whether memory can be shared with workers here: in a page, only when it is cross-origin isolated. */
export function canShareMemory(): boolean {
  const scope = globalThis as { SharedArrayBuffer?: unknown; crossOriginIsolated?: boolean }
  return scope.SharedArrayBuffer !== undefined && scope.crossOriginIsolated !== false
}

/** Compiles the module, loading its bytes first: for memory shared among threads, or for one thread alone. */
export async function compileKernels(shared: boolean): Promise<WasmModule> {
  const { base64 } = shared ? await import('./generated/shared.ts') : await import('./generated/single.ts')
  try {
    return await api().compile(bytesFromBase64(base64))
  } catch (cause) {
    throw new AppError('device', 'The kernels need WebAssembly with SIMD, which this browser lacks.', { cause })
  }
}

/** Creates the memory that the instances share. */
export function createMemory(initialBytes: number, maximumBytes: number, shared: boolean): WasmMemory {
  const [initial, maximum] = [Math.ceil(initialBytes / PAGE), Math.ceil(maximumBytes / PAGE)]
  try {
    return new (api().Memory)(shared ? { initial, maximum, shared } : { initial, maximum })
  } catch (cause) {
    throw new AppError('memory', `No ${Math.round(maximumBytes / 2 ** 20)} MiB of address space for the kernels.`, {
      cause,
    })
  }
}

/** An instance for one thread. `stackTop`, if given, is the end of a stack of its own. */
export async function instantiateKernels(
  module: WasmModule,
  memory: WasmMemory,
  stackTop?: number,
): Promise<KernelExports> {
  const instance = await api().instantiate(module, { env: { memory } })
  const exports = instance.exports as KernelExports
  if (stackTop !== undefined) exports.__stack_pointer.value = stackTop
  return exports
}

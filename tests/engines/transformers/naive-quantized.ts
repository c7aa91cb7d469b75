/** Packers and dequantisers straight from the formats' descriptions, one number at a time; nothing of them is the product's. */
import type { DType } from '../../../src/core/dtype.ts'
import type { RawTensor } from '../hf/folder.ts'

/** A pseudo-random whole number below `limit`, always the same. */
export function dice(seed: number): (limit: number) => number {
  let state = BigInt(seed * 2 + 1)
  return (limit) => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn
    return Number((state >> 33n) % BigInt(limit))
  }
}

export interface Packed {
  readonly parts: RawTensor[]
  /** [outputs, inputs], row by row, as f32. */
  readonly values: Float32Array
}

export type Grid = number[][]

export const grid = (rows: number, columns: number, at: (row: number, column: number) => number): Grid =>
  Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_unused, column) => at(row, column)))

/** Numbers of `bits` bits, one after the other, the first in the lowest bits of the first byte. */
export function bitStream(numbers: readonly number[], bits: number): number[] {
  const words: number[] = Array.from({ length: Math.ceil((numbers.length * bits) / 32) }, () => 0)
  for (const [index, number] of numbers.entries()) {
    for (let bit = 0; bit < bits; bit++) {
      const at = index * bits + bit
      if (Math.floor(number / 2 ** bit) % 2 === 1) words[Math.floor(at / 32)]! += 2 ** (at % 32)
    }
  }
  return words
}

const transposed = (of: Grid): Grid => of[0]!.map((_, column) => of.map((row) => row[column]!))

export function i32(name: string, of: Grid): RawTensor {
  const bytes = new Uint8Array(of.length * of[0]!.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [index, word] of of.flat().entries()) view.setUint32(index * 4, word < 0 ? word + 2 ** 32 : word, true)
  return { name, dtype: 'i32', shape: [of.length, of[0]!.length], data: bytes }
}

export function vector(name: string, of: readonly number[]): RawTensor {
  return { ...i32(name, [[...of]]), shape: [of.length] }
}

export function u8(name: string, dtype: DType, shape: readonly number[], of: readonly number[]): RawTensor {
  return { name, dtype, shape, data: Uint8Array.from(of) }
}

/** Scales by their parts: 2^-exponent * (1 + fraction / 1024), which F16 holds exactly. */
export interface Scales {
  readonly value: (row: number, column: number) => number
  tensor(name: string, type?: 'f16' | 'f32' | 'bf16', flip?: boolean): RawTensor
}

export function scalesOf(rows: number, columns: number, roll: (limit: number) => number): Scales {
  // fractions of seven bits, so that BF16 holds them too
  const parts = grid(rows, columns, () => (roll(6) + 4) * 1000 + roll(128))
  const value = (row: number, column: number): number => {
    const part = parts[row]![column]!
    return 2 ** -Math.floor(part / 1000) * (1 + (part % 1000) / 128)
  }
  return {
    value,
    tensor(name, type = 'f16', flip = false) {
      const own = flip ? transposed(parts) : parts
      const bytes: number[] = []
      for (const part of own.flat()) {
        const [exponent, fraction] = [Math.floor(part / 1000), part % 1000]
        const half = (15 - exponent) * 1024 + fraction * 8
        const brain = (127 - exponent) * 128 + fraction
        if (type === 'f16') bytes.push(half % 256, Math.floor(half / 256))
        else bytes.push(...(type === 'f32' ? [0, 0] : []), brain % 256, Math.floor(brain / 256))
      }
      return { name, dtype: type, shape: [own.length, own[0]!.length], data: Uint8Array.from(bytes) }
    },
  }
}

export interface GptqOptions {
  readonly bits: number
  /** -1 for one group. */
  readonly group: number
  readonly version: 1 | 2
  readonly sym: boolean
  readonly actOrder?: boolean
  readonly withoutOrder?: boolean
}

/** qweight along the inputs, qzeros along the outputs, both as streams of bits. */
export function packGptq(module: string, n: number, k: number, options: GptqOptions, seed: number): Packed {
  const { bits, version, sym } = options
  const roll = dice(seed)
  const size = options.group === -1 ? k : options.group
  const groups = Math.ceil(k / size)
  const order = Array.from({ length: k }, (_, i) => Math.floor(i / size))
  if (options.actOrder === true) for (let i = k - 1; i > 0; i--) swap(order, i, roll(i + 1))
  const codes = grid(n, k, () => roll(2 ** bits))
  // the first version has no code for a zero of 0
  const zeros = grid(groups, n, () => (sym ? 2 ** (bits - 1) : roll(2 ** bits - 1) + 1))
  const scales = scalesOf(groups, n, roll)
  const values = codes.flatMap((row, out) =>
    row.map((code, input) => scales.value(order[input]!, out) * (code - zeros[order[input]!]![out]!)),
  )
  return {
    parts: [
      i32(`${module}.qweight`, transposed(codes.map((row) => bitStream(row, bits)))),
      i32(
        `${module}.qzeros`,
        zeros.map((row) =>
          bitStream(
            row.map((zero) => (version === 1 ? zero - 1 : zero)),
            bits,
          ),
        ),
      ),
      scales.tensor(`${module}.scales`),
      ...(options.withoutOrder === true ? [] : [vector(`${module}.g_idx`, order)]),
    ],
    values: Float32Array.from(values),
  }
}

function swap(list: number[], a: number, b: number): void {
  const kept = list[a]!
  list[a] = list[b]!
  list[b] = kept
}

const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
const shuffled = (row: readonly number[]): number[] =>
  row.map((_, index) => row[Math.floor(index / 8) * 8 + AWQ_ORDER[index % 8]!]!)

export function packAwq(module: string, n: number, k: number, size: number, layout: string, seed: number): Packed {
  const roll = dice(seed)
  const groups = Math.ceil(k / size)
  const codes = grid(n, k, () => roll(16))
  const zeros = grid(groups, n, () => roll(16))
  const scales = scalesOf(groups, n, roll)
  const values = Float32Array.from(
    codes.flatMap((row, out) =>
      row.map((code, input) => {
        const group = Math.floor(input / size)
        return scales.value(group, out) * (code - zeros[group]![out]!)
      }),
    ),
  )
  if (layout === 'gemm') {
    const parts = [
      i32(
        `${module}.qweight`,
        transposed(codes).map((row) => bitStream(shuffled(row), 4)),
      ),
      i32(
        `${module}.qzeros`,
        zeros.map((row) => bitStream(shuffled(row), 4)),
      ),
      scales.tensor(`${module}.scales`),
    ]
    return { parts, values }
  }
  const factor = size >= 128 ? 1 : size === 64 ? 2 : 4
  const words = Math.ceil(Math.ceil(k / size / 8) / factor) * factor
  const padded = transposed(zeros).map((row) => [...row, ...Array.from({ length: words * 8 - groups }, () => 0)])
  const plain = scales.tensor('', 'f16', true)
  const data = new Uint8Array(n * words * 16)
  for (let out = 0; out < n; out++) {
    data.set(plain.data.subarray(out * groups * 2, (out + 1) * groups * 2), out * words * 16)
  }
  const parts: RawTensor[] = [
    i32(
      `${module}.qweight`,
      codes.map((row) => bitStream(row, 4)),
    ),
    i32(
      `${module}.qzeros`,
      padded.map((row) => bitStream(row, 4)),
    ),
    { name: `${module}.scales`, dtype: 'f16', shape: [n, words * 8], data },
  ]
  return { parts, values }
}

export interface CompressedOptions {
  readonly bits: number
  readonly group: number
  readonly symmetric: boolean
  readonly actOrder?: boolean
}

/** compressed-tensors: signed numbers with 2^(bits - 1) added; zeros packed along the outputs. */
export function packCompressed(module: string, n: number, k: number, options: CompressedOptions, seed: number): Packed {
  const { bits, symmetric } = options
  const roll = dice(seed)
  const size = options.group === -1 ? k : options.group
  const groups = Math.ceil(k / size)
  const half = 2 ** (bits - 1)
  const order = Array.from({ length: k }, (_, i) => Math.floor(i / size))
  if (options.actOrder === true) for (let i = k - 1; i > 0; i--) swap(order, i, roll(i + 1))
  const codes = grid(n, k, () => roll(2 ** bits) - half)
  const zeros = grid(n, groups, () => (symmetric ? 0 : roll(2 ** bits) - half))
  const scales = scalesOf(n, groups, roll)
  const shifted = (row: readonly number[]): number[] => row.map((number) => number + half)
  const shape = new Uint8Array(16)
  new DataView(shape.buffer).setBigInt64(0, BigInt(n), true)
  new DataView(shape.buffer).setBigInt64(8, BigInt(k), true)
  const values = codes.flatMap((row, out) =>
    row.map((code, input) => scales.value(out, order[input]!) * (code - zeros[out]![order[input]!]!)),
  )
  return {
    parts: [
      i32(
        `${module}.weight_packed`,
        codes.map((row) => bitStream(shifted(row), bits)),
      ),
      scales.tensor(`${module}.weight_scale`, 'bf16'),
      ...(symmetric
        ? []
        : [
            i32(
              `${module}.weight_zero_point`,
              transposed(transposed(zeros).map((row) => bitStream(shifted(row), bits))),
            ),
          ]),
      ...(options.actOrder === true ? [vector(`${module}.weight_g_idx`, order)] : []),
      { name: `${module}.weight_shape`, dtype: 'i64', shape: [2], data: shape },
    ],
    values: Float32Array.from(values),
  }
}

/** A byte of sign, 4 bits of exponent, 3 of fraction. */
function e4m3(byte: number): number {
  const [exponent, fraction] = [Math.floor(byte / 8) % 16, byte % 8]
  const magnitude = exponent === 0 ? (fraction / 8) * 2 ** -6 : (1 + fraction / 8) * 2 ** (exponent - 7)
  return byte >= 128 ? -magnitude : magnitude
}

/** Blocks of `rows` by `columns`; `shape` of the scales if it is not the grid's. */
export function packScaled(
  module: string,
  n: number,
  k: number,
  options: {
    readonly type: 'f8_e4m3' | 'i8'
    readonly rows: number
    readonly columns: number
    readonly name: string
    readonly shape?: readonly number[]
  },
  seed: number,
): Packed {
  const { type, rows, columns, name } = options
  const roll = dice(seed)
  const bytes = grid(n, k, () => {
    const byte = roll(256)
    return byte % 128 === 127 ? 0 : byte
  })
  const scales = scalesOf(Math.ceil(n / rows), Math.ceil(k / columns), roll)
  const decode = type === 'i8' ? (byte: number): number => (byte > 127 ? byte - 256 : byte) : e4m3
  const scale = scales.tensor(`${module}.${name}`, 'f32')
  return {
    parts: [u8(`${module}.weight`, type, [n, k], bytes.flat()), { ...scale, shape: options.shape ?? scale.shape }],
    values: Float32Array.from(
      bytes.flatMap((row, out) =>
        row.map((byte, input) => scales.value(Math.floor(out / rows), Math.floor(input / columns)) * decode(byte)),
      ),
    ),
  }
}

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

/** Two elements a byte, the first in the low half; a power of two for each 32. */
export function packMicroscaled(codesName: string, scalesName: string, n: number, k: number, seed: number): Packed {
  const roll = dice(seed)
  const codes = grid(n, k, () => roll(16))
  const powers = grid(n, k / 32, () => 110 + roll(20))
  return {
    parts: [
      u8(
        codesName,
        'u8',
        [n, k / 2],
        codes.flatMap((row) => row.flatMap((code, i) => (i % 2 === 0 ? [code + 16 * row[i + 1]!] : []))),
      ),
      u8(scalesName, 'u8', [n, k / 32], powers.flat()),
    ],
    values: Float32Array.from(
      codes.flatMap((row, out) =>
        row.map((code, i) => (code > 7 ? -1 : 1) * E2M1[code % 8]! * 2 ** (powers[out]![Math.floor(i / 32)]! - 127)),
      ),
    ),
  }
}

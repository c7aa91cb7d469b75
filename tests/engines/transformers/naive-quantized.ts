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

/** `least`: what each must be at the least; random without. */
export function scalesOf(
  rows: number,
  columns: number,
  roll: (limit: number) => number,
  least?: (row: number, column: number) => number,
): Scales {
  // fractions of seven bits, so that BF16 holds them too
  const parts = grid(rows, columns, (row, column) =>
    least === undefined ? (roll(6) + 4) * 1000 + roll(128) : partsOf(least(row, column)),
  )
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

/** The smallest scale of this form that is not below a value. */
function partsOf(value: number): number {
  const exponent = Math.min(14, Math.max(0, -Math.floor(Math.log2(Math.max(value, 2 ** -14)))))
  const fraction = Math.max(0, Math.ceil((value * 2 ** exponent - 1) * 128))
  return fraction < 128 ? exponent * 1000 + fraction : (exponent - 1) * 1000
}

/** The largest magnitude among numbers. */
const largest = (numbers: readonly number[]): number => numbers.reduce((most, one) => Math.max(most, Math.abs(one)), 0)

/** The whole number nearest to a weight in steps of a scale, within bounds. */
const nearest = (weight: number, scale: number, low: number, high: number): number =>
  Math.min(high, Math.max(low, Math.round(weight / scale)))

/** Which of the numbers that codes stand for is nearest. */
function nearestCode(weight: number, numbers: readonly number[]): number {
  let best = 0
  for (const [code, number] of numbers.entries()) {
    if (Math.abs(number - weight) < Math.abs(numbers[best]! - weight)) best = code
  }
  return best
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
export function packGptq(
  module: string,
  n: number,
  k: number,
  options: GptqOptions,
  seed: number,
  weights?: Grid,
): Packed {
  const { bits, version, sym } = options
  const roll = dice(seed)
  const size = options.group === -1 ? k : options.group
  const groups = Math.ceil(k / size)
  const order = Array.from({ length: k }, (_, i) => Math.floor(i / size))
  if (options.actOrder === true) for (let i = k - 1; i > 0; i--) swap(order, i, roll(i + 1))
  const middle = 2 ** (bits - 1)
  const inGroup = (group: number, out: number): number[] => weights![out]!.filter((_, input) => order[input] === group)
  const scales = scalesOf(groups, n, roll, weights && ((group, out) => largest(inGroup(group, out)) / (middle - 1)))
  // the first version has no code for a zero of 0
  const zeros = grid(groups, n, () => (sym || weights !== undefined ? middle : roll(2 ** bits - 1) + 1))
  const codes = grid(n, k, (out, input) =>
    weights === undefined
      ? roll(2 ** bits)
      : middle + nearest(weights[out]![input]!, scales.value(order[input]!, out), -middle, middle - 1),
  )
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

export function packAwq(
  module: string,
  n: number,
  k: number,
  size: number,
  layout: string,
  seed: number,
  weights?: Grid,
): Packed {
  const roll = dice(seed)
  const groups = Math.ceil(k / size)
  const scales = scalesOf(
    groups,
    n,
    roll,
    weights && ((group, out) => largest(weights[out]!.slice(group * size, (group + 1) * size)) / 7),
  )
  const zeros = grid(groups, n, () => (weights === undefined ? roll(16) : 8))
  const codes = grid(n, k, (out, input) =>
    weights === undefined
      ? roll(16)
      : 8 + nearest(weights[out]![input]!, scales.value(Math.floor(input / size), out), -8, 7),
  )
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
export function packCompressed(
  module: string,
  n: number,
  k: number,
  options: CompressedOptions,
  seed: number,
  weights?: Grid,
): Packed {
  const { bits, symmetric } = options
  const roll = dice(seed)
  const size = options.group === -1 ? k : options.group
  const groups = Math.ceil(k / size)
  const half = 2 ** (bits - 1)
  const order = Array.from({ length: k }, (_, i) => Math.floor(i / size))
  if (options.actOrder === true) for (let i = k - 1; i > 0; i--) swap(order, i, roll(i + 1))
  const inGroup = (out: number, group: number): number[] => weights![out]!.filter((_, input) => order[input] === group)
  const scales = scalesOf(n, groups, roll, weights && ((out, group) => largest(inGroup(out, group)) / (half - 1)))
  const zeros = grid(n, groups, () => (symmetric || weights !== undefined ? 0 : roll(2 ** bits) - half))
  const codes = grid(n, k, (out, input) =>
    weights === undefined
      ? roll(2 ** bits) - half
      : nearest(weights[out]![input]!, scales.value(out, order[input]!), -half, half - 1),
  )
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
  weights?: Grid,
): Packed {
  const { type, rows, columns, name } = options
  const roll = dice(seed)
  const decode = type === 'i8' ? (byte: number): number => (byte > 127 ? byte - 256 : byte) : e4m3
  const inBlock = (down: number, across: number): number[] =>
    weights!.slice(down * rows, (down + 1) * rows).flatMap((row) => row.slice(across * columns, (across + 1) * columns))
  const scales = scalesOf(
    Math.ceil(n / rows),
    Math.ceil(k / columns),
    roll,
    weights && ((down, across) => largest(inBlock(down, across)) / decode(type === 'i8' ? 127 : 126)),
  )
  // 127 of FP8 is no number
  const numbers = Array.from({ length: 256 }, (_, byte) =>
    byte % 128 === 127 && type !== 'i8' ? Infinity : decode(byte),
  )
  const bytes = grid(n, k, (out, input) => {
    if (weights === undefined) {
      const byte = roll(256)
      return byte % 128 === 127 ? 0 : byte
    }
    const scale = scales.value(Math.floor(out / rows), Math.floor(input / columns))
    return nearestCode(weights[out]![input]! / scale, numbers)
  })
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
export function packMicroscaled(
  codesName: string,
  scalesName: string,
  n: number,
  k: number,
  seed: number,
  weights?: Grid,
): Packed {
  const roll = dice(seed)
  const powers = grid(n, k / 32, (out, block) =>
    weights === undefined
      ? 110 + roll(20)
      : 127 + Math.ceil(Math.log2(largest(weights[out]!.slice(block * 32, (block + 1) * 32)) / 6)),
  )
  const numbers = Array.from({ length: 16 }, (_, code) => (code > 7 ? -1 : 1) * E2M1[code % 8]!)
  const codes = grid(n, k, (out, input) =>
    weights === undefined
      ? roll(16)
      : nearestCode(weights[out]![input]! / 2 ** (powers[out]![Math.floor(input / 32)]! - 127), numbers),
  )
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

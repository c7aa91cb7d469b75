/**
 * MLX's weights by the words of its documentation alone: nothing of the code under test is used, and nothing is fast.
 */

export interface Stored {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
  readonly file: string
}

export interface Config {
  readonly [key: string]: unknown
}

export interface Quant {
  readonly group_size: number
  readonly bits: number
  readonly mode?: string
}

/** Every tensor of a folder's files `model*.safetensors`. */
export function storedTensors(files: Readonly<Record<string, Uint8Array>>): Map<string, Stored> {
  const found = new Map<string, Stored>()
  for (const [file, bytes] of Object.entries(files)) {
    if (!/^model.*\.safetensors$/.test(file)) continue
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, unknown>
    if ((header['__metadata__'] as { format?: string }).format !== 'mlx') throw new Error(`${file} is not MLX's`)
    for (const [name, value] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const {
        dtype,
        shape,
        data_offsets: [begin, end],
      } = value as {
        dtype: string
        shape: number[]
        data_offsets: [number, number]
      }
      found.set(name, { dtype, shape, file, bytes: bytes.slice(8 + length + begin, 8 + length + end) })
    }
  }
  return found
}

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** Numbers of a float tensor. */
export function floats({ dtype, bytes }: Pick<Stored, 'dtype' | 'bytes'>): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const word = new DataView(new ArrayBuffer(4))
  const one: Record<string, (index: number) => number> = {
    F32: (i) => view.getFloat32(i * 4, true),
    BF16: (i) => {
      word.setUint16(0, view.getUint16(i * 2, true))
      return word.getFloat32(0)
    },
    F16: (i) => {
      const bits = view.getUint16(i * 2, true)
      const exponent = (bits >> 10) & 31
      const fraction = bits & 1023
      const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
      return bits & 0x8000 ? -size : size
    },
  }
  const width = dtype === 'F32' ? 4 : 2
  return Float64Array.from({ length: bytes.length / width }, (_, i) => one[dtype]!(i))
}

/** The `count` codes of `bits` bits in one row of bytes, bit for bit, lowest first. */
export function unpack(row: Uint8Array, bits: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const at = i * bits + bit
      code += ((row[Math.floor(at / 8)]! >> (at % 8)) & 1) * 2 ** bit
    }
    return code
  })
}

const FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

function fp4(code: number): number {
  return code < 8 ? FP4[code]! : -FP4[code - 8]!
}

/** Eight bits: sign, four of exponent (bias 7), three of fraction. MLX reads all of them as numbers. */
function e4m3(code: number): number {
  const exponent = Math.floor((code % 128) / 8)
  const fraction = code % 8
  const size = exponent === 0 ? (fraction / 8) * 2 ** -6 : (1 + fraction / 8) * 2 ** (exponent - 7)
  return code < 128 ? size : -size
}

/** How config.json says that a module is quantised; null if it is not. */
export function quantOf(config: Config, module: string, tensors: ReadonlyMap<string, Stored>): Quant | null {
  const all = config['quantization'] as Record<string, unknown> | undefined
  if (all === undefined) return null
  const own = all[module]
  if (own === false) return null
  if (typeof own === 'object') return own as Quant
  return tensors.has(`${module}.scales`) ? (all as unknown as Quant) : null
}

/** A module's weight as numbers, with its scales' sizes where it is quantised. */
export function weightOf(
  config: Config,
  module: string,
  tensors: ReadonlyMap<string, Stored>,
): { values: Float64Array; quant: Quant | null; scales: Float64Array; codes: Uint8Array } {
  const weight = tensors.get(`${module}.weight`)!
  const quant = quantOf(config, module, tensors)
  if (quant === null) return { values: floats(weight), quant, scales: new Float64Array(), codes: new Uint8Array() }
  if (weight.dtype !== 'U32') throw new Error(`${module}.weight is ${weight.dtype}`)
  const { bits, group_size: group, mode = 'affine' } = quant
  const words = weight.shape.at(-1)!
  const columns = (words * 32) / bits
  const rows = product(weight.shape) / words
  const stored = tensors.get(`${module}.scales`)!
  if (product(stored.shape) !== (rows * columns) / group) throw new Error(`${module}.scales: ${stored.shape.join()}`)
  const biases = mode === 'affine' ? floats(tensors.get(`${module}.biases`)!) : null
  const scales =
    mode === 'affine'
      ? floats(stored)
      : Float64Array.from(stored.bytes, (byte) => (mode === 'nvfp4' ? e4m3(byte) : 2 ** (byte - 127)))
  const values = new Float64Array(rows * columns)
  const allCodes = new Uint8Array(rows * columns)
  for (let row = 0; row < rows; row++) {
    const codes = unpack(weight.bytes.subarray(row * words * 4, (row + 1) * words * 4), bits, columns)
    for (const [column, code] of codes.entries()) {
      const at = row * columns + column
      allCodes[at] = code
      const scale = scales[Math.floor(at / group)]!
      const bias = biases?.[Math.floor(at / group)]
      values[at] = bias !== undefined ? scale * code + bias : scale * (bits === 4 ? fp4(code) : e4m3(code))
    }
  }
  return { values, quant, scales, codes: allCodes }
}

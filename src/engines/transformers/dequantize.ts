/** Recipes of weights that are stored quantised, from the tensors that a library for transformers made of them. */
import type { Folder } from '../../core/bytes.ts'
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { gemvZeroWords } from '../../core/matrix-scheme.ts'
import type { Finding } from '../../core/plan.ts'
import { dequantize, read, schemeFields, tensorBytes, type Recipe, type Scheme } from '../../core/tensor.ts'
import type { StoredTensor, StoredWeights } from '../containers/safetensors-files.ts'
import type { DeclaredQuantization, IntQuant } from './quantization.ts'

/** Finds weights that are stored quantised. */
export interface Dequantizer {
  /**
   * The recipe of the weight `name` of the shape [outputs, inputs], or of a stack of such; null if it is not stored
   * quantised. Throws `missing-tensor`, `bad-tensor` and `unsupported` for parts that do not fit.
   */
  recipe(name: string, shape: readonly number[]): Recipe | null
  /** Names of stored tensors that recipes were made of, or that quantised modules carry besides. */
  readonly used: ReadonlySet<string>
  findings(): readonly Finding[]
}

const FLOATS: ReadonlySet<DType> = new Set<DType>(['f32', 'f16', 'bf16'])
/** Of activations, which weights do without. */
const BESIDES: readonly string[] = [
  'weight_shape',
  'input_scale',
  'input_zero_point',
  'input_global_scale',
  'output_scale',
  'output_zero_point',
  'activation_scale_ub',
  'input_scale_ub',
]
/** Zeros looked at to tell GPTQ's versions apart. */
const PROBED_BYTES = 1 << 16

/** Makes the finder of quantised weights. Reads some zeros, where a configuration's word is not enough. */
export async function dequantizerOf(
  folder: Folder,
  stored: StoredWeights,
  declared: DeclaredQuantization,
): Promise<Dequantizer> {
  const { quantization } = declared
  const version = quantization.method === 'gptq' ? await probeVersion(folder, stored, quantization) : 1
  return new Finder(stored, declared, version)
}

/** By value where all zeros are those of a symmetric quantisation, else by the config's word. */
async function probeVersion(
  folder: Folder,
  { tensors }: StoredWeights,
  { bits, symmetric, version }: IntQuant & { readonly version: 1 | 2 },
): Promise<1 | 2> {
  const zeros = [...tensors].find(([name]) => name.endsWith('.qzeros'))?.[1]
  if (!symmetric || zeros === undefined) return version
  // whole words of whatever width: 3 bits have theirs in threes
  const size = Math.min(PROBED_BYTES, tensorBytes(zeros))
  const count = Math.floor(size / 12) * 12
  const bytes = new Uint8Array(count)
  const source = await folder.open(zeros.file)
  try {
    await source.read(zeros.offset, bytes)
  } finally {
    await source.close()
  }
  const seen = new Set<number>()
  for (let bit = 0; bit + bits <= count * 8; bit += bits) {
    const at = bit >>> 3
    const pair = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)
    seen.add((pair >>> (bit & 7)) & (2 ** bits - 1))
  }
  const middle = 2 ** (bits - 1)
  if (seen.size !== 1) return version
  return seen.has(middle) ? 2 : seen.has(middle - 1) ? 1 : version
}

class Finder implements Dequantizer {
  readonly used = new Set<string>()
  readonly #stored: StoredWeights
  readonly #declared: DeclaredQuantization
  readonly #version: 1 | 2
  #mislabelled: string | null = null
  #found = 0

  constructor(stored: StoredWeights, declared: DeclaredQuantization, version: 1 | 2) {
    this.#stored = stored
    this.#declared = declared
    this.#version = version
  }

  recipe(name: string, shape: readonly number[]): Recipe | null {
    const module = name.replace(/\.weight$/, '')
    const has = (part: string): boolean => this.#stored.tensors.has(part)
    const made = has(`${module}.qweight`)
      ? this.#qweight(module, shape)
      : has(`${module}.weight_packed`)
        ? this.#packed(module, shape)
        : has(`${name}_blocks`)
          ? this.#microscaled(`${name}_blocks`, `${name}_scales`, shape)
          : this.#scaled(name, module, shape)
    if (made === null) return null
    this.#found++
    for (const part of BESIDES) this.used.add(`${module}.${part}`)
    return made
  }

  findings(): readonly Finding[] {
    const { file, quantization, title } = this.#declared
    const findings: Finding[] = []
    if (this.#found > 0) {
      findings.push({
        severity: 'info',
        code: 'quantized-source',
        message: `${this.#found} weights are stored as ${title}: what is made of them is no better than that`,
        where: { file },
      })
    }
    if (quantization.method === 'gptq' && quantization.version !== this.#version) {
      findings.push({
        severity: 'warning',
        code: 'zeros-version',
        message: `${file} says ${quantization.version === 1 ? 'gptq' : 'gptq_v2'}, but the zeros are those of version ${this.#version}: read as what they are`,
        where: { file },
      })
    }
    if (this.#mislabelled !== null) {
      findings.push({
        severity: 'warning',
        code: 'quantization-mislabelled',
        message: `${file} says ${title}, but ${this.#mislabelled}: read as what it is`,
        where: { file },
      })
    }
    return findings
  }

  #qweight(module: string, shape: readonly number[]): Recipe {
    const [rows, columns] = this.#matrix(`${module}.qweight`, shape)
    const codes = this.#require(`${module}.qweight`)
    const [high = 0, wide = 0] = codes.shape
    const { quantization } = this.#declared
    if (quantization.method === 'awq' && quantization.layout === 'gemv' && high === rows && wide * 8 === columns) {
      return this.#gemv(module, shape, quantization.group)
    }
    // the shapes tell GPTQ from AWQ's GEMM, whatever config.json calls it
    if (high === columns && wide * 8 === rows) {
      if (quantization.method !== 'awq') this.#mislabelled ??= `${module}.qweight has the shape of AWQ's GEMM layout`
      const scales = this.#require(`${module}.scales`)
      const group = this.#groupOf(`${module}.scales`, scales.shape[0] ?? 0, columns, this.#declaredGroup(), false)
      return this.#build({ kind: 'awq', layout: 'gemm', group }, shape, module, GPTQ_NAMES)
    }
    const bits = (high * 32) / columns
    const known = wide === rows && Number.isInteger(bits) && [2, 3, 4, 8].includes(bits)
    const said = quantization.method === 'gptq' ? quantization.bits : quantization.method === 'awq' ? 4 : null
    const differs = quantization.method === 'gptq' && quantization.dynamic
    if (!known || (bits !== said && !differs)) {
      throw this.#bad(
        `${module}.qweight`,
        `has the shape [${codes.shape.join(', ')}], which is no matrix of ${rows} outputs and ${columns} inputs in ${said ?? 'so many'} bits`,
      )
    }
    if (quantization.method !== 'gptq') this.#mislabelled ??= `${module}.qweight has the shape of GPTQ's`
    const scales = this.#require(`${module}.scales`)
    const order = this.#stored.tensors.has(`${module}.g_idx`)
    if (!order && quantization.method === 'gptq' && quantization.actOrder) this.#require(`${module}.g_idx`)
    const group = this.#groupOf(`${module}.scales`, scales.shape[0] ?? 0, columns, this.#declaredGroup(), differs)
    const zeroOffset = this.#version === 1 ? 1 : 0
    return this.#build({ kind: 'gptq', bits, group, zeroOffset, actOrder: order }, shape, module, GPTQ_NAMES)
  }

  #gemv(module: string, shape: readonly number[], declared: number | null): Recipe {
    const columns = shape[1] ?? 0
    const group = declared ?? columns
    const zeros = this.#require(`${module}.qzeros`)
    if (zeros.shape[1] !== gemvZeroWords(columns, group)) {
      throw this.#bad(
        `${module}.qzeros`,
        `has the shape [${zeros.shape.join(', ')}], which groups of ${group} do not have`,
      )
    }
    return this.#build({ kind: 'awq', layout: 'gemv', group }, shape, module, GPTQ_NAMES)
  }

  #packed(module: string, shape: readonly number[]): Recipe {
    const name = `${module}.weight_packed`
    const codes = this.#require(name)
    if (codes.dtype === 'u8') return this.#microscaled(name, `${module}.weight_scale`, shape)
    const [rows, columns] = this.#matrix(name, shape)
    const { quantization } = this.#declared
    const groups = quantization.method === 'compressed-tensors' ? quantization.groups : []
    const words = codes.shape[1] ?? 0
    const own = groups.find(({ bits }) => Math.ceil((columns * bits) / 32) === words)
    if (codes.shape[0] !== rows || own === undefined) {
      const said = groups.map(({ bits }) => bits).join(' or ')
      throw this.#bad(
        name,
        `has the shape [${codes.shape.join(', ')}], which is no [${rows}, ${columns}] in ${said} bits`,
      )
    }
    const bits = own.bits === 2 ? 2 : own.bits === 4 ? 4 : 8
    const scales = this.#require(`${module}.weight_scale`)
    const group = this.#groupOf(`${module}.weight_scale`, scales.shape[1] ?? 0, columns, own.group, groups.length > 1)
    const symmetric = own.symmetric && !this.#stored.tensors.has(`${module}.weight_zero_point`)
    const actOrder = this.#stored.tensors.has(`${module}.weight_g_idx`)
    return this.#build({ kind: 'packed', bits, group, symmetric, actOrder }, shape, module, PACKED_NAMES)
  }

  /** E2M1 elements, two a byte, and E8M0 scales for each 32: what MLX has in words of four bytes. */
  #microscaled(blocks: string, scales: string, shape: readonly number[]): Recipe {
    const columns = shape.at(-1) ?? 0
    const outer = shape.slice(0, -1)
    const codes = this.#require(blocks)
    if (columns % 32 !== 0) throw this.#bad(blocks, `is of rows of ${columns}, which are not whole blocks of 32`)
    if (codes.dtype !== 'u8' || elementCount(codes.shape) * 2 !== elementCount(shape)) {
      throw this.#bad(
        blocks,
        `is ${codes.dtype} [${codes.shape.join(', ')}], which is no [${shape.join(', ')}] in MXFP4`,
      )
    }
    const scale = this.#require(scales)
    if (scale.dtype !== 'u8' || scale.shape.join() !== [...outer, columns / 32].join()) {
      throw this.#bad(scales, `is ${scale.dtype} [${scale.shape.join(', ')}] instead of one byte for each 32 values`)
    }
    this.used.add(blocks).add(scales)
    return dequantize({ kind: 'mxfp4' }, shape, {
      codes: read({ dtype: 'u32', shape: [...outer, columns / 8] }, codes.file, codes.offset),
      scales: scale,
    })
  }

  #scaled(name: string, module: string, shape: readonly number[]): Recipe | null {
    const codes = this.#stored.tensors.get(name)
    if (codes === undefined || !isCodes(codes.dtype)) return null
    const [rows, columns] = this.#matrix(name, shape)
    if (codes.shape.join() !== shape.join()) {
      throw this.#bad(name, `has the shape [${codes.shape.join(', ')}]; config.json makes it [${shape.join(', ')}]`)
    }
    const inverse = `${module}.weight_scale_inv`
    const scaleName = this.#stored.tensors.has(inverse) ? inverse : `${module}.weight_scale`
    const scales = this.#require(scaleName)
    const given = scales.shape.length === 2 ? scales.shape : [elementCount(scales.shape), 1]
    const [down = 0, across = 0] = given
    const { quantization } = this.#declared
    const block = quantization.method === 'fp8' ? quantization.block : null
    const fits = block !== null && down === Math.ceil(rows / block[0]) && across === Math.ceil(columns / block[1])
    const size: readonly [number, number] | null = fits
      ? block
      : (down === 1 || down === rows) && across > 0 && columns % across === 0
        ? [rows / down, columns / across]
        : null
    if (size === null || (block !== null && !fits && down * across !== 1)) {
      const said = block === null ? 'the matrix, its rows or groups of them' : `blocks of ${block.join('x')}`
      throw this.#bad(scaleName, `has the shape [${scales.shape.join(', ')}], which does not fit ${said}`)
    }
    const zeroName = `${module}.weight_zero_point`
    const symmetric = !this.#stored.tensors.has(zeroName)
    const scheme: Scheme = { kind: 'scaled', codes: codes.dtype, rows: size[0], columns: size[1], symmetric }
    const names = { codes: 'weight', scales: scaleName.slice(module.length + 1), zeros: 'weight_zero_point' }
    return this.#build(scheme, shape, module, names)
  }

  #declaredGroup(): number | null {
    const { quantization } = this.#declared
    return quantization.method === 'gptq' || quantization.method === 'awq' ? quantization.group : null
  }

  /** The group size, which must give the scales there are. `free`: modules may differ from what is declared. */
  #groupOf(name: string, count: number, columns: number, declared: number | null, free: boolean): number {
    const group = declared ?? columns
    if (Math.ceil(columns / group) === count) return group
    if (free && count > 0 && columns % count === 0) return columns / count
    throw this.#bad(
      name,
      `has ${count} groups; ${columns} inputs in groups of ${group} make ${Math.ceil(columns / group)}`,
    )
  }

  #matrix(name: string, shape: readonly number[]): readonly [number, number] {
    const [rows, columns] = shape
    if (shape.length === 2 && rows !== undefined && columns !== undefined) return [rows, columns]
    throw this.#bad(name, `is quantised, but the weight [${shape.join(', ')}] is no matrix`)
  }

  #build(scheme: Scheme, shape: readonly number[], module: string, names: Readonly<Record<string, string>>): Recipe {
    const parts: Record<string, Recipe> = {}
    let fields
    try {
      fields = schemeFields(scheme, shape, 'f32')
    } catch (error) {
      throw this.#bad(`${module}.${names['codes'] ?? ''}`, 'cannot be so large', error)
    }
    for (const [field, info] of Object.entries(fields)) {
      const name = `${module}.${names[field] ?? field}`
      const found = this.#require(name)
      const isScale = field === 'scales'
      const typed = isScale
        ? FLOATS.has(found.dtype)
        : found.dtype === info.dtype || (info.dtype === 'u32' && found.dtype === 'i32')
      // one scale for all stands as a scalar, and one for each row as a vector
      const shaped =
        found.shape.join() === info.shape.join() ||
        (scheme.kind === 'scaled' && field !== 'codes' && elementCount(found.shape) === elementCount(info.shape))
      if (!typed || !shaped) {
        const wanted = isScale ? 'a float' : info.dtype
        throw this.#bad(
          name,
          `is ${found.dtype} [${found.shape.join(', ')}] instead of ${wanted} [${info.shape.join(', ')}]`,
        )
      }
      this.used.add(name)
      parts[field] = read({ dtype: isScale ? found.dtype : info.dtype, shape: info.shape }, found.file, found.offset)
    }
    return dequantize(scheme, shape, parts)
  }

  #require(name: string): StoredTensor {
    const found = this.#stored.tensors.get(name)
    if (found === undefined) {
      throw new AppError('missing-tensor', `The weights lack ${name}, a part of a quantised one`, {
        where: { file: this.#stored.files[0] ?? '', tensor: name },
        hint: 'The checkpoint is incomplete: download it again.',
      })
    }
    if (!this.#stored.views.has(name)) return found
    throw new AppError('unsupported', `${name} is quantised and a view of other tensors, which cannot be read`, {
      where: { file: found.file, tensor: name },
      hint: 'Use the safetensors files of the same model.',
    })
  }

  #bad(name: string, why: string, cause?: unknown): AppError {
    const found = this.#stored.tensors.get(name)
    return new AppError('bad-tensor', `${name} ${why}`, {
      where: { file: found?.file ?? this.#declared.file, tensor: name },
      hint: `It does not fit ${this.#declared.title}, as ${this.#declared.file} has it: get both from the same place.`,
      cause,
    })
  }
}

const GPTQ_NAMES = { codes: 'qweight', zeros: 'qzeros', scales: 'scales', groups: 'g_idx' }
const PACKED_NAMES = {
  codes: 'weight_packed',
  scales: 'weight_scale',
  zeros: 'weight_zero_point',
  groups: 'weight_g_idx',
}

function isCodes(dtype: DType): dtype is 'f8_e4m3' | 'f8_e5m2' | 'i8' {
  return dtype === 'f8_e4m3' || dtype === 'f8_e5m2' || dtype === 'i8'
}

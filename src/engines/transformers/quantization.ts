/** What `quantization_config` says of weights that a library for transformers has quantised. */
import { readFile, type Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, isObject, parseJsonObject, type Json, type JsonObject } from '../../core/json.ts'
import { CONFIG_FILE, OLD_QUANTIZATION_FILES, type ModelFiles } from './files.ts'
import { MAX_CONFIG_BYTES } from './outline.ts'

/** How groups of inputs share a scale: in so many, in one for all, or as the tensors' shapes say. */
export interface IntQuant {
  readonly bits: number
  /** Null: one group for all inputs. */
  readonly group: number | null
  readonly symmetric: boolean
}

export type Quantization =
  | (IntQuant & {
      readonly method: 'gptq'
      readonly actOrder: boolean
      /** As the config says it; sound files say 1 and hold 2. */
      readonly version: 1 | 2
      /** Whether modules may differ from it. */
      readonly dynamic: boolean
    })
  | { readonly method: 'awq'; readonly layout: 'gemm' | 'gemv'; readonly group: number | null }
  /** One entry for each of the config's groups of modules. */
  | { readonly method: 'compressed-tensors'; readonly format: string; readonly groups: readonly IntQuant[] }
  | { readonly method: 'fp8'; readonly block: readonly [number, number] | null }
  | { readonly method: 'mxfp4' }

/** A model's quantisation and the file that tells of it. */
export interface DeclaredQuantization {
  readonly file: string
  readonly quantization: Quantization
  /** For people: "GPTQ 4-bit, group 128, act-order". */
  readonly title: string
}

const CONFIG_KEYS: readonly string[] = ['quantization_config', 'compression_config']
const GPTQ_BITS: readonly number[] = [2, 3, 4, 8]
const PACKED_BITS: readonly number[] = [2, 4, 8]
const PACKED_FORMATS: ReadonlySet<string> = new Set([
  'pack-quantized',
  'int-quantized',
  'float-quantized',
  'naive-quantized',
  'mxfp4-pack-quantized',
])

/** The configuration without its quantisation, which describes how the model is stored and not what it is. */
export function withoutQuantization(config: JsonObject): JsonObject {
  return new Map([...config].filter(([key]) => !CONFIG_KEYS.includes(key)))
}

/** What a folder says of its weights' quantisation; null if nothing. Throws `unsupported` with the name of what it is. */
export async function readQuantization(folder: Folder, model: ModelFiles): Promise<DeclaredQuantization | null> {
  const path = model.root + CONFIG_FILE
  if (!model.hasConfig) return null
  const config = parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  for (const key of CONFIG_KEYS) {
    const json = config.get(key)
    // without a method it is MLX's
    if (isObject(json) && (json.has('quant_method') || json.has('format'))) return declared(json, path)
  }
  if (CONFIG_KEYS.some((key) => isObject(config.get(key))) || isObject(config.get('quantization'))) return null
  for (const name of OLD_QUANTIZATION_FILES) {
    if (!model.files.has(name)) continue
    const file = model.root + name
    const json = parseJsonObject(await readFile(folder, file, MAX_CONFIG_BYTES), file)
    return declared(new Map([['quant_method', json.has('w_bit') ? 'awq' : 'gptq'], ...json]), file)
  }
  return null
}

function declared(json: JsonObject, file: string): DeclaredQuantization {
  const quantization = parseQuantization(json, file)
  return { file, quantization, title: titleOf(quantization) }
}

/** Reads the object. Throws `unsupported` for what cannot be read, by name, and `malformed`. */
export function parseQuantization(json: JsonObject, file: string): Quantization {
  const method = json.get('quant_method') ?? 'compressed-tensors'
  switch (method) {
    case 'gptq':
      return parseGptq(json, file)
    case 'awq':
      return parseAwq(json, file)
    case 'compressed-tensors':
      return parseCompressed(json, file)
    case 'fp8':
    case 'fbgemm_fp8':
      return { method: 'fp8', block: parseBlock(json.get('weight_block_size') ?? null, file) }
    case 'mxfp4':
      return { method }
    default:
      throw unsupported(`weights quantised by ${shown(method)}`, file)
  }
}

function parseGptq(json: JsonObject, file: string): Quantization {
  const bits = requireOneOf(json.get('bits') ?? null, GPTQ_BITS, 'GPTQ of', 'bits', file)
  const format = json.get('checkpoint_format') ?? json.get('format') ?? 'gptq'
  if (format !== 'gptq' && format !== 'gptq_v2') throw unsupported(`GPTQ's layout ${shown(format)}`, file)
  if (json.get('is_marlin_format') === true) throw unsupported('GPTQ in the layout of Marlin', file)
  const word = json.get('pack_dtype') ?? 'int32'
  if (word !== 'int32') throw unsupported(`GPTQ packed in ${shown(word)}`, file)
  return {
    method: 'gptq',
    bits,
    group: parseGroup(json.get('group_size') ?? null, file),
    symmetric: json.get('sym') === true,
    actOrder: json.get('desc_act') === true,
    version: format === 'gptq' ? 1 : 2,
    dynamic: isObject(json.get('dynamic')),
  }
}

function parseAwq(json: JsonObject, file: string): Quantization {
  requireOneOf(json.get('bits') ?? json.get('w_bit') ?? null, [4], 'AWQ of', 'bits', file)
  const version = json.get('version') ?? 'gemm'
  const layout = typeof version === 'string' ? version.toLowerCase() : ''
  if (layout !== 'gemm' && layout !== 'gemv') throw unsupported(`AWQ's layout ${shown(version)}`, file)
  const group = parseGroup(json.get('group_size') ?? json.get('q_group_size') ?? null, file)
  return { method: 'awq', layout, group }
}

function parseCompressed(json: JsonObject, file: string): Quantization {
  const format = json.get('format')
  const groups = json.get('config_groups')
  const formats = new Set<Json>(format === 'mixed-precision' ? [] : [format ?? null])
  const quants: IntQuant[] = []
  for (const group of isObject(groups) ? groups.values() : []) {
    if (!isObject(group)) continue
    const own = group.get('format') ?? null
    if (own !== null) formats.add(own)
    const weights = group.get('weights')
    if (!isObject(weights)) continue
    const bits = requireOneOf(weights.get('num_bits') ?? null, PACKED_BITS, 'compressed-tensors of', 'bits', file)
    const strategy = weights.get('strategy')
    const size = strategy === 'channel' || strategy === 'tensor' ? null : (weights.get('group_size') ?? null)
    quants.push({ bits, group: parseGroup(size, file), symmetric: weights.get('symmetric') !== false })
  }
  for (const one of formats) {
    if (typeof one !== 'string' || !PACKED_FORMATS.has(one)) {
      throw unsupported(`compressed-tensors in the format ${shown(one)}`, file)
    }
  }
  if (json.get('sparsity_config') !== undefined && isSparse(json.get('sparsity_config'))) {
    throw unsupported('sparse compressed-tensors', file)
  }
  return { method: 'compressed-tensors', format: [...formats].join(' + '), groups: quants }
}

function isSparse(json: Json | undefined): boolean {
  if (!isObject(json)) return false
  const format = json.get('format') ?? 'dense'
  return format !== 'dense'
}

function parseBlock(json: Json, file: string): readonly [number, number] | null {
  if (json === null) return null
  const [rows, columns] = isArray(json) ? json : []
  if (isSize(rows) && isSize(columns)) return [rows, columns]
  throw malformed(`weight_block_size is ${shown(json)}`, file)
}

function parseGroup(json: Json, file: string): number | null {
  if (json === null || json === -1) return null
  if (isSize(json)) return json
  throw malformed(`group_size is ${shown(json)}`, file)
}

function isSize(json: Json | undefined): json is number {
  return typeof json === 'number' && Number.isSafeInteger(json) && json > 0
}

function requireOneOf(json: Json, known: readonly number[], before: string, after: string, file: string): number {
  if (typeof json === 'number' && known.includes(json)) return json
  throw unsupported(`${before} ${shown(json)} ${after} (${known.join(', ')} are known)`, file)
}

function unsupported(what: string, file: string): AppError {
  return new AppError('unsupported', `${file} says ${what}, which cannot be read`, {
    where: { file },
    hint: 'Use the model that it was quantised from.',
  })
}

function malformed(why: string, file: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file },
    hint: 'Get the config.json that the weights were published with.',
  })
}

function shown(json: Json): string {
  return typeof json === 'object' && json !== null ? 'an object' : JSON.stringify(json)
}

function groupTitle(group: number | null): string {
  return group === null ? 'one group a row' : `group ${group}`
}

/** For people. */
export function titleOf(quantization: Quantization): string {
  switch (quantization.method) {
    case 'gptq': {
      const { bits, group, actOrder, symmetric } = quantization
      return `GPTQ ${bits}-bit, ${groupTitle(group)}${symmetric ? '' : ', asymmetric'}${actOrder ? ', act-order' : ''}`
    }
    case 'awq':
      return `AWQ 4-bit (${quantization.layout.toUpperCase()}), ${groupTitle(quantization.group)}`
    case 'compressed-tensors': {
      const kinds = quantization.groups.map(({ bits, group }) => `${bits}-bit, ${groupTitle(group)}`)
      return `compressed-tensors ${quantization.format}${kinds.length === 0 ? '' : ` ${[...new Set(kinds)].join('; ')}`}`
    }
    case 'fp8':
      return quantization.block === null ? 'FP8' : `FP8 in blocks of ${quantization.block.join('x')}`
    case 'mxfp4':
      return 'MXFP4'
  }
}

/** Quantisation as mlx-lm's config.json says it: `quantization`, with keys for modules that differ. */
import { AppError } from '../../core/errors.ts'
import { isObject, type Json, type JsonObject } from '../../core/json.ts'
import type { GroupScheme } from '../../core/tensor.ts'

/** How one module is quantised. */
export interface MlxQuant {
  readonly mode: 'affine' | 'mxfp4' | 'mxfp8' | 'nvfp4'
  readonly bits: number
  readonly group: number
}

export const BITS: readonly number[] = [2, 3, 4, 5, 6, 8]
export const GROUPS: readonly number[] = [32, 64, 128]

/** The only widths and groups of the modes of small floats; for affine the defaults. */
export const MODES: Readonly<Record<MlxQuant['mode'], MlxQuant>> = {
  affine: { mode: 'affine', bits: 4, group: 64 },
  mxfp4: { mode: 'mxfp4', bits: 4, group: 32 },
  mxfp8: { mode: 'mxfp8', bits: 8, group: 32 },
  nvfp4: { mode: 'nvfp4', bits: 4, group: 16 },
}

/** The same as a scheme of recipes. */
export function schemeOf({ mode, bits, group }: MlxQuant): GroupScheme {
  return mode === 'affine' ? { kind: 'affine', bits, group } : { kind: mode }
}

/** Bytes of a quantised module's tensors: their names behind the module's path, and the scheme's fields. */
export const FIELDS: Readonly<Record<string, string>> = { codes: 'weight', scales: 'scales', biases: 'biases' }

/** A model's quantisation: for all modules, and for some by path, false where one is not quantised at all. */
export interface Quantization {
  readonly all: MlxQuant
  readonly modules: ReadonlyMap<string, MlxQuant | boolean>
}

/** Makes an error of why something cannot be. */
type Fail = (why: string) => AppError

/** Reads `quantization`. `fail` makes the error of what is wrong in it. */
export function parseQuantization(json: JsonObject, fail: Fail): Quantization {
  const all = parseQuant(json, 'the quantisation', fail)
  const modules = new Map<string, MlxQuant | boolean>()
  for (const [key, value] of json) {
    if (typeof value === 'boolean' && key.includes('.')) modules.set(key, value)
    else if (typeof value === 'boolean' && key === 'lm_head') modules.set(key, value)
    else if (isObject(value)) modules.set(key, parseQuant(value, key, fail))
  }
  return { all, modules }
}

function parseQuant(json: JsonObject, what: string, fail: Fail): MlxQuant {
  const mode = json.get('mode') ?? 'affine'
  if (typeof mode !== 'string' || !Object.hasOwn(MODES, mode)) {
    throw fail(`${what} has the mode ${shown(mode)}, which is none of ${Object.keys(MODES).join(', ')}`)
  }
  const known = MODES[mode as MlxQuant['mode']]
  const bits = json.get('bits') ?? known.bits
  const group = json.get('group_size') ?? known.group
  const goodBits = mode === 'affine' ? BITS : [known.bits]
  const goodGroups = mode === 'affine' ? GROUPS : [known.group]
  if (!goodBits.includes(Number(bits)))
    throw fail(`${what} has ${shown(bits)} bits; ${mode} has ${goodBits.join(', ')}`)
  if (!goodGroups.includes(Number(group))) {
    throw fail(`${what} has groups of ${shown(group)}; ${mode} has ${goodGroups.join(', ')}`)
  }
  return { mode: known.mode, bits: Number(bits), group: Number(group) }
}

function shown(value: Json): string {
  return typeof value === 'object' && value !== null ? 'an object' : JSON.stringify(value)
}

/** As config.json writes one module's. */
export function quantJson({ mode, bits, group }: MlxQuant): JsonObject {
  return new Map<string, Json>([
    ['group_size', group],
    ['bits', bits],
    ['mode', mode],
  ])
}

/** As config.json writes the whole. */
export function quantizationJson({ all, modules }: Quantization): JsonObject {
  const json = new Map<string, Json>(quantJson(all))
  for (const [path, quant] of modules) json.set(path, typeof quant === 'boolean' ? quant : quantJson(quant))
  return json
}

/** Whether two are the same. */
export function sameQuant(a: MlxQuant, b: MlxQuant): boolean {
  return a.mode === b.mode && a.bits === b.bits && a.group === b.group
}

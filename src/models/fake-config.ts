import { AppError } from '../core/errors.ts'
import { isArray, isObject, type Json, type JsonObject } from '../core/json.ts'
import type { FakeDistribution, FakeTensor, FakeWeights } from '../core/transform.ts'
import { DEFAULT_FAKE, FAKE_TYPES } from './fake.ts'

const DISTRIBUTIONS: readonly FakeDistribution[] = ['normal', 'uniform', 'zeros']
/** As tensors have them; products stay below 2^53 by the check of the recipe. */
const MAX_RANK = 8

/**
 * What `--fake-weight-config` says:
 * `{ "seed": 1, "dist": "normal", "std": 0.02, "dtype": "bf16", "tensors": { NAME: [SHAPE] or { "shape", "dist", "std",
 * "value" } } }`, every key optional. Throws `bad-option`, naming the key, for anything else.
 */
export function parseFakeConfig(json: Json, file: string): FakeWeights {
  const reader = new Reader(file)
  const object = reader.object(json, 'it', ['seed', 'dist', 'std', 'dtype', 'tensors'])
  const seed = object.get('seed') ?? DEFAULT_FAKE.seed
  if (typeof seed !== 'number') throw reader.bad('"seed" must be a whole number')
  const type = object.get('dtype') ?? null
  const dtype = FAKE_TYPES.find((known) => known === type) ?? null
  if (type !== null && dtype === null) throw reader.bad(`"dtype" must be one of ${FAKE_TYPES.join(', ')}`)
  const given = object.get('tensors')
  const tensors: [string, FakeTensor][] = []
  if (given !== undefined) {
    if (!isObject(given)) throw reader.bad('"tensors" must be an object of names')
    for (const [name, value] of given) tensors.push([name, reader.tensor(name, value)])
  }
  return {
    seed,
    distribution: reader.distribution(object, '') ?? DEFAULT_FAKE.distribution,
    std: reader.std(object, '') ?? null,
    dtype,
    tensors: Object.fromEntries(tensors),
  }
}

class Reader {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  object(json: Json, what: string, keys: readonly string[]): JsonObject {
    if (!isObject(json)) throw this.bad(`${what} must be an object`)
    for (const key of json.keys()) {
      if (!keys.includes(key)) throw this.bad(`${what} has the key ${JSON.stringify(key)}; it takes ${keys.join(', ')}`)
    }
    return json
  }

  tensor(name: string, value: Json): FakeTensor {
    if (isArray(value)) return { shape: this.shape(name, value) }
    const object = this.object(value, name, ['shape', 'dist', 'std', 'value'])
    const shape = object.get('shape')
    const distribution = this.distribution(object, `${name}: `)
    const std = this.std(object, `${name}: `)
    const constant = object.get('value')
    if (constant !== undefined && (typeof constant !== 'number' || !Number.isFinite(constant))) {
      throw this.bad(`${name}: "value" must be a number`)
    }
    return {
      ...(shape === undefined ? {} : { shape: this.shape(name, shape) }),
      ...(distribution === undefined ? {} : { distribution }),
      ...(std === undefined ? {} : { std }),
      ...(constant === undefined ? {} : { value: constant }),
    }
  }

  shape(name: string, value: Json): readonly number[] {
    const sizes = isArray(value) ? value : []
    const good = sizes.every((size): size is number => Number.isSafeInteger(size) && (size as number) > 0)
    if (!isArray(value) || !good || sizes.length === 0 || sizes.length > MAX_RANK) {
      throw this.bad(`${name}: a shape is a list of up to ${MAX_RANK} whole numbers above 0`)
    }
    return sizes
  }

  distribution(object: JsonObject, where: string): FakeDistribution | undefined {
    const value = object.get('dist')
    const known = DISTRIBUTIONS.find((one) => one === value)
    if (value !== undefined && known === undefined) {
      throw this.bad(`${where}"dist" must be one of ${DISTRIBUTIONS.join(', ')}`)
    }
    return known
  }

  std(object: JsonObject, where: string): number | undefined {
    const value = object.get('std')
    if (value === undefined) return undefined
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    throw this.bad(`${where}"std" must be a number above 0`)
  }

  bad(why: string): AppError {
    return new AppError('bad-option', `${this.#file}: ${why}`, {
      where: { file: this.#file },
      hint: 'For example: {"seed": 1, "dist": "normal", "std": 0.02, "tensors": {"lm_head.weight": {"value": 0}}}',
    })
  }
}

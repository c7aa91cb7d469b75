import { bytesOf, dtypeInfo, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { log } from '../../core/math.ts'
import type { Generation, Recipe } from '../../core/tensor.ts'
import { QUANTILES, type DrawType } from '../../kernels/backend.ts'
import { stackBytes, type Evaluator, type Run } from './node.ts'

/** Values are made in f32 and rounded to the recipe's type. */
export function generateEvaluator(recipe: Recipe & { op: 'generate' }): Evaluator {
  const { how, dtype } = recipe
  const drawn = drawType(dtype)
  /** Bytes of stack besides the values: a table, or the values in f32 where they are not drawn in their type. */
  const held = (count: number): number => {
    if (how.kind === 'constant') return 0
    const own = drawn === null ? stackBytes(count * 4) : 0
    return own + (how.kind === 'normal' ? stackBytes(bytesOf(drawn ?? 'f32', QUANTILES)) : 0)
  }
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: (_, count) => held(count),
    reads: () => 0,
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        if (how.kind === 'constant') {
          await fillConstant(how.value, dtype, into, run)
          return
        }
        const values = drawn === null ? run.stack.take(count * 4) : into
        await draw(how, drawn ?? 'f32', start, count, values, run)
        if (values !== into) await castGenerated(run, dtype, values, into, count)
      }),
  }
}

function drawType(dtype: DType): DrawType | null {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16' ? dtype : null
}

async function draw(
  how: Exclude<Generation, { kind: 'constant' }>,
  to: DrawType,
  start: number,
  count: number,
  into: Uint8Array,
  run: Run,
): Promise<void> {
  const { seed } = how
  const kernel = run.draw({ kind: 'draw', how: how.kind, to })
  if (how.kind === 'uniform') {
    const { bad } = await kernel.run({ seed, start, from: how }, into, count, run.signal)
    requireFitting(bad, to)
    return
  }
  const known = await normalTable(how.std, to, run)
  // where kernels read it in place
  const table = run.stack.take(known.length)
  table.set(known)
  await kernel.run({ seed, start, from: { table } }, into, count, run.signal)
}

/** One element is cast, and repeated. */
async function fillConstant(value: number, dtype: DType, into: Uint8Array, run: Run): Promise<void> {
  // zero is all bits zero in every type
  if (Object.is(value, 0)) {
    into.fill(0)
    return
  }
  const { bytes } = dtypeInfo(dtype)
  const one = new Uint8Array(bytes)
  await castGenerated(run, dtype, new Uint8Array(Float32Array.of(value).buffer), one, 1)
  const piece = into.subarray(0, Math.min(into.length, PATTERN_BYTES))
  for (let at = 0; at < piece.length; at += bytes) piece.set(one, at)
  for (let at = piece.length; at < into.length; at += piece.length) {
    into.set(piece.subarray(0, into.length - at), at)
  }
}

/** Copied over and over: small enough for the cache, and whole elements of every type. */
const PATTERN_BYTES = 1 << 12

async function castGenerated(run: Run, to: DType, from: Uint8Array, into: Uint8Array, count: number): Promise<void> {
  if (to === 'f32') into.set(from)
  else requireFitting((await run.kernel({ kind: 'cast', from: 'f32', to }).run(from, into, count, run.signal)).bad, to)
}

function requireFitting(bad: number | null, type: DType): void {
  if (bad !== null) throw new AppError('bad-weights', `A generated value does not fit ${type}`)
}

/** Tables kept: a model has two deviations, each of 256 KiB at most. */
const MAX_TABLES = 4
const tables = new Map<string, Promise<Uint8Array>>()

/** The quantiles times `std`, rounded to f32, then to the type. */
function normalTable(std: number, dtype: DrawType, run: Run): Promise<Uint8Array> {
  const key = `${dtype} ${std}`
  const known = tables.get(key)
  if (known !== undefined) return known
  const made = makeTable(std, dtype, run)
  made.catch(() => tables.delete(key))
  const [oldest] = tables.keys()
  if (tables.size >= MAX_TABLES && oldest !== undefined) tables.delete(oldest)
  tables.set(key, made)
  return made
}

async function makeTable(std: number, dtype: DrawType, run: Run): Promise<Uint8Array> {
  unit ??= unitQuantiles()
  const values = unit.map((value) => value * std)
  const bytes = new Uint8Array(values.buffer)
  if (dtype === 'f32') return bytes
  const table = new Uint8Array(bytesOf(dtype, QUANTILES))
  await castGenerated(run, dtype, bytes, table, QUANTILES)
  return table
}

/** The middle of each quantile of N(0, 1): the upper half first, then its negative. */
let unit: Float64Array | Float32Array | null = null

function unitQuantiles(): Float32Array {
  const values = new Float32Array(QUANTILES)
  const half = QUANTILES / 2
  for (let k = 0; k < half; k++) {
    const value = Math.fround(normalQuantile((k + 0.5) / QUANTILES))
    values[k] = value
    values[k + half] = -value
  }
  return values
}

/** Wichura's AS 241 (1988), for a probability of 1/2 + q with q from 0 up to 1/2 - e^-25: to 16 digits. */
export function normalQuantile(q: number): number {
  if (q <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q)
  return ratio(TAIL, Math.sqrt(-log(0.5 - q)) - 1.6)
}

function ratio([over, under]: readonly [readonly number[], readonly number[]], r: number): number {
  return horner(over, r) / horner(under, r)
}

/** Coefficients from the highest power down. */
function horner(coefficients: readonly number[], r: number): number {
  return coefficients.reduce((sum, coefficient) => sum * r + coefficient, 0)
}

const CENTRE = [
  [
    2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946, 1971.5909503065513,
    133.14166789178438, 3.3871328727963665,
  ],
  [
    5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751, 687.1870074920579,
    42.31333070160091, 1,
  ],
] as const
const TAIL = [
  [
    0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045,
    5.769497221460691, 4.630337846156546, 1.4234371107496835,
  ],
  [
    1.0507500716444169e-9, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008, 0.6897673349851,
    1.6763848301838038, 2.053191626637759, 1,
  ],
] as const

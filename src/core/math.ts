/**
 * Elementary functions with the same bits everywhere.
 *
 * `Math.exp`, `log` and `pow` may differ in the last bit from one engine to the next; where the bytes of an output
 * depend on them, these are used instead. They are made of + - * / alone, which IEEE 754 defines to the bit, in
 * double-double arithmetic (two doubles whose sum is the value, about 106 bits), and rounded once at the end: the
 * result is the double nearest to the true value but for about one argument in 2^40. Dekker's and Knuth's error-free
 * transformations: T. J. Dekker, "A floating-point technique for extending the available precision" (1971).
 */

/** A value as an unevaluated sum, `|lo| <= ulp(hi) / 2`. */
interface Double2 {
  readonly hi: number
  readonly lo: number
}

/** Splits a double into two of 26 bits each. */
const SPLITTER = 2 ** 27 + 1

function quickTwoSum(a: number, b: number): Double2 {
  const hi = a + b
  return { hi, lo: b - (hi - a) }
}

function twoSum(a: number, b: number): Double2 {
  const hi = a + b
  const back = hi - a
  return { hi, lo: a - (hi - back) + (b - back) }
}

function split(a: number): Double2 {
  const scaled = SPLITTER * a
  const hi = scaled - (scaled - a)
  return { hi, lo: a - hi }
}

function twoProduct(a: number, b: number): Double2 {
  const hi = a * b
  const x = split(a)
  const y = split(b)
  return { hi, lo: x.hi * y.hi - hi + x.hi * y.lo + x.lo * y.hi + x.lo * y.lo }
}

function add(a: Double2, b: Double2): Double2 {
  const high = twoSum(a.hi, b.hi)
  const low = twoSum(a.lo, b.lo)
  const sum = quickTwoSum(high.hi, high.lo + low.hi)
  return quickTwoSum(sum.hi, sum.lo + low.lo)
}

function multiply(a: Double2, b: Double2): Double2 {
  const { hi, lo } = twoProduct(a.hi, b.hi)
  return quickTwoSum(hi, lo + (a.hi * b.lo + a.lo * b.hi))
}

function scale(a: Double2, by: number): Double2 {
  return multiply(a, { hi: by, lo: 0 })
}

function divide(a: Double2, b: Double2): Double2 {
  const first = a.hi / b.hi
  const rest = add(a, scale(b, -first))
  const second = rest.hi / b.hi
  const last = add(rest, scale(b, -second))
  return add(quickTwoSum(first, second), { hi: last.hi / b.hi, lo: 0 })
}

const ONE: Double2 = { hi: 1, lo: 0 }

/** ln 2 to 106 bits: 0.693147180559945309417232121458176568. */
const LN2: Double2 = { hi: Math.LN2, lo: 2.3190468138462996e-17 }

/** Terms of the series below after which nothing reaches bit 106. */
const LOG_TERMS = 22
const EXP_TERMS = 28

const bits = new DataView(new ArrayBuffer(8))

/** A positive finite double as `m * 2^e` with m from 0.75 up to 1.5. */
function decompose(x: number): { m: number; e: number } {
  let e = 0
  let value = x
  if (value < 2 ** -1022) {
    value *= 2 ** 54
    e = -54
  }
  bits.setFloat64(0, value)
  const high = bits.getUint32(0)
  e += (high >>> 20) - 1023
  bits.setUint32(0, (high & 0x000f_ffff) | 0x3ff0_0000)
  const m = bits.getFloat64(0)
  return m >= 1.5 ? { m: m / 2, e: e + 1 } : { m, e }
}

/** `2^e * x` for any integer e: in two steps, so that neither factor leaves the range of doubles. */
function scaleByPower(x: number, e: number): number {
  const half = Math.trunc(e / 2)
  return x * 2 ** half * 2 ** (e - half)
}

/** ln x for positive finite x: ln(m) = 2 artanh((m - 1) / (m + 1)) by its odd series. */
function logDouble2(x: number): Double2 {
  const { m, e } = decompose(x)
  const s = divide({ hi: m - 1, lo: 0 }, twoSum(m, 1))
  const square = multiply(s, s)
  let sum: Double2 = { hi: 0, lo: 0 }
  for (let k = LOG_TERMS; k >= 0; k--) sum = add(multiply(sum, square), divide(ONE, { hi: 2 * k + 1, lo: 0 }))
  return add(scale(LN2, e), scale(multiply(sum, s), 2))
}

/** e^x: Taylor's series after taking out multiples of ln 2. */
function expDouble2(x: Double2): number {
  if (Number.isNaN(x.hi)) return Number.NaN
  if (x.hi > 710) return Number.POSITIVE_INFINITY
  if (x.hi < -746) return 0
  const e = Math.floor(x.hi / LN2.hi + 0.5)
  const r = add(x, scale(LN2, -e))
  let sum = ONE
  for (let k = EXP_TERMS; k >= 1; k--) sum = add(ONE, multiply(sum, divide(r, { hi: k, lo: 0 })))
  return scaleByPower(sum.hi, e)
}

/** e to the x, as `Math.exp`; subnormal results may be rounded twice. */
export function exp(x: number): number {
  return expDouble2({ hi: x, lo: 0 })
}

/** The natural logarithm, as `Math.log`. */
export function log(x: number): number {
  if (Number.isNaN(x) || x < 0) return Number.NaN
  if (x === 0) return Number.NEGATIVE_INFINITY
  if (x === Number.POSITIVE_INFINITY) return x
  return logDouble2(x).hi
}

/** x to the y, as `Math.pow`, for x >= 0; NaN for negative x, whatever y. */
export function pow(x: number, y: number): number {
  if (Number.isNaN(x) || Number.isNaN(y) || x < 0) return Number.NaN
  if (y === 0 || x === 1) return x === 1 && !Number.isFinite(y) ? Number.NaN : 1
  if (x === 0) return y > 0 ? 0 : Number.POSITIVE_INFINITY
  if (x === Number.POSITIVE_INFINITY) return y > 0 ? x : 0
  if (!Number.isFinite(y)) return x > 1 === y > 0 ? Number.POSITIVE_INFINITY : 0
  // beyond this the result is 0 or infinite for every x, and the product below would overflow
  if (Math.abs(y) > 2 ** 64) return x > 1 === y > 0 ? Number.POSITIVE_INFINITY : 0
  return expDouble2(scale(logDouble2(x), y))
}

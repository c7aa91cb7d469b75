import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { exp, log, pow } from '../../src/core/math.ts'

const view = new DataView(new ArrayBuffer(16))

/** How many doubles lie between two of the same sign. */
function ulps(a: number, b: number): number {
  if (Object.is(a, b)) return 0
  view.setFloat64(0, a)
  view.setFloat64(8, b)
  return Math.abs(Number(view.getBigInt64(0) - view.getBigInt64(8)))
}

/** V8's own functions are within one ulp of the truth, ours within half of one. */
const NEAR = 1

describe('deterministic elementary functions', () => {
  const positive = fc.double({ min: Number.MIN_VALUE, max: Number.MAX_VALUE, noNaN: true })

  test('exp is Math.exp to an ulp', () => {
    fc.assert(
      fc.property(fc.double({ min: -700, max: 709, noNaN: true }), (x) => ulps(exp(x), Math.exp(x)) <= NEAR),
      { numRuns: 2000 },
    )
  })

  test('log is Math.log to an ulp, subnormal arguments included', () => {
    fc.assert(
      fc.property(positive, (x) => ulps(log(x), Math.log(x)) <= NEAR),
      { numRuns: 2000 },
    )
  })

  test('pow is Math.pow to an ulp', () => {
    const exponent = fc.double({ min: -30, max: 30, noNaN: true })
    fc.assert(
      fc.property(fc.double({ min: 1e-9, max: 1e9, noNaN: true }), exponent, (x, y) => {
        const expected = Math.pow(x, y)
        // results near the subnormals may be rounded twice
        return Math.abs(expected) < 1e-300 || ulps(pow(x, y), expected) <= NEAR
      }),
      { numRuns: 2000 },
    )
  })

  test('whole powers that a double holds exactly are exact', () => {
    for (let y = 0; y <= 22; y++) expect(pow(10, y)).toBe(Number(`1e${y}`))
    for (let y = -1022; y <= 1023; y++) expect(pow(2, y)).toBe(2 ** y)
    for (let x = 1; x < 2000; x++) expect(pow(x * x, 0.5)).toBe(x)
  })

  // the true values, to more digits than a double has
  test.each([
    ['e', exp(1), Math.E],
    ['e^-1', exp(-1), 0.36787944117144233],
    ['e^10', exp(10), 22026.465794806718],
    ['ln 10', log(10), Math.LN10],
    ['ln 2', log(2), Math.LN2],
    ['ln 0.1', log(0.1), -2.3025850929940455],
    ['ln of the next double after 1', log(1 + 2 ** -52), 2.2204460492503128e-16],
    ['sqrt 2', pow(2, 0.5), Math.SQRT2],
    ['500000^(1/8)', pow(500_000, 0.125), 5.156692688606229],
    ['10000^(-63/64)', pow(10_000, -63 / 64), 0.00011547819846894582],
  ])('golden bits: %s', (_, found, expected) => {
    expect(found).toBe(expected)
  })

  test('the edges are those of IEEE 754', () => {
    expect(exp(0)).toBe(1)
    expect(exp(710)).toBe(Number.POSITIVE_INFINITY)
    expect(exp(-750)).toBe(0)
    expect(exp(Number.NEGATIVE_INFINITY)).toBe(0)
    expect(exp(Number.NaN)).toBeNaN()
    expect(log(0)).toBe(Number.NEGATIVE_INFINITY)
    expect(log(1)).toBe(0)
    expect(log(-1)).toBeNaN()
    expect(log(Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY)
    expect(pow(0, 2)).toBe(0)
    expect(pow(0, -2)).toBe(Number.POSITIVE_INFINITY)
    expect(pow(3, 0)).toBe(1)
    expect(pow(0, 0)).toBe(1)
    expect(pow(2, 2000)).toBe(Number.POSITIVE_INFINITY)
    expect(pow(2, -2000)).toBe(0)
    expect(pow(0.5, Number.POSITIVE_INFINITY)).toBe(0)
    expect(pow(1, Number.POSITIVE_INFINITY)).toBeNaN()
    expect(pow(-1, 2)).toBeNaN()
    expect(pow(2, Number.NaN)).toBeNaN()
  })
})

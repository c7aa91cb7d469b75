/** An f32 has nine significant decimals at most. */
const F32_DIGITS = 9

/** Of the decimals near `value` for which `fits` holds, the shortest; `value` itself if it holds for none of them. */
export function shortestWhere(value: number, fits: (decimal: number) => boolean): number {
  for (let digits = 1; digits <= F32_DIGITS; digits++) {
    const decimal = Number(value.toPrecision(digits))
    if (fits(decimal)) return decimal
  }
  return value
}

/** The shortest decimal that rounds to the same f32 as `value`: what was 1e-5 before it became a float is so again. */
export function shortestF32(value: number): number {
  return Number.isFinite(value) ? shortestWhere(value, (decimal) => Math.fround(decimal) === Math.fround(value)) : value
}

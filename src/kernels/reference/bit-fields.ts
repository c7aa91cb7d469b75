/** Field `index` of `bits` bits in a little endian stream of words that starts at `base`, each `step` words apart. */
export function bitField(words: Uint32Array, base: number, step: number, index: number, bits: number): number {
  const bit = index * bits
  const shift = bit & 31
  const at = base + (bit >>> 5) * step
  let field = (words[at] as number) >>> shift
  if (shift + bits > 32) field |= (words[at + step] as number) << (32 - shift)
  return field & (2 ** bits - 1)
}

/** How the types with blocks of 32 pack codes of four and five bits. */

/** Value i in the low and value i + 16 in the high half of byte i; `at` is the first byte. */
export function writeCodes4(codes: Uint8Array, out: DataView, at: number): void {
  for (let i = 0; i < 16; i++) out.setUint8(at + i, ((codes[i] ?? 0) & 15) | (((codes[i + 16] ?? 0) & 15) << 4))
}

/** Four bytes with the fifth bits, then the others as above. */
export function writeCodes5(codes: Uint8Array, out: DataView, at: number): void {
  let fifths = 0
  codes.forEach((code, i) => {
    fifths |= (code >> 4) << i
  })
  out.setUint32(at, fifths >>> 0, true)
  writeCodes4(codes, out, at + 4)
}

/** The codes of four bits from `at` on. */
export function readCodes4(block: DataView, at: number): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, i) => (block.getUint8(at + (i & 15)) >> (i < 16 ? 0 : 4)) & 15)
}

/** The codes of five bits from `at` on. */
export function readCodes5(block: DataView, at: number): Uint8Array {
  const fifths = block.getUint32(at, true)
  return readCodes4(block, at + 4).map((code, i) => code | (((fifths >>> i) & 1) << 4))
}

/*
 * What the kernels share for quantisations whose codes, scales and zeros are tensors of their own. They are told the whole
 * of each part and which rows to do, [first, end); a result is the index of the first bad value from row `first` on, or -1.
 */
#pragma once
#include "half.h"

typedef uint64_t l2 __attribute__((vector_size(16)));

#define UNSUPPORTED -2
/* Elements of f32 scratch on the stack: 8 KiB. */
#define CHUNK 2048

/* The lowest `n` of every `of` bits. */
#define LOW(n, of) ((of) == 64 ? (1ull << (n)) - 1 : (~0ull / ((1ull << ((of) & 63)) - 1)) * ((1ull << (n)) - 1))

/* In each half, eight codes in bytes of their own are moved together into the lowest `bits` bytes. */
INLINE l2 pack8(l2 x, const int bits) {
  if (bits == 8) return x;
  x = (x & LOW(bits, 16)) | (x >> (8 - bits) & LOW(bits, 16) << bits);
  x = (x & LOW(2 * bits, 32)) | (x >> (16 - 2 * bits) & LOW(2 * bits, 32) << (2 * bits));
  return (x & LOW(4 * bits, 64)) | (x >> (32 - 4 * bits) & LOW(4 * bits, 64) << (4 * bits));
}

INLINE l2 unpack8(l2 x, const int bits) {
  if (bits == 8) return x;
  x = (x & LOW(4 * bits, 64)) | (x << (32 - 4 * bits) & LOW(4 * bits, 64) << 32);
  x = (x & LOW(2 * bits, 32)) | (x << (16 - 2 * bits) & LOW(2 * bits, 32) << 16);
  return (x & LOW(bits, 16)) | (x << (8 - bits) & LOW(bits, 16) << 8);
}

/* Sixteen codes of a little endian stream, in bytes. Touches no byte that is not theirs. */
INLINE void store16(uint8_t *out, c16 codes, const int bits) {
  if (bits == 4) {
    h8 pairs = ((h8)codes | (h8)codes >> 4) & 0xff;
    uint64_t all = ((l2)narrow_u8(pairs, pairs))[0];
    __builtin_memcpy(out, &all, 8);
    return;
  }
  l2 packed = pack8((l2)codes, bits);
  uint64_t low = packed[0], high = packed[1];
  __builtin_memcpy(out, &low, bits);
  __builtin_memcpy(out + bits, &high, bits);
}

INLINE c16 load16(const uint8_t *in, const int bits) {
  if (bits == 4) {
    uint64_t all;
    __builtin_memcpy(&all, in, 8);
    c16 pairs = (c16)(l2){all, all}, low = pairs & 15, high = pairs >> 4;
    return __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  uint64_t low = 0, high = 0;
  __builtin_memcpy(&low, in, bits);
  __builtin_memcpy(&high, in + bits, bits);
  return (c16)unpack8((l2){low, high}, bits);
}

/* Sixteen bytes as integers. */
INLINE void widen16(c16 v, i4 *a, i4 *b, i4 *c, i4 *d) {
  h8 low = widen_low_u8(v), high = widen_high_u8(v);
  *a = (i4)widen_low(low), *b = (i4)widen_high(low), *c = (i4)widen_low(high), *d = (i4)widen_high(high);
}

#define floats4(v) __builtin_convertvector(v, f4)

/* E4M3 without a NaN: the codes that the format calls so are 480. */
INLINE f4 decode_e4m3(u4 code) {
  u4 a = (code & 0x7fu) << 20;
  u4 normal = a + (120u << 23);
  /* A subnormal one put behind the exponent of 2^-6, less that 2^-6. */
  u4 tiny = (u4)((f4)(a + (121u << 23)) - float_of(121u << 23));
  u4 is_tiny = (u4)(a < (8u << 20));
  return (f4)((code & 0x80u) << 24 | (tiny & is_tiny) | (normal & ~is_tiny));
}

/* Scales and biases of magnitudes below this give finite values with all codes; NaN and Inf are above. */
#define LARGE 0x70000000u
INLINE int is_large(float scale) { return (bits_of(scale) & 0x7fffffffu) >= LARGE; }
INLINE int any_large4(f4 scales) { return any4((i4)(((u4)scales & 0x7fffffffu) >= LARGE)); }

/* Copies a row of a tile, a multiple of four values; not by memory.copy, which for V8 is a call. */
INLINE void copy_row(float *to, const float *from, int n) {
  for (int i = 0; i < n; i += 4) store4(opaque(to + i), load4(from + i));
}

/* Calls `kernel` with `bits` as a constant. */
#define WITH_BITS(bits, kernel, ...)           \
  switch (bits) {                              \
    case 2: return kernel(__VA_ARGS__, 2);     \
    case 3: return kernel(__VA_ARGS__, 3);     \
    case 4: return kernel(__VA_ARGS__, 4);     \
    case 5: return kernel(__VA_ARGS__, 5);     \
    case 6: return kernel(__VA_ARGS__, 6);     \
    case 8: return kernel(__VA_ARGS__, 8);     \
    default: return UNSUPPORTED;               \
  }

/* f16 and bf16, four at a time and one at a time. All round half to even. */
#pragma once
#include "simd.h"

/* What an f32's magnitude must stay below to be finite as f32, f16 (65520 rounds to Inf) and bf16. */
#define LIMIT_F32 0x7f800000u
#define LIMIT_F16 0x477ff000u
#define LIMIT_BF16 0x7f7f8000u

/* Four floats to halves in the low 16 bits of each lane. |v| >= 65520 gives at least 0x7c00; NaN gives nonsense. */
INLINE u4 f16_bits4(f4 v) {
  u4 a = (u4)v & opaque(splatu(0x7fffffffu));
  u4 sign = ((u4)v >> 16) & 0x8000u;
  u4 normal = (a + 0xfffu + ((a >> 13) & 1u) - (112u << 23)) >> 13;
  /* Below 2^-14: added to 0.5, whose last bit is worth 2^-24, the sum rounds to the subnormal half. */
  u4 tiny = (u4)((f4)a + 0.5f) - 0x3f000000u;
  u4 is_tiny = (u4)((i4)a < 0x38800000);
  return sign | (tiny & is_tiny) | (normal & ~is_tiny);
}

/* Four halves, one in each lane, to floats. Inf and NaN give finite nonsense of 65536 or more. */
INLINE f4 f16_floats4(u4 h) {
  u4 sign = (h & 0x8000u) << 16;
  u4 a = (h & 0x7fffu) << 13;
  u4 normal = a + (112u << 23);
  /* A subnormal half put behind the exponent of 2^-14, less that 2^-14: no subnormal operand. */
  u4 tiny = (u4)((f4)(a + (113u << 23)) - float_of(113u << 23));
  u4 is_tiny = (u4)((i4)a < (0x400 << 13));
  return (f4)(sign | (tiny & is_tiny) | (normal & ~is_tiny));
}

INLINE u4 bf16_bits4(f4 v) { return ((u4)v + 0x7fffu + (((u4)v >> 16) & 1u)) >> 16; }

INLINE uint16_t f16_bits(float v) { return (uint16_t)f16_bits4(splat4(v))[0]; }
INLINE float f16_float(uint16_t h) {
  /* Scales may be Inf or NaN, so unlike above these stay what they are. */
  if ((h & 0x7c00) == 0x7c00) return float_of(((uint32_t)(h & 0x8000) << 16) | 0x7f800000u | ((uint32_t)(h & 0x3ff) << 13));
  return f16_floats4(splatu(h))[0];
}
/* Whether a scale is finite as f16; only then do f16_bits4 and f16_bits give it. */
INLINE int fits_f16(float v) { return (bits_of(v) & 0x7fffffffu) < LIMIT_F16; }
INLINE int f16_finite(uint16_t h) { return (h & 0x7c00) != 0x7c00; }

INLINE h8 low_halves(u4 a, u4 b) { return narrow_u16(a & 0xffffu, b & 0xffffu); }
INLINE u4 widen_low(h8 h) { return __builtin_convertvector(__builtin_shufflevector(h, h, 0, 1, 2, 3), u4); }
INLINE u4 widen_high(h8 h) { return __builtin_convertvector(__builtin_shufflevector(h, h, 4, 5, 6, 7), u4); }
INLINE h8 widen_low_u8(c16 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), h8); }
INLINE h8 widen_high_u8(c16 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), h8); }

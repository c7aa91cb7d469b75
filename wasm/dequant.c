/* Blocks back to f32. A block whose scale is Inf or NaN has no finite value, not even 0 * d: its first element is to blame. */
#include "grids.h"
#include "half.h"
#include "kernels.h"

typedef float any_float __attribute__((aligned(1), may_alias));

/* Sixteen bytes times a scale, plus a minimum if there is one. */
INLINE void sixteen(b16 v, float d, const int has_min, float min, any_float *y) {
  s8 halves[2] = {__builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), s8),
                  __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), s8)};
#pragma clang loop unroll(full)
  for (int i = 0; i < 2; i++, y += 8) {
    i4 a = __builtin_convertvector(__builtin_shufflevector(halves[i], halves[i], 0, 1, 2, 3), i4);
    i4 b = __builtin_convertvector(__builtin_shufflevector(halves[i], halves[i], 4, 5, 6, 7), i4);
    f4 low = __builtin_convertvector(a, f4) * d, high = __builtin_convertvector(b, f4) * d;
    store4(y, has_min ? low + min : low);
    store4(y + 4, has_min ? high + min : high);
  }
}
INLINE void scaled16(b16 v, float d, any_float *y) { sixteen(v, d, 0, 0, y); }
INLINE void affine16(c16 v, float d, float min, any_float *y) { sixteen((b16)v, d, 1, min, y); }

INLINE c16 bytes16(const uint8_t *p) { return *(const c16_any *)p; }
/* Bits of bytes moved down, as pairs of bytes: those of the neighbour come in from above. */
INLINE c16 moved_down(const uint8_t *p, int by) { return (c16)((h8)bytes16(p) >> (uint16_t)by); }
/* The low and the high half of each byte. */
INLINE c16 low4(const uint8_t *p) { return bytes16(p) & 15; }
INLINE c16 high4(const uint8_t *p) { return moved_down(p, 4) & 15; }
/* 16 in each byte whose bit is set. */
INLINE c16 fifth_bits(const uint8_t *p) {
  const uint64_t each = 0x0101010101010101ull;
  uint64_t pair[2] = {p[0] * each, p[1] * each};
  c16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return (c16)((bytes16((const uint8_t *)pair) & bit) != 0) & 16;
}

static void q8_0(const uint8_t *p, float d, any_float *y) {
  scaled16((b16)bytes16(p + 2), d, y), scaled16((b16)bytes16(p + 18), d, y + 16);
}

static void q4_0(const uint8_t *p, float d, any_float *y) {
  scaled16((b16)(low4(p + 2) - 8), d, y), scaled16((b16)(high4(p + 2) - 8), d, y + 16);
}

static void q5_0(const uint8_t *p, float d, any_float *y) {
  scaled16((b16)((low4(p + 6) | fifth_bits(p + 2)) - 16), d, y);
  scaled16((b16)((high4(p + 6) | fifth_bits(p + 4)) - 16), d, y + 16);
}

static void q4_1(const uint8_t *p, float d, float m, any_float *y) {
  affine16(low4(p + 4), d, m, y), affine16(high4(p + 4), d, m, y + 16);
}

static void q5_1(const uint8_t *p, float d, float m, any_float *y) {
  affine16(low4(p + 8) | fifth_bits(p + 4), d, m, y), affine16(high4(p + 8) | fifth_bits(p + 6), d, m, y + 16);
}

static void q2_k(const uint8_t *p, float d, float dmin, any_float *y) {
  for (int j = 0; j < 16; j++, y += 16) {
    const uint8_t *codes = p + 16 + (j >> 3) * 32 + (j & 1) * 16;
    affine16(moved_down(codes, j & 6) & 3, d * (float)(p[j] & 15), -(dmin * (float)(p[j] >> 4)), y);
  }
}

static void q3_k(const uint8_t *p, float d, any_float *y) {
  const uint8_t *s = p + 96;
  for (int j = 0; j < 16; j++, y += 16) {
    int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + (j & 3)] >> (j >> 2) * 2 & 3;
    float scale = d * (float)((low | high << 4) - 32);
    const uint8_t *codes = p + 32 + (j >> 3) * 32 + (j & 1) * 16, *highs = p + (j & 1) * 16;
    int shift = j & 6, bit = j >> 1;
    c16 fourth = (c16)((h8)(moved_down(highs, bit) & 1) << 2);
    scaled16((b16)((moved_down(codes, shift) & 3) + fourth - 4), scale, y);
  }
}

/* Q4_K and Q5_K. */
INLINE void q45_k(const uint8_t *p, float d, float dmin, any_float *y, const int bits) {
  const uint8_t *s = p + 4, *q = p + (bits == 4 ? 16 : 48), *highs = p + 16;
  for (int j = 0; j < 8; j++, y += 32) {
    int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    float scale = d * (float)sc, min = dmin * (float)m;
    int shift = (j & 1) * 4;
    const uint8_t *codes = q + (j >> 1) * 32;
    for (int i = 0; i < 32; i += 16) {
      c16 code = moved_down(codes + i, shift) & 15;
      if (bits == 5) code |= (c16)((h8)(moved_down(highs + i, j) & 1) << 4);
      affine16(code, scale, -min, y + i);
    }
  }
}

static void q4_k(const uint8_t *p, float d, float dmin, any_float *y) { q45_k(p, d, dmin, y, 4); }
static void q5_k(const uint8_t *p, float d, float dmin, any_float *y) { q45_k(p, d, dmin, y, 5); }

static void q6_k(const uint8_t *p, float d, any_float *y) {
  const int8_t *scales = (const int8_t *)p + 192;
  for (int half = 0; half < 2; half++) {
    for (int quarter = 0; quarter < 4; quarter++, y += 32) {
      const uint8_t *low = p + half * 64 + (quarter & 1) * 32, *high = p + 128 + half * 32;
      int low_shift = (quarter >> 1) * 4, high_shift = quarter * 2;
      for (int part = 0; part < 32; part += 16) {
        float scale = d * (float)scales[half * 8 + quarter * 2 + part / 16];
        c16 top = (c16)((h8)(moved_down(high + part, high_shift) & 3) << 4);
        scaled16((b16)(((moved_down(low + part, low_shift) & 15) | top) - 32), scale, y + part);
      }
    }
  }
}

#define IQ4_VALUES ((b16){-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113})
#define FP4_VALUES ((b16){0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12})

/* 32 values that four-bit codes name in a table. */
INLINE void named(const uint8_t *codes, b16 table, float d, any_float *y) {
  scaled16((b16)wasm_i8x16_swizzle((v128_t)table, (v128_t)low4(codes)), d, y);
  scaled16((b16)wasm_i8x16_swizzle((v128_t)table, (v128_t)high4(codes)), d, y + 16);
}

static void iq4_nl(const uint8_t *p, float d, any_float *y) { named(p + 2, IQ4_VALUES, d, y); }

static void iq4_xs(const uint8_t *p, float d, any_float *y) {
  unsigned high = *(const u16_any *)(p + 2), low = *(const u32_any *)(p + 4);
  for (int j = 0; j < 8; j++)
    named(p + 8 + j * 16, IQ4_VALUES, d * (float)((int)((low >> (4 * j) & 15) | (high >> (2 * j) & 3) << 4) - 32), y + j * 32);
}

/* Of the exponents two are so large that a value may overflow. */
static int mxfp4(const uint8_t *in, any_float *y, int n) {
  for (int i = 0; i < n; i += 32, in += 17, y += 32) {
    float d = float_of(in[0] < 2 ? 0x00200000u << in[0] : (uint32_t)(in[0] - 1) << 23);
    named(in + 1, FP4_VALUES, d, y);
    if (in[0] < 252) continue;
    for (int j = 0; j < 32; j++)
      if (!is_finite(y[j])) return i + j;
  }
  return -1;
}

/* `count` bytes of `digits` base-3 digits each, digit k of byte i being y[i + k * count]. */
INLINE void unpack3(const uint8_t *p, float d, any_float *y, const int count, const int digits) {
  for (int k = 0, power = 1; k < digits; k++, power *= 3)
    for (int i = 0; i < count; i++) y[k * count + i] = (float)((int)((uint8_t)(p[i] * power) * 3 >> 8) - 1) * d;
}

static void tq1_0(const uint8_t *p, float d, any_float *y) {
  unpack3(p, d, y, 32, 5);
  unpack3(p + 32, d, y + 160, 16, 5);
  unpack3(p + 48, d, y + 240, 4, 4);
}

static void tq2_0(const uint8_t *p, float d, any_float *y) {
  for (int i = 0; i < 256; i += 16)
    scaled16((b16)((moved_down(p + (i >> 7) * 32 + (i & 31), (i >> 5 & 3) * 2) & 3) - 1), d, y + i);
}

static void q1_0(const uint8_t *p, float d, any_float *y) {
  for (int i = 0; i < 128; i += 4) {
    i4 minus = (i4)(splatu(p[2 + (i >> 3)] >> (i & 4)) & (u4){1, 2, 4, 8}) == 0;
    store4(y + i, (f4)((u4)splat4(d) ^ ((u4)minus & 0x80000000u)));
  }
}

static void q2_0(const uint8_t *p, float d, any_float *y) {
  for (int i = 0; i < 64; i++) y[i] = (float)((p[2 + (i >> 2)] >> (i & 3) * 2 & 3) - 1) * d;
}

static int all_iq1_m(const uint8_t *in, float *y, int n) {
  for (int i = 0; i < n; i += 256, in += 56, y += 256) {
    uint16_t half = scale_iq1_m(in);
    if (!f16_finite(half)) return i;
    iq1_m(in, f16_float(half), y);
  }
  return -1;
}

/* All blocks of a type: `scale` is where its f16 scale lies, `min` where a second one does, or -1. */
#define EACH_BLOCK(block, bytes, scale, min, body)                                                       \
  for (int i = 0; i < n; i += block, in += bytes, y += block) {                                          \
    uint16_t half = *(const u16_any *)(in + scale), half_min = min < 0 ? 0 : *(const u16_any *)(in + min); \
    if (!f16_finite(half) || !f16_finite(half_min)) return i;                                            \
    float d = f16_float(half);                                                                           \
    body;                                                                                                \
  }                                                                                                      \
  return -1;

int dequantize(enum type from, const uint8_t *in, float *out, int n) {
  any_float *y = out;
  switch (from) {
    case Q8_0: EACH_BLOCK(32, 34, 0, -1, q8_0(in, d, y))
    case Q4_0: EACH_BLOCK(32, 18, 0, -1, q4_0(in, d, y))
    case Q5_0: EACH_BLOCK(32, 22, 0, -1, q5_0(in, d, y))
    case Q4_K: EACH_BLOCK(256, 144, 0, 2, q4_k(in, d, f16_float(half_min), y))
    case Q4_1: EACH_BLOCK(32, 20, 0, 2, q4_1(in, d, f16_float(half_min), y))
    case Q5_1: EACH_BLOCK(32, 24, 0, 2, q5_1(in, d, f16_float(half_min), y))
    case Q5_K: EACH_BLOCK(256, 176, 0, 2, q5_k(in, d, f16_float(half_min), y))
    case Q2_K: EACH_BLOCK(256, 84, 80, 82, q2_k(in, d, f16_float(half_min), y))
    case Q3_K: EACH_BLOCK(256, 110, 108, -1, q3_k(in, d, y))
    case IQ4_NL: EACH_BLOCK(32, 18, 0, -1, iq4_nl(in, d, y))
    case IQ4_XS: EACH_BLOCK(256, 136, 0, -1, iq4_xs(in, d, y))
    case MXFP4: return mxfp4(in, y, n);
    case TQ1_0: EACH_BLOCK(256, 54, 52, -1, tq1_0(in, d, y))
    case TQ2_0: EACH_BLOCK(256, 66, 64, -1, tq2_0(in, d, y))
    case Q1_0: EACH_BLOCK(128, 18, 0, -1, q1_0(in, d, y))
    case Q2_0: EACH_BLOCK(64, 18, 0, -1, q2_0(in, d, y))
    case IQ1_S: EACH_BLOCK(256, 50, 0, -1, iq1_s(in, d, (float *)y))
    case IQ1_M: return all_iq1_m(in, out, n);
    case IQ2_XXS: EACH_BLOCK(256, 66, 0, -1, iq2_xxs(in, d, (float *)y))
    case IQ2_XS: EACH_BLOCK(256, 74, 0, -1, iq2_xs(in, d, (float *)y))
    case IQ2_S: EACH_BLOCK(256, 82, 0, -1, iq2_s(in, d, (float *)y))
    case IQ3_XXS: EACH_BLOCK(256, 98, 0, -1, iq3_xxs(in, d, (float *)y))
    case IQ3_S: EACH_BLOCK(256, 110, 0, -1, iq3_s(in, d, (float *)y))
    default: EACH_BLOCK(256, 210, 208, -1, q6_k(in, d, y))
  }
}

/* Blocks back to f32. A block whose scale is Inf or NaN has no finite value, not even 0 * d: its first element is to blame. */
#include "grids.h"
#include "half.h"
#include "kernels.h"

typedef float any_float __attribute__((aligned(1), may_alias));

static void q8_0(const uint8_t *p, float d, any_float *y) {
  const int8_t *q = (const int8_t *)p + 2;
  for (int i = 0; i < 32; i++) y[i] = (float)q[i] * d;
}

static void q4_0(const uint8_t *p, float d, any_float *y) {
  for (int i = 0; i < 16; i++) y[i] = (float)((p[2 + i] & 15) - 8) * d;
  for (int i = 0; i < 16; i++) y[16 + i] = (float)((p[2 + i] >> 4) - 8) * d;
}

static void q5_0(const uint8_t *p, float d, any_float *y) {
  uint32_t fifth = *(const u32_any *)(p + 2);
  for (int i = 0; i < 16; i++) y[i] = (float)((int)((p[6 + i] & 15) | (fifth >> i & 1) << 4) - 16) * d;
  for (int i = 0; i < 16; i++) y[16 + i] = (float)((int)((p[6 + i] >> 4) | ((fifth >> (16 + i) & 1) << 4)) - 16) * d;
}

static void q4_1(const uint8_t *p, float d, float m, any_float *y) {
  for (int i = 0; i < 16; i++) y[i] = (float)(p[4 + i] & 15) * d + m;
  for (int i = 0; i < 16; i++) y[16 + i] = (float)(p[4 + i] >> 4) * d + m;
}

static void q5_1(const uint8_t *p, float d, float m, any_float *y) {
  uint32_t fifth = *(const u32_any *)(p + 4);
  for (int i = 0; i < 16; i++) y[i] = (float)((p[8 + i] & 15) | (fifth >> i & 1) << 4) * d + m;
  for (int i = 0; i < 16; i++) y[16 + i] = (float)((p[8 + i] >> 4) | (fifth >> (16 + i) & 1) << 4) * d + m;
}

static void q2_k(const uint8_t *p, float d, float dmin, any_float *y) {
  for (int j = 0; j < 16; j++, y += 16) {
    float scale = d * (float)(p[j] & 15), min = dmin * (float)(p[j] >> 4);
    const uint8_t *codes = p + 16 + (j >> 3) * 32 + (j & 1) * 16;
    int shift = j & 6;
    for (int i = 0; i < 16; i++) y[i] = scale * (float)(codes[i] >> shift & 3) - min;
  }
}

static void q3_k(const uint8_t *p, float d, any_float *y) {
  const uint8_t *s = p + 96;
  for (int j = 0; j < 16; j++, y += 16) {
    int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + (j & 3)] >> (j >> 2) * 2 & 3;
    float scale = d * (float)((low | high << 4) - 32);
    const uint8_t *codes = p + 32 + (j >> 3) * 32 + (j & 1) * 16, *highs = p + (j & 1) * 16;
    int shift = j & 6, bit = j >> 1;
    for (int i = 0; i < 16; i++) y[i] = scale * (float)((codes[i] >> shift & 3) - ((highs[i] >> bit & 1) ? 0 : 4));
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
    for (int i = 0; i < 32; i++) {
      int code = codes[i] >> shift & 15;
      if (bits == 5) code |= (highs[i] >> j & 1) << 4;
      y[i] = scale * (float)code - min;
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
        for (int i = part; i < part + 16; i++)
          y[i] = scale * (float)(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
      }
    }
  }
}

#define IQ4_VALUES ((b16){-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113})
#define FP4_VALUES ((b16){0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12})

/* 32 values that four-bit codes name in a table. */
INLINE void named(const uint8_t *codes, b16 table, float d, any_float *y) {
  c16 q = *(const c16_any *)codes;
  b16 values[2] = {(b16)wasm_i8x16_swizzle((v128_t)table, (v128_t)(q & 15)),
                   (b16)wasm_i8x16_swizzle((v128_t)table, (v128_t)(q >> 4))};
  const int8_t *v = (const int8_t *)values;
  for (int i = 0; i < 32; i++) y[i] = d * (float)v[i];
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
  for (int i = 0; i < 256; i++) y[i] = (float)((p[(i >> 7) * 32 + (i & 31)] >> (i >> 5 & 3) * 2 & 3) - 1) * d;
}

static void q1_0(const uint8_t *p, float d, any_float *y) {
  for (int i = 0; i < 128; i++) y[i] = (p[2 + (i >> 3)] >> (i & 7) & 1) ? d : -d;
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

/* Blocks back to f32. A block whose scale is Inf or NaN has no finite value, not even 0 * d: its first element is to blame. */
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

static void q4_k(const uint8_t *p, float d, float dmin, any_float *y) {
  const uint8_t *s = p + 4, *q = p + 16;
  for (int j = 0; j < 8; j++, y += 32) {
    int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    float scale = d * (float)sc, min = dmin * (float)m;
    int shift = (j & 1) * 4;
    const uint8_t *codes = q + (j >> 1) * 32;
    for (int i = 0; i < 32; i++) y[i] = scale * (float)(codes[i] >> shift & 15) - min;
  }
}

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
    default: EACH_BLOCK(256, 210, 208, -1, q6_k(in, d, y))
  }
}

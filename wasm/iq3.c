/*
 * IQ3_XXS and IQ3_S: 256 values in groups of four, each an entry of a grid, with signs, and a 4-bit scale for each 32 values.
 * Layouts: block_iq3_xxs and block_iq3_s of ggml-common.h.
 */
#include "half.h"
#include "iq3_search.h"
#include "kernels.h"
#include "lanes.h"

#define SUB IQ3_SUB
#define BLOCK 256
#define SUBS 8
#define BYTES_XXS 98
#define BYTES_S 110

/* Fills in the values' magnitudes and weights. */
INLINE void fill(iq3_values *v, const float *x, const float *importance, float sigma2, const int weighted) {
  for (int i = 0; i < SUB; i += 4) {
    f4 a = load4(x + i), w = a * a;
    if (weighted) w = load4(importance + i) * square_root(sigma2 + w);
    store4(v->x + i, abs4(a));
    store4(v->weight + i, w);
    store4(v->root + i, square_root(w));
  }
}

/* The minus signs of eight values, a bit each. */
INLINE unsigned minus_signs(const float *x) {
  f4 a = load4(x), b = load4(x + 4);
  return wasm_i32x4_bitmask((v128_t)(a < 0)) | wasm_i32x4_bitmask((v128_t)(b < 0)) << 4;
}

/*
 * The sign bits of eight values as IQ3_XXS can store them, an even number: where it is odd, the value whose sign costs least
 * to change has it changed.
 */
INLINE unsigned even_minus_signs(const float *x, float *magnitude, const float *weight) {
  unsigned minus = minus_signs(x);
  if (!(__builtin_popcount(minus) & 1)) return minus;
  f4 a = load4(x), b = load4(x + 4), cost[2] = {load4(weight) * a * a, load4(weight + 4) * b * b};
  const float *costs = (const float *)cost;
  int least = 0;
  for (int i = 1; i < 8; i++) least = costs[i] < costs[least] ? i : least;
  magnitude[least] = -magnitude[least];
  return minus ^ 1u << least;
}

/* The greatest scale over 31; NaN if there is one that is not a number. */
INLINE float greatest_scale(const float *scales) {
  float max = 0, sum = 0;
  for (int j = 0; j < SUBS; j++) {
    max = scales[j] > max ? scales[j] : max;
    sum += scales[j] * 0.f;
  }
  return (max + sum) / 31;
}

INLINE unsigned scale_code(float inverse, float scale) {
  int l = nearest_int(0.5f * (inverse * scale - 1));
  return (unsigned)(l < 0 ? 0 : l > 15 ? 15 : l);
}

/* A block of IQ3_XXS. Returns 0 if its scale is not finite. */
INLINE int block_xxs(const iq3_type *t, const float *x, uint8_t *out, const float *importance, const int weighted) {
  float scales[SUBS] = {0}, sigma2 = weighted ? 2.f * sum_squares(x, BLOCK) / BLOCK : 0.f;
  uint32_t signs[SUBS] = {0};
  int any = 0;
  __builtin_memset(out, 0, BYTES_XXS);
  for (int j = 0; j < SUBS; j++) {
    iq3_values v;
    iq3_found f;
    uint32_t minus = 0;
    fill(&v, x + j * SUB, weighted ? importance + j * SUB : 0, sigma2, weighted);
    for (int k = 0; k < 4; k++)
      minus |= (even_minus_signs(x + j * SUB + k * 8, v.x + k * 8, v.weight + k * 8) & 127) << 7 * k;
    if (!iq3_search(t, &v, &f)) continue;
    scales[j] = __builtin_fabsf(f.scale);
    any |= f.scale != 0;
    signs[j] = f.scale < 0 ? minus ^ 0x0fffffffu : minus;
    for (int k = 0; k < IQ3_GROUPS; k++) out[2 + j * 8 + k] = (uint8_t)f.entries[k];
  }
  if (!any) {
    __builtin_memset(out, 0, BYTES_XXS);
    return 1;
  }
  float d = greatest_scale(scales), inverse = 1 / d;
  if (!fits_f16(d * 1.0125f)) return 0;
  *(u16_any *)out = f16_bits(d * 1.0125f);
  for (int j = 0; j < SUBS; j++) *(u32_any *)(out + 66 + j * 4) = signs[j] | scale_code(inverse, scales[j]) << 28;
  return 1;
}

INLINE int block_s(const iq3_type *t, const float *x, uint8_t *out, const float *importance, const int weighted) {
  float scales[SUBS] = {0}, sigma2 = weighted ? 2.f * sum_squares(x, BLOCK) / BLOCK : 0.f;
  uint8_t *codes = out + 2, *signs = out + 74;
  int any = 0;
  __builtin_memset(out, 0, BYTES_S);
  for (int j = 0; j < SUBS; j++) {
    iq3_values v;
    iq3_found f;
    fill(&v, x + j * SUB, weighted ? importance + j * SUB : 0, sigma2, weighted);
    /* What follows 32 zeros ggml writes where their codes and signs belong, though not the high bits. */
    if (!iq3_search(t, &v, &f)) continue;
    scales[j] = f.scale;
    any |= f.scale != 0;
    for (int k = 0; k < IQ3_GROUPS; k++) {
      *codes++ = (uint8_t)f.entries[k];
      out[66 + j] |= (uint8_t)(f.entries[k] >> 8 << k);
    }
    for (int k = 0; k < 4; k++) *signs++ = (uint8_t)minus_signs(x + j * SUB + k * 8);
  }
  if (!any) return 1;
  float d = greatest_scale(scales), inverse = 1 / d;
  if (!fits_f16(d * 1.033f)) return 0;
  *(u16_any *)out = f16_bits(d * 1.033f);
  for (int j = 0; j < SUBS; j++) out[106 + (j >> 1)] |= (uint8_t)(scale_code(inverse, scales[j]) << 4 * (j & 1));
  return 1;
}

INLINE int quantize(enum type to, const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  iq3_type t;
  iq3_type_of(to, &t);
  for (int i = 0; i < n; i += BLOCK, out += to == IQ3_XXS ? BYTES_XXS : BYTES_S) {
    uint32_t magnitude = 0;
    for (int j = 0; j < BLOCK; j++) {
      uint32_t bits = bits_of(x[i + j]) & 0x7fffffffu;
      magnitude = bits > magnitude ? bits : magnitude;
    }
    const float *own = weighted ? importance + i : 0;
    if (magnitude >= LIMIT_F32 ||
        !(to == IQ3_XXS ? block_xxs(&t, x + i, out, own, weighted) : block_s(&t, x + i, out, own, weighted)))
      return i + first_to_blame(x + i, BLOCK);
  }
  return -1;
}

int quantize_iq3_xxs(const float *x, uint8_t *out, int n) { return quantize(IQ3_XXS, x, out, n, 0, 0); }
int quantize_iq3_s(const float *x, uint8_t *out, int n) { return quantize(IQ3_S, x, out, n, 0, 0); }
int weighted_iq3_xxs(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(IQ3_XXS, x, out, n, importance, 1);
}
int weighted_iq3_s(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(IQ3_S, x, out, n, importance, 1);
}

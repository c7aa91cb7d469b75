/*
 * IQ1, IQ2 and IQ3 blocks back to f32: an index names eight or four values at once, an entry of a grid; the signs are apart.
 * Layouts: block_iq1_s to block_iq3_s of ggml-common.h.
 */
#pragma once
#include "half.h"

/*
 * The host puts the grids here, a byte an element (GRIDS_AT in src/kernels/wasm/grids.ts): as constants they would be a data
 * segment, which shared memory would need a lock for.
 */
#define GRIDS ((const int8_t *)65536)
#define GRID_IQ2_XXS (GRIDS)
#define GRID_IQ2_XS (GRID_IQ2_XXS + 256 * 8)
#define GRID_IQ2_S (GRID_IQ2_XS + 512 * 8)
#define GRID_IQ3_XXS (GRID_IQ2_S + 1024 * 8)
#define GRID_IQ3_S (GRID_IQ3_XXS + 256 * 4)
#define GRID_IQ1 (GRID_IQ3_S + 512 * 4)

typedef int8_t b8 __attribute__((vector_size(8)));
typedef b8 b8_any __attribute__((aligned(1), may_alias));
typedef int16_t s4 __attribute__((vector_size(8)));

INLINE void eight(s8 values, float *y, float scale, float shift) {
  i4 low = __builtin_convertvector(__builtin_shufflevector(values, values, 0, 1, 2, 3), i4);
  i4 high = __builtin_convertvector(__builtin_shufflevector(values, values, 4, 5, 6, 7), i4);
  store4(y, (__builtin_convertvector(low, f4) + shift) * scale);
  store4(y + 4, (__builtin_convertvector(high, f4) + shift) * scale);
}

/* Eight values, of which those are negated whose bit is set. */
INLINE void signed8(b8 entry, int signs, float scale, float *y) {
  s8 values = __builtin_convertvector(entry, s8);
  s8 bits = {1, 2, 4, 8, 16, 32, 64, 128};
  s8 minus = ((s8){0} + (int16_t)signs & bits) != 0;
  /* Not + 0.f: a value of -0 stays so. */
  eight((values ^ minus) - minus, y, scale, -0.f);
}

/* Seven signs are stored: there is always an even number of them. */
INLINE int even_signs(uint32_t stored) { return (int)(stored | (__builtin_popcount(stored) & 1u) << 7); }

INLINE b8 entry8(const int8_t *grid, int i) { return *(const b8_any *)(grid + i * 8); }
INLINE b8 entries4(const int8_t *grid, int i, int j) {
  return (b8)((uint64_t)*(const u32_any *)(grid + i * 4) | (uint64_t)*(const u32_any *)(grid + j * 4) << 32);
}

static void iq2_xxs(const uint8_t *p, float d, float *y) {
  for (int sub = 0; sub < 8; sub++) {
    const uint8_t *q = p + 2 + sub * 8;
    uint32_t rest = *(const u32_any *)(q + 4);
    float scale = d * (0.5f + (float)(rest >> 28)) * 0.25f;
    for (int l = 0; l < 4; l++, y += 8) signed8(entry8(GRID_IQ2_XXS, q[l]), even_signs(rest >> 7 * l & 127), scale, y);
  }
}

static void iq2_xs(const uint8_t *p, float d, float *y) {
  for (int group = 0; group < 32; group++, y += 8) {
    unsigned code = *(const u16_any *)(p + 2 + group * 2);
    float scale = d * (0.5f + (float)(p[66 + (group >> 2)] >> (group & 2) * 2 & 15)) * 0.25f;
    signed8(entry8(GRID_IQ2_XS, (int)(code & 511)), even_signs(code >> 9), scale, y);
  }
}

static void iq2_s(const uint8_t *p, float d, float *y) {
  for (int group = 0; group < 32; group++, y += 8) {
    int entry = p[2 + group] | (p[66 + (group >> 2)] >> (group & 3) * 2 & 3) << 8;
    float scale = d * (0.5f + (float)(p[74 + (group >> 2)] >> (group & 2) * 2 & 15)) * 0.25f;
    signed8(entry8(GRID_IQ2_S, entry), p[34 + group], scale, y);
  }
}

static void iq3_xxs(const uint8_t *p, float d, float *y) {
  for (int sub = 0; sub < 8; sub++) {
    const uint8_t *q = p + 2 + sub * 8;
    uint32_t rest = *(const u32_any *)(p + 66 + sub * 4);
    float scale = d * (0.5f + (float)(rest >> 28)) * 0.5f;
    for (int l = 0; l < 4; l++, y += 8)
      signed8(entries4(GRID_IQ3_XXS, q[2 * l], q[2 * l + 1]), even_signs(rest >> 7 * l & 127), scale, y);
  }
}

static void iq3_s(const uint8_t *p, float d, float *y) {
  for (int sub = 0; sub < 8; sub++) {
    const uint8_t *q = p + 2 + sub * 8;
    int high = p[66 + sub];
    float scale = d * (float)(1 + 2 * (p[106 + (sub >> 1)] >> (sub & 1) * 4 & 15));
    for (int l = 0; l < 4; l++, y += 8) {
      int i = q[2 * l] | (high >> 2 * l & 1) << 8, j = q[2 * l + 1] | (high >> (2 * l + 1) & 1) << 8;
      signed8(entries4(GRID_IQ3_S, i, j), p[74 + sub * 4 + l], scale, y);
    }
  }
}

/* An entry of -1, 0 and 1, shifted by an eighth. */
INLINE void shifted8(int i, int minus, float scale, float *y) {
  eight(__builtin_convertvector(entry8(GRID_IQ1, i), s8), y, scale, minus ? -0.125f : 0.125f);
}

static void iq1_s(const uint8_t *p, float d, float *y) {
  for (int sub = 0; sub < 8; sub++) {
    int high = *(const u16_any *)(p + 34 + sub * 2);
    float scale = d * (float)(1 + 2 * (high >> 12 & 7));
    for (int l = 0; l < 4; l++, y += 8)
      shifted8(p[2 + sub * 4 + l] | (high >> 3 * l & 7) << 8, high & 0x8000, scale, y);
  }
}

static void iq1_m(const uint8_t *p, float d, float *y) {
  for (int group = 0; group < 32; group++, y += 8) {
    int high = p[32 + (group >> 1)] >> (group & 1) * 4, scales = *(const u16_any *)(p + 48 + (group >> 3) * 2);
    float scale = d * (float)(1 + 2 * (scales >> 3 * (group >> 1 & 3) & 7));
    shifted8(p[group] | (high & 7) << 8, high & 8, scale, y);
  }
}

/* IQ1_M's f16 scale lies in the high bits of its words of scales. */
INLINE uint16_t scale_iq1_m(const uint8_t *p) {
  const u16_any *s = (const u16_any *)(p + 48);
  return (uint16_t)(s[0] >> 12 | s[1] >> 12 << 4 | s[2] >> 12 << 8 | s[3] >> 12 << 12);
}

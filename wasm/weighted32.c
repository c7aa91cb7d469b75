/*
 * Q4_0, Q4_1, Q5_0 and Q5_1 with an importance matrix: the scales of 16 blocks of 32 searched at once, one block a lane. The
 * weights need the mean square of the whole row. Without an importance matrix see simple.c and q4_1.c.
 */
#include "blocks32.h"
#include "half.h"
#include "kernels.h"
#include "scale_min.h"
#include "signed_scale.h"

#define BLOCK 32
#define GROUP LANES

INLINE void fill(row *rows, const float *x, const float *importance, float sigma2) {
  gather(rows->x, x, LANES, BLOCK);
  gather(rows->weight, importance, LANES, BLOCK);
  for (int g = 0; g < NV; g++) weigh(ROWS(rows, g), BLOCK, splat(sigma2));
}

INLINE void write_codes(const uint8_t *codes, uint8_t *out, const int bits) {
  if (bits == 4) write_codes4(codes, out);
  else write_codes5(codes, out);
}

/* Q4_1 and Q5_1. */
INLINE int group_min(const float *x, uint8_t *out, const float *importance, float sigma2, const int bits) {
  search k __attribute__((aligned(64)));
  const shape s = bits == 4 ? Q4_WEIGHTED : Q5_WEIGHTED;
  fill(k.rows, x, importance, sigma2);
  if (bits == 4) search_q4_weighted(&k);
  else search_q5_weighted(&k);
  for (int j = 0; j < LANES; j++, x += BLOCK, out += bits == 4 ? 20 : 24) {
    uint8_t slow_codes[BLOCK], codes[BLOCK];
    if (k.slow[j]) redo_lane(&s, &k, j, slow_codes);
    if (!fits_f16(k.scale[j]) || !fits_f16(k.min[j])) return j * BLOCK + first_to_blame(x, BLOCK);
    *(u16_any *)out = f16_bits(k.scale[j]);
    /* ggml negates the minimum twice. */
    *(u16_any *)(out + 2) = f16_bits(k.min[j]);
    search_codes(&s, &k, j, x, slow_codes, codes);
    write_codes(codes, out + 4, bits);
  }
  return -1;
}

/* Q4_0 and Q5_0. */
INLINE int group_signed(const float *x, uint8_t *out, const float *importance, float sigma2, const int bits) {
  signed_search k __attribute__((aligned(64)));
  fill(k.rows, x, importance, sigma2);
  if (bits == 4) search_signed_32_8(&k);
  else search_signed_32_16(&k);
  const int range = bits == 4 ? 8 : 16;
  for (int j = 0; j < LANES; j++, x += BLOCK, out += bits == 4 ? 18 : 22) {
    uint8_t codes[BLOCK];
    if (!fits_f16(k.scale[j])) return j * BLOCK + first_to_blame(x, BLOCK);
    *(u16_any *)out = f16_bits(k.scale[j]);
    float inverse = k.code_inverse[j];
    for (int i = 0; i < BLOCK; i++) {
      int l = nearest_int(inverse * x[i]);
      /* Blocks that count as zeros keep codes of 0, which mean the least value. */
      codes[i] = inverse == 0 ? 0 : (uint8_t)(range + (l < -range ? -range : l > range - 1 ? range - 1 : l));
    }
    write_codes(codes, out + 2, bits);
  }
  return -1;
}

/* Groups of sixteen blocks, the last one filled up with zeros. All values are finite: whoever added up the row saw to that. */
INLINE int each_group(const float *x, uint8_t *out, int n, const float *importance, float sigma2, const int bits,
                      const int has_min) {
  const int bytes = (bits == 4 ? 18 : 22) + (has_min ? 2 : 0);
  for (int i = 0; i < n; i += GROUP * BLOCK) {
    float last[2][GROUP * BLOCK];
    uint8_t codes[GROUP * 24];
    const float *from = x + i, *weights = importance + i;
    uint8_t *to = out + i / BLOCK * bytes;
    int whole = n - i >= GROUP * BLOCK;
    if (!whole) {
      for (int j = 0; j < GROUP * BLOCK; j++) {
        last[0][j] = j < n - i ? from[j] : 0.f;
        last[1][j] = j < n - i ? weights[j] : 0.f;
      }
      from = last[0], weights = last[1], to = codes;
    }
    int bad = has_min ? group_min(from, to, weights, sigma2, bits) : group_signed(from, to, weights, sigma2, bits);
    if (bad >= 0) return i + bad;
    if (!whole) __builtin_memcpy(out + i / BLOCK * bytes, codes, (size_t)((n - i) / BLOCK * bytes));
  }
  return -1;
}

int weighted_q4_0(const float *x, uint8_t *out, int n, const float *importance, float sigma2) {
  return each_group(x, out, n, importance, sigma2, 4, 0);
}
int weighted_q5_0(const float *x, uint8_t *out, int n, const float *importance, float sigma2) {
  return each_group(x, out, n, importance, sigma2, 5, 0);
}
int weighted_q4_1(const float *x, uint8_t *out, int n, const float *importance, float sigma2) {
  return each_group(x, out, n, importance, sigma2, 4, 1);
}
int weighted_q5_1(const float *x, uint8_t *out, int n, const float *importance, float sigma2) {
  return each_group(x, out, n, importance, sigma2, 5, 1);
}

/*
 * Q2_K: blocks of 256 in 16 sub-blocks of 16 with a 4-bit scale and minimum each, both searched. Without an importance
 * matrix weights are magnitudes and errors sums of magnitudes. Layout: block_q2_K of ggml-common.h. A block is 16 lanes.
 */
#include "half.h"
#include "kernels.h"
#include "scale_min.h"

#define BLOCK 256
#define BLOCK_BYTES 84
#define SUB 16
#define SUBS 16
#define TOP_SCALE 15

/* The block's scales from the largest of its sub-blocks. Returns 0 if one overflows. */
static int scales_by_max(const search *k, uint8_t *out) {
  float max_scale = 0, max_min = 0;
  for (int j = 0; j < SUBS; j++) {
    if (k->scale[j] > max_scale) max_scale = k->scale[j];
    if (-k->min[j] > max_min) max_min = -k->min[j];
  }
  if (!fits_f16(max_scale / 15.f) || !fits_f16(max_min / 15.f)) return 0;
  *(u16_any *)(out + 80) = f16_bits(max_scale / 15.f);
  *(u16_any *)(out + 82) = f16_bits(max_min / 15.f);
  for (int j = 0; j < SUBS; j++) {
    /* A negative scale wraps in its byte and spills into the minimum: so it does in ggml. */
    int sc = max_scale > 0 ? nearest_int(15.f / max_scale * k->scale[j]) : 0;
    int m = max_min > 0 ? nearest_int(15.f / max_min * -k->min[j]) : 0;
    out[j] = (uint8_t)(sc | m << 4);
  }
  return 1;
}

/* The same fitted to those of the sub-blocks. */
static int scales_by_fit(const search *k, uint8_t *out) {
  f4 x[SUBS], weight[SUBS], d;
  i4 codes[SUBS];
  for (int j = 0; j < SUBS; j++) {
    x[j] = (f4){k->scale[j], -k->min[j], k->scale[j], -k->min[j]};
    weight[j] = splat4(k->sum_weight[j]);
  }
  d = fit_scales(SUBS, TOP_SCALE, x, weight, codes);
  if (!fits_f16(d[0]) || !fits_f16(d[1])) return 0;
  *(u16_any *)(out + 80) = f16_bits(d[0]);
  *(u16_any *)(out + 82) = f16_bits(d[1]);
  for (int j = 0; j < SUBS; j++) out[j] = (uint8_t)(codes[j][0] | codes[j][1] << 4);
  return 1;
}

/* Sixteen codes in 0..3, whatever the quotients are. */
INLINE c16 codes16(const i4 *l) { return min_u8(narrow_u8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), (c16){0} + 3); }

static void finish(const search *k, const shape *s, const float *x, uint8_t *out, const uint8_t *slow_codes) {
  uint8_t codes[BLOCK];
  float d = f16_float(*(u16_any *)(out + 80)), dmin = f16_float(*(u16_any *)(out + 82));
  for (int j = 0; j < SUBS; j++) {
    float scale = d * (float)(out[j] & 15), min = dmin * (float)(out[j] >> 4);
    const float *sub = x + j * SUB;
    if (scale == 0) {
      search_codes(s, k, j, sub, slow_codes + j * SUB, codes + j * SUB);
      continue;
    }
    i4 l[4];
    for (int v = 0; v < 4; v++) l[v] = nearest_int4((load4(sub + v * 4) + min) / scale);
    *(c16_any *)(codes + j * SUB) = codes16(l);
  }
  for (int half = 0; half < 2; half++) {
    for (int i = 0; i < 32; i += 16) {
      const uint8_t *q = codes + half * 128 + i;
      /* Two bits each: shifted as pairs of bytes they never cross over. */
      *(c16_any *)(out + 16 + half * 32 + i) = *(c16_any *)q | (c16)(*(h8_any *)(q + 32) << 2) |
                                               (c16)(*(h8_any *)(q + 64) << 4) | (c16)(*(h8_any *)(q + 96) << 6);
    }
  }
}

INLINE int quantize(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  search k __attribute__((aligned(64)));
  const shape s = weighted ? Q2_WEIGHTED : Q2_K_SHAPE;
  uint8_t slow_codes[BLOCK];
  for (int i = 0; i < n; i += BLOCK, out += BLOCK_BYTES) {
    uint32_t magnitude = gather(k.rows->x, x + i, SUBS, SUB);
    if (weighted) {
      gather(k.rows->weight, importance + i, SUBS, SUB);
      fv sigma2 = splat(sum_squares(x + i, BLOCK) / BLOCK);
      for (int g = 0; g < NV; g++) weigh(ROWS(k.rows, g), SUB, sigma2);
      search_q2_weighted(&k);
    } else {
      for (row *r = k.rows; r < k.rows + SUB; r++)
        for (int g = 0; g < NV; g++) AT(r->weight, g) = vabs(AT(r->x, g));
      search_q2_k(&k);
    }
    for (int lane = 0; lane < LANES; lane++)
      if (k.slow[lane]) redo_lane(&s, &k, lane, slow_codes + lane * SUB);
    if (magnitude >= LIMIT_F32 || !(weighted ? scales_by_fit(&k, out) : scales_by_max(&k, out)))
      return i + first_to_blame(x + i, BLOCK);
    finish(&k, &s, x + i, out, slow_codes);
  }
  return -1;
}

int quantize_q2_k(const float *x, uint8_t *out, int n) { return quantize(x, out, n, 0, 0); }
int weighted_q2_k(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(x, out, n, importance, 1);
}

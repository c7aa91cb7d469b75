/*
 * Q4_K and Q5_K: blocks of 256 in 8 sub-blocks of 32 with a scale and a minimum each, both searched; Q5_K's codes have a
 * fifth bit, kept apart. Layouts: block_q4_K and block_q5_K of ggml-common.h. Two blocks make 16 sub-blocks, one a lane.
 */
#include "half.h"
#include "kernels.h"
#include "scale_min.h"

#define BLOCK 256
#define SUB 32
#define SUBS 8
#define BYTES(bits) ((bits) == 4 ? 144 : 176)
#define SHAPE(bits, weighted) \
  ((weighted) ? (bits) == 4 ? Q4_WEIGHTED : Q5_WEIGHTED : (bits) == 4 ? Q4_K_SHAPE : Q5_K_SHAPE)

/* The weights without an importance matrix: root mean square plus magnitude. */
static void weigh_by_magnitude(search *k) {
  for (int g = 0; g < NV; g++) {
    row *rows = ROWS(k->rows, g), *end = rows + SUB;
    fv sum = {0};
    for (const row *r = rows; r < end; r++) sum += AT(r->x, 0) * AT(r->x, 0);
    fv rms = square_root(sum / (float)SUB);
    for (row *r = rows; r < end; r++) AT(r->weight, 0) = rms + vabs(AT(r->x, 0));
  }
}

/* Sixteen codes in 0..top, whatever the quotients are. */
INLINE c16 codes16(const i4 *l, const int top) {
  return min_u8(narrow_u8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), (c16){0} + (uint8_t)top);
}

/* One of the eight scales and minima, as bytes, into their twelve. What overflows its six bits ends up as in ggml. */
INLINE void pack_scale(uint8_t *s, int j, uint8_t sc, uint8_t m) {
  if (j < 4) {
    s[j] = sc, s[j + 4] = m;
  } else {
    s[j + 4] = (uint8_t)((sc & 15) | (m & 15) << 4);
    s[j - 4] |= (uint8_t)(sc >> 4 << 6);
    s[j] |= (uint8_t)(m >> 4 << 6);
  }
}

INLINE uint8_t cap(uint8_t v) { return v > 63 ? 63 : v; }

/* The block's scales from the largest of its sub-blocks. Returns 0 if one overflows. */
INLINE int scales_by_max(const search *k, int half, uint8_t *out) {
  float max_scale = 0, max_min = 0;
  for (int j = 0; j < SUBS; j++) {
    int lane = half * SUBS + j;
    if (k->scale[lane] > max_scale) max_scale = k->scale[lane];
    if (-k->min[lane] > max_min) max_min = -k->min[lane];
  }
  if (!fits_f16(max_scale / 63.f) || !fits_f16(max_min / 63.f)) return 0;
  *(u16_any *)out = f16_bits(max_scale / 63.f);
  *(u16_any *)(out + 2) = f16_bits(max_min / 63.f);
  float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0.f, inverse_min = max_min > 0 ? 63.f / max_min : 0.f;
  for (int j = 0; j < SUBS; j++) {
    int lane = half * SUBS + j;
    /* A negative scale wraps in its byte, and is then capped: so it is in ggml. */
    uint8_t sc = (uint8_t)nearest_int(inverse_scale * k->scale[lane]), m = (uint8_t)nearest_int(inverse_min * -k->min[lane]);
    pack_scale(out + 4, j, cap(sc), cap(m));
  }
  return 1;
}

/* Both blocks' scales and minima fitted to those of the sub-blocks: four problems of eight. */
static void fit_both(const search *k, i4 *codes, float *d) {
  f4 x[SUBS], weight[SUBS];
  for (int j = 0; j < SUBS; j++) {
    x[j] = (f4){k->scale[j], -k->min[j], k->scale[SUBS + j], -k->min[SUBS + j]};
    weight[j] = (f4){k->sum_weight[j], k->sum_weight[j], k->sum_weight[SUBS + j], k->sum_weight[SUBS + j]};
  }
  store4(d, fit_scales(SUBS, 63, x, weight, codes));
}

/* Writes the block whose sub-blocks are the lanes from 8 * half on, its scales being written already. */
INLINE void finish(const search *k, int half, const float *x, uint8_t *out, const uint8_t *slow_codes, const int bits,
                   const int weighted) {
  const shape s = SHAPE(bits, weighted);
  const uint8_t *packed = out + 4;
  uint8_t codes[BLOCK];
  float d = f16_float(*(u16_any *)out), dmin = f16_float(*(u16_any *)(out + 2));
  for (int j = 0; j < SUBS; j++) {
    int sc = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    int m = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
    float scale = d * (float)sc, min = dmin * (float)m;
    const float *sub = x + j * SUB;
    if (scale == 0) {
      search_codes(&s, k, half * SUBS + j, sub, slow_codes + j * SUB, codes + j * SUB);
      continue;
    }
    for (int i = 0; i < SUB; i += 16) {
      i4 l[4];
      for (int v = 0; v < 4; v++) l[v] = nearest_int4((load4(sub + i + v * 4) + min) / scale);
      *(c16_any *)(codes + j * SUB + i) = codes16(l, (1 << bits) - 1);
    }
  }
  for (int i = 0; i < SUB; i += 16) {
    c16 fifth = {0};
    for (int pair = 0; pair < SUBS / 2; pair++) {
      c16 low = *(c16_any *)(codes + pair * 64 + i), high = *(c16_any *)(codes + pair * 64 + 32 + i);
      *(c16_any *)(out + (bits == 4 ? 16 : 48) + pair * 32 + i) = (low & 15) | (c16)((h8)(high & 15) << 4);
      /* Shifted as pairs of bytes: bit 4 alone never crosses over. */
      if (bits == 5)
        fifth |= (c16)((h8)(low & 16) >> 4 << (2 * pair)) | (c16)((h8)(high & 16) >> 4 << (2 * pair + 1));
    }
    if (bits == 5) *(c16_any *)(out + 16 + i) = fifth;
  }
}

INLINE int quantize(const float *x, uint8_t *out, int n, const float *importance, const int bits, const int weighted) {
  search k __attribute__((aligned(64)));
  const shape s = SHAPE(bits, weighted);
  uint8_t slow_codes[2 * BLOCK];
  for (int i = 0; i < n; i += 2 * BLOCK) {
    /* A last odd block fills both halves. */
    int blocks = n - i > BLOCK ? 2 : 1, second = i + (blocks - 1) * BLOCK;
    uint32_t magnitude[2] = {gather(k.rows->x, x + i, SUBS, SUB), gather(k.rows->x + SUBS, x + second, SUBS, SUB)};
    if (weighted) {
      gather(k.rows->weight, importance + i, SUBS, SUB);
      gather(k.rows->weight + SUBS, importance + second, SUBS, SUB);
      for (int b = 0; b < 2; b++) {
        fv sigma2 = splat(2.f * sum_squares(b ? x + second : x + i, BLOCK) / BLOCK);
        for (int g = b * NV / 2; g < (b + 1) * NV / 2; g++) weigh(ROWS(k.rows, g), SUB, sigma2);
      }
      if (bits == 4) search_q4_weighted(&k);
      else search_q5_weighted(&k);
    } else {
      weigh_by_magnitude(&k);
      if (bits == 4) search_q4_k(&k);
      else search_q5_k(&k);
    }
    for (int lane = 0; lane < LANES; lane++)
      if (k.slow[lane]) redo_lane(&s, &k, lane, slow_codes + lane * SUB);
    i4 fitted[SUBS];
    float d[4];
    if (weighted) fit_both(&k, fitted, d);
    for (int b = 0; b < blocks; b++) {
      const float *block = x + i + b * BLOCK;
      uint8_t *to = out + (i / BLOCK + b) * BYTES(bits);
      int good = magnitude[b] < LIMIT_F32;
      if (weighted) {
        good &= fits_f16(d[2 * b]) & fits_f16(d[2 * b + 1]);
        *(u16_any *)to = f16_bits(d[2 * b]);
        *(u16_any *)(to + 2) = f16_bits(d[2 * b + 1]);
        for (int j = 0; j < SUBS; j++) {
          uint8_t sc = (uint8_t)fitted[j][2 * b], m = (uint8_t)fitted[j][2 * b + 1];
          /* Q4_K does not cap what wrapped. */
          if (bits == 4) pack_scale(to + 4, j, sc, m);
          else pack_scale(to + 4, j, cap(sc), cap(m));
        }
      } else {
        good &= scales_by_max(&k, b, to);
      }
      if (!good) return i + b * BLOCK + first_to_blame(block, BLOCK);
      finish(&k, b, block, to, slow_codes + b * BLOCK, bits, weighted);
    }
  }
  return -1;
}

int quantize_q4_k(const float *x, uint8_t *out, int n) { return quantize(x, out, n, 0, 4, 0); }
int quantize_q5_k(const float *x, uint8_t *out, int n) { return quantize(x, out, n, 0, 5, 0); }
int weighted_q4_k(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(x, out, n, importance, 4, 1);
}
int weighted_q5_k(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(x, out, n, importance, 5, 1);
}

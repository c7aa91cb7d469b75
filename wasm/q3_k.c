/*
 * Q3_K: blocks of 256 in 16 sub-blocks of 16 with a signed 6-bit scale each. Without an importance matrix the codes are
 * found by descent: each in turn moves to where it fits the scale of all the others best, in up to five rounds. With one the
 * scales are searched as Q6_K's are, and the block's scale likewise. Layout: block_q3_K of ggml-common.h. A block is 16 lanes.
 */
#include "half.h"
#include "kernels.h"
#include "signed_scale.h"

#define BLOCK 256
#define BLOCK_BYTES 110
#define SUB 16
#define SUBS 16
#define RANGE 4.f
#define ROUNDS 5
/* A code whose quotient is surely within it of the code stays: less than a half, for what rounding may add. */
#define STAYS 0.499f

/* nearest_int as a float within -4..3. */
INLINE fv code_of(fv v) {
  iv l = (((iv)(v + 12582912.f)) & 0x007fffff) - 0x00400000;
  return __builtin_convertvector(vmini(vmaxi(l, (iv){0} - 4), (iv){0} + 3), fv);
}

/* One round of descent; whether any code moved. `code` and the sums are those that belong together. */
static int descend(signed_search *k, fv *lx, fv *l2) {
  fv a[NV], b[NV];
  iv moved = {0};
  const iv positive = POSITIVE;
  for (int g = 0; g < NV; g++) a[g] = lx[g], b[g] = l2[g];
  UNROLL
  for (row *p = k->rows, *end = p + SUB; p < end; p++) {
    row *r = opaque(p);
    fv slx[NV], sl2[NV];
    iv doubt[NV];
#pragma clang loop unroll(full)
    for (int g = 0; g < NV; g++) {
      fv l = AT(r->code, g);
      slx[g] = a[g] - AT(r->aux, g) * l;
      sl2[g] = b[g] - AT(r->weight, g) * l * l;
      fv off = (fv)((iv)(AT(r->x, g) * sl2[g] - l * slx[g]) & positive);
      doubt[g] = (slx[g] > 0.f) & ~(off < STAYS * slx[g]);
    }
    if (!vany(doubt[0] | doubt[1] | doubt[2] | doubt[3])) continue;
#pragma clang loop unroll(full)
    for (int g = 0; g < NV; g++) {
      if (!vany(doubt[g])) continue;
      fv w = AT(r->weight, g), old = AT(r->code, g), l = code_of(AT(r->x, g) * sl2[g] / slx[g]);
      fv lx2 = slx[g] + AT(r->aux, g) * l, l22 = sl2[g] + w * l * l;
      iv better = doubt[g] & (l != old) & (l22 > 0.f) & (lx2 * lx2 * b[g] > a[g] * a[g] * l22);
      AT(r->code, g) = pick(better, l, old);
      a[g] = pick(better, lx2, a[g]), b[g] = pick(better, l22, b[g]);
      moved |= better;
    }
  }
  for (int g = 0; g < NV; g++) lx[g] = a[g], l2[g] = b[g];
  return vany(moved);
}

/* Finds scales and leaves codes, -4..3, in the rows; in lanes that count as zeros -4, which as a byte is 0. */
static void search_by_descent(signed_search *k) {
  fv lx[NV], l2[NV];
  iv dead[NV];
  for (int g = 0; g < NV; g++) {
    row *rows = ROWS(k->rows, g);
    fv magnitude = {0}, max = {0};
    for (row *r = rows; r < rows + SUB; r++) {
      fv x = AT(r->x, 0), a = vabs(x);
      max = pick(magnitude < a, x, max);
      magnitude = vmax(magnitude, a);
    }
    dead[g] = magnitude < EPSILON;
    fv inverse = (fv)((iv)(-RANGE / max) & ~dead[g]), a = {0}, b = {0};
    for (row *r = rows; r < rows + SUB; r++) {
      fv x = AT(r->x, 0), w = x * x, wx = w * x, l = vmin(nearest(inverse * x), splat(RANGE - 1.f));
      AT(r->weight, 0) = w, AT(r->aux, 0) = wx, AT(r->code, 0) = l;
      a += wx * l, b += w * l * l;
    }
    lx[g] = a, l2[g] = b;
  }
  /* A lane that a round does not change, no later round changes. */
  for (int round = 0; round < ROUNDS && descend(k, lx, l2); round++) {}
  for (int g = 0; g < NV; g++) {
    AT(k->scale, g) = (fv)((iv)(lx[g] / l2[g]) & (l2[g] > 0.f) & ~dead[g]);
    for (row *r = k->rows; r < k->rows + SUB; r++) AT(r->code, g) = pick(dead[g], splat(-RANGE), AT(r->code, g));
  }
}

/* The codes of the trials, likewise. */
static void codes_by_inverse(signed_search *k) {
  for (row *r = k->rows; r < k->rows + SUB; r++) {
    for (int g = 0; g < NV; g++) {
      fv inverse = AT(k->code_inverse, g);
      fv l = vmax(vmin(nearest(inverse * AT(r->x, g)), splat(RANGE - 1.f)), splat(-RANGE));
      AT(r->code, g) = pick(inverse == 0.f, splat(-RANGE), l);
    }
  }
}

INLINE int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

/* The scales, 0..63, by the largest; and the block's. */
static float scales_by_max(const float *scale, uint8_t *codes) {
  float magnitude = 0, max = 0;
  for (int j = 0; j < SUBS; j++) {
    float a = __builtin_fabsf(scale[j]);
    if (a > magnitude) magnitude = a, max = scale[j];
  }
  float inverse = max != 0 ? -32.f / max : 0.f;
  /* Through a signed byte, as in ggml. */
  for (int j = 0; j < SUBS; j++)
    codes[j] = max != 0 ? (uint8_t)(clamp((int8_t)nearest_int(inverse * scale[j]), -32, 31) + 32) : 0;
  return max != 0 ? 1 / inverse : 0.f;
}

/* The same by nineteen trials: make_qx_quants for a single problem. */
static float scales_by_fit(const float *scale, const float *weight, uint8_t *codes) {
  float magnitude = 0, max = 0, d = 0, best = 0, code_inverse = 0;
  for (int j = 0; j < SUBS; j++) {
    float a = __builtin_fabsf(scale[j]);
    if (a > magnitude) magnitude = a, max = scale[j];
  }
  if (magnitude < EPSILON) {
    __builtin_memset(codes, 0, SUBS);
    return 0;
  }
  for (int i = -10; i <= 9; i++) {
    if (i == 0) continue;
    int first = i == -10;
    float inverse = -(first ? 32.f : 32.f + 0.1f * (float)i) / max, lx = 0, l2 = 0;
    for (int j = 0; j < SUBS; j++) {
      float l = (float)clamp(nearest_int(inverse * scale[j]), -32, 31), w = weight[j];
      lx += w * scale[j] * l;
      l2 += w * l * l;
    }
    if (first) {
      d = l2 != 0 ? lx / l2 : 0.f;
      best = d * lx, code_inverse = inverse;
    } else if (l2 > 0 && lx * lx > best * l2) {
      d = lx / l2;
      best = d * lx, code_inverse = inverse;
    }
  }
  for (int j = 0; j < SUBS; j++) codes[j] = (uint8_t)(clamp(nearest_int(code_inverse * scale[j]), -32, 31) + 32);
  return d;
}

static void finish(const signed_search *k, const float *x, uint8_t *out, const uint8_t *scales, float d) {
  c16 codes[SUBS];
  uint8_t *packed = out + 96;
  *(u16_any *)(out + 108) = f16_bits(d);
  d = f16_float(f16_bits(d));
  for (int j = 0; j < 12; j++)
    packed[j] = (uint8_t)(j < 8 ? (scales[j] & 15) | scales[j + 8] << 4
                                : scales[j - 8] >> 4 | scales[j - 4] >> 4 << 2 | scales[j] >> 4 << 4 | scales[j + 4] >> 4 << 6);
  for (int j = 0; j < SUBS; j++) {
    float scale = d * (float)(scales[j] - 32);
    if (scale == 0) {
      for (int i = 0; i < SUB; i++) codes[j][i] = (uint8_t)(k->rows[i].code[j] + RANGE);
      continue;
    }
    i4 l[4];
    for (int v = 0; v < 4; v++) l[v] = nearest_int4(load4(x + j * SUB + v * 4) / scale);
    codes[j] = (c16)(clamp_s8(narrow_s8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), -4, 3) + 4);
  }
  for (int i = 0; i < 2; i++) {
    c16 high = {0};
    for (int half = 0; half < 2; half++) {
      c16 low = {0};
      /* Single bits and pairs of bits, shifted as pairs of bytes: none crosses over. */
      for (int part = 0; part < 4; part++) {
        c16 q = codes[half * 8 + part * 2 + i];
        low |= (c16)((h8)(q & 3) << (2 * part));
        high |= (c16)((h8)(q >> 2 & 1) << (half * 4 + part));
      }
      *(c16_any *)(out + 32 + half * 32 + i * 16) = low;
    }
    *(c16_any *)(out + i * 16) = high;
  }
}

INLINE int quantize(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  signed_search k __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BLOCK_BYTES) {
    uint8_t scales[SUBS];
    float d;
    uint32_t magnitude = gather(k.rows->x, x + i, SUBS, SUB);
    if (weighted) {
      gather(k.rows->weight, importance + i, SUBS, SUB);
      fv sigma2 = splat(2.f * sum_squares(x + i, BLOCK) / BLOCK);
      for (int g = 0; g < NV; g++) weigh(ROWS(k.rows, g), SUB, sigma2);
      search_signed_16_4(&k);
      codes_by_inverse(&k);
      d = scales_by_fit(k.scale, k.sum_weight, scales);
    } else {
      search_by_descent(&k);
      d = scales_by_max(k.scale, scales);
    }
    if (magnitude >= LIMIT_F32 || !fits_f16(d)) return i + first_to_blame(x + i, BLOCK);
    finish(&k, x + i, out, scales, d);
  }
  return -1;
}

int quantize_q3_k(const float *x, uint8_t *out, int n) { return quantize(x, out, n, 0, 0); }
int weighted_q3_k(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(x, out, n, importance, 1);
}

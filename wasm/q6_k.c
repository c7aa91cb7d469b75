/*
 * Q6_K: blocks of 256 in 16 sub-blocks of 16 with a signed scale each, which is searched: 19 trial scales, for each the
 * least-squares fit with weights x^2. Layout: block_q6_K of ggml-common.h.
 *
 * One sub-block in each SIMD lane, so every lane adds in the order of the sequential code. The trials do not depend on one
 * another, so three go at once over the same loads.
 */
#include "half.h"
#include "kernels.h"

#define BLOCK 256
#define BLOCK_BYTES 210
#define SUB 16
/* V8 unrolls short loops itself, and better than LLVM does for it. */
#define UNROLL _Pragma("clang loop unroll_count(1)")
#define LANES 16
#define NV (LANES / VL)
#define RANGE 32.f
/* Sub-blocks and blocks below it count as zeros (ggml's GROUP_MAX_EPS). */
#define EPSILON 1e-15f
/* Trial number i, of -9..9, is -(32 + 0.1 i) / max. From 5 on a code may round to -33 and must be capped. */
#define TRIAL(i) (RANGE + 0.1f * (float)(i))
#define FIRST_CAPPED 5
#define TRIALS 18
/* The trials in order: -9..-1, 1..9. */
#define STEP(i) ((i) < 9 ? (i) - 9 : (i) - 8)
#define AT_ONCE 3
/* With a value of the other sign than max and more than this of its magnitude, a code may round to 32. */
#define MIRROR_LIMIT (31.49f / 32.91f)

/* What belongs to one element of each lane: the value, its square and its cube. */
typedef struct {
  float x[LANES], x2[LANES], x3[LANES], unused[LANES];
} row;

typedef struct {
  row rows[SUB];
  fv inverse[AT_ONCE];
  float scale[LANES];
  /* What the codes of the best fit were made with; 0 in lanes that count as zeros. */
  float code_inverse[LANES];
} search;

#define AT(array, g) (*(fv *)((array) + (g) * VL))
/* The rows of vector g on, as if it were the first. */
#define ROWS(k, g) ((row *)((k)->rows->x + (g) * VL))

/* The sums of w x l and w l^2 of a vector for some trials. `mirror`, `capped`: a code may be 32, -33. */
INLINE void fit(const row *rows, int trials, const fv *inverse, fv *lx, fv *l2, const int mirror, const int capped) {
  for (int t = 0; t < trials; t++) lx[t] = l2[t] = (fv){0};
  UNROLL
  for (const row *p = rows, *end = p + SUB; p < end; p++) {
    const row *r = opaque(p);
    fv x = AT(r->x, 0), x2 = AT(r->x2, 0), x3 = AT(r->x3, 0);
#pragma clang loop unroll(full)
    for (int t = 0; t < trials; t++) {
      fv l = nearest(inverse[t] * x);
      if (mirror) l = vmin(l, splat(RANGE - 1.f));
      if (capped) l = vmax(l, splat(-RANGE));
      lx[t] += x3 * l;
      l2[t] += x2 * l * l;
    }
  }
}

/*
 * The divisions for some trials. They are made one round ahead, while the sums of the round before are added up, and are
 * stored as volatile so that nobody moves them back to where they would be waited for.
 */
INLINE void start_trials(search *k, int first, fv max) {
  for (int t = 0; t < AT_ONCE; t++) *(volatile fv *)&k->inverse[t] = -TRIAL(STEP(first + t)) / max;
}

static void search_lanes(search *k) {
  for (int g = 0; g < NV; g++) {
    fv magnitude = {0}, max = {0}, low = {0}, high = {0};
    row *rows = ROWS(k, g);
    for (row *r = rows; r < rows + SUB; r++) {
      fv x = AT(r->x, 0), a = vabs(x);
      max = pick(magnitude < a, x, max);
      magnitude = vmax(magnitude, a);
      low = vmin(low, x), high = vmax(high, x);
      fv x2 = x * x;
      AT(r->x2, 0) = x2, AT(r->x3, 0) = x2 * x;
    }
    iv dead = magnitude < EPSILON;
    int mirror = vany(~dead & (vmin(high, -low) > MIRROR_LIMIT * magnitude));
    fv inverse[AT_ONCE], lx[AT_ONCE], l2[AT_ONCE];
    fv code_inverse = inverse[0] = -RANGE / max;
    fit(rows, 1, inverse, lx, l2, 1, 0);
    fv scale = lx[0] / l2[0];
    scale = (fv)((iv)scale & (l2[0] != 0.f));
    fv best = scale * lx[0];
    start_trials(k, 0, max);
#pragma clang loop unroll(disable)
    for (int i = 0; i < TRIALS; i += AT_ONCE) {
      for (int t = 0; t < AT_ONCE; t++) inverse[t] = k->inverse[t];
      start_trials(k, i + AT_ONCE, max);
      if (STEP(i + AT_ONCE - 1) < FIRST_CAPPED) {
        if (mirror) fit(rows, AT_ONCE, inverse, lx, l2, 1, 0);
        else fit(rows, AT_ONCE, inverse, lx, l2, 0, 0);
      } else {
        if (mirror) fit(rows, AT_ONCE, inverse, lx, l2, 1, 1);
        else fit(rows, AT_ONCE, inverse, lx, l2, 0, 1);
      }
      for (int t = 0; t < AT_ONCE; t++) {
        iv better = (l2[t] > 0.f) & (lx[t] * lx[t] > best * l2[t]);
        if (!vany(better)) continue;
        code_inverse = pick(better, inverse[t], code_inverse);
        scale = pick(better, lx[t] / l2[t], scale);
        best = pick(better, scale * lx[t], best);
      }
    }
    AT(k->scale, g) = (fv)((iv)scale & ~dead);
    AT(k->code_inverse, g) = (fv)((iv)code_inverse & ~dead);
  }
}

/* Fills the lanes with the sub-blocks of a block; its greatest magnitude's bits. */
static uint32_t gather(search *k, const float *x) {
  u4 magnitude = splatu(0);
  for (int j = 0; j < LANES; j += 4) {
    for (int i = 0; i < SUB; i += 4) {
      const float *from = x + j * SUB + i;
      row *to = (row *)(k->rows[i].x + j);
      f4 a = load4(from), b = load4(from + SUB), c = load4(from + 2 * SUB), d = load4(from + 3 * SUB);
      magnitude = maxu4(magnitude, maxu4(maxu4((u4)abs4(a), (u4)abs4(b)), maxu4((u4)abs4(c), (u4)abs4(d))));
      transpose4(&a, &b, &c, &d);
      store4(to, a), store4(to + 1, b), store4(to + 2, c), store4(to + 3, d);
    }
  }
  uint32_t m = 0;
  for (int i = 0; i < 4; i++) m = magnitude[i] > m ? magnitude[i] : m;
  return m;
}

/* Sixteen codes, each capped to -32..31 and shifted to 0..63. */
INLINE c16 codes16(const i4 *l) {
  return (c16)(clamp_s8(narrow_s8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), -32, 31) + 32);
}

/* Writes a block. Returns 0 if its scale overflows. */
static int finish(const search *k, const float *x, uint8_t *out) {
  uint8_t codes[BLOCK];
  float magnitude = 0, max = 0;
  for (int j = 0; j < LANES; j++) {
    float a = __builtin_fabsf(k->scale[j]);
    if (a > magnitude) magnitude = a, max = k->scale[j];
  }
  if (magnitude < EPSILON) {
    __builtin_memset(out, 0, BLOCK_BYTES);
    return 1;
  }
  float inverse = -128.f / max;
  if (!fits_f16(1 / inverse)) return 0;
  uint16_t half = f16_bits(1 / inverse);
  *(u16_any *)(out + 208) = half;
  float d = f16_float(half);
  for (int j = 0; j < LANES; j++) {
    const float *sub = x + j * SUB;
    int sc = nearest_int(inverse * k->scale[j]);
    out[192 + j] = (uint8_t)(int8_t)(sc > 127 ? 127 : sc);
    float scale = d * (float)(int8_t)out[192 + j];
    i4 l[4];
    if (scale != 0) {
      for (int v = 0; v < 4; v++) l[v] = nearest_int4(load4(sub + v * 4) / scale);
    } else {
      /* The codes of the search stay; those of zeros are 0 before the shift that others have had. */
      float by = k->code_inverse[j];
      for (int v = 0; v < 4; v++) l[v] = by == 0 ? (i4){-32, -32, -32, -32} : nearest_int4(load4(sub + v * 4) * by);
    }
    *(c16_any *)(codes + j * SUB) = codes16(l);
  }
  for (int h = 0; h < 2; h++) {
    for (int l = 0; l < 32; l += 16) {
      const uint8_t *q = codes + h * 128 + l;
      c16 a = *(c16_any *)q, b = *(c16_any *)(q + 32), c = *(c16_any *)(q + 64), e = *(c16_any *)(q + 96);
      *(c16_any *)(out + h * 64 + l) = (a & 15) | (c16)((h8)(c & 15) << 4);
      *(c16_any *)(out + h * 64 + 32 + l) = (b & 15) | (c16)((h8)(e & 15) << 4);
      /* The high two bits of all four; shifted as pairs of bytes, so what crosses over is masked. */
      c16 high = (c16)((h8)(a & 48) >> 4) | (c16)((h8)(b & 48) >> 2) | (c & 48) | (c16)((h8)(e & 48) << 2);
      *(c16_any *)(out + 128 + h * 32 + l) = high;
    }
  }
  return 1;
}

int quantize_q6_k(const float *x, uint8_t *out, int n) {
  search k __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK) {
    uint32_t magnitude = gather(&k, x + i);
    search_lanes(&k);
    if (magnitude >= LIMIT_F32 || !finish(&k, x + i, out + i / BLOCK * BLOCK_BYTES)) return i + first_to_blame(x + i, BLOCK);
  }
  return -1;
}

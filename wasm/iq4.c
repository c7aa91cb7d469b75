/*
 * IQ4_NL and IQ4_XS: codes name one of sixteen values that lie denser near 0; the scale of each 32 is searched in sixteen
 * trials with weighted least-squares fits. IQ4_NL has an f16 scale a block of 32, IQ4_XS a 6-bit one for each of 8
 * sub-blocks. Layouts: block_iq4_nl and block_iq4_xs of ggml-common.h.
 *
 * The nearest of the sixteen values is found for sixteen quotients at once. All limits between neighbours are multiples of a
 * half. So with u = floor(2 quotient) + SHIFT, a number of nine bits, the upper four name a range of 16 that holds at most
 * one limit (one more where it begins): a table gives the code below that limit and where in the range it lies.
 */
#include "half.h"
#include "kernels.h"
#include "lanes.h"

#define SUB 32
#define BLOCK_XS 256
#define BYTES_NL 18
#define BYTES_XS 136
#define SUBS_XS 8
/* Below it a sub-block counts as zeros (ggml's GROUP_MAX_EPS). */
#define EPSILON 1e-15f
#define FIRST_VALUE -127
#define TRIES 7
#define SHIFT 265
#define VALUES ((b16){-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113})
/* By range: the code of what lies below the limit in it, and one less than where the limit lies in it. */
#define CODE_BELOW ((b16){0, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15})
#define LIMIT ((b16){126, 1, 13, 20, 22, 20, 15, 8, 22, 14, 7, 3, 2, 6, 18, 126})

typedef struct {
  row rows[SUB];
  float scale[LANES];
} iq4_search;

INLINE b16 look_up(b16 table, b16 index) { return (b16)wasm_i8x16_swizzle((v128_t)table, (v128_t)index); }

/* The codes for sixteen doubled quotients of magnitude below 2^15. */
INLINE b16 codes16(const fv *twice) {
  i4 u[4];
  /* Adding 2^23 + 2^22 leaves an integer in the low bits. */
  for (int i = 0; i < 4; i++) u[i] = (i4)(__builtin_elementwise_floor(twice[i]) + 12582912.f) - (0x4b400000 - SHIFT);
  s8 a = (s8)narrow_s16(u[0], u[1]), b = (s8)narrow_s16(u[2], u[3]), top = (s8){0} + 511, zero = {0};
  a = (s8)wasm_i16x8_min(wasm_i16x8_max((v128_t)a, (v128_t)zero), (v128_t)top);
  b = (s8)wasm_i16x8_min(wasm_i16x8_max((v128_t)b, (v128_t)zero), (v128_t)top);
  b16 range = (b16)narrow_u8((h8)(a >> 5), (h8)(b >> 5)), place = (b16)narrow_u8((h8)(a & 31), (h8)(b & 31));
  return look_up(CODE_BELOW, range) - (b16)(place > look_up(LIMIT, range));
}

/* The sums of w q x and w q^2 of a vector for two trials; `twice` holds both inverses, doubled. */
INLINE void fit_two(const row *rows, const fv *twice, fv *sum_qx, fv *sum_q2) {
  fv qx[2] = {0}, q2[2] = {0};
  UNROLL
  for (const row *p = rows, *end = p + SUB; p < end; p += 4) {
    const row *r = opaque(p);
#pragma clang loop unroll(full)
    for (int t = 0; t < 2; t++) {
      fv quotient[4];
      for (int i = 0; i < 4; i++) quotient[i] = AT(r[i].x, 0) * twice[t];
      b16 value = look_up(VALUES, codes16(quotient));
      v128_t low = wasm_i16x8_extend_low_i8x16((v128_t)value), high = wasm_i16x8_extend_high_i8x16((v128_t)value);
      v128_t wide[4] = {wasm_i32x4_extend_low_i16x8(low), wasm_i32x4_extend_high_i16x8(low),
                        wasm_i32x4_extend_low_i16x8(high), wasm_i32x4_extend_high_i16x8(high)};
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        fv q = (fv)wasm_f32x4_convert_i32x4(wide[i]), wq = AT(r[i].weight, 0) * q;
        qx[t] += wq * AT(r[i].x, 0);
        q2[t] += wq * q;
      }
    }
  }
  for (int t = 0; t < 2; t++) sum_qx[t] = qx[t], sum_q2[t] = q2[t];
}

static void search_lanes(iq4_search *k) {
  for (int g = 0; g < NV; g++) {
    const row *rows = ROWS(k->rows, g);
    fv magnitude = {0}, max = {0}, scale = {0}, best = {0};
    for (const row *r = rows; r < rows + SUB; r++) {
      fv x = AT(r->x, 0), a = vabs(x);
      max = pick(magnitude < a, x, max);
      magnitude = vmax(magnitude, a);
    }
    iv dead = magnitude < EPSILON;
    max = pick(dead, splat(1.f), max);
#pragma clang loop unroll(disable)
    for (int i = -TRIES - 1; i <= TRIES; i += 2) {
      fv twice[2], qx[2], q2[2];
      /* The first trial has the inverse of a scale, the others an inverse at once: not always the same bits. */
      int first = i < -TRIES;
      twice[0] = 2.f * (first ? 1.f / (-max / (float)FIRST_VALUE) : (float)(i + FIRST_VALUE) / max);
      twice[1] = 2.f * ((float)(i + 1 + FIRST_VALUE) / max);
      fit_two(rows, twice, qx, q2);
      for (int t = 0; t < 2; t++) {
        iv better = q2[t] > 0.f;
        if (!first || t > 0) better &= qx[t] * qx[t] > best * q2[t];
        scale = pick(better, qx[t] / q2[t], scale);
        best = pick(better, scale * qx[t], best);
      }
    }
    AT(k->scale, g) = (fv)((iv)scale & ~dead);
  }
}

/* The 32 codes for an inverse that may be anything, as they lie in a block. */
INLINE void write_codes(const float *x, float inverse, uint8_t *out) {
  b16 codes[2];
  for (int half = 0; half < 2; half++) {
    fv twice[4];
    for (int i = 0; i < 4; i++) {
      fv v = load4(x + half * 16 + i * 4) * inverse;
      /* 0 * Inf is nearest the last value, in ggml's eyes. */
      v = pick(v != v, splat(1000.f), v);
      twice[i] = 2.f * vmax(vmin(v, splat(1000.f)), splat(-1000.f));
    }
    codes[half] = codes16(twice);
  }
  *(c16_any *)out = (c16)codes[0] | (c16)((h8)codes[1] << 4);
}

/* x^2, or by importance where sigma2 is that of each lane's block. */
INLINE void fill_weights(iq4_search *k, const fv *sigma2, const int weighted) {
  for (int g = 0; g < NV; g++) {
    row *rows = ROWS(k->rows, g);
    if (weighted) {
      weigh(rows, SUB, sigma2[g]);
    } else {
      for (row *r = rows; r < rows + SUB; r++) AT(r->weight, 0) = AT(r->x, 0) * AT(r->x, 0);
    }
  }
}

/* Sixteen blocks of IQ4_NL. Returns the first element to blame, or -1. */
INLINE int group_nl(iq4_search *k, const float *x, uint8_t *out, const float *importance, const int weighted) {
  uint32_t magnitude = gather(k->rows->x, x, LANES, SUB);
  fv sigma2[NV];
  if (weighted) {
    gather(k->rows->weight, importance, LANES, SUB);
    for (int g = 0; g < NV; g++) {
      fv sum = {0};
      for (const row *p = ROWS(k->rows, g), *r = p; r < p + SUB; r++) sum += AT(r->x, 0) * AT(r->x, 0);
      sigma2[g] = sum * (2.f / SUB);
    }
  }
  fill_weights(k, sigma2, weighted);
  search_lanes(k);
  for (int j = 0; j < LANES; j++, x += SUB, out += BYTES_NL) {
    float d = k->scale[j];
    if (!fits_f16(d)) return j * SUB + first_to_blame(x, SUB);
    if (magnitude >= LIMIT_F32)
      for (int i = 0; i < SUB; i++)
        if (!is_finite(x[i])) return j * SUB + i;
    *(u16_any *)out = f16_bits(d);
    write_codes(x, d != 0 ? 1 / d : 0.f, out + 2);
  }
  return -1;
}

INLINE int quantize_nl(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  iq4_search k __attribute__((aligned(64)));
  int i = 0;
  for (; i + LANES * SUB <= n; i += LANES * SUB) {
    int bad = group_nl(&k, x + i, out + i / SUB * BYTES_NL, weighted ? importance + i : 0, weighted);
    if (bad >= 0) return i + bad;
  }
  if (i < n) {
    float last[LANES * SUB], last_importance[LANES * SUB];
    uint8_t codes[LANES * BYTES_NL];
    for (int j = 0; j < LANES * SUB; j++) {
      last[j] = j < n - i ? x[i + j] : 0.f;
      if (weighted) last_importance[j] = j < n - i ? importance[i + j] : 0.f;
    }
    int bad = group_nl(&k, last, codes, last_importance, weighted);
    if (bad >= 0) return i + bad;
    __builtin_memcpy(out + i / SUB * BYTES_NL, codes, (size_t)((n - i) / SUB * BYTES_NL));
  }
  return -1;
}

/* Writes the block whose sub-blocks are the lanes from 8 * half on. Returns 0 if its scale overflows. */
static int finish_xs(const iq4_search *k, int half, const float *x, uint8_t *out) {
  const float *scale = k->scale + half * SUBS_XS;
  float magnitude = 0, max = 0;
  for (int j = 0; j < SUBS_XS; j++) {
    float a = __builtin_fabsf(scale[j]);
    if (a > magnitude) magnitude = a, max = scale[j];
  }
  float d = -max / 32;
  if (!fits_f16(d)) return 0;
  float inverse = d != 0 ? 1 / d : 0.f;
  unsigned high = 0, low = 0;
  for (int j = 0; j < SUBS_XS; j++) {
    int l = nearest_int(inverse * scale[j]);
    l = l < -32 ? -32 : l > 31 ? 31 : l;
    float dl = d * (float)l;
    write_codes(x + j * SUB, dl != 0 ? 1 / dl : 0.f, out + 8 + j * 16);
    low |= (unsigned)((l + 32) & 15) << (4 * j);
    high |= (unsigned)(l + 32) >> 4 << (2 * j);
  }
  *(u16_any *)out = f16_bits(d);
  *(u16_any *)(out + 2) = (uint16_t)high;
  *(u32_any *)(out + 4) = low;
  return 1;
}

INLINE int quantize_xs(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  iq4_search k __attribute__((aligned(64)));
  for (int i = 0; i < n; i += 2 * BLOCK_XS) {
    /* A last odd block fills both halves. */
    int blocks = n - i > BLOCK_XS ? 2 : 1, second = i + (blocks - 1) * BLOCK_XS;
    uint32_t magnitude[2] = {gather(k.rows->x, x + i, SUBS_XS, SUB), gather(k.rows->x + SUBS_XS, x + second, SUBS_XS, SUB)};
    fv sigma2[NV];
    if (weighted) {
      gather(k.rows->weight, importance + i, SUBS_XS, SUB);
      gather(k.rows->weight + SUBS_XS, importance + second, SUBS_XS, SUB);
      for (int g = 0; g < NV; g++)
        sigma2[g] = splat(sum_squares(x + (g < NV / 2 ? i : second), BLOCK_XS) * (2.f / BLOCK_XS));
    }
    fill_weights(&k, sigma2, weighted);
    search_lanes(&k);
    for (int b = 0; b < blocks; b++) {
      int at = i + b * BLOCK_XS;
      if (magnitude[b] >= LIMIT_F32 || !finish_xs(&k, b, x + at, out + at / BLOCK_XS * BYTES_XS))
        return at + first_to_blame(x + at, BLOCK_XS);
    }
  }
  return -1;
}

int quantize_iq4_nl(const float *x, uint8_t *out, int n) { return quantize_nl(x, out, n, 0, 0); }
int quantize_iq4_xs(const float *x, uint8_t *out, int n) { return quantize_xs(x, out, n, 0, 0); }
int weighted_iq4_nl(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize_nl(x, out, n, importance, 1);
}
int weighted_iq4_xs(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize_xs(x, out, n, importance, 1);
}

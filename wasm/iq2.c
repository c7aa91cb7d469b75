/*
 * IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes an entry of a grid, with signs; a scale for each 32 values or, but for the first,
 * for each 16. It is searched in 13 or 19 trials: for each the entries, and of them all the weighted least-squares fit.
 * Layouts: block_iq2_xxs, block_iq2_xs and block_iq2_s of ggml-common.h.
 *
 * The trials lie side by side in the lanes. Their scales differ by little, so of one eight most trials after one another come
 * to the same point, and go through its neighbours together.
 */
#include "eights.h"
#include "half.h"
#include "kernels.h"
#include "scale_min.h"

#define BLOCK 256
#define BYTES_XXS 66
#define BYTES_XS 74
#define BYTES_S 82
#define SUB_XXS 32
#define SUB 16
/* Below them a sub-block counts as zeros (ggml's GROUP_MAX_EPS and GROUP_MAX_EPS_IQ2_S). */
#define EPSILON_XS 1e-15f
#define EPSILON_S 1e-8f
/* What the greatest level stands for: levels are 1, 3 and 5. */
#define TOP 5
#define TOP_SCALE 15
#define TOP_FACTOR 31.f
#define STEPS_XXS 6
#define STEPS 9
/* The search for XXS begins with one level more than there is. */
#define FIT_TOP 4
/* Where quotients are smaller nearest_int gives no nonsense; below 2^22, with room. */
#define MAX_QUOTIENT 4e6f

/* A block as it is searched. */
typedef struct {
  float weight[BLOCK], root[BLOCK], x[BLOCK];
  /* Of each eight the signs, and the entry. */
  uint8_t signs[BLOCK / WIDTH];
  uint16_t entry[BLOCK / WIDTH];
  float scale[BLOCK / SUB];
  uint8_t code[BLOCK / SUB];
  float d;
} block;

/* Magnitudes and signs; where the signs must be even in number, the least important element of an eight gives way. */
INLINE void split_signs(block *b, const float *x, const int even) {
  for (int k = 0; k < BLOCK / WIDTH; k++) {
    uint32_t signs = 0;
    for (int i = 0; i < WIDTH; i += 4) {
      f4 v = load4(x + k * WIDTH + i);
      i4 minus = v < 0.f;
      store4(b->x + k * WIDTH + i, (f4)((u4)v ^ ((u4)minus & 0x80000000u)));
      signs |= wasm_i32x4_bitmask((v128_t)minus) << i;
    }
    if (even && (__builtin_popcount(signs) & 1)) {
      float loss[WIDTH];
      for (int i = 0; i < WIDTH; i += 4) {
        f4 v = load4(x + k * WIDTH + i);
        store4(loss + i, load4(b->weight + k * WIDTH + i) * v * v);
      }
      int least = 0;
      for (int i = 1; i < WIDTH; i++) least = loss[i] < loss[least] ? i : least;
      b->x[k * WIDTH + least] = -b->x[k * WIDTH + least];
      signs ^= 1u << least;
    }
    b->signs[k] = (uint8_t)signs;
  }
}

/* Three values to the power of the place: the points of `nv` vectors of trials, for quotients that are small enough. */
INLINE void points_of(const float *x, const float *inverse, int32_t *points, const int nv, const int tame) {
  for (int v = 0; v < nv; v++) {
    f4 by = load4(inverse + 4 * v);
    i4 point = {0};
#pragma clang loop unroll(full)
    for (int i = WIDTH - 1; i >= 0; i--) {
      f4 quotient = by * x[i];
      i4 level;
      if (tame) {
        /* As rounding (quotient - 1) / 2 to even would. */
        level = -((quotient > 2.f) + (quotient >= 4.f));
      } else {
        level = nearest_int4(0.5f * (quotient - 1.f));
        level = maxi4(mini4(level, (i4){2, 2, 2, 2}), (i4){0});
      }
      point = point + point + point + level;
    }
    *(i4_any *)(points + 4 * v) = point;
  }
}

/* The terms of the error of an eight for `nv` vectors of trials. */
INLINE void error_terms(const float *x, const float *root, const float *scale, term (*terms)[LEVELS], const int nv) {
  for (int v = 0; v < nv; v++) {
    f4 value[LEVELS];
    for (int l = 0; l < LEVELS; l++) value[l] = load4(scale + 4 * v) * (float)(2 * l + 1);
#pragma clang loop unroll(full)
    for (int i = 0; i < WIDTH; i++) {
#pragma clang loop unroll(full)
      for (int l = 0; l < LEVELS; l++) {
        f4 diff = value[l] - x[i];
        store4(terms[i][l].error + 4 * v, root[i] * diff * diff);
      }
    }
  }
}

/* The sums of w q x and w q^2 of entries, in order. */
INLINE f4 fit(const eights *e, const term (*terms)[LEVELS], const int32_t *entries, int stride, const int sub) {
  f4 sum = {0};
  for (int k = 0; k < sub / WIDTH; k++) {
    const uint8_t *levels = e->levels + entries[k * stride] * WIDTH;
    for (int i = 0; i < WIDTH; i++)
      sum += (f4)wasm_v128_load64_zero(&term_at(terms + k * WIDTH, levels, i)->qx);
  }
  return sum;
}

#define ROW (TRIALS + 4)

/*
 * Finds the scale and the entries of a sub-block. `top` is what the greatest level stands for in the middle trial, `scale` the
 * scale where no trial is any good; `all` says whether all eights are looked up again for the scale that was found.
 */
INLINE float search_sub(const eights *e, const float *x, const float *weight, const float *root, float top, float scale,
                        uint16_t *entry, const int sub, const int steps, const int all) {
  const int trials = 2 * steps + 1, nv = (trials + 3) / 4, groups = sub / WIDTH;
  term terms[sub][LEVELS];
  float inverse[TRIALS], scales[TRIALS];
  int32_t points[groups][ROW], entries[groups][ROW], beside[groups][TRIALS];
  f4 magnitude = {0};
  for (int i = 0; i < sub; i += 4) magnitude = max4(magnitude, abs4(load4(x + i)));
  for (int v = 0; v < nv; v++) {
    f4 step = splat4((float)(4 * v - steps)) + (f4){0, 1, 2, 3};
    f4 by = (step * 0.1f + (float)TOP) / top;
    store4(inverse + 4 * v, by);
    store4(scales + 4 * v, 1.f / by);
  }
  int tame = !any4(~(magnitude * inverse[trials - 1] < MAX_QUOTIENT));

  for (int i = 0; i < sub; i++) {
    float w = weight[i], wx = w * x[i];
#pragma clang loop unroll(full)
    for (int l = 0; l < LEVELS; l++) {
      float q = (float)(2 * l + 1);
      terms[i][l].qx = wx * q, terms[i][l].q2 = w * q * q;
    }
  }
  for (int k = 0; k < groups; k++) {
    const float *xs = x + k * WIDTH;
    term(*own)[LEVELS] = terms + k * WIDTH;
    if (tame) points_of(xs, inverse, points[k], nv, 1);
    else points_of(xs, inverse, points[k], nv, 0);
    int known = 0;
    for (int t = 0, next; t < trials; t = next) {
      int point = points[k][t], found = e->points[point];
      next = t + 1;
      while (next < trials && points[k][next] == point) next++;
      if (found < 0) {
        if (!known) error_terms(xs, root + k * WIDTH, scales, own, nv), known = 1;
        choose(e, e->neighbours + (-1 - found), (const term(*)[LEVELS])own, t, next, entries[k]);
      }
      for (int i = t; i < next; i++) {
        if (found >= 0) entries[k][i] = found;
        beside[k][i] = found < 0;
      }
    }
  }

  float best = 0;
  int taken = -1;
  f4 sums = {0};
  for (int t = 0; t < trials; t++) {
    /* Of the same entries the sums are the same. */
    int same = t > 0;
    for (int k = 0; k < groups && same; k++) same = entries[k][t] == entries[k][t - 1];
    if (!same) sums = fit(e, (const term(*)[LEVELS])terms, entries[0] + t, ROW, sub);
    if (sums[1] > 0 && sums[0] * sums[0] > best * sums[1]) {
      scale = sums[0] / sums[1], best = scale * sums[0];
      taken = t;
    }
  }

  int32_t last[sub / WIDTH], open = all ? -1 : 0;
  for (int k = 0; k < groups; k++) {
    last[k] = taken < 0 ? 0 : entries[k][taken];
    if (!all && taken >= 0) open |= beside[k][taken] << k;
  }
  if (scale > 0 && open) {
    inverse[0] = 1.f / scale;
    for (int i = 1; i < 4; i++) inverse[i] = inverse[0];
    f4 same = splat4(scale);
    for (int k = 0; k < groups; k++) {
      if (!(open >> k & 1)) continue;
      points_of(x + k * WIDTH, inverse, points[k], 1, 0);
      last[k] = e->points[points[k][0]];
      if (last[k] >= 0) continue;
      term(*own)[LEVELS] = terms + k * WIDTH;
      error_terms(x + k * WIDTH, root + k * WIDTH, (const float *)&same, own, 1);
      choose(e, e->neighbours + (-1 - last[k]), (const term(*)[LEVELS])own, 0, 1, entries[k]);
      last[k] = entries[k][0];
    }
    sums = fit(e, (const term(*)[LEVELS])terms, last, 1, sub);
    if (sums[1] > 0) scale = sums[0] / sums[1];
  }
  for (int k = 0; k < groups; k++) entry[k] = (uint16_t)last[k];
  return scale;
}

/* Scales of four bits for sub-blocks; 0 if one of them is none, where ggml gives up. */
INLINE int finish_scales(block *b, const int subs) {
  float max = 0;
  for (int j = 0; j < subs; j++) {
    if (!is_finite(b->scale[j])) return 0;
    max = max > b->scale[j] ? max : b->scale[j];
  }
  b->d = max == 0 ? 0.f : max / TOP_FACTOR;
  float inverse = 1 / b->d;
  for (int j = 0; j < subs; j++) {
    int l = nearest_int(0.5f * (inverse * b->scale[j] - 1));
    b->code[j] = max == 0 ? 0 : (uint8_t)(l < 0 ? 0 : l > TOP_SCALE ? TOP_SCALE : l);
  }
  return max == 0 ? -1 : 1;
}

INLINE void fill_weights(block *b, const float *x, const float *importance, float sigma2) {
  for (int i = 0; i < BLOCK; i += 4) {
    f4 v = load4(x + i);
    f4 w = importance == 0 ? 0.25f * sigma2 + v * v : load4(importance + i) * square_root(sigma2 + v * v);
    store4(b->weight + i, w);
    store4(b->root + i, square_root(w));
  }
}

/* The scale is stored without a sign: that of all values flips with it. */
INLINE void drop_sign(block *b, int j, const int groups) {
  if (!(b->scale[j] < 0)) return;
  b->scale[j] = -b->scale[j];
  for (int k = 0; k < groups; k++) b->signs[j * groups + k] = (uint8_t)~b->signs[j * groups + k];
}

INLINE void forget(block *b, int j, const int groups) {
  b->scale[j] = 0;
  for (int k = 0; k < groups; k++) b->signs[j * groups + k] = 0, b->entry[j * groups + k] = 0;
}

/* The first scales of all eight sub-blocks of XXS. */
static void fit_first(block *b) {
  for (int half = 0; half < 2; half++) {
    f4 x[SUB_XXS], weight[SUB_XXS];
    i4 codes[SUB_XXS];
    for (int i = 0; i < SUB_XXS; i += 4) {
      const float *xs = b->x + half * 128 + i, *ws = b->weight + half * 128 + i;
      for (int j = 0; j < 4; j++) x[i + j] = load4(xs + j * SUB_XXS), weight[i + j] = load4(ws + j * SUB_XXS);
      transpose4(x + i, x + i + 1, x + i + 2, x + i + 3);
      transpose4(weight + i, weight + i + 1, weight + i + 2, weight + i + 3);
    }
    store4(b->scale + half * 4, fit_scales(SUB_XXS, FIT_TOP, x, weight, codes));
  }
}

/* Searches a block; the same as finish_scales. */
static int search_xxs(block *b, const float *x, const float *importance) {
  float sum = sum_squares(x, BLOCK);
  if (!is_finite(sum)) return 0;
  eights e = eights_of(IQ2_XXS, 256);
  fill_weights(b, x, importance, sum / BLOCK);
  split_signs(b, x, 1);
  fit_first(b);
  for (int j = 0; j < BLOCK / SUB_XXS; j++) {
    float start = b->scale[j], top = start * 3;
    if (top <= 0) {
      forget(b, j, 4);
      continue;
    }
    int at = j * SUB_XXS;
    b->scale[j] = search_sub(&e, b->x + at, b->weight + at, b->root + at, top, start, b->entry + j * 4, SUB_XXS, STEPS_XXS, 1);
    drop_sign(b, j, 4);
  }
  return finish_scales(b, BLOCK / SUB_XXS);
}

/* Of IQ2_XS (`even`) and IQ2_S. */
INLINE int search_16(block *b, const float *x, const float *importance, const int even) {
  float sum = sum_squares(x, BLOCK);
  if (!is_finite(sum)) return 0;
  eights e = even ? eights_of(IQ2_XS, 512) : eights_of(IQ2_S, 1024);
  fill_weights(b, x, importance, even ? sum / BLOCK : 2 * sum / BLOCK);
  split_signs(b, x, even);
  for (int j = 0; j < BLOCK / SUB; j++) {
    const float *xs = b->x + j * SUB;
    f4 m = max4(max4(load4(xs), load4(xs + 4)), max4(load4(xs + 8), load4(xs + 12)));
    float a = m[0] > m[1] ? m[0] : m[1], c = m[2] > m[3] ? m[2] : m[3], top = a > c ? a : c;
    if (top < (even ? EPSILON_XS : EPSILON_S)) {
      forget(b, j, 2);
      continue;
    }
    const float *weight = b->weight + j * SUB, *root = b->root + j * SUB;
    b->scale[j] = search_sub(&e, xs, weight, root, top, top / TOP, b->entry + j * 2, SUB, STEPS, 0);
    drop_sign(b, j, 2);
  }
  return finish_scales(b, BLOCK / SUB);
}

int weighted_iq2_xxs(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  block b __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BYTES_XXS) {
    int found = search_xxs(&b, x + i, importance + i);
    if (found == 0 || !fits_f16(b.d)) return i + first_to_blame(x + i, BLOCK);
    *(u16_any *)out = f16_bits(b.d);
    if (found < 0) {
      __builtin_memset(out + 2, 0, BYTES_XXS - 2);
      continue;
    }
    for (int j = 0; j < BLOCK / SUB_XXS; j++) {
      const uint16_t *entry = b.entry + j * 4;
      const uint8_t *signs = b.signs + j * 4;
      uint32_t words[2] = {0, (uint32_t)b.code[j] << 28};
      for (int k = 0; k < 4; k++) words[0] |= (uint32_t)entry[k] << 8 * k, words[1] |= (uint32_t)(signs[k] & 127) << 7 * k;
      *(u32_any *)(out + 2 + j * 8) = words[0];
      *(u32_any *)(out + 6 + j * 8) = words[1];
    }
  }
  return -1;
}

/* Sixteen codes, two a byte. */
INLINE void write_scales(const uint8_t *code, uint8_t *out) {
  for (int j = 0; j < 8; j++) out[j] = (uint8_t)(code[2 * j] | code[2 * j + 1] << 4);
}

int weighted_iq2_xs(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  block b __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BYTES_XS) {
    int found = search_16(&b, x + i, importance + i, 1);
    if (found == 0 || !fits_f16(b.d)) return i + first_to_blame(x + i, BLOCK);
    *(u16_any *)out = f16_bits(b.d);
    if (found < 0) {
      __builtin_memset(out + 2, 0, BYTES_XS - 2);
      continue;
    }
    for (int k = 0; k < BLOCK / WIDTH; k++)
      *(u16_any *)(out + 2 + 2 * k) = (uint16_t)(b.entry[k] | (b.signs[k] & 127) << 9);
    write_scales(b.code, out + 66);
  }
  return -1;
}

INLINE int write_s(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  block b __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BYTES_S) {
    int found = search_16(&b, x + i, weighted ? importance + i : 0, 0);
    float d = b.d * 0.9875f;
    if (found == 0 || !fits_f16(d)) return i + first_to_blame(x + i, BLOCK);
    *(u16_any *)out = f16_bits(d);
    for (int k = 0; k < BLOCK / WIDTH; k++) out[2 + k] = (uint8_t)b.entry[k], out[34 + k] = b.signs[k];
    for (int k = 0; k < BLOCK / WIDTH; k += 4) {
      const uint16_t *entry = b.entry + k;
      out[66 + k / 4] = (uint8_t)(entry[0] >> 8 | entry[1] >> 8 << 2 | entry[2] >> 8 << 4 | entry[3] >> 8 << 6);
    }
    write_scales(b.code, out + 74);
  }
  return -1;
}

int quantize_iq2_s(const float *x, uint8_t *out, int n) { return write_s(x, out, n, 0, 0); }
int weighted_iq2_s(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return write_s(x, out, n, importance, 1);
}

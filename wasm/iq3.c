/*
 * IQ3_XXS and IQ3_S: 256 values in groups of four, each an entry of a grid, and a scale for each 32 values, which is searched in
 * 31 or 19 trials: values are rounded to a point of the grid's space, and where that is no entry the one of least error
 * among its neighbours is taken. Layouts: block_iq3_xxs and block_iq3_s of ggml-common.h.
 */
#include "half.h"
#include "kernels.h"
#include "lanes.h"
#include "search.h"

#define SUB 32
#define BLOCK 256
#define SUBS 8
#define GROUPS 8
/* The greatest level stands for so much. */
#define TOP 15
#define BYTES_XXS 98
#define BYTES_S 110
/* Fills up lists of neighbours. */
#define NOTHING 0xffffffffu

/* How a type searches. The tables: src/kernels/wasm/iq3-tables.ts. */
typedef struct {
  const int32_t *points;
  const uint32_t *lists;
  int trials;
  float least;
  int keeps_entries;
} iq3_type;

/* 32 values without their signs, and their weights in a fit and in an error. */
typedef struct {
  float x[SUB], weight[SUB], root[SUB];
} iq3_values;

/* A scale, and the elements of each group's entry, a byte each. */
typedef struct {
  float scale;
  uint32_t words[GROUPS];
} iq3_found;

INLINE iq3_type type_of(enum type to) {
  const int32_t *points = (const int32_t *)search_table(to);
  const uint32_t *lists = (const uint32_t *)(points + 4096);
  return to == IQ3_XXS ? (iq3_type){points, lists, 15, 1e-8f, 1} : (iq3_type){points, lists, 9, 0x1p-149f, 0};
}

INLINE uint32_t word_of(unsigned point) {
  return ((point & 7) | (point & 0x38) << 5 | (point & 0x1c0) << 10 | (point & 0xe00) << 15) * 2 + 0x01010101u;
}
INLINE unsigned point_of(uint32_t word) {
  word = word >> 1 & 0x07070707u;
  return (word & 7) | (word >> 5 & 0x38) | (word >> 10 & 0x1c0) | (word >> 15 & 0xe00);
}

static unsigned point_at(const float *x, float inverse) {
  unsigned point = 0;
  for (int i = 3; i >= 0; i--) {
    int l = nearest_int(0.5f * (inverse * x[i] - 1));
    point = point << 3 | (unsigned)(l < 0 ? 0 : l > 7 ? 7 : l);
  }
  return point;
}

/* The neighbour of least error, of equals the first; the first of all where no error is a number. */
static uint32_t best_neighbour(const iq3_type *t, int place, const float *x, const float *root, float scale) {
  const uint32_t *list = t->lists + (~place >> 4) * 4, *end = list + (~place & 15) * 4;
  uint32_t found = list[0];
  float best = 3.4028234663852886e38f;
  for (; list < end && *list != NOTHING; list++) {
    float error = 0;
    for (int i = 0; i < 4; i++) {
      float diff = scale * (float)(*list >> 8 * i & 255) - x[i];
      error += root[i] * diff * diff;
    }
    if (error < best) best = error, found = *list;
  }
  return found;
}

INLINE void fit(const iq3_values *v, const uint32_t *words, float *sum_qx, float *sum_q2) {
  float qx = 0, q2 = 0;
  for (int i = 0; i < SUB; i++) {
    float q = (float)(words[i >> 2] >> 8 * (i & 3) & 255);
    qx += v->weight[i] * v->x[i] * q;
    q2 += v->weight[i] * q * q;
  }
  *sum_qx = qx, *sum_q2 = q2;
}

/* One after the other, as ggml does. */
static void search_slowly(const iq3_type *t, const iq3_values *v, float max, iq3_found *f) {
  float best = 0, qx, q2;
  unsigned searched = t->keeps_entries ? 0 : 255;
  f->scale = max / TOP;
  for (int k = 0; k < GROUPS; k++) f->words[k] = 0x01010101u;
  for (int i = -t->trials; i <= t->trials; i++) {
    float inverse = (TOP + (float)i * 0.2f) / max;
    uint32_t words[GROUPS];
    unsigned trial_searched = 0;
    for (int k = 0; k < GROUPS; k++) {
      unsigned point = point_at(v->x + k * 4, inverse);
      int place = t->points[point];
      words[k] = place < 0 ? best_neighbour(t, place, v->x + k * 4, v->root + k * 4, 1 / inverse) : word_of(point);
      trial_searched |= (unsigned)(place < 0) << k;
    }
    fit(v, words, &qx, &q2);
    if (q2 > 0 && qx * qx > best * q2) {
      f->scale = qx / q2;
      best = f->scale * qx;
      searched = trial_searched;
      for (int k = 0; k < GROUPS; k++) f->words[k] = words[k];
    }
  }
  if (!(f->scale > 0) || searched == 0) return;
  float inverse = 1 / f->scale;
  for (int k = 0; k < GROUPS; k++) {
    if (t->keeps_entries && !(searched >> k & 1)) continue;
    unsigned point = point_at(v->x + k * 4, inverse);
    int place = t->points[point];
    f->words[k] = place < 0 ? best_neighbour(t, place, v->x + k * 4, v->root + k * 4, f->scale) : word_of(point);
  }
  fit(v, f->words, &qx, &q2);
  if (q2 > 0) f->scale = qx / q2;
}

/* Searches unless the values count as zeros: then returns 0. */
static int search(const iq3_type *t, const iq3_values *v, iq3_found *f) {
  f4 most = {0};
  for (int i = 0; i < SUB; i += 4) most = max4(most, load4(v->x + i));
  most = max4(most, __builtin_shufflevector(most, most, 2, 3, 0, 1));
  float max = most[0] > most[1] ? most[0] : most[1];
  if (max < t->least) return 0;
  search_slowly(t, v, max, f);
  return 1;
}

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
    if (!search(t, &v, &f)) continue;
    scales[j] = __builtin_fabsf(f.scale);
    any |= f.scale != 0;
    signs[j] = f.scale < 0 ? minus ^ 0x0fffffffu : minus;
    for (int k = 0; k < GROUPS; k++) out[2 + j * 8 + k] = (uint8_t)t->points[point_of(f.words[k])];
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
    if (!search(t, &v, &f)) continue;
    scales[j] = f.scale;
    any |= f.scale != 0;
    for (int k = 0; k < GROUPS; k++) {
      unsigned entry = (unsigned)t->points[point_of(f.words[k])];
      *codes++ = (uint8_t)entry;
      out[66 + j] |= (uint8_t)(entry >> 8 << k);
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
  iq3_type t = type_of(to);
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

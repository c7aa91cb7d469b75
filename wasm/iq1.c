/*
 * IQ1_S and IQ1_M: eight values of -1, 0 or 1 an entry of one grid, shifted by an eighth up or down; a scale for each 32 or 16
 * values. With only three values the best two limits between them, in the order of the elements' size, are found by trying
 * all: four second limits at a time, and one by one only where one of the four may be better than the best so far. Layouts:
 * block_iq1_s and block_iq1_m of ggml-common.h.
 */
#include "eights.h"
#include "half.h"
#include "kernels.h"
#include "lanes.h"

#define BLOCK 256
#define BYTES_S 50
#define BYTES_M 56
#define SUB_S 32
#define SUB_M 16
/* Below it a sub-block counts as zeros (ggml's GROUP_MAX_EPS_IQ1_S and GROUP_MAX_EPS_IQ1_M). */
#define EPSILON_S 1e-12f
#define EPSILON_M 1e-7f
#define ENTRIES 2048
#define SHIFT 0.125f
#define TOP_SCALE 7
#define TOP_FACTOR 15.f
/* What is stored is a little larger than what was found. */
#define STRETCH_S 1.125f
#define STRETCH_M 1.1125f

/* What a level stands for, shifted up or down. */
INLINE float value_of(int level, int down) { return (float)(level - 1) + (down ? -SHIFT : SHIFT); }

typedef struct {
  float weight[BLOCK];
  uint16_t entry[BLOCK / WIDTH];
  /* 0 is up and 1 is down; of IQ1_M the second bit is for the first eight of a sub-block, and the first for the second. */
  uint8_t shift[BLOCK / SUB_M];
  float scale[BLOCK / SUB_M];
  uint8_t code[BLOCK / SUB_M];
  float d;
} block;

/* The best split so far: the least level below `first`, the highest from `second` on. */
typedef struct {
  float score, scale;
  int first, second, shift;
} split;

INLINE void offer(split *s, int first, int second, int shift, float qx, float q2) {
  if (!(q2 > 0 && qx * qx > s->score * q2)) return;
  s->scale = qx / q2, s->score = s->scale * qx;
  s->first = first, s->second = second, s->shift = shift;
}

/* The elements in ascending order, of equal ones the first first. */
INLINE void ascending(const float *x, uint8_t *order, const int sub) {
  i4 rank[sub / 4];
  for (int v = 0; v < sub / 4; v++) rank[v] = (i4){0};
  for (int v = 0; v < sub / 4; v++) {
    f4 own = load4(x + 4 * v);
    for (int i = 0; i < 4; i++) {
      float one = x[4 * v + i];
      for (int u = 0; u < v; u++) rank[u] -= one < load4(x + 4 * u);
      rank[v] -= (one < own) | ((one == own) & ((i4){0, 1, 2, 3} > i));
      for (int u = v + 1; u < sub / 4; u++) rank[u] -= one <= load4(x + 4 * u);
    }
  }
  for (int v = 0; v < sub / 4; v++)
    for (int i = 0; i < 4; i++) order[rank[v][i]] = (uint8_t)(4 * v + i);
}

#define NOT_A_NUMBER __builtin_nanf("")
/* Places between elements, filled up to whole vectors from any one on. */
#define PLACES(sub) ((sub) + 4)
/* The first limits that are tried first, every other of them. */
#define FIRST_TRIED(sub) ((sub) / 4 - 1)
#define LAST_TRIED(sub) ((sub) / 4 + 1)

/* Sums over a sub-block's elements for four splits side by side: of each way to shift it w q x and w q^2. */
#define MAX_SHIFTS 4
typedef struct {
  f4 qx[MAX_SHIFTS], q2[MAX_SHIFTS];
} sums;

/*
 * A split's score is qx^2 / q2. Splits whose score is less by more than this than the best of a few tried first never win,
 * nor does it matter whether they are offered: rounding, in which an offer may be off by 4 units of 2^-24, would have to
 * help in more than a thousand offers running.
 */
#define CERTAINLY_LESS (1.f - 1.f / 1024.f)
/*
 * With smaller scores, or scores times weights, underflow would come on top: no q2 is less than a 64th of the weights. Nor
 * is any |qx| much greater than they times the greatest value, whose square must not overflow.
 */
#define MIN_CERTAIN 1e-30f
#define MAX_CERTAIN 1e18f

/* What the score of a split must be above to be worth an offer; `low` and `high` are the least and the greatest value. */
INLINE float least_score(f4 scores, float weights, float low, float high) {
  float a = scores[0] > scores[1] ? scores[0] : scores[1], b = scores[2] > scores[3] ? scores[2] : scores[3];
  float best = a > b ? a : b, magnitude = high > -low ? high : -low;
  int certain = best > MIN_CERTAIN && best * weights > MIN_CERTAIN && weights * magnitude < MAX_CERTAIN;
  return certain ? best * CERTAINLY_LESS : -__FLT_MAX__;
}

INLINE f4 best_scores(f4 scores, const sums *t, const int shifts) {
  for (int shift = 0; shift < shifts; shift++) scores = max4(scores, t->qx[shift] * t->qx[shift] / t->q2[shift]);
  return scores;
}

/* Offers those of four splits that may be better, in order, and of each the shifts in order. */
INLINE void offer_better(split *s, int first, int second, const sums *t, float least, const int shifts) {
  float limit = s->score > least ? s->score : least;
  i4 better[MAX_SHIFTS] = {{0}}, any = {0};
#pragma clang loop unroll(full)
  for (int shift = 0; shift < shifts; shift++) {
    better[shift] = t->qx[shift] * t->qx[shift] > limit * t->q2[shift];
    any |= better[shift];
  }
  if (!any4(any)) return;
  float qx[MAX_SHIFTS * 4], q2[MAX_SHIFTS * 4];
  for (int shift = 0; shift < shifts; shift++) store4(qx + shift * 4, t->qx[shift]), store4(q2 + shift * 4, t->q2[shift]);
  b16 bytes = narrow_s8(narrow_s16(better[0], better[1]), narrow_s16(better[2], better[3]));
  uint32_t open = top_bits((c16)__builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (; open != 0; open &= open - 1) {
    int at = __builtin_ctz(open), i = at >> 2, shift = at & 3;
    offer(s, first, second + i, shift, qx[shift * 4 + i], q2[shift * 4 + i]);
  }
}

static split best_split_s(const float *x, const float *weight, const uint8_t *order) {
  float sum_x[PLACES(SUB_S)], sum_w[PLACES(SUB_S)], up_x[PLACES(SUB_S)], down_x[PLACES(SUB_S)], up_w[PLACES(SUB_S)],
      down_w[PLACES(SUB_S)];
  sum_x[0] = sum_w[0] = 0;
  for (int j = 0; j < SUB_S; j++) {
    int i = order[j];
    sum_x[j + 1] = sum_x[j] + weight[i] * x[i];
    sum_w[j + 1] = sum_w[j] + weight[i];
  }
  for (int j = SUB_S + 1; j < PLACES(SUB_S); j++) sum_x[j] = sum_w[j] = NOT_A_NUMBER;
  /* What lies above the second limit. */
  const float up = 1 + SHIFT, down = 1 - SHIFT;
  for (int j = 0; j < PLACES(SUB_S); j += 4) {
    f4 above_x = sum_x[SUB_S] - load4(sum_x + j), above_w = sum_w[SUB_S] - load4(sum_w + j);
    store4(up_x + j, above_x * up), store4(up_w + j, above_w * up * up);
    store4(down_x + j, above_x * down), store4(down_w + j, above_w * down * down);
  }
  split best;
  best.score = -__FLT_MAX__, best.first = -1;
  f4 scores = {0};
  float least = -__FLT_MAX__;
  for (int pass = 0; pass < 2; pass++) {
    for (int first = pass ? 0 : FIRST_TRIED(SUB_S); first <= (pass ? SUB_S : LAST_TRIED(SUB_S)); first += pass ? 1 : 2) {
      float below_x = sum_x[first], below_w = sum_w[first];
      float below_up = below_x * (SHIFT - 1), below_down = below_x * (-SHIFT - 1);
      float below_up2 = below_w * (SHIFT - 1) * (SHIFT - 1), below_down2 = below_w * (-SHIFT - 1) * (-SHIFT - 1);
      for (int second = first; second <= SUB_S; second += 4) {
        f4 middle_x = (load4(sum_x + second) - below_x) * SHIFT, middle_w = (load4(sum_w + second) - below_w) * SHIFT * SHIFT;
        sums t;
        t.qx[0] = below_up + middle_x + load4(up_x + second), t.qx[1] = below_down - middle_x + load4(down_x + second);
        t.q2[0] = below_up2 + middle_w + load4(up_w + second), t.q2[1] = below_down2 + middle_w + load4(down_w + second);
        if (pass == 0) scores = best_scores(scores, &t, 2);
        else offer_better(&best, first, second, &t, least, 2);
      }
    }
    if (pass == 0) least = least_score(scores, sum_w[SUB_S], x[order[0]], x[order[SUB_S - 1]]);
  }
  return best;
}

static split best_split_m(const float *x, const float *weight, const uint8_t *order) {
  float sum_x[2][PLACES(SUB_M)], sum_w[2][PLACES(SUB_M)], up_w[2][PLACES(SUB_M)], down_w[2][PLACES(SUB_M)];
  for (int h = 0; h < 2; h++) {
    sum_x[h][0] = sum_w[h][0] = 0;
    for (int j = 0; j < SUB_M; j++) {
      int i = order[j], own = i >> 3 == h;
      sum_x[h][j + 1] = sum_x[h][j] + (own ? weight[i] * x[i] : 0.f);
      sum_w[h][j + 1] = sum_w[h][j] + (own ? weight[i] : 0.f);
    }
    for (int j = SUB_M + 1; j < PLACES(SUB_M); j++) sum_x[h][j] = sum_w[h][j] = NOT_A_NUMBER;
  }
  /* A sum over the three parts is that over all at the highest value, less what each limit takes from it. */
  const float up_1 = (SHIFT - 1) * (SHIFT - 1) - SHIFT * SHIFT, up_2 = SHIFT * SHIFT - (1 + SHIFT) * (1 + SHIFT);
  const float down_1 = (-SHIFT - 1) * (-SHIFT - 1) - SHIFT * SHIFT, down_2 = SHIFT * SHIFT - (1 - SHIFT) * (1 - SHIFT);
  float all_up[2], all_down[2], all_up2[2], all_down2[2];
  for (int h = 0; h < 2; h++) {
    float all_x = sum_x[h][SUB_M], all_w = sum_w[h][SUB_M];
    all_up[h] = all_x * (1 + SHIFT), all_down[h] = all_x * (1 - SHIFT);
    all_up2[h] = all_w * (1 + SHIFT) * (1 + SHIFT), all_down2[h] = all_w * (1 - SHIFT) * (1 - SHIFT);
    for (int j = 0; j < PLACES(SUB_M); j += 4) {
      store4(up_w[h] + j, load4(sum_w[h] + j) * up_2);
      store4(down_w[h] + j, load4(sum_w[h] + j) * down_2);
    }
  }
  split best;
  best.score = -__FLT_MAX__, best.first = -1;
  f4 scores = {0};
  float least = -__FLT_MAX__;
  for (int pass = 0; pass < 2; pass++) {
    for (int first = pass ? 0 : FIRST_TRIED(SUB_M); first <= (pass ? SUB_M : LAST_TRIED(SUB_M)); first += pass ? 1 : 2) {
      float first_up[2], first_down[2];
      for (int h = 0; h < 2; h++) {
        first_up[h] = all_up2[h] + sum_w[h][first] * up_1;
        first_down[h] = all_down2[h] + sum_w[h][first] * down_1;
      }
      for (int second = first; second <= SUB_M; second += 4) {
        f4 x_up[2], x_down[2], w_up[2], w_down[2];
        sums t;
        for (int h = 0; h < 2; h++) {
          f4 both = sum_x[h][first] + load4(sum_x[h] + second);
          x_up[h] = all_up[h] - both, x_down[h] = all_down[h] - both;
          w_up[h] = first_up[h] + load4(up_w[h] + second), w_down[h] = first_down[h] + load4(down_w[h] + second);
        }
#pragma clang loop unroll(full)
        for (int shift = 0; shift < 4; shift++) {
          t.qx[shift] = (shift & 2 ? x_down[0] : x_up[0]) + (shift & 1 ? x_down[1] : x_up[1]);
          t.q2[shift] = (shift & 2 ? w_down[0] : w_up[0]) + (shift & 1 ? w_down[1] : w_up[1]);
        }
        if (pass == 0) scores = best_scores(scores, &t, 4);
        else offer_better(&best, first, second, &t, least, 4);
      }
    }
    if (pass == 0)
      least = least_score(scores, sum_w[0][SUB_M] + sum_w[1][SUB_M], x[order[0]], x[order[SUB_M - 1]]);
  }
  return best;
}

/* The sums of w q x and w q^2 of an eight, added to those before. */
INLINE void add_fit(const eights *e, const float *x, const float *weight, int entry, int down, float factor, float *qx, float *q2) {
  const uint8_t *levels = e->levels + entry * WIDTH;
  for (int i = 0; i < WIDTH; i++) {
    float q = value_of(levels[i] / (int)sizeof(term), down) * factor, wq = weight[i] * q;
    *qx += wq * x[i], *q2 += wq * q;
  }
}

/* Whether the values of an eight are shifted down. */
INLINE int is_down(int shift, int k, const int halves) { return halves ? shift >> (1 - k) & 1 : shift; }

/* Searches sub-block j; `halves`: IQ1_M, whose eights are shifted apart. */
INLINE void search_sub(const eights *e, block *b, const float *x, int j, const int sub, const int halves) {
  const int groups = sub / WIDTH;
  const float *weight = b->weight + j * sub;
  uint16_t *entry = b->entry + j * groups;
  x += j * sub;
  b->scale[j] = 0, b->shift[j] = 0;
  for (int k = 0; k < groups; k++) entry[k] = 0;
  f4 magnitude = {0};
  for (int i = 0; i < sub; i += 4) magnitude = max4(magnitude, abs4(load4(x + i)));
  if (!any4(magnitude >= (halves ? EPSILON_M : EPSILON_S))) return;
  uint8_t order[sub], levels[sub];
  ascending(x, order, sub);
  split s = halves ? best_split_m(x, weight, order) : best_split_s(x, weight, order);
  if (s.first < 0) return;
  for (int i = 0; i < sub; i++) levels[order[i]] = i < s.first ? 0 : i < s.second ? 1 : 2;
  if (s.scale < 0) {
    for (int i = 0; i < sub; i++) levels[i] = 2 - levels[i];
    s.scale = -s.scale, s.shift = (halves ? 3 : 1) - s.shift;
  }
  int beside = 0;
  for (int k = 0; k < groups; k++) {
    int point = 0, down = is_down(s.shift, k, halves);
    for (int i = WIDTH - 1; i >= 0; i--) point = point * 3 + levels[k * WIDTH + i];
    int found = e->points[point];
    if (found < 0) {
      f4 values = s.scale * (f4){value_of(0, down), value_of(1, down), value_of(2, down), 0}, errors[WIDTH];
      for (int i = 0; i < WIDTH; i++) {
        f4 diff = values - x[k * WIDTH + i];
        errors[i] = weight[k * WIDTH + i] * diff * diff;
      }
      found = nearest_of(e, e->neighbours + (-1 - found), errors), beside = 1;
    }
    entry[k] = (uint16_t)found;
  }
  if (beside) {
    float qx = 0, q2 = 0;
    for (int k = 0; k < groups; k++)
      add_fit(e, x + k * WIDTH, weight + k * WIDTH, entry[k], is_down(s.shift, k, halves), 1, &qx, &q2);
    if (qx > 0 && q2 > 0) s.scale = qx / q2;
  }
  b->scale[j] = s.scale, b->shift[j] = (uint8_t)s.shift;
}

/* Searches a block. Returns 0 if it cannot be, -1 if all scales are 0. */
INLINE int search_block(block *b, const float *x, const float *importance, const int sub, const int halves) {
  const int subs = BLOCK / sub;
  float sum = sum_squares(x, BLOCK), sigma2 = 2 * sum / BLOCK, max = 0;
  if (!is_finite(sum)) return 0;
  for (int i = 0; i < BLOCK; i += 4) {
    f4 v = load4(x + i);
    store4(b->weight + i, importance == 0 ? v * v : load4(importance + i) * square_root(sigma2 + v * v));
  }
  eights e = eights_of(halves ? IQ1_M : IQ1_S, ENTRIES);
  for (int j = 0; j < subs; j++) {
    search_sub(&e, b, x, j, sub, halves);
    if (!is_finite(b->scale[j])) return 0;
    max = max > b->scale[j] ? max : b->scale[j];
  }
  b->d = max == 0 ? 0.f : max / TOP_FACTOR;
  float inverse = 1 / b->d;
  for (int j = 0; j < subs; j++) {
    int l = nearest_int(0.5f * (inverse * b->scale[j] - 1));
    b->code[j] = max == 0 ? 0 : (uint8_t)(l < 0 ? 0 : l > TOP_SCALE ? TOP_SCALE : l);
    if (max == 0) b->shift[j] = 0;
  }
  return max == 0 ? -1 : 1;
}

int weighted_iq1_s(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  block b __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BYTES_S) {
    int found = search_block(&b, x + i, importance + i, SUB_S, 0);
    float d = b.d * STRETCH_S;
    if (found == 0 || !fits_f16(d)) return i + first_to_blame(x + i, BLOCK);
    *(u16_any *)out = f16_bits(d);
    for (int j = 0; j < BLOCK / SUB_S; j++) {
      const uint16_t *entry = b.entry + j * 4;
      unsigned high = (unsigned)(b.code[j] | b.shift[j] << 3) << 12;
      for (int k = 0; k < 4; k++) out[2 + j * 4 + k] = (uint8_t)entry[k], high |= (unsigned)entry[k] >> 8 << 3 * k;
      *(u16_any *)(out + 34 + j * 2) = (uint16_t)high;
    }
  }
  return -1;
}

INLINE int write_m(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  block b __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK, out += BYTES_M) {
    int found = search_block(&b, x + i, weighted ? importance + i : 0, SUB_M, 1);
    if (found == 0) return i + first_to_blame(x + i, BLOCK);
    eights e = eights_of(IQ1_M, ENTRIES);
    unsigned scales[4] = {0};
    /* The scale that fits the sub-blocks with their own as these were rounded. */
    float qx = 0, q2 = 0;
    for (int j = 0; j < BLOCK / SUB_M; j++) {
      const uint16_t *entry = b.entry + j * 2;
      for (int k = 0; k < 2; k++) {
        int at = j * SUB_M + k * WIDTH;
        add_fit(&e, x + i + at, b.weight + at, entry[k], is_down(b.shift[j], k, 1), (float)(2 * b.code[j] + 1), &qx, &q2);
        out[j * 2 + k] = (uint8_t)entry[k];
      }
      out[32 + j] = (uint8_t)(entry[0] >> 8 | entry[1] >> 8 << 4 | (b.shift[j] & 2) << 2 | (b.shift[j] & 1) << 7);
      scales[j >> 2] |= (unsigned)b.code[j] << 3 * (j & 3);
    }
    float d = found < 0 ? 0.f : (q2 > 0 ? qx / q2 : b.d) * STRETCH_M;
    if (!fits_f16(d)) return i + first_to_blame(x + i, BLOCK);
    unsigned half = f16_bits(d);
    for (int j = 0; j < 4; j++) *(u16_any *)(out + 48 + j * 2) = (uint16_t)(scales[j] | (half >> 4 * j & 15) << 12);
  }
  return -1;
}

int quantize_iq1_m(const float *x, uint8_t *out, int n) { return write_m(x, out, n, 0, 0); }
int weighted_iq1_m(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return write_m(x, out, n, importance, 1);
}

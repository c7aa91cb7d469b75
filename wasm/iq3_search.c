/*
 * The search of IQ3_XXS and IQ3_S: 31 or 19 trials of a scale. In each the values are rounded to a point of the grid's space;
 * where that is no entry, the one of least error among its neighbours is taken; then the scale is fitted to the entries.
 * The trials go side by side, one a lane, each in ggml's order. From one to the next few points change, and the neighbours
 * of one that stays are looked at once for all its trials.
 */
#include "iq3_search.h"
#include "lanes.h"
#include "search.h"

#define SUB IQ3_SUB
#define GROUPS IQ3_GROUPS
#define TRIALS IQ3_TRIALS
/* The greatest level stands for so much. */
#define TOP 15
/* Fills up a point's last four neighbours: farther from what trial scales make of values than all others. */
#define NOTHING 0xffffffffu
/* Fours of neighbours that a point has at the most. */
#define MOST_FOURS 10

/* A scale, and the elements of each group's entry, a byte each. */
typedef struct {
  float scale;
  uint32_t words[GROUPS];
} fitted;

void iq3_type_of(enum type to, iq3_type *t) {
  const int half = to == IQ3_XXS ? 15 : 9;
  t->points = (const int32_t *)search_table(to);
  t->lists = (const uint32_t *)(t->points + 4096);
  t->trials = 2 * half + 1;
  for (int i = 0; i < TRIALS; i++) t->tops[i] = TOP + (float)(i < t->trials ? i - half : half) * 0.2f;
  t->least = to == IQ3_XXS ? 1e-8f : 0x1p-149f;
  t->keeps_entries = to == IQ3_XXS;
}

INLINE uint32_t word_of(unsigned point) {
  return ((point & 7) | (point & 0x38) << 5 | (point & 0x1c0) << 10 | (point & 0xe00) << 15) * 2 + 0x01010101u;
}
INLINE unsigned point_of(uint32_t word) {
  word = word >> 1 & 0x07070707u;
  return (word & 7) | (word >> 5 & 0x38) | (word >> 10 & 0x1c0) | (word >> 15 & 0xe00);
}

/* The point of a group's rounded values. */
INLINE unsigned point_at(const float *x, float inverse) {
  i4 level = nearest_int4(0.5f * (inverse * load4(x) - 1));
  level = mini4(maxi4(level, (i4)splatu(0)), (i4)splatu(7)) * (i4){1, 8, 64, 512};
  level |= __builtin_shufflevector(level, level, 2, 3, 0, 1);
  return (unsigned)(level[0] | level[1]);
}

INLINE f4 element(u4 words, int i) { return __builtin_convertvector(words >> 8 * i & 255, f4); }

/* The neighbour of least error, of equals the first; the first of all where no error is a number. */
static uint32_t best_neighbour(const iq3_type *t, int place, const float *x, const float *root, float scale) {
  const uint32_t *list = t->lists + (~place >> 4) * 4;
  f4 best = splat4(3.4028234663852886e38f);
  i4 found = {0}, index = {0, 1, 2, 3}, none = {127, 127, 127, 127};
  for (int j = 0; j < (~place & 15); j++, index += 4) {
    u4 words = *(const u4 *)(list + 4 * j);
    f4 error = {0};
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      f4 diff = scale * element(words, i) - x[i];
      error += root[i] * diff * diff;
    }
    i4 less = (error < best) & (i4)(words != NOTHING);
    best = pick4(less, error, best);
    found = (index & less) | (found & ~less);
  }
  f4 least = min4(best, __builtin_shufflevector(best, best, 2, 3, 0, 1));
  least = min4(least, __builtin_shufflevector(least, least, 1, 0, 3, 2));
  i4 is_least = best == least;
  found = (found & is_least) | (none & ~is_least);
  found = mini4(found, __builtin_shufflevector(found, found, 2, 3, 0, 1));
  found = mini4(found, __builtin_shufflevector(found, found, 1, 0, 3, 2));
  return list[found[0]];
}

/* The word of the entry that the point is or that is best near it. */
INLINE uint32_t entry_word(const iq3_type *t, unsigned point, const iq3_values *v, int k, float scale) {
  int place = t->points[point];
  return place < 0 ? best_neighbour(t, place, v->x + k * 4, v->root + k * 4, scale) : word_of(point);
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

/* Searches entries anew for the scale that was found, and fits the scale to them: of the groups in `searched`, or of all. */
INLINE void refine(const iq3_type *t, const iq3_values *v, fitted *f, unsigned searched) {
  if (!(f->scale > 0) || searched == 0) return;
  float inverse = 1 / f->scale, qx, q2;
  for (int k = 0; k < GROUPS; k++)
    if (!t->keeps_entries || (searched >> k & 1))
      f->words[k] = entry_word(t, point_at(v->x + k * 4, inverse), v, k, f->scale);
  fit(v, f->words, &qx, &q2);
  if (q2 > 0) f->scale = qx / q2;
}

/* One trial after the other, as ggml does. */
static void search_slowly(const iq3_type *t, const iq3_values *v, float max, fitted *f) {
  float best = 0, qx, q2;
  unsigned searched = t->keeps_entries ? 0 : 255;
  f->scale = max / TOP;
  for (int k = 0; k < GROUPS; k++) f->words[k] = word_of(0);
  for (int i = 0; i < t->trials; i++) {
    float inverse = t->tops[i] / max;
    uint32_t words[GROUPS];
    unsigned trial_searched = 0;
    for (int k = 0; k < GROUPS; k++) {
      unsigned point = point_at(v->x + k * 4, inverse);
      words[k] = entry_word(t, point, v, k, 1 / inverse);
      trial_searched |= (unsigned)(t->points[point] < 0) << k;
    }
    fit(v, words, &qx, &q2);
    if (q2 > 0 && qx * qx > best * q2) {
      f->scale = qx / q2;
      best = f->scale * qx;
      searched = trial_searched;
      for (int k = 0; k < GROUPS; k++) f->words[k] = words[k];
    }
  }
  refine(t, v, f, searched);
}

/* All trials of 32 values. */
typedef struct {
  float inverse[TRIALS], scale[TRIALS], qx[TRIALS], q2[TRIALS];
  uint16_t points[GROUPS][TRIALS + 8];
  uint32_t words[GROUPS][TRIALS + 4];
} iq3_trials;

/* The point of a group in each trial. No value is below 0 but those whose level is 0 as that of 0 is. */
INLINE void find_points(const float *inverse, const float *x, uint16_t *points, int n) {
  f4 values = max4(load4(x), splat4(0));
  f4 x0 = splat4(values[0]), x1 = splat4(values[1]), x2 = splat4(values[2]), x3 = splat4(values[3]);
  /* Adding it leaves half the number, rounded, in the low bits. */
  const float magic = 25165824.f;
  UNROLL
  for (int i = 0; i < n; i += 8) {
    u4 point[2];
#pragma clang loop unroll(full)
    for (int j = 0; j < 2; j++) {
      f4 by = load4(inverse + i + 4 * j), top = splat4(14);
      u4 a = (u4)(min4(by * x0 - 1, top) + magic), b = (u4)(min4(by * x1 - 1, top) + magic);
      u4 c = (u4)(min4(by * x2 - 1, top) + magic), d = (u4)(min4(by * x3 - 1, top) + magic);
      point[j] = (a + (b << 3)) + ((c + (d << 3)) << 6) - 585u * 0x4bc00000u;
    }
    *(h8_any *)(points + i) = narrow_s16((i4)point[0], (i4)point[1]);
  }
}

/* The trials, a bit each, after which the point is another. */
INLINE uint32_t last_trials(const uint16_t *points, int trials) {
  uint32_t last = 0;
  for (int i = 0; i < trials; i += 8)
    last |= (uint32_t)wasm_i16x8_bitmask((v128_t)(*(const h8_any *)(points + i) != *(const h8_any *)(points + i + 1))) << i;
  last |= 1u << (trials - 1);
  return last & (2u << (trials - 1)) - 1;
}

INLINE void fill_words(uint32_t *words, int first, int last, uint32_t word) {
  f4 four = (f4)splatu(word);
  for (int i = first; i <= last; i += 4) store4(words + i, four);
}

/*
 * The neighbours' errors as functions of the scale s. Of an error sum(w (s q - x)^2), (error - c) / s = a s - b with
 * a = sum(w q^2), b = sum(2 w x q), c = sum(w x^2): a straight line. So the least at two scales is the least between them.
 */
typedef struct {
  f4 a[MOST_FOURS], b[MOST_FOURS];
  int fours;
} lines;

/* The low bits of a value on a line tell which line it is. */
#define LINE 63u
/*
 * What is lost to these bits (2^-17 of each value), to rounding here and to rounding in ggml's own errors is less than 2^-15.7
 * of c plus the greater of two errors that are compared.
 */
#define DOUBT 0x1p-15f
#define INFINITE float_of(0x7f800000u)

/* The two least values at a scale, of each lane. */
typedef struct {
  f4 first, second;
} least_two;

#define NO_VALUES ((least_two){splat4(INFINITE), splat4(INFINITE)})

/* Looks at a four of values, whose lines are numbered. */
INLINE void look_at(least_two *two, f4 values, u4 line) {
  values = (f4)(((u4)values & ~LINE) | line);
  two->second = min4(two->second, max4(values, two->first));
  two->first = min4(two->first, values);
}

/* The lines of least value at two scales: 1 if both are clearly the least. */
INLINE int winners(least_two a, least_two b, f4 tolerance, unsigned *found, unsigned *found_other) {
#define HALVES(part, low, high) __builtin_shufflevector(a.part, b.part, low, low + 1, high, high + 1)
  f4 low = HALVES(first, 0, 4), high = HALVES(first, 2, 6);
  f4 second = min4(HALVES(second, 0, 4), HALVES(second, 2, 6)), first = min4(low, high);
  second = min4(second, max4(low, high));
  f4 turned = __builtin_shufflevector(first, first, 1, 0, 3, 2);
  second = min4(min4(second, __builtin_shufflevector(second, second, 1, 0, 3, 2)), max4(first, turned));
  first = min4(first, turned);
  *found = ((u4)first)[0] & LINE;
  *found_other = ((u4)first)[2] & LINE;
  return wasm_i32x4_all_true((v128_t)(second * (1 - DOUBT) - first > tolerance));
}

/* Draws the lines of a list's words, and looks at them at two scales. */
INLINE void draw_lines(lines *l, const uint32_t *list, int fours, const float *x, const float *root, float scale, float other,
                       least_two *one, least_two *two) {
  f4 w = load4(root), g = 2 * w * load4(x);
  f4 w0 = splat4(w[0]), w1 = splat4(w[1]), w2 = splat4(w[2]), w3 = splat4(w[3]);
  f4 g0 = splat4(g[0]), g1 = splat4(g[1]), g2 = splat4(g[2]), g3 = splat4(g[3]);
  least_two at_scale = NO_VALUES, at_other = NO_VALUES;
  u4 line = {0, 1, 2, 3};
  l->fours = fours;
  UNROLL
  for (int j = 0; j < fours; j++, line += 4) {
    u4 words = *(const u4 *)(list + 4 * j);
    f4 q0 = element(words, 0), q1 = element(words, 1), q2 = element(words, 2), q3 = element(words, 3);
    f4 a = (w0 * q0 * q0 + w1 * q1 * q1) + (w2 * q2 * q2 + w3 * q3 * q3);
    f4 b = (g0 * q0 + g1 * q1) + (g2 * q2 + g3 * q3);
    l->a[j] = a, l->b[j] = b;
    look_at(&at_scale, a * scale - b, line);
    look_at(&at_other, a * other - b, line);
  }
  *one = at_scale, *two = at_other;
}

/* The best neighbours at two scales: 1 if both are clearly the best. */
INLINE int two_winners(const lines *l, float scale, float other, f4 tolerance, unsigned *found, unsigned *found_other) {
  least_two a = NO_VALUES, b = NO_VALUES;
  u4 line = {0, 1, 2, 3};
  UNROLL
  for (int j = 0; j < l->fours; j++, line += 4) {
    look_at(&a, l->a[j] * scale - l->b[j], line);
    look_at(&b, l->a[j] * other - l->b[j], line);
  }
  return winners(a, b, tolerance, found, found_other);
}

/* Trials of one point that is no entry. */
typedef struct {
  const iq3_type *t;
  const iq3_values *v;
  iq3_trials *s;
  lines l;
  const uint32_t *list;
  f4 tolerance;
  float max;
  int k;
} run;

/* One trial after the other, where neighbours are nearly as good as one another. */
static __attribute__((noinline)) void search_each(const run *r, int first, int last) {
  const float *x = r->v->x + r->k * 4, *root = r->v->root + r->k * 4;
  for (int i = first; i <= last; i++)
    r->s->words[r->k][i] = best_neighbour(r->t, r->t->points[r->s->points[r->k][i]], x, root, r->s->scale[i]);
}

/* Trials between two whose best neighbours are known: where these differ, it is looked about where their lines cross. */
static void search_between(const run *r, int first, int last, unsigned winner, unsigned next) {
  uint32_t *words = r->s->words[r->k];
  while (winner != next && last - first > 1) {
    unsigned before, after;
    const lines *l = &r->l;
    float a = ((const float *)l->a)[winner] - ((const float *)l->a)[next];
    float b = ((const float *)l->b)[winner] - ((const float *)l->b)[next];
    float place = (r->max * a / b - TOP) * 5 + (float)(r->t->trials >> 1);
    int i = !(place > (float)first) ? first : place < (float)(last - 1) ? (int)place : last - 1;
    if (!two_winners(l, r->s->scale[i], r->s->scale[i + 1], r->tolerance, &before, &after)) return search_each(r, first, last);
    search_between(r, first, i, winner, before);
    first = i + 1, winner = after;
  }
  fill_words(words, first, last, r->list[next]);
  words[first] = r->list[winner];
}

/* All trials of a point that is no entry. */
INLINE void search_run(run *r, int first, int last, int place) {
  const float *x = r->v->x + r->k * 4, *root = r->v->root + r->k * 4;
  f4 c = load4(root) * load4(x) * load4(x);
  c += __builtin_shufflevector(c, c, 2, 3, 0, 1);
  c += __builtin_shufflevector(c, c, 1, 0, 3, 2);
  /* Of numbers so small that they lose bits nothing is clear. */
  r->tolerance = pick4(c >= 0x1p-70f, 2 * DOUBT * c * r->s->inverse[last], splat4(INFINITE));
  r->list = r->t->lists + (~place >> 4) * 4;
  least_two one, two;
  draw_lines(&r->l, r->list, ~place & 15, x, root, r->s->scale[first], r->s->scale[last], &one, &two);
  unsigned winner, next;
  if (!winners(one, two, r->tolerance, &winner, &next)) search_each(r, first, last);
  else if (winner == next) fill_words(r->s->words[r->k], first, last, r->list[winner]);
  else search_between(r, first, last, winner, next);
}

/* The fits of n fours of trials. */
INLINE void fit_trials(const iq3_values *v, iq3_trials *s, int at, const int n) {
  f4 qx[4] = {0}, q2[4] = {0};
  for (int k = 0; k < GROUPS; k++) {
    const uint32_t *words = opaque(s->words[k] + at);
    const float *x = v->x + k * 4, *weight = v->weight + k * 4;
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      float w = weight[i], wx = w * x[i];
#pragma clang loop unroll(full)
      for (int j = 0; j < n; j++) {
        f4 q = element((u4)load4(words + 4 * j), i);
        qx[j] += wx * q;
        q2[j] += w * q * q;
      }
    }
  }
  for (int j = 0; j < n; j++) store4(s->qx + at + 4 * j, qx[j]), store4(s->q2 + at + 4 * j, q2[j]);
}

/* All trials side by side, for values within bounds. */
INLINE void search_fast(const iq3_type *t, const iq3_values *v, float max, fitted *f, const int trials) {
  iq3_trials s;
  run r = {.t = t, .v = v, .s = &s, .max = max};
  const int padded = (trials + 7) & ~7;
  for (int i = 0; i < padded; i += 4) {
    f4 inverse = load4(t->tops + i) / max;
    store4(s.inverse + i, inverse);
    store4(s.scale + i, 1 / inverse);
  }
  for (int k = 0; k < GROUPS; k++) {
    find_points(s.inverse, v->x + k * 4, s.points[k], padded);
    uint32_t ends = last_trials(s.points[k], trials);
    r.k = k;
    for (int first = 0; ends; ends &= ends - 1) {
      int last = __builtin_ctz(ends), point = s.points[k][first], place = t->points[point];
      if (place >= 0) fill_words(s.words[k], first, last, word_of((unsigned)point));
      else search_run(&r, first, last, place);
      first = last + 1;
    }
  }
  if (trials > 20) fit_trials(v, &s, 0, 4), fit_trials(v, &s, 16, 4);
  else fit_trials(v, &s, 0, 3), fit_trials(v, &s, 12, 2);
  int found = -1;
  float best = 0;
  f->scale = max / TOP;
  for (int i = 0; i < trials; i += 4) {
    f4 qx = load4(s.qx + i), q2 = load4(s.q2 + i);
    if (!any4((q2 > 0) & (qx * qx > best * q2))) continue;
    for (int j = i; j < i + 4 && j < trials; j++) {
      if (!(s.q2[j] > 0 && s.qx[j] * s.qx[j] > best * s.q2[j])) continue;
      f->scale = s.qx[j] / s.q2[j];
      best = f->scale * s.qx[j];
      found = j;
    }
  }
  unsigned searched = t->keeps_entries ? 0 : 255;
  if (found >= 0) searched = 0;
  for (int k = 0; k < GROUPS; k++) {
    f->words[k] = found < 0 ? word_of(0) : s.words[k][found];
    if (found >= 0) searched |= (unsigned)(t->points[s.points[k][found]] < 0) << k;
  }
  refine(t, v, f, searched);
}

/* What the side-by-side search is exact for: nothing in it gets so large or so small that bits are lost. */
INLINE int within_bounds(const iq3_values *v, float max) {
  f4 least = {0}, heaviest = {0};
  for (int i = 0; i < SUB; i += 4) least = min4(least, load4(v->x + i)), heaviest = max4(heaviest, load4(v->root + i));
  return max >= 0x1p-30f && max <= 0x1p20f && !any4((least < -1024 * max) | (heaviest > 0x1p60f));
}

int iq3_search(const iq3_type *t, const iq3_values *v, iq3_found *found) {
  fitted f;
  f4 most = {0};
  for (int i = 0; i < SUB; i += 4) most = max4(most, load4(v->x + i));
  most = max4(most, __builtin_shufflevector(most, most, 2, 3, 0, 1));
  float max = most[0] > most[1] ? most[0] : most[1];
  if (max < t->least) return 0;
  if (!within_bounds(v, max)) search_slowly(t, v, max, &f);
  else if (t->trials == 31) search_fast(t, v, max, &f, 31);
  else search_fast(t, v, max, &f, 19);
  found->scale = f.scale;
  for (int k = 0; k < GROUPS; k++) found->entries[k] = (uint16_t)t->points[point_of(f.words[k])];
  return 1;
}

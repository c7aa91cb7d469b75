/* The trials do not depend on one another, so three go at once over the same loads. */
#include "signed_scale.h"

/* Trial number i, of -9..9, is -(range + 0.1 i) / max. From 5 on a code may round to -range - 1 and must be capped. */
#define TRIAL(i) (range + 0.1f * (float)(i))
#define FIRST_CAPPED 5
#define TRIALS 18
/* The trials in order: -9..-1, 1..9. */
#define STEP(i) ((i) < 9 ? (i) - 9 : (i) - 8)
/* With a value of the other sign than max and more than this of its magnitude, a code may round to range. */
#define MIRROR_LIMIT ((range - 0.51f) / (range + 0.91f))

/* The sums of w x l and w l^2 of a vector for some trials; aux is w x. `mirror`, `capped`: a code may be too large, small. */
INLINE void fit(const row *rows, const int sub, const float range, int trials, const fv *inverse, fv *lx, fv *l2,
                const int mirror, const int capped) {
  for (int t = 0; t < trials; t++) lx[t] = l2[t] = (fv){0};
  const fv magic = opaque(splat(12582912.f));
  UNROLL
  for (const row *p = rows, *end = p + sub; p < end; p++) {
    const row *r = opaque(p);
    fv x = AT(r->x, 0), w = AT(r->weight, 0), wx = AT(r->aux, 0);
#pragma clang loop unroll(full)
    for (int t = 0; t < trials; t++) {
      fv l = inverse[t] * x + magic - magic;
      if (mirror) l = vmin(l, splat(range - 1.f));
      if (capped) l = vmax(l, splat(-range));
      lx[t] += wx * l;
      l2[t] += w * l * l;
    }
  }
}

/*
 * The divisions for some trials. They are made one round ahead, while the sums of the round before are added up, and are
 * stored as volatile so that nobody moves them back to where they would be waited for.
 */
INLINE void start_trials(signed_search *k, const float range, int first, fv max) {
  for (int t = 0; t < AT_ONCE; t++) *(volatile fv *)&k->inverse[t] = -TRIAL(STEP(first + t)) / max;
}

INLINE void search_lanes(signed_search *k, const int sub, const float range) {
  for (int g = 0; g < NV; g++) {
    fv magnitude = {0}, max = {0}, low = {0}, high = {0}, sum = {0};
    row *rows = ROWS(k->rows, g);
    for (row *r = rows; r < rows + sub; r++) {
      fv x = AT(r->x, 0), w = AT(r->weight, 0), a = vabs(x);
      max = pick(magnitude < a, x, max);
      magnitude = vmax(magnitude, a);
      low = vmin(low, x), high = vmax(high, x);
      AT(r->aux, 0) = w * x;
      sum += w;
    }
    iv dead = magnitude < EPSILON;
    int mirror = vany(~dead & (vmin(high, -low) > MIRROR_LIMIT * magnitude));
    fv inverse[AT_ONCE], lx[AT_ONCE], l2[AT_ONCE];
    fv code_inverse = inverse[0] = -range / max;
    fit(rows, sub, range, 1, inverse, lx, l2, 1, 0);
    fv scale = lx[0] / l2[0];
    scale = (fv)((iv)scale & (l2[0] != 0.f));
    fv best = scale * lx[0];
    start_trials(k, range, 0, max);
#pragma clang loop unroll(disable)
    for (int i = 0; i < TRIALS; i += AT_ONCE) {
      for (int t = 0; t < AT_ONCE; t++) inverse[t] = k->inverse[t];
      start_trials(k, range, i + AT_ONCE, max);
      if (STEP(i + AT_ONCE - 1) < FIRST_CAPPED) {
        if (mirror) fit(rows, sub, range, AT_ONCE, inverse, lx, l2, 1, 0);
        else fit(rows, sub, range, AT_ONCE, inverse, lx, l2, 0, 0);
      } else {
        if (mirror) fit(rows, sub, range, AT_ONCE, inverse, lx, l2, 1, 1);
        else fit(rows, sub, range, AT_ONCE, inverse, lx, l2, 0, 1);
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
    AT(k->sum_weight, g) = sum;
    AT(k->code_inverse, g) = (fv)((iv)code_inverse & ~dead);
  }
}

void search_signed_16_32(signed_search *k) { search_lanes(k, 16, 32.f); }
void search_signed_16_4(signed_search *k) { search_lanes(k, 16, 4.f); }
void search_signed_32_8(signed_search *k) { search_lanes(k, 32, 8.f); }
void search_signed_32_16(signed_search *k) { search_lanes(k, 32, 16.f); }

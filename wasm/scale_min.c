/*
 * The trials for scale and minimum: for each a weighted least-squares fit, and the fit of the least error wins.
 *
 * The error of a fit takes a third of the work, and most fits are no better than the best so far: where the error is one of
 * squares its value is known to within rounding from the sums at hand, and where even the least possible value is too large
 * the exact one is not computed. What the fast path cannot do exactly (see `slow`) a scalar copy of the search does.
 */
#include "scale_min.h"

/* Beyond these the closed form, nearest_int or a reciprocal might leave the range where the fast path is exact. */
#define MIN_RANGE 1e-30f
#define MAX_MAGNITUDE 1e15f
#define MAX_ROUNDED 4e6f
/*
 * How far the closed-form error may be from the one that ggml adds up, in units of 2^-24. With q = sum w x^2 + scale^2 sum
 * w l^2 + min^2 sum w, all terms of the closed form together are at most 3 q (Cauchy-Schwarz). Each sum of 32 products is
 * good to 33 units of itself (99 q), its evaluation to 6 (18 q), and ggml's own differences add 18 q and 34 of the error
 * itself. With sums or weights below these underflow would come on top.
 */
#define UNIT (1.f / 16777216.f)
#define ERROR_BOUND (140.f * UNIT)
#define ERROR_SHRINK (1.f - 64.f * UNIT)
#define MIN_CERTAIN_SUM 1e-28f
#define MIN_CERTAIN_WEIGHT 1e-30f

#define TRIAL(s, i) ((s.first + s.step * (float)(i)) + s.top)

void search_one(const shape *s, const float *x, const float *w, float *out_scale, float *out_min, uint8_t *codes) {
  float min = x[0], max = x[0], sum_w = 0, sum_x = 0, best = 0;
  uint8_t trial[MAX_SUB];
  int sub = s->sub, top = (int)s->top;
  for (int i = 0; i < sub; i++) {
    if (x[i] < min) min = x[i];
    if (x[i] > max) max = x[i];
    sum_w += w[i];
    sum_x += w[i] * x[i];
    codes[i] = 0;
  }
  if (min > 0) min = 0;
  *out_scale = 0, *out_min = min;
  if (max == min) return;
  float inverse = s->top / (max - min), scale = 1 / inverse;
  for (int i = 0; i < sub; i++) {
    int l = nearest_int(inverse * (x[i] - min));
    codes[i] = (uint8_t)(l < 0 ? 0 : l > top ? top : l);
    float diff = scale * (float)codes[i] + min - x[i];
    best += w[i] * (s->magnitudes ? __builtin_fabsf(diff) : diff * diff);
  }
  for (int step = 0; step <= s->steps; step++) {
    inverse = TRIAL((*s), step) / (max - min);
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < sub; i++) {
      int l = nearest_int(inverse * (x[i] - min));
      trial[i] = (uint8_t)(l < 0 ? 0 : l > top ? top : l);
      float f = (float)trial[i], wl = w[i] * f;
      sum_l += wl, sum_l2 += wl * f, sum_xl += wl * x[i];
    }
    float det = sum_w * sum_l2 - sum_l * sum_l;
    if (!(det > 0)) continue;
    float fit_scale = (sum_w * sum_xl - sum_x * sum_l) / det, fit_min = (sum_l2 * sum_x - sum_l * sum_xl) / det, error = 0;
    if (fit_min > 0) fit_min = 0, fit_scale = sum_xl / sum_l2;
    for (int i = 0; i < sub; i++) {
      float diff = fit_scale * (float)trial[i] + fit_min - x[i];
      error += w[i] * (s->magnitudes ? __builtin_fabsf(diff) : diff * diff);
    }
    if (error < best) {
      __builtin_memcpy(codes, trial, (size_t)sub);
      best = error, scale = fit_scale, min = fit_min;
    }
  }
  *out_scale = scale, *out_min = min;
}

void redo_lane(const shape *s, search *k, int lane, uint8_t *codes) {
  float x[MAX_SUB], w[MAX_SUB];
  for (int i = 0; i < s->sub; i++) x[i] = k->rows[i].x[lane], w[i] = k->rows[i].weight[lane];
  search_one(s, x, w, &k->scale[lane], &k->min[lane], codes);
}

void search_codes(const shape *s, const search *k, int lane, const float *x, const uint8_t *slow_codes, uint8_t *codes) {
  if (k->dead[lane]) {
    for (int i = 0; i < s->sub; i++) codes[i] = 0;
  } else if (k->slow[lane]) {
    __builtin_memcpy(codes, slow_codes, (size_t)s->sub);
  } else {
    int top = (int)s->top;
    for (int i = 0; i < s->sub; i++) {
      int l = nearest_int(k->code_inverse[lane] * (x[i] - k->code_min[lane]));
      codes[i] = (uint8_t)(l < 0 ? 0 : l > top ? top : l);
    }
  }
}

typedef struct {
  fv l, l2, xl;
} sums;

/*
 * Codes of the vectors g and g + 1 for a trial, and their weighted sums. `aux` is max(x - min, 0) for the current min.
 * `moved`: their min has changed since it was made. `capped`: a code may come out as top + 1.
 */
INLINE void fit_two(search *k, const shape s, int g, const fv *inverse, const fv *min, sums *out, const int moved,
                    const int capped) {
  sums a = {0}, b = {0};
  fv ia = inverse[g], ib = inverse[g + 1], ma = min[g], mb = min[g + 1];
  const fv magic = opaque(splat(12582912.f));
  UNROLL
  for (row *p = ROWS(k->rows, g), *end = p + s.sub; p < end; p++) {
    row *r = opaque(p);
    fv xa = AT(r->x, 0), xb = AT(r->x, 1), ua, ub;
    if (moved) {
      AT(r->aux, 0) = ua = vmax(xa - ma, (fv){0});
      AT(r->aux, 1) = ub = vmax(xb - mb, (fv){0});
    } else {
      ua = AT(r->aux, 0), ub = AT(r->aux, 1);
    }
    fv la = ia * ua + magic - magic, lb = ib * ub + magic - magic;
    if (capped) la = vmin(la, splat(s.top)), lb = vmin(lb, splat(s.top));
    AT(r->code, 0) = la, AT(r->code, 1) = lb;
    fv wa = AT(r->weight, 0) * la, wb = AT(r->weight, 1) * lb;
    a.l += wa, b.l += wb;
    a.l2 += wa * la, b.l2 += wb * lb;
    a.xl += wa * xa, b.xl += wb * xb;
  }
  out[g] = a, out[g + 1] = b;
}

INLINE fv distance(const shape s, fv diff, iv positive) {
  return s.magnitudes ? (fv)((iv)diff & positive) : diff * diff;
}

/* The weighted errors of two vectors under scale * code + min. */
INLINE void errors_two(search *k, const shape s, int a, int b, const fv *scale, const fv *min, fv *error) {
  fv ea = {0}, eb = {0}, sa = scale[a], sb = scale[b], ma = min[a], mb = min[b];
  const row *pa = ROWS(k->rows, a), *pb = ROWS(k->rows, b), *end = pa + s.sub;
  const iv positive = POSITIVE;
  UNROLL
  for (; pa < end; pa++, pb++) {
    const row *ra = opaque(pa), *rb = opaque(pb);
    fv da = sa * AT(ra->code, 0) + ma - AT(ra->x, 0), db = sb * AT(rb->code, 0) + mb - AT(rb->x, 0);
    ea += AT(ra->weight, 0) * distance(s, da, positive);
    eb += AT(rb->weight, 0) * distance(s, db, positive);
  }
  error[a] = ea, error[b] = eb;
}

/* The same for one vector. */
INLINE void errors_one(search *k, const shape s, int a, const fv *scale, const fv *min, fv *error) {
  fv ea = {0}, sa = scale[a], ma = min[a];
  const row *pa = ROWS(k->rows, a), *end = pa + s.sub;
  const iv positive = POSITIVE;
  UNROLL
  for (; pa < end; pa++) {
    const row *ra = opaque(pa);
    fv da = sa * AT(ra->code, 0) + ma - AT(ra->x, 0);
    ea += AT(ra->weight, 0) * distance(s, da, positive);
  }
  error[a] = ea;
}

INLINE void search_lanes(search *k, const shape s) {
  fv min[NV], max[NV], lowest[NV], sum_w[NV], sum_x[NV], sum_xx[NV], best[NV], scale[NV], inverse[NV];
  fv code_inverse[NV], code_min[NV], largest_min[NV];
  iv slow[NV], dead[NV], uncertain[NV];
  int moved[NV / 2];
  const iv positive = POSITIVE;

  for (int g = 0; g < NV; g++) {
    row *rows = ROWS(k->rows, g), *end = rows + s.sub;
    fv low = AT(rows->x, 0), high = low, sw = {0}, sx = {0}, sxx = {0};
    iv tiny = {0};
    for (row *r = rows; r < end; r++) {
      fv x = AT(r->x, 0), w = AT(r->weight, 0), wx = w * x;
      low = vmin(low, x), high = vmax(high, x);
      sw += w, sx += wx, sxx += wx * x;
      if (s.weighted) tiny |= (w < MIN_CERTAIN_WEIGHT) & (w != 0.f);
    }
    fv magnitude = vmax(high, -low);
    lowest[g] = low;
    low = vmin(low, (fv){0});
    min[g] = largest_min[g] = code_min[g] = low, max[g] = high;
    sum_w[g] = sw, sum_x[g] = sx, sum_xx[g] = sxx;
    fv range = high - low;
    dead[g] = high == low;
    slow[g] = ~dead[g] & ~((range > MIN_RANGE) & (magnitude < MAX_MAGNITUDE));
    uncertain[g] = tiny | ~((sxx > MIN_CERTAIN_SUM) & (sw > MIN_CERTAIN_SUM));
    inverse[g] = code_inverse[g] = s.top / range;
    scale[g] = 1.f / inverse[g];
    fv error = {0};
    for (row *r = rows; r < end; r++) {
      fv x = AT(r->x, 0), u = x - low, l = nearest(inverse[g] * u), diff = scale[g] * l + low - x;
      AT(r->aux, 0) = u;
      error += AT(r->weight, 0) * distance(s, diff, positive);
    }
    best[g] = error;
  }
  for (int p = 0; p < NV / 2; p++) moved[p] = 0;

  for (int step = 0; step <= s.steps; step++) {
    sums t[NV];
    fv fit_scale[NV], fit_min[NV], error[NV];
    iv valid[NV];
    int todo[NV], count = 0;
    for (int g = 0; g < NV; g++) inverse[g] = TRIAL(s, step) / (max[g] - min[g]);
    for (int p = 0; p < NV / 2; p++) {
      if (step < s.first_capped) {
        if (moved[p]) fit_two(k, s, 2 * p, inverse, min, t, 1, 0);
        else fit_two(k, s, 2 * p, inverse, min, t, 0, 0);
      } else {
        if (moved[p]) fit_two(k, s, 2 * p, inverse, min, t, 1, 1);
        else fit_two(k, s, 2 * p, inverse, min, t, 0, 1);
      }
      moved[p] = 0;
    }
    for (int g = 0; g < NV; g++) {
      fv l = t[g].l, l2 = t[g].l2, xl = t[g].xl;
      fv det = sum_w[g] * l2 - l * l;
      fv fs = (sum_w[g] * xl - sum_x[g] * l) / det, fm = (l2 * sum_x[g] - l * xl) / det;
      iv above = fm > 0.f;
      if (vany(above)) fm = (fv)((iv)fm & ~above), fs = pick(above, xl / l2, fs);
      fit_scale[g] = fs, fit_min[g] = fm;
      iv open = valid[g] = (det > 0.f) & ~dead[g];
      if (!s.magnitudes) {
        fv q = sum_xx[g] + fs * fs * l2 + fm * fm * sum_w[g];
        fv closed = sum_xx[g] + fs * (fs * l2 + 2.f * (fm * l - xl)) + fm * (fm * sum_w[g] - 2.f * sum_x[g]);
        /* Negated, so that a NaN leaves it open. */
        open &= uncertain[g] | ~(closed * ERROR_SHRINK - ERROR_BOUND * q >= best[g]);
      }
      todo[count] = g;
      count += vany(open);
    }
    int i = 0;
    for (; i + 2 <= count; i += 2) errors_two(k, s, todo[i], todo[i + 1], fit_scale, fit_min, error);
    if (i < count) errors_one(k, s, todo[i], fit_scale, fit_min, error);
    for (i = 0; i < count; i++) {
      int g = todo[i];
      iv better = valid[g] & (error[g] < best[g]);
      if (!vany(better)) continue;
      moved[g / 2] = 1;
      best[g] = pick(better, error[g], best[g]);
      code_inverse[g] = pick(better, inverse[g], code_inverse[g]);
      code_min[g] = pick(better, min[g], code_min[g]);
      scale[g] = pick(better, fit_scale[g], scale[g]);
      min[g] = pick(better, fit_min[g], min[g]);
      largest_min[g] = vmax(largest_min[g], min[g]);
    }
  }
  for (int g = 0; g < NV; g++) {
    /* Of all the minima that there were none asked more. */
    fv range = max[g] - largest_min[g];
    slow[g] |= ~dead[g] & ~((range > MIN_RANGE) & ((largest_min[g] - lowest[g]) * (s.top + 2.f) < MAX_ROUNDED * range));
    AT(k->scale, g) = (fv)((iv)scale[g] & ~dead[g]);
    AT(k->min, g) = min[g];
    AT(k->sum_weight, g) = sum_w[g];
    AT(k->code_inverse, g) = code_inverse[g];
    AT(k->code_min, g) = code_min[g];
    *(iv *)(k->dead + g * VL) = dead[g];
    *(iv *)(k->slow + g * VL) = slow[g];
  }
}

void search_q4_k(search *k) { search_lanes(k, Q4_K_SHAPE); }
void search_q5_k(search *k) { search_lanes(k, Q5_K_SHAPE); }
void search_q2_k(search *k) { search_lanes(k, Q2_K_SHAPE); }
void search_q4_weighted(search *k) { search_lanes(k, Q4_WEIGHTED); }
void search_q5_weighted(search *k) { search_lanes(k, Q5_WEIGHTED); }
void search_q2_weighted(search *k) { search_lanes(k, Q2_WEIGHTED); }

/* Below it all values count as zeros (ggml's GROUP_MAX_EPS). */
#define EPSILON 1e-15f
#define TRIALS_EACH_WAY 4
#define DESCENTS 5

INLINE f4 float4(i4 v) { return __builtin_convertvector(v, f4); }

f4 fit_scales(int n, int top, const f4 *x, const f4 *weight, i4 *codes) {
  i4 most = (i4){top, top, top, top};
  f4 max = {0}, ftop = splat4((float)top);
  for (int i = 0; i < n; i++) max = pick4(max > x[i], max, x[i]);
  i4 zeros = max < EPSILON;
  f4 inverse = ftop / max, scale = 1.f / inverse, best = {0};
  for (int i = 0; i < n; i++) {
    f4 diff = x[i] - scale * float4(nearest_int4(inverse * x[i]) & 255);
    best += weight[i] * diff * diff;
  }
  for (int step = -TRIALS_EACH_WAY; step <= TRIALS_EACH_WAY; step++) {
    if (step == 0) continue;
    f4 trial = (splat4(0.1f * (float)step) + ftop) / max, error = {0};
    scale = 1.f / trial;
    for (int i = 0; i < n; i++) {
      f4 diff = x[i] - scale * float4(mini4(nearest_int4(trial * x[i]), most));
      error += weight[i] * diff * diff;
    }
    i4 better = error < best;
    best = pick4(better, error, best), inverse = pick4(better, trial, inverse);
  }
  f4 lx = {0}, l2 = {0};
  for (int i = 0; i < n; i++) {
    i4 l = mini4(nearest_int4(inverse * x[i]), most);
    f4 w = weight[i], f = float4(l);
    codes[i] = l & 255 & ~zeros;
    lx += w * x[i] * f, l2 += w * f * f;
  }
  for (int round = 0; round < DESCENTS; round++) {
    i4 any = {0};
    for (int i = 0; i < n; i++) {
      f4 w = weight[i], wx = w * x[i], f = float4(codes[i]);
      f4 slx = lx - wx * f, sl2 = l2 - w * f * f;
      i4 l = mini4(nearest_int4(x[i] * sl2 / slx), most);
      f4 g = float4(l);
      i4 changed = (slx > 0.f) & (sl2 > 0.f) & (l != codes[i]) & ~zeros;
      slx += wx * g, sl2 += w * g * g;
      changed &= slx * slx * l2 > lx * lx * sl2;
      codes[i] = (codes[i] & ~changed) | (l & 255 & changed);
      lx = pick4(changed, slx, lx), l2 = pick4(changed, sl2, l2);
      any |= changed;
    }
    /* A lane that a round does not change, no later round changes. */
    if (!any4(any)) break;
  }
  return (f4)((i4)(lx / l2) & (l2 > 0.f) & ~zeros);
}

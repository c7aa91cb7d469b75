/*
 * Q4_K: blocks of 256 in 8 sub-blocks of 32 with a scale and a minimum each, both searched: 21 trial scales, for each a
 * weighted least-squares fit, the fit of the least error wins. Layout: block_q4_K of ggml-common.h.
 *
 * How it is fast and still gives ggml's bytes: two blocks make 16 sub-blocks, one in each SIMD lane, so every lane adds in
 * the order of the sequential code. The error of a fit takes a third of the work, and most fits are no better than the best
 * so far: from the sums at hand its value is known to within rounding, and where even the least possible value is too large
 * the exact one is not computed. What the fast path cannot do exactly (see `slow`) a scalar copy of the search does.
 */
#include "half.h"
#include "kernels.h"

#define BLOCK 256
#define BLOCK_BYTES 144
#define SUB 32
#define SUBS 8
/* V8 unrolls short loops itself, and better than LLVM does for it. */
#define UNROLL _Pragma("clang loop unroll_count(1)")
#define LANES 16
#define NV (LANES / VL)
#define TOP 15.f
#define STEPS 20
/* Trial number i is (-1 + 0.1 i + 15) / range. From 15 on a code may round to 16 and must be capped. */
#define TRIAL(i) ((-1.f + 0.1f * (float)(i)) + TOP)
#define FIRST_CAPPED 15

/* Beyond these the closed form, nearest_int or a reciprocal might leave the range where the fast path is exact. */
#define MIN_RANGE 1e-30f
#define MAX_MAGNITUDE 1e15f
#define MAX_ROUNDED 4e6f
/*
 * How far the closed-form error may be from the one that ggml adds up, in units of 2^-24. With q = sum w x^2 + scale^2 sum
 * w l^2 + min^2 sum w, all terms of the closed form together are at most 3 q (Cauchy-Schwarz). Each sum of 32 products is
 * good to 33 units of itself (99 q), its evaluation to 6 (18 q), and ggml's own differences add 18 q and 34 of the error
 * itself. Below MIN_CERTAIN underflow would come on top.
 */
#define UNIT (1.f / 16777216.f)
#define ERROR_BOUND (140.f * UNIT)
#define ERROR_SHRINK (1.f - 64.f * UNIT)
#define MIN_CERTAIN 1e-10f

/* What belongs to one element of each lane; `above` is max(x - min, 0) for the current min. */
typedef struct {
  float x[LANES], weight[LANES], above[LANES], code[LANES];
} row;

typedef struct {
  row rows[SUB];
  float scale[LANES], min[LANES];
  /* What the codes of the best fit were made with. */
  float code_inverse[LANES], code_min[LANES];
  int32_t dead[LANES], slow[LANES];
} search;

#define AT(array, g) (*(fv *)((array) + (g) * VL))
/* The rows of vector g on, as if it were the first. */
#define ROWS(k, g) ((row *)((k)->rows->x + (g) * VL))

/* The search for one sub-block as ggml does it, for what the lanes cannot do. */
static void search_one(const float *x, float *out_scale, float *out_min, uint8_t *codes) {
  float w[SUB], sum = 0, min = x[0], max = x[0], sum_w = 0, sum_x = 0, best = 0;
  uint8_t trial[SUB];
  for (int i = 0; i < SUB; i++) sum += x[i] * x[i];
  float rms = __builtin_sqrtf(sum / SUB);
  for (int i = 0; i < SUB; i++) {
    w[i] = rms + __builtin_fabsf(x[i]);
    if (x[i] < min) min = x[i];
    if (x[i] > max) max = x[i];
    sum_w += w[i];
    sum_x += w[i] * x[i];
    codes[i] = 0;
  }
  if (min > 0) min = 0;
  *out_scale = 0, *out_min = min;
  if (max == min) return;
  float inverse = TOP / (max - min), scale = 1 / inverse;
  for (int i = 0; i < SUB; i++) {
    int l = nearest_int(inverse * (x[i] - min));
    codes[i] = (uint8_t)(l < 0 ? 0 : l > 15 ? 15 : l);
    float diff = scale * (float)codes[i] + min - x[i];
    best += w[i] * (diff * diff);
  }
  for (int step = 0; step <= STEPS; step++) {
    inverse = TRIAL(step) / (max - min);
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < SUB; i++) {
      int l = nearest_int(inverse * (x[i] - min));
      trial[i] = (uint8_t)(l < 0 ? 0 : l > 15 ? 15 : l);
      float f = (float)trial[i], wl = w[i] * f;
      sum_l += wl, sum_l2 += wl * f, sum_xl += wl * x[i];
    }
    float det = sum_w * sum_l2 - sum_l * sum_l;
    if (!(det > 0)) continue;
    float s = (sum_w * sum_xl - sum_x * sum_l) / det, m = (sum_l2 * sum_x - sum_l * sum_xl) / det, error = 0;
    if (m > 0) m = 0, s = sum_xl / sum_l2;
    for (int i = 0; i < SUB; i++) {
      float diff = s * (float)trial[i] + m - x[i];
      error += w[i] * (diff * diff);
    }
    if (error < best) {
      __builtin_memcpy(codes, trial, SUB);
      best = error, scale = s, min = m;
    }
  }
  *out_scale = scale, *out_min = min;
}

typedef struct {
  fv l, l2, xl;
} sums;

/*
 * Codes of the vectors g and g + 1 for a trial, and their weighted sums. `moved`: their min has changed since `above` was
 * made. `capped`: a code may come out as 16.
 */
INLINE void fit_two(search *k, int g, const fv *inverse, const fv *min, sums *s, const int moved, const int capped) {
  sums a = {0}, b = {0};
  fv ia = inverse[g], ib = inverse[g + 1], ma = min[g], mb = min[g + 1];
  UNROLL
  for (row *p = ROWS(k, g), *end = p + SUB; p < end; p++) {
    row *r = opaque(p);
    fv xa = AT(r->x, 0), xb = AT(r->x, 1), ua, ub;
    if (moved) {
      AT(r->above, 0) = ua = vmax(xa - ma, (fv){0});
      AT(r->above, 1) = ub = vmax(xb - mb, (fv){0});
    } else {
      ua = AT(r->above, 0), ub = AT(r->above, 1);
    }
    fv la = nearest(ia * ua), lb = nearest(ib * ub);
    if (capped) la = vmin(la, splat(TOP)), lb = vmin(lb, splat(TOP));
    AT(r->code, 0) = la, AT(r->code, 1) = lb;
    fv wa = AT(r->weight, 0) * la, wb = AT(r->weight, 1) * lb;
    a.l += wa, b.l += wb;
    a.l2 += wa * la, b.l2 += wb * lb;
    a.xl += wa * xa, b.xl += wb * xb;
  }
  s[g] = a, s[g + 1] = b;
}

/* The weighted square errors of two vectors under scale * code + min. */
INLINE void errors_two(search *k, int a, int b, const fv *scale, const fv *min, fv *error) {
  fv ea = {0}, eb = {0}, sa = scale[a], sb = scale[b], ma = min[a], mb = min[b];
  const row *pa = ROWS(k, a), *pb = ROWS(k, b), *end = pa + SUB;
  UNROLL
  for (; pa < end; pa++, pb++) {
    const row *ra = opaque(pa), *rb = opaque(pb);
    fv da = sa * AT(ra->code, 0) + ma - AT(ra->x, 0), db = sb * AT(rb->code, 0) + mb - AT(rb->x, 0);
    ea += AT(ra->weight, 0) * (da * da);
    eb += AT(rb->weight, 0) * (db * db);
  }
  error[a] = ea, error[b] = eb;
}

/* The same for one vector. */
INLINE void errors_one(search *k, int a, const fv *scale, const fv *min, fv *error) {
  fv ea = {0}, sa = scale[a], ma = min[a];
  const row *pa = ROWS(k, a), *end = pa + SUB;
  UNROLL
  for (; pa < end; pa++) {
    const row *ra = opaque(pa);
    fv da = sa * AT(ra->code, 0) + ma - AT(ra->x, 0);
    ea += AT(ra->weight, 0) * (da * da);
  }
  error[a] = ea;
}

static void search_lanes(search *k) {
  fv min[NV], max[NV], lowest[NV], sum_w[NV], sum_x[NV], sum_xx[NV], best[NV], scale[NV], inverse[NV];
  fv code_inverse[NV], code_min[NV];
  iv slow[NV], dead[NV], uncertain[NV];
  int moved[NV / 2];

  for (int g = 0; g < NV; g++) {
    row *rows = ROWS(k, g), *end = rows + SUB;
    fv sum = {0}, low = AT(rows->x, 0), high = low;
    for (const row *r = rows; r < end; r++) {
      fv x = AT(r->x, 0);
      sum += x * x;
      low = vmin(low, x), high = vmax(high, x);
    }
    fv rms = square_root(sum / (float)SUB), sw = {0}, sx = {0}, sxx = {0};
    for (row *r = rows; r < end; r++) {
      fv x = AT(r->x, 0), w = rms + vabs(x), wx = w * x;
      AT(r->weight, 0) = w;
      sw += w, sx += wx, sxx += wx * x;
    }
    fv magnitude = vmax(high, -low);
    lowest[g] = low;
    low = vmin(low, (fv){0});
    min[g] = code_min[g] = low, max[g] = high;
    sum_w[g] = sw, sum_x[g] = sx, sum_xx[g] = sxx;
    fv range = high - low;
    dead[g] = high == low;
    slow[g] = ~dead[g] & ~((range > MIN_RANGE) & (magnitude < MAX_MAGNITUDE));
    uncertain[g] = magnitude < MIN_CERTAIN;
    inverse[g] = code_inverse[g] = TOP / range;
    scale[g] = 1.f / inverse[g];
    fv error = {0};
    for (row *r = rows; r < end; r++) {
      fv x = AT(r->x, 0), u = x - low, l = nearest(inverse[g] * u), diff = scale[g] * l + low - x;
      AT(r->above, 0) = u;
      error += AT(r->weight, 0) * (diff * diff);
    }
    best[g] = error;
  }
  for (int p = 0; p < NV / 2; p++) moved[p] = 0;

  for (int step = 0; step <= STEPS; step++) {
    sums s[NV];
    fv fit_scale[NV], fit_min[NV], error[NV];
    iv valid[NV];
    int todo[NV], count = 0;
    for (int g = 0; g < NV; g++) inverse[g] = TRIAL(step) / (max[g] - min[g]);
    for (int p = 0; p < NV / 2; p++) {
      if (step < FIRST_CAPPED) {
        if (moved[p]) fit_two(k, 2 * p, inverse, min, s, 1, 0);
        else fit_two(k, 2 * p, inverse, min, s, 0, 0);
      } else {
        if (moved[p]) fit_two(k, 2 * p, inverse, min, s, 1, 1);
        else fit_two(k, 2 * p, inverse, min, s, 0, 1);
      }
      moved[p] = 0;
    }
    for (int g = 0; g < NV; g++) {
      fv l = s[g].l, l2 = s[g].l2, xl = s[g].xl;
      fv det = sum_w[g] * l2 - l * l;
      fv fs = (sum_w[g] * xl - sum_x[g] * l) / det, fm = (l2 * sum_x[g] - l * xl) / det;
      iv above = fm > 0.f;
      if (vany(above)) fm = (fv)((iv)fm & ~above), fs = pick(above, xl / l2, fs);
      fv q = sum_xx[g] + fs * fs * l2 + fm * fm * sum_w[g];
      fv closed = sum_xx[g] + fs * (fs * l2 + 2.f * (fm * l - xl)) + fm * (fm * sum_w[g] - 2.f * sum_x[g]);
      fit_scale[g] = fs, fit_min[g] = fm;
      valid[g] = (det > 0.f) & ~dead[g];
      /* Negated, so that a NaN leaves it open. */
      iv open = valid[g] & (uncertain[g] | ~(closed * ERROR_SHRINK - ERROR_BOUND * q >= best[g]));
      todo[count] = g;
      count += vany(open);
    }
    int t = 0;
    for (; t + 2 <= count; t += 2) errors_two(k, todo[t], todo[t + 1], fit_scale, fit_min, error);
    if (t < count) errors_one(k, todo[t], fit_scale, fit_min, error);
    for (t = 0; t < count; t++) {
      int g = todo[t];
      iv better = valid[g] & (error[g] < best[g]);
      if (!vany(better)) continue;
      moved[g / 2] = 1;
      best[g] = pick(better, error[g], best[g]);
      code_inverse[g] = pick(better, inverse[g], code_inverse[g]);
      code_min[g] = pick(better, min[g], code_min[g]);
      scale[g] = pick(better, fit_scale[g], scale[g]);
      min[g] = pick(better, fit_min[g], min[g]);
      fv range = max[g] - min[g];
      iv exact = (range > MIN_RANGE) & ((min[g] - lowest[g]) * (TOP + 2.f) < MAX_ROUNDED * range);
      slow[g] |= better & ~exact;
    }
  }
  for (int g = 0; g < NV; g++) {
    AT(k->scale, g) = (fv)((iv)scale[g] & ~dead[g]);
    AT(k->min, g) = min[g];
    AT(k->code_inverse, g) = code_inverse[g];
    AT(k->code_min, g) = code_min[g];
    *(iv *)(k->dead + g * VL) = dead[g];
    *(iv *)(k->slow + g * VL) = slow[g];
  }
}

/* Fills lanes 8 * half to 8 * half + 7 with the sub-blocks of a block; its greatest magnitude's bits. */
static uint32_t gather(search *k, int half, const float *x) {
  u4 magnitude = splatu(0);
  for (int j = 0; j < SUBS; j += 4) {
    row *to = (row *)(k->rows->x + half * SUBS + j);
    for (int i = 0; i < SUB; i += 4) {
      const float *from = x + j * SUB + i;
      f4 a = load4(from), b = load4(from + SUB), c = load4(from + 2 * SUB), d = load4(from + 3 * SUB);
      magnitude = maxu4(magnitude, maxu4(maxu4((u4)abs4(a), (u4)abs4(b)), maxu4((u4)abs4(c), (u4)abs4(d))));
      transpose4(&a, &b, &c, &d);
      store4(to + i, a), store4(to + i + 1, b), store4(to + i + 2, c), store4(to + i + 3, d);
    }
  }
  uint32_t m = 0;
  for (int i = 0; i < 4; i++) m = magnitude[i] > m ? magnitude[i] : m;
  return m;
}

/* Sixteen codes in 0..15, whatever the quotients are. */
INLINE c16 codes16(const i4 *l) { return min_u8(narrow_u8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), (c16){0} + 15); }

/* The codes of the search for a sub-block whose scale became 0: they stay, though they mean nothing any more. */
static void search_codes(const search *k, int lane, const float *x, const uint8_t *slow_codes, uint8_t *codes) {
  if (k->dead[lane]) {
    __builtin_memset(codes, 0, SUB);
  } else if (k->slow[lane]) {
    __builtin_memcpy(codes, slow_codes, SUB);
  } else {
    for (int i = 0; i < SUB; i++) {
      int l = nearest_int(k->code_inverse[lane] * (x[i] - k->code_min[lane]));
      codes[i] = (uint8_t)(l < 0 ? 0 : l > 15 ? 15 : l);
    }
  }
}

/* Writes the block whose sub-blocks are the lanes from 8 * half on. Returns 0 if a scale overflows. */
static int finish(search *k, int half, const float *x, uint8_t *out) {
  uint8_t slow_codes[BLOCK], codes[BLOCK], *s = out + 4;
  float max_scale = 0, max_min = 0;
  for (int j = 0; j < SUBS; j++) {
    int lane = half * SUBS + j;
    if (k->slow[lane]) search_one(x + j * SUB, &k->scale[lane], &k->min[lane], slow_codes + j * SUB);
    if (k->scale[lane] > max_scale) max_scale = k->scale[lane];
    if (-k->min[lane] > max_min) max_min = -k->min[lane];
  }
  if (!fits_f16(max_scale / 63.f) || !fits_f16(max_min / 63.f)) return 0;
  uint16_t half_d = f16_bits(max_scale / 63.f), half_min = f16_bits(max_min / 63.f);
  *(u16_any *)out = half_d;
  *(u16_any *)(out + 2) = half_min;
  float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0.f, inverse_min = max_min > 0 ? 63.f / max_min : 0.f;
  float d = f16_float(half_d), dmin = f16_float(half_min);
  for (int j = 0; j < SUBS; j++) {
    int lane = half * SUBS + j;
    /* A negative scale wraps in its byte, and is then capped: so it is in ggml. */
    uint8_t sc = (uint8_t)nearest_int(inverse_scale * k->scale[lane]), m = (uint8_t)nearest_int(inverse_min * -k->min[lane]);
    if (sc > 63) sc = 63;
    if (m > 63) m = 63;
    if (j < 4) {
      s[j] = sc, s[j + 4] = m;
    } else {
      s[j + 4] = (uint8_t)((sc & 15) | (m & 15) << 4);
      s[j - 4] |= (uint8_t)(sc >> 4 << 6);
      s[j] |= (uint8_t)(m >> 4 << 6);
    }
    float scale = d * (float)sc, min = dmin * (float)m;
    const float *sub = x + j * SUB;
    if (scale == 0) {
      search_codes(k, lane, sub, slow_codes + j * SUB, codes + j * SUB);
      continue;
    }
    for (int i = 0; i < SUB; i += 16) {
      i4 l[4];
      for (int v = 0; v < 4; v++) l[v] = nearest_int4((load4(sub + i + v * 4) + min) / scale);
      *(c16_any *)(codes + j * SUB + i) = codes16(l);
    }
  }
  for (int pair = 0; pair < SUBS / 2; pair++) {
    for (int i = 0; i < SUB; i += 16) {
      c16 low = *(c16_any *)(codes + pair * 64 + i), high = *(c16_any *)(codes + pair * 64 + 32 + i);
      *(c16_any *)(out + 16 + pair * 32 + i) = low | (c16)((h8)high << 4);
    }
  }
  return 1;
}

int quantize_q4_k(const float *x, uint8_t *out, int n) {
  search k __attribute__((aligned(64)));
  for (int i = 0; i < n; i += 2 * BLOCK) {
    /* A last odd block fills both halves. */
    int blocks = n - i > BLOCK ? 2 : 1;
    uint32_t magnitude[2] = {gather(&k, 0, x + i), gather(&k, 1, x + i + (blocks - 1) * BLOCK)};
    search_lanes(&k);
    for (int b = 0; b < blocks; b++) {
      int at = i + b * BLOCK;
      if (magnitude[b] >= LIMIT_F32 || !finish(&k, b, x + at, out + at / BLOCK * BLOCK_BYTES))
        return at + first_to_blame(x + at, BLOCK);
    }
  }
  return -1;
}

/*
 * How IQ1 and IQ2 find an entry of a grid for eight values: each becomes a level of 0, 1 or 2, and the point that they make is
 * an entry or has a list of those near it. The table (src/kernels/wasm/search-tables.ts): for each point its entry, or -1 - i
 * where its neighbours begin at i; for each entry where in the rows below its levels' terms lie; the lists of neighbours.
 */
#pragma once
#include "search.h"
#include "simd.h"

#define WIDTH 8
#define POINTS 6561
#define LEVELS 3
/* Trial scales, filled up to whole vectors. */
#define TRIALS 20

/* What one element adds if it takes a level: to the error for each trial's scale, and to the sums of w q x and w q^2. */
typedef struct {
  float error[TRIALS], qx, q2;
} term;

typedef struct {
  const int32_t *points;
  /* Eight bytes an entry: its levels times the size of a term. */
  const uint8_t *levels;
  const uint16_t *neighbours;
} eights;

INLINE eights eights_of(enum type to, int entries) {
  const uint8_t *table = search_table(to);
  return (eights){(const int32_t *)table, table + POINTS * 4, (const uint16_t *)(table + POINTS * 4 + entries * WIDTH)};
}

/* An element's term for its level in an entry; `levels` are the entry's. */
INLINE const term *term_at(const term (*terms)[LEVELS], const uint8_t *levels, int i) {
  return (const term *)((const uint8_t *)terms[i] + levels[i]);
}

/* For `nv` vectors of trials from the first on: of the neighbours the one with the least error, the first of equals. */
INLINE void choose_of(const eights *e, const uint16_t *near, const term (*terms)[LEVELS], int first, int32_t *out,
                       const int nv) {
  f4 least[nv];
  i4 index[nv];
  for (int v = 0; v < nv; v++) least[v] = splat4(__FLT_MAX__), index[v] = (i4)splatu(near[1]);
  for (const uint16_t *p = near + 1, *end = p + near[0]; p < end; p++) {
    const uint8_t *levels = e->levels + *p * WIDTH;
    f4 sum[nv];
#pragma clang loop unroll(full)
    for (int i = 0; i < WIDTH; i++) {
      const float *error = term_at(terms, levels, i)->error + first;
#pragma clang loop unroll(full)
      for (int v = 0; v < nv; v++) sum[v] = i == 0 ? load4(error + 4 * v) : sum[v] + load4(error + 4 * v);
    }
#pragma clang loop unroll(full)
    for (int v = 0; v < nv; v++) {
      i4 better = sum[v] < least[v];
      index[v] = ((i4)splatu(*p) & better) | (index[v] & ~better);
      least[v] = min4(least[v], sum[v]);
    }
  }
  for (int v = 0; v < nv; v++) *(i4_any *)(out + 4 * v) = index[v];
}

/* The same for the trials from the first up to the last; what follows in `out` is overwritten. */
static inline void choose(const eights *e, const uint16_t *near, const term (*terms)[LEVELS], int first, int last, int32_t *out) {
  switch ((last - first + 3) >> 2) {
    case 1: choose_of(e, near, terms, first, out + first, 1); break;
    case 2: choose_of(e, near, terms, first, out + first, 2); break;
    case 3: choose_of(e, near, terms, first, out + first, 3); break;
    case 4: choose_of(e, near, terms, first, out + first, 4); break;
    default: choose_of(e, near, terms, first, out + first, 5); break;
  }
}

typedef uint64_t l2 __attribute__((vector_size(16)));

/*
 * Of the neighbours the one with the least error, the first of equals; four side by side. `errors`: for each element what
 * it adds with each level. The bytes of an entry are shifted to four times the level, where in them that begins.
 */
static inline int nearest_of(const eights *e, const uint16_t *near, const f4 *errors) {
  const c16 spread = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12}, bytes = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  const int last = near[0];
  f4 least = splat4(__FLT_MAX__);
  i4 index = {1, 1, 1, 1}, at = {1, 2, 3, 4};
  for (int i = 1; i <= last; i += 4, at += 4) {
    uint64_t entry[4];
    for (int n = 0; n < 4; n++) {
      int place = i + n < last ? i + n : last;
      __builtin_memcpy(&entry[n], e->levels + near[place] * WIDTH, WIDTH);
    }
    i4 a = (i4)(l2){entry[0], entry[1]}, b = (i4)(l2){entry[2], entry[3]};
    u4 halves[2] = {(u4)__builtin_shufflevector(a, b, 0, 2, 4, 6), (u4)__builtin_shufflevector(a, b, 1, 3, 5, 7)};
    f4 sum;
#pragma clang loop unroll(full)
    for (int j = 0; j < WIDTH; j++) {
      c16 levels = (c16)(halves[j >> 2] >> 4 & 0x0c0c0c0cu);
      c16 from = (c16)wasm_i8x16_swizzle((v128_t)levels, (v128_t)(spread + (uint8_t)(j & 3))) | bytes;
      f4 error = (f4)wasm_i8x16_swizzle((v128_t)errors[j], (v128_t)from);
      sum = j == 0 ? error : sum + error;
    }
    i4 better = sum < least;
    index = (at & better) | (index & ~better);
    least = min4(least, sum);
  }
  float min = __FLT_MAX__;
  int first = 1;
  for (int n = 0; n < 4; n++) {
    if (least[n] > min || (least[n] == min && index[n] >= first)) continue;
    min = least[n], first = index[n];
  }
  return near[first];
}

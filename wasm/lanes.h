/*
 * One sub-block in each SIMD lane: sixteen sub-blocks side by side, element i of all of them in row i. Every lane then adds
 * in the order of the sequential code, so its sums are ggml's.
 */
#pragma once
#include "simd.h"

/* V8 unrolls short loops itself, and better than LLVM does for it. */
#define UNROLL _Pragma("clang loop unroll_count(1)")
#define LANES 16
#define NV (LANES / VL)
#define MAX_SUB 32

/* What belongs to one element of each lane. What `aux` and `code` hold is each search's own business. */
typedef struct {
  float x[LANES], weight[LANES], aux[LANES], code[LANES];
} row;

/* The mask that leaves a magnitude, for loops: opaque, or V8 would make it anew at each use. */
#define POSITIVE opaque((iv){0} + 0x7fffffff)

#define ROW_FLOATS (4 * LANES)
#define AT(array, g) (*(fv *)((array) + (g) * VL))
/* The rows of vector g on, as if it were the first. */
#define ROWS(rows, g) ((row *)((rows)->x + (g) * VL))

/*
 * Transposes `lanes` runs of `sub` values, one run a lane; `to` is the first lane's place in the first row. Returns the
 * greatest magnitude's bits.
 */
INLINE uint32_t gather(float *to, const float *x, const int lanes, const int sub) {
  u4 magnitude = splatu(0);
  for (int j = 0; j < lanes; j += 4) {
    for (int i = 0; i < sub; i += 4) {
      const float *from = x + j * sub + i;
      float *at = to + j + i * ROW_FLOATS;
      f4 a = load4(from), b = load4(from + sub), c = load4(from + 2 * sub), d = load4(from + 3 * sub);
      magnitude = maxu4(magnitude, maxu4(maxu4((u4)abs4(a), (u4)abs4(b)), maxu4((u4)abs4(c), (u4)abs4(d))));
      transpose4(&a, &b, &c, &d);
      store4(at, a), store4(at + ROW_FLOATS, b), store4(at + 2 * ROW_FLOATS, c), store4(at + 3 * ROW_FLOATS, d);
    }
  }
  uint32_t m = 0;
  for (int i = 0; i < 4; i++) m = magnitude[i] > m ? magnitude[i] : m;
  return m;
}

/* Turns the importances that `weight` of one vector holds into weights: q sqrt(sigma2 + x^2). */
INLINE void weigh(row *rows, const int sub, fv sigma2) {
  for (row *r = rows; r < rows + sub; r++) {
    fv x = AT(r->x, 0);
    AT(r->weight, 0) = AT(r->weight, 0) * square_root(sigma2 + x * x);
  }
}

/* Adds the squares in order. */
INLINE float sum_squares(const float *x, int n) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += x[i] * x[i];
  return sum;
}

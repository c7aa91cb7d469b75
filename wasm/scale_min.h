/*
 * The search for a sub-block's scale and minimum (make_qkx2_quants and make_qkx3_quants of ggml), for sixteen sub-blocks at
 * once; and the scalar copy of it that does what the lanes cannot.
 */
#pragma once
#include "lanes.h"

typedef struct {
  row rows[MAX_SUB];
  /* The best fit, value = scale * code + min, and the sum of the weights. */
  float scale[LANES], min[LANES], sum_weight[LANES];
  /* What the codes of the best fit were made with. */
  float code_inverse[LANES], code_min[LANES];
  /* Lanes of one value only; lanes that search_one must do. */
  int32_t dead[LANES], slow[LANES];
} search;

/* Trial number i, from 0 to `steps`, is (first + step * i + top) / range; codes are 0 to `top`. */
typedef struct {
  int sub;
  float top, first, step;
  int steps;
  /* From this trial on a code may come out as top + 1 and must be capped. */
  int first_capped;
  /* Whether the error is the weighted sum of magnitudes, not of squares. */
  int magnitudes;
  /* Whether weights come from outside, so may be anything that is not negative. */
  int weighted;
} shape;

/* Each wants x and weight of all rows filled. */
#define Q4_K_SHAPE ((shape){32, 15.f, -1.f, 0.1f, 20, 15, 0, 0})
#define Q5_K_SHAPE ((shape){32, 31.f, -0.5f, 0.1f, 15, 10, 0, 0})
#define Q2_K_SHAPE ((shape){16, 3.f, -0.5f, 0.1f, 15, 10, 1, 0})
#define Q4_WEIGHTED ((shape){32, 15.f, -0.9f, 0.05f, 36, 27, 0, 1})
#define Q5_WEIGHTED ((shape){32, 31.f, -0.9f, 0.05f, 36, 27, 0, 1})
#define Q2_WEIGHTED ((shape){16, 3.f, -0.9f, 0.05f, 36, 27, 0, 1})
void search_q4_k(search *k);
void search_q5_k(search *k);
void search_q2_k(search *k);
void search_q4_weighted(search *k);
void search_q5_weighted(search *k);
void search_q2_weighted(search *k);

/* One sub-block as ggml does it. */
void search_one(const shape *s, const float *x, const float *weight, float *scale, float *min, uint8_t *codes);
/* The same for a lane, its values and weights taken from the rows; the codes are those of the search. */
void redo_lane(const shape *s, search *k, int lane, uint8_t *codes);
/* The codes of the search for a lane, for sub-blocks whose scale became 0: they stay, though they mean nothing any more. */
void search_codes(const shape *s, const search *k, int lane, const float *x, const uint8_t *slow_codes, uint8_t *codes);

/*
 * make_qp_quants for four problems, one a lane: the scale of n values that are seldom negative, with codes up to `top`.
 * Codes are left as bytes, negative ones wrapped as in ggml.
 */
f4 fit_scales(int n, int top, const f4 *x, const f4 *weight, i4 *codes);

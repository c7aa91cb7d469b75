/*
 * The search for a sub-block's signed scale (make_qx_quants of ggml), for sixteen sub-blocks at once: 19 trial scales, for
 * each the weighted least-squares fit.
 */
#pragma once
#include "lanes.h"

/* Sub-blocks and blocks below it count as zeros (ggml's GROUP_MAX_EPS). */
#define EPSILON 1e-15f
#define AT_ONCE 3

typedef struct {
  row rows[MAX_SUB];
  fv inverse[AT_ONCE];
  float scale[LANES], sum_weight[LANES];
  /* What the codes of the best fit were made with; 0 in lanes that count as zeros. */
  float code_inverse[LANES];
} signed_search;

/* Codes of `range` values on either side of 0. Each wants x and weight of all rows filled. */
void search_signed_16_32(signed_search *k);
void search_signed_16_4(signed_search *k);
void search_signed_32_8(signed_search *k);
void search_signed_32_16(signed_search *k);

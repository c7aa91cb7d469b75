/* What the kernel files offer one another. Counts are of elements; a result is the index of the first bad element, or -1. */
#pragma once
#include <stdint.h>

/* Shared with src/kernels/wasm/ops.ts. */
enum type {
  F32,
  F16,
  BF16,
  Q8_0,
  Q4_0,
  Q5_0,
  Q4_K,
  Q6_K,
  Q4_1,
  Q5_1,
  Q5_K,
  Q2_K,
  Q3_K,
  IQ4_NL,
  IQ4_XS,
  MXFP4,
  TQ1_0,
  TQ2_0,
  IQ1_S,
  IQ1_M,
  IQ2_XXS,
  IQ2_XS,
  IQ2_S,
  IQ3_XXS,
  IQ3_S,
  Q1_0,
  Q2_0
};

/* Copies n values to f32; -1, or the first that is not finite (then the rest is undefined). */
int floats_from(enum type from, const uint8_t *in, float *out, int n);
int cast(enum type from, enum type to, const uint8_t *in, uint8_t *out, int n);

int quantize_q8_0(const float *x, uint8_t *out, int n);
int quantize_q4_0(const float *x, uint8_t *out, int n);
int quantize_q4_1(const float *x, uint8_t *out, int n);
int quantize_q5_0(const float *x, uint8_t *out, int n);
int quantize_q5_1(const float *x, uint8_t *out, int n);
int quantize_q2_k(const float *x, uint8_t *out, int n);
int quantize_q3_k(const float *x, uint8_t *out, int n);
int quantize_q4_k(const float *x, uint8_t *out, int n);
int quantize_q5_k(const float *x, uint8_t *out, int n);
int quantize_q6_k(const float *x, uint8_t *out, int n);
int quantize_iq4_nl(const float *x, uint8_t *out, int n);
int quantize_iq4_xs(const float *x, uint8_t *out, int n);
int quantize_iq3_xxs(const float *x, uint8_t *out, int n);
int quantize_iq3_s(const float *x, uint8_t *out, int n);
int quantize_mxfp4(const float *x, uint8_t *out, int n);
int quantize_tq1_0(const float *x, uint8_t *out, int n);
int quantize_tq2_0(const float *x, uint8_t *out, int n);
int quantize_q1_0(const float *x, uint8_t *out, int n);
int quantize_q2_0(const float *x, uint8_t *out, int n);
int quantize_iq1_m(const float *x, uint8_t *out, int n);
int quantize_iq2_s(const float *x, uint8_t *out, int n);

/* The same with an importance for each element; sigma2 is the mean square of the whole row, which few types look at. */
int weighted_q4_0(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q4_1(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q5_0(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q5_1(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q2_k(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q3_k(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q4_k(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q5_k(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_q6_k(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq4_nl(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq4_xs(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq3_xxs(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq3_s(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq1_s(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq1_m(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq2_xxs(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq2_xs(const float *x, uint8_t *out, int n, const float *importance, float sigma2);
int weighted_iq2_s(const float *x, uint8_t *out, int n, const float *importance, float sigma2);

int dequantize(enum type from, const uint8_t *in, float *out, int n);

/* Of the n values: the first NaN or Inf, else the first of greatest magnitude (its scale overflowed). */
int first_to_blame(const float *x, int n);
/* The first of n values that is NaN or Inf, or -1. */
int first_not_finite(const float *x, int n);

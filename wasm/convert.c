/* The one function that the host calls: any supported conversion of n elements, in chunks that stay in the L1 cache. */
#include "kernels.h"
#include "simd.h"

/* Elements of f32 scratch on the stack (8 KiB): two of Q4_K's pairs of blocks. */
#define CHUNK 2048
#define UNSUPPORTED -2

/* Through f32, a chunk at a time. The sizes are arguments, for the compiler would make a table of them: a data segment. */
INLINE int through_f32(enum type from, const uint8_t *in, uint8_t *out, int n, int (*quantize)(const float *, uint8_t *, int),
                       int block, int bytes) {
  float x[CHUNK];
  for (int i = 0; i < n; i += CHUNK) {
    int count = n - i < CHUNK ? n - i : CHUNK;
    int bad = floats_from(from, in + (size_t)i * 2, x, count);
    if (bad >= 0) {
      /* An earlier block's scale may overflow: it then comes first. */
      int before = quantize(x, out + (size_t)(i / block) * bytes, bad / block * block);
      return i + (before >= 0 ? before : bad);
    }
    bad = quantize(x, out + (size_t)(i / block) * bytes, count);
    if (bad >= 0) return i + bad;
  }
  return -1;
}

INLINE int quantize(enum type from, const uint8_t *in, uint8_t *out, int n, int (*kernel)(const float *, uint8_t *, int),
                    int block, int bytes) {
  return from == F32 ? kernel((const float *)in, out, n) : through_f32(from, in, out, n, kernel, block, bytes);
}

/* The index of the first bad element, -1 if all are good, -2 if there is no such conversion. */
__attribute__((export_name("convert"))) int convert(int from, int to, const uint8_t *in, uint8_t *out, int n) {
  if (from > BF16) return to == F32 ? dequantize((enum type)from, in, (float *)out, n) : UNSUPPORTED;
  switch (to) {
    case Q8_0: return quantize((enum type)from, in, out, n, quantize_q8_0, 32, 34);
    case Q4_0: return quantize((enum type)from, in, out, n, quantize_q4_0, 32, 18);
    case Q4_1: return quantize((enum type)from, in, out, n, quantize_q4_1, 32, 20);
    case Q5_0: return quantize((enum type)from, in, out, n, quantize_q5_0, 32, 22);
    case Q5_1: return quantize((enum type)from, in, out, n, quantize_q5_1, 32, 24);
    case Q2_K: return quantize((enum type)from, in, out, n, quantize_q2_k, 256, 84);
    case Q3_K: return quantize((enum type)from, in, out, n, quantize_q3_k, 256, 110);
    case Q4_K: return quantize((enum type)from, in, out, n, quantize_q4_k, 256, 144);
    case Q5_K: return quantize((enum type)from, in, out, n, quantize_q5_k, 256, 176);
    case Q6_K: return quantize((enum type)from, in, out, n, quantize_q6_k, 256, 210);
    case IQ4_NL: return quantize((enum type)from, in, out, n, quantize_iq4_nl, 32, 18);
    case IQ4_XS: return quantize((enum type)from, in, out, n, quantize_iq4_xs, 256, 136);
    case IQ3_XXS: return quantize((enum type)from, in, out, n, quantize_iq3_xxs, 256, 98);
    case IQ3_S: return quantize((enum type)from, in, out, n, quantize_iq3_s, 256, 110);
    case MXFP4: return quantize((enum type)from, in, out, n, quantize_mxfp4, 32, 17);
    case TQ1_0: return quantize((enum type)from, in, out, n, quantize_tq1_0, 256, 54);
    case TQ2_0: return quantize((enum type)from, in, out, n, quantize_tq2_0, 256, 66);
    case Q1_0: return quantize((enum type)from, in, out, n, quantize_q1_0, 128, 18);
    case Q2_0: return quantize((enum type)from, in, out, n, quantize_q2_0, 64, 18);
    case IQ1_M: return quantize((enum type)from, in, out, n, quantize_iq1_m, 256, 56);
    case IQ2_S: return quantize((enum type)from, in, out, n, quantize_iq2_s, 256, 82);
    default: return to <= BF16 ? cast((enum type)from, (enum type)to, in, out, n) : UNSUPPORTED;
  }
}

typedef int weighted_kernel(const float *x, uint8_t *out, int n, const float *importance, float sigma2);

/* Rows of `columns` elements, each column with an importance; the same results. */
INLINE int weighted_rows(enum type from, const uint8_t *in, uint8_t *out, int n, const float *importance, int columns,
                         weighted_kernel *kernel, int block, int bytes) {
  float converted[CHUNK];
  size_t width = from == F32 ? 4 : 2;
  for (int row = 0; row < n; row += columns) {
    float sum = 0, sigma2 = 0;
    /* The mean square comes first, and with it the check of all values. */
    for (int pass = 0; pass < 2; pass++) {
      for (int i = 0; i < columns; i += CHUNK) {
        int count = columns - i < CHUNK ? columns - i : CHUNK, at = row + i;
        const float *x = (const float *)(in + (size_t)at * width);
        if (from != F32) {
          int bad = floats_from(from, in + (size_t)at * width, converted, count);
          if (bad >= 0) return at + bad;
          x = converted;
        }
        if (pass == 0) {
          uint32_t worst = 0;
          for (int j = 0; j < count; j++) {
            uint32_t bits = bits_of(x[j]) & 0x7fffffffu;
            worst = bits > worst ? bits : worst;
            sum += x[j] * x[j];
          }
          if (worst >= 0x7f800000u) return at + first_to_blame(x, count);
        } else {
          int bad = kernel(x, out + (size_t)(at / block) * bytes, count, importance + i, sigma2);
          if (bad >= 0) return at + bad;
        }
      }
      sigma2 = sum / (float)columns;
    }
  }
  return -1;
}

/* `convert` to a type that takes an importance matrix, whose `columns` values go for every row. */
__attribute__((export_name("convert_weighted"))) int convert_weighted(int from, int to, const uint8_t *in, uint8_t *out, int n,
                                                                      const float *importance, int columns) {
  if (from > BF16) return UNSUPPORTED;
  switch (to) {
    case Q4_0: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q4_0, 32, 18);
    case Q4_1: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q4_1, 32, 20);
    case Q5_0: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q5_0, 32, 22);
    case Q5_1: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q5_1, 32, 24);
    case Q2_K: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q2_k, 256, 84);
    case Q3_K: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q3_k, 256, 110);
    case Q4_K: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q4_k, 256, 144);
    case Q5_K: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q5_k, 256, 176);
    case Q6_K: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_q6_k, 256, 210);
    case IQ4_NL: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq4_nl, 32, 18);
    case IQ4_XS: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq4_xs, 256, 136);
    case IQ3_XXS: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq3_xxs, 256, 98);
    case IQ3_S: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq3_s, 256, 110);
    case IQ1_S: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq1_s, 256, 50);
    case IQ1_M: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq1_m, 256, 56);
    case IQ2_XXS: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq2_xxs, 256, 66);
    case IQ2_XS: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq2_xs, 256, 74);
    case IQ2_S: return weighted_rows((enum type)from, in, out, n, importance, columns, weighted_iq2_s, 256, 82);
    default: return UNSUPPORTED;
  }
}

/*
 * Matrices of 8-bit numbers with a scale for each block: FP8 and INT8. The definition is src/kernels/reference/scaled.ts.
 */
#include "kernels.h"
#include "parts.h"

/* The order of src/kernels/wasm/schemes.ts. */
enum codes { E4M3_CODES, E5M2_CODES, I8_CODES };

INLINE f4 decode(u4 code, const enum codes type) {
  if (type == E4M3_CODES) return decode_e4m3(code);
  if (type == E5M2_CODES) return f16_floats4(code << 8);
  return floats4((i4)(code << 24) >> 24);
}

/* NaN and Inf among sixteen codes; none among integers. */
INLINE c16 not_finite(c16 q, const enum codes type) {
  if (type == E4M3_CODES) return (c16)((q & 0x7f) == 0x7f);
  if (type == E5M2_CODES) return (c16)((q & 0x7f) >= 0x7c);
  return (c16){0};
}

/* `n` values of one block; whether one is NaN or Inf. */
INLINE int one_block(const uint8_t *in, int n, float scale, float zero, float *y, const enum codes type) {
  int bad = 0;
  f4 scale4 = splat4(scale), zero4 = splat4(zero);
  for (int i = 0; i < n; i += 16) {
    uint8_t last_in[16] = {0};
    float last_out[16];
    const uint8_t *from = in + i;
    float *to = y + i;
    if (i + 16 > n) {
      for (int j = i; j < n; j++) last_in[j - i] = in[j];
      from = last_in, to = last_out;
    }
    c16 q = *(const c16_any *)from;
    i4 v[4];
    widen16(q, v, v + 1, v + 2, v + 3);
    for (int j = 0; j < 4; j++) store4(to + j * 4, (decode((u4)v[j], type) - zero4) * scale4);
    c16 wrong = not_finite(q, type);
    if (type != I8_CODES && any4((i4)wrong)) {
      bad = 1;
      for (int j = 0; j < 16; j++)
        if (wrong[j]) to[j] = float_of(0x7fc00000u);
    }
    if (to == last_out)
      for (int j = i; j < n; j++) y[j] = last_out[j - i];
  }
  return bad;
}

INLINE int all_rows(const uint8_t *codes, const float *scales, const int8_t *zeros, int block_rows, int block_columns,
                    int columns, float *out, int first, int end, const enum codes type) {
  int bad = 0;
  size_t across = ((size_t)columns + block_columns - 1) / block_columns;
  for (int row = first; row < end; row++) {
    const uint8_t *in = codes + (size_t)row * columns;
    float *y = out + (size_t)row * columns;
    for (size_t block = 0; block < across; block++) {
      size_t at = row / block_rows * across + block, from = block * block_columns;
      int n = columns - (int)from < block_columns ? columns - (int)from : block_columns;
      bad |= is_large(scales[at]);
      bad |= one_block(in + from, n, scales[at], zeros == 0 ? 0.f : (float)zeros[at], y + from, type);
    }
  }
  return bad ? first_not_finite(out + (size_t)first * columns, (end - first) * columns) : -1;
}

/* `zeros` is 0 for symmetric matrices. */
__attribute__((export_name("dequantize_scaled"))) int dequantize_scaled(int type, int block_rows, int block_columns,
                                                                        const uint8_t *codes, const float *scales,
                                                                        const int8_t *zeros, int columns, float *out,
                                                                        int first, int end) {
  switch (type) {
    case E4M3_CODES: return all_rows(codes, scales, zeros, block_rows, block_columns, columns, out, first, end, E4M3_CODES);
    case E5M2_CODES: return all_rows(codes, scales, zeros, block_rows, block_columns, columns, out, first, end, E5M2_CODES);
    case I8_CODES: return all_rows(codes, scales, zeros, block_rows, block_columns, columns, out, first, end, I8_CODES);
    default: return UNSUPPORTED;
  }
}

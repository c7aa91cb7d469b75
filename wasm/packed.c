/*
 * Matrices whose codes lie along their rows: compressed-tensors' packed ones, and AWQ's GEMV. The definitions are packed.ts and
 * awq.ts of src/kernels/reference.
 */
#include "kernels.h"
#include "parts.h"

typedef struct {
  const uint32_t *zeros;
  int zero_words;
  const float *scales;
  int scale_columns;
} group_parts;

INLINE int zero_of(const group_parts *p, int row, int group, const int bits) {
  if (p->zeros == 0) return 1 << (bits - 1);
  size_t field = p->zero_words == 0 ? (size_t)row : (size_t)group;
  size_t word = field * bits >> 5;
  size_t at = p->zero_words == 0 ? word * p->scale_columns + group : (size_t)row * p->zero_words + word;
  return p->zeros[at] >> (field * bits & 31) & ((1u << bits) - 1);
}

/* Columns `from` to `to` of a row, all of one group. */
INLINE void one_group(const uint8_t *codes, int from, int to, int zero, float scale, float *y, const int bits) {
  int i = from;
  for (; i < to && i % 8 != 0; i++)
    y[i] = (float)((codes[i * bits >> 3] >> (i * bits & 7) & ((1 << bits) - 1)) - zero) * scale;
  f4 scale4 = splat4(scale);
  for (; i + 16 <= to; i += 16) {
    i4 a, b, c, d;
    widen16(load16(codes + i / 8 * bits, bits), &a, &b, &c, &d);
    store4(y + i, floats4(a - zero) * scale4), store4(y + i + 4, floats4(b - zero) * scale4);
    store4(y + i + 8, floats4(c - zero) * scale4), store4(y + i + 12, floats4(d - zero) * scale4);
  }
  for (; i < to; i++)
    y[i] = (float)((codes[i * bits >> 3] >> (i * bits & 7) & ((1 << bits) - 1)) - zero) * scale;
}

INLINE int all_rows(const uint8_t *codes, int row_bytes, const group_parts *p, const int32_t *order, int group,
                    int columns, float *out, int first, int end, const int bits) {
  int large = 0;
  for (int row = first; row < end; row++) {
    const uint8_t *in = codes + (size_t)row * row_bytes;
    float *y = out + (size_t)row * columns;
    for (int from = 0, to; from < columns; from = to) {
      int g = order != 0 ? order[from] : from / group;
      if (order == 0) to = columns - from < group ? columns : from + group;
      else
        for (to = from + 1; to < columns && order[to] == g;) to++;
      float scale = p->scales[(size_t)row * p->scale_columns + g];
      large |= is_large(scale);
      one_group(in, from, to, zero_of(p, row, g, bits), scale, y, bits);
    }
  }
  return large ? first_not_finite(out + (size_t)first * columns, (end - first) * columns) : -1;
}

/*
 * `zeros` is 0 for symmetric matrices; `zero_words` are the words of zeros in a row, or 0 if those of all rows are one stream
 * for each group. `scale_columns` are the scales of a row; `order` is the group of each input, or 0.
 */
__attribute__((export_name("dequantize_packed"))) int dequantize_packed(int bits, int group, const uint8_t *codes,
                                                                        int row_words, const uint32_t *zeros,
                                                                        int zero_words, const float *scales,
                                                                        int scale_columns, const int32_t *order, int columns,
                                                                        float *out, int first, int end) {
  group_parts p = {zeros, zero_words, scales, scale_columns};
  switch (bits) {
    case 2: return all_rows(codes, row_words * 4, &p, order, group, columns, out, first, end, 2);
    case 4: return all_rows(codes, row_words * 4, &p, order, group, columns, out, first, end, 4);
    case 8: return all_rows(codes, row_words * 4, &p, order, group, columns, out, first, end, 8);
    default: return UNSUPPORTED;
  }
}

/*
 * GPTQ's matrices: words along the inputs of outputs side by side. A tile of outputs by inputs is decoded four outputs at a
 * time, turned round, and then written row by row. The definition is src/kernels/reference/gptq.ts.
 */
#include "kernels.h"
#include "parts.h"

/* The outputs of a cache line of words, and so many inputs that a tile (8 KiB) stays in the L1 cache. */
#define TILE_ROWS 16
#define TILE_COLUMNS 128

/* What four outputs subtract and multiply by. */
typedef struct {
  const uint32_t *zeros;
  const float *scales;
  int offset, rows;
} group_parts;

INLINE void load_group(const group_parts *p, int group, int row, i4 *zero, f4 *scale, const int bits) {
  *scale = load4(p->scales + (size_t)group * p->rows + row);
  size_t bit = (size_t)row * bits;
  const uint32_t *words = p->zeros + (size_t)group * (p->rows / 32 * bits + p->rows % 32 * bits / 32) + (bit >> 5);
  int shift = bit & 31;
  uint32_t w = words[0] >> shift;
  if (shift + 4 * bits > 32) w |= words[1] << (32 - shift);
  *zero = (i4)((u4){w, w >> bits, w >> (2 * bits & 31), w >> (3 * bits & 31)} & ((1u << bits) - 1)) + p->offset;
}

/* Four outputs of one tile; whether a scale is large. */
INLINE int four_rows(const uint32_t *codes, const group_parts *p, const int32_t *order, int group, int row, int start,
                     int width, float *tile, const int bits) {
  const int unit = 32 % bits == 0 ? 32 / bits : 32, words = unit * bits / 32;
  int large = 0, last = -1, limit = 0;
  i4 zero = {0};
  f4 scale = {0};
  for (int k = start; k < start + width; k += unit) {
    u4 w[4];
    const uint32_t *at = codes + (size_t)(k / unit) * words * p->rows + row;
    for (int i = 0; i < words; i++) w[i] = (u4)load4(at + (size_t)i * p->rows);
    for (int j = 0; j < unit; j += 4) {
      f4 v[4];
      for (int c = 0; c < 4; c++) {
        int column = k + j + c, bit = (j + c) * bits;
        if (order != 0 ? order[column] != last : column >= limit) {
          last = order != 0 ? order[column] : column / group;
          limit = (last + 1) * group;
          load_group(p, last, row, &zero, &scale, bits);
          large |= any_large4(scale);
        }
        u4 code = w[bit >> 5] >> (bit & 31);
        if (32 % bits != 0 && (bit & 31) + bits > 32) code |= w[(bit >> 5) + 1] << (32 - (bit & 31));
        v[c] = floats4((i4)(code & ((1u << bits) - 1)) - zero) * scale;
      }
      transpose4(v, v + 1, v + 2, v + 3);
      for (int c = 0; c < 4; c++) store4(tile + c * TILE_COLUMNS + (k - start) + j, v[c]);
    }
  }
  return large;
}

INLINE int all_rows(const uint32_t *codes, const group_parts *p, const int32_t *order, int group, int columns, float *out,
                    int first, int end, const int bits) {
  float tile[TILE_ROWS * TILE_COLUMNS];
  int large = 0;
  for (int row = first; row < end; row += TILE_ROWS) {
    int height = end - row < TILE_ROWS ? end - row : TILE_ROWS;
    for (int start = 0; start < columns; start += TILE_COLUMNS) {
      int width = columns - start < TILE_COLUMNS ? columns - start : TILE_COLUMNS;
      for (int r = 0; r < height; r += 4) {
        float *to = tile + r * TILE_COLUMNS;
        if (order != 0) large |= four_rows(codes, p, order, group, row + r, start, width, to, bits);
        else large |= four_rows(codes, p, 0, group, row + r, start, width, to, bits);
      }
      for (int r = 0; r < height; r++)
        copy_row(out + (size_t)(row + r) * columns + start, tile + r * TILE_COLUMNS, width);
    }
  }
  return large ? first_not_finite(out + (size_t)first * columns, (end - first) * columns) : -1;
}

/* `order` is the group of each input, or 0. `first` and `end` are multiples of four. */
__attribute__((export_name("dequantize_gptq"))) int dequantize_gptq(int bits, int group, int offset, const uint32_t *codes,
                                                                    const uint32_t *zeros, const float *scales,
                                                                    const int32_t *order, int rows, int columns, float *out,
                                                                    int first, int end) {
  group_parts p = {zeros, scales, offset, rows};
  switch (bits) {
    case 2: return all_rows(codes, &p, order, group, columns, out, first, end, 2);
    case 3: return all_rows(codes, &p, order, group, columns, out, first, end, 3);
    case 4: return all_rows(codes, &p, order, group, columns, out, first, end, 4);
    case 8: return all_rows(codes, &p, order, group, columns, out, first, end, 8);
    default: return UNSUPPORTED;
  }
}

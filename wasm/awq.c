/*
 * AWQ's GEMM matrices: words of eight outputs, inputs one below the other. Four inputs of a word at a time are decoded
 * output by output into a tile. The definition is src/kernels/reference/awq.ts.
 */
#include "kernels.h"
#include "parts.h"

/* Outputs of half a cache line of words, and so many inputs that a tile (16 KiB) stays in the L1 cache. */
#define TILE_ROWS 64
#define TILE_COLUMNS 64

/* The output in a word that nibble i holds. */
INLINE int output_of(int i) { return i < 4 ? i * 2 : i * 2 - 7; }

/* Eight outputs of one tile; whether a scale is large. */
INLINE int eight_rows(const uint32_t *codes, const uint32_t *zeros, const float *scales, int group, int rows, int row,
                      int start, int width, float *tile) {
  size_t words = (size_t)rows / 8;
  const uint32_t *column = codes + (size_t)row / 8;
  float scale[8] = {0}, zero[8] = {0};
  int large = 0, limit = 0;
  for (int k = start; k < start + width;) {
    if (k >= limit) {
      int g = k / group;
      limit = (g + 1) * group;
      uint32_t z = zeros[g * words + row / 8];
      for (int i = 0; i < 8; i++) {
        scale[i] = scales[(size_t)g * rows + row + output_of(i)];
        zero[i] = (float)(z >> (4 * i) & 15);
        large |= is_large(scale[i]);
      }
    }
    float *to = tile + (k - start);
    if (k + 4 <= limit && k + 4 <= start + width) {
      u4 w = {column[k * words], column[(k + 1) * words], column[(k + 2) * words], column[(k + 3) * words]};
      for (int i = 0; i < 8; i++) {
        f4 code = floats4((i4)(w >> (4 * i) & 15u));
        store4(to + output_of(i) * TILE_COLUMNS, (code - zero[i]) * scale[i]);
      }
      k += 4;
    } else {
      for (int i = 0; i < 8; i++)
        to[output_of(i) * TILE_COLUMNS] = ((float)(column[k * words] >> (4 * i) & 15) - zero[i]) * scale[i];
      k++;
    }
  }
  return large;
}

/* `first` and `end` are multiples of eight. */
__attribute__((export_name("dequantize_awq"))) int dequantize_awq(int group, const uint32_t *codes, const uint32_t *zeros,
                                                                  const float *scales, int rows, int columns, float *out,
                                                                  int first, int end) {
  float tile[TILE_ROWS * TILE_COLUMNS];
  int large = 0;
  for (int row = first; row < end; row += TILE_ROWS) {
    int height = end - row < TILE_ROWS ? end - row : TILE_ROWS;
    for (int start = 0; start < columns; start += TILE_COLUMNS) {
      int width = columns - start < TILE_COLUMNS ? columns - start : TILE_COLUMNS;
      for (int r = 0; r < height; r += 8)
        large |= eight_rows(codes, zeros, scales, group, rows, row + r, start, width, tile + r * TILE_COLUMNS);
      for (int r = 0; r < height; r++) {
        float *to = out + (size_t)(row + r) * columns + start;
        copy_row(to, tile + r * TILE_COLUMNS, width & ~3);
        for (int i = width & ~3; i < width; i++) to[i] = tile[r * TILE_COLUMNS + i];
      }
    }
  }
  return large ? first_not_finite(out + (size_t)first * columns, (end - first) * columns) : -1;
}

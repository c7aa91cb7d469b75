/*
 * output += scale * up . down, where up is [rows, rank] and down [rank, columns]: what a LoRA adapter adds to a matrix. Each
 * element's sum goes by ascending rank from 0, is scaled and added, every step rounded to f32.
 */
#include "simd.h"

/* Columns that are finished for all rows before the next ones: rank 16 of them take 16 KiB, half an L1 cache. */
#define STRIP 256

/* `n` vectors of columns for two rows at a time. `down` stays in registers for both. */
INLINE void block(float *out, size_t columns, const float *up, const float *down, int rows, int rank, float scale,
                  const int n) {
  int row = 0;
  for (; row + 2 <= rows; row += 2, out += 2 * columns, up += 2 * rank) {
    f4 a[4] = {0}, b[4] = {0};
    const float *d = down;
    for (int k = 0; k < rank; k++, d += columns) {
      f4 x = splat4(up[k]), y = splat4(up[rank + k]);
      for (int v = 0; v < n; v++) {
        f4 right = load4(d + 4 * v);
        a[v] += x * right;
        b[v] += y * right;
      }
    }
    for (int v = 0; v < n; v++) {
      store4(out + 4 * v, load4(out + 4 * v) + splat4(scale) * a[v]);
      store4(out + columns + 4 * v, load4(out + columns + 4 * v) + splat4(scale) * b[v]);
    }
  }
  if (row == rows) return;
  f4 a[4] = {0};
  const float *d = down;
  for (int k = 0; k < rank; k++, d += columns) {
    f4 x = splat4(up[k]);
    for (int v = 0; v < n; v++) a[v] += x * load4(d + 4 * v);
  }
  for (int v = 0; v < n; v++) store4(out + 4 * v, load4(out + 4 * v) + splat4(scale) * a[v]);
}

__attribute__((export_name("low_rank"))) int low_rank(float *out, const float *up, const float *down, int rows, int rank,
                                                      int columns, float scale) {
  for (int strip = 0; strip < columns; strip += STRIP) {
    int end = columns - strip < STRIP ? columns : strip + STRIP, c = strip;
    for (; c + 16 <= end; c += 16) block(out + c, columns, up, down + c, rows, rank, scale, 4);
    for (; c + 4 <= end; c += 4) block(out + c, columns, up, down + c, rows, rank, scale, 1);
    for (; c < end; c++) {
      for (int row = 0; row < rows; row++) {
        float sum = 0;
        for (int k = 0; k < rank; k++) sum += up[(size_t)row * rank + k] * down[(size_t)k * columns + c];
        out[(size_t)row * columns + c] += scale * sum;
      }
    }
  }
  return -1;
}

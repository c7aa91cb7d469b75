/* Affine groups as MLX makes them: scale * code + bias. The definition is src/kernels/reference/affine-groups.ts. */
#include "kernels.h"
#include "parts.h"

/* One group, a multiple of 32 values; whether all are finite. */
INLINE int quantize_group(const float *x, int group, uint8_t *codes, float *scales, float *biases, const int bits) {
  f4 low = load4(x), high = low, low2 = low, high2 = low;
  u4 worst = {0}, worst2 = {0};
  for (int i = 0; i < group; i += 8) {
    f4 a = load4(x + i), b = load4(x + i + 4);
    low = min4(low, a), high = max4(high, a), worst = maxu4(worst, (u4)a & 0x7fffffffu);
    low2 = min4(low2, b), high2 = max4(high2, b), worst2 = maxu4(worst2, (u4)b & 0x7fffffffu);
  }
  if (any4((i4)(maxu4(worst, worst2) >= LIMIT_F32))) return 0;
  low = min4(low, low2), high = max4(high, high2);
  low = min4(low, __builtin_shufflevector(low, low, 2, 3, 0, 1));
  high = max4(high, __builtin_shufflevector(high, high, 2, 3, 0, 1));
  float least = min4(low, __builtin_shufflevector(low, low, 1, 0, 3, 2))[0];
  float most = max4(high, __builtin_shufflevector(high, high, 1, 0, 3, 2))[0];

  int low_is_edge = __builtin_fabsf(least) > __builtin_fabsf(most);
  float scale = (most - least) / (float)((1 << bits) - 1);
  if (!(scale > 1e-7f)) scale = 1e-7f;
  if (!low_is_edge) scale = -scale;
  float edge = low_is_edge ? least : most;
  float zero = nearest(edge / scale), bias = 0;
  if (zero != 0) scale = edge / zero, bias = edge;
  *scales = scale, *biases = bias;

  /* No value is on the far side of the edge, and the scale has not shrunk to less than half: 0 <= steps < 2^10. */
  f4 scale4 = splat4(scale), bias4 = splat4(bias);
  if (scale == 0) {
    /* The edge was so far away that its steps are not finite: then those of other values are not, either. */
    for (int i = 0; i < group; i += 16) {
      c16 q;
      for (int j = 0; j < 16; j++) q[j] = (x[i + j] - bias) / scale > 0 ? (1 << bits) - 1 : 0;
      store16(codes + i / 8 * bits, q, bits);
    }
    return 1;
  }
  for (int i = 0; i < group; i += 16) {
    u4 q[4];
    for (int j = 0; j < 4; j++) q[j] = (u4)((load4(x + i + j * 4) - bias4) / scale4 + 8388608.f) & 0xffffu;
    c16 all = min_u8(narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3])), (c16){0} + (uint8_t)((1 << bits) - 1));
    store16(codes + i / 8 * bits, all, bits);
  }
  return 1;
}

INLINE int quantize_groups(enum type from, const uint8_t *in, uint8_t *codes, float *scales, float *biases, int group,
                           int first, int end, const int bits) {
  float converted[CHUNK];
  size_t width = from == F32 ? 4 : 2;
  int per_chunk = CHUNK / group;
  for (int start = first; start < end; start += per_chunk) {
    int count = end - start < per_chunk ? end - start : per_chunk;
    const float *x = (const float *)(in + (size_t)start * group * width);
    if (from != F32) {
      int bad = floats_from(from, (const uint8_t *)x, converted, count * group);
      if (bad >= 0) return (start - first) * group + bad;
      x = converted;
    }
    for (int g = start; g < start + count; g++, x += group)
      if (!quantize_group(x, group, codes + (size_t)g * (group / 8 * bits), scales + g, biases + g, bits))
        return (g - first) * group + first_to_blame(x, group);
  }
  return -1;
}

/* Rows are groups, each a multiple of 32 values and CHUNK at the most. */
__attribute__((export_name("quantize_affine"))) int quantize_affine(int from, int bits, int group, const uint8_t *in,
                                                                    uint8_t *codes, float *scales, float *biases, int first,
                                                                    int end) {
  if (from > BF16 || group % 32 != 0 || group > CHUNK) return UNSUPPORTED;
  WITH_BITS(bits, quantize_groups, (enum type)from, in, codes, scales, biases, group, first, end)
}

INLINE int dequantize_groups(const uint8_t *codes, const float *scales, const float *biases, float *out, int group,
                             int first, int end, const int bits) {
  int large = 0;
  for (int g = first; g < end; g++) {
    const uint8_t *in = codes + (size_t)g * (group / 8 * bits);
    float *y = out + (size_t)g * group;
    large |= is_large(scales[g]) | is_large(biases[g]);
    f4 scale = splat4(scales[g]), bias = splat4(biases[g]);
    for (int i = 0; i < group; i += 16) {
      i4 a, b, c, d;
      widen16(load16(in + i / 8 * bits, bits), &a, &b, &c, &d);
      store4(y + i, scale * floats4(a) + bias);
      store4(y + i + 4, scale * floats4(b) + bias);
      store4(y + i + 8, scale * floats4(c) + bias);
      store4(y + i + 12, scale * floats4(d) + bias);
    }
  }
  return large ? first_not_finite(out + (size_t)first * group, (end - first) * group) : -1;
}

__attribute__((export_name("dequantize_affine"))) int dequantize_affine(int bits, int group, const uint8_t *codes,
                                                                        const float *scales, const float *biases, float *out,
                                                                        int first, int end) {
  if (group % 32 != 0) return UNSUPPORTED;
  WITH_BITS(bits, dequantize_groups, codes, scales, biases, out, group, first, end)
}

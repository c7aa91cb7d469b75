/* Affine groups as MLX makes them: scale * code + bias. The definition is src/kernels/reference/affine-groups.ts. */
#include "kernels.h"
#include "parts.h"

/* The least and the greatest value of a group of f32; whether all are finite. */
INLINE int range_f32(const float *x, int group, float *least, float *most) {
  f4 low = load4(x), high = low, low2 = low, high2 = low;
  u4 worst = {0}, worst2 = {0};
  for (int i = 0; i < group; i += 8) {
    f4 a = load4(x + i), b = load4(x + i + 4);
    low = min4(low, a), high = max4(high, a), worst = maxu4(worst, (u4)a & 0x7fffffffu);
    low2 = min4(low2, b), high2 = max4(high2, b), worst2 = maxu4(worst2, (u4)b & 0x7fffffffu);
  }
  low = min4(low, low2), high = max4(high, high2);
  low = min4(low, __builtin_shufflevector(low, low, 2, 3, 0, 1));
  high = max4(high, __builtin_shufflevector(high, high, 2, 3, 0, 1));
  *least = min4(low, __builtin_shufflevector(low, low, 1, 0, 3, 2))[0];
  *most = max4(high, __builtin_shufflevector(high, high, 1, 0, 3, 2))[0];
  return !any4((i4)(maxu4(worst, worst2) >= LIMIT_F32));
}

/*
 * The same of bf16, by their bits: as int16 the positive ones are ordered, and above all negative ones; as uint16 the
 * negative ones by magnitude, above all positive ones. Of two zeros of either sign any will do.
 */
INLINE int range_bf16(const uint8_t *x, int group, float *least, float *most) {
  h8 lowest = *(const h8_any *)x, highest = lowest;
  s8 positive = (s8)lowest;
  for (int i = 0; i < group; i += 8) {
    h8 v = *(const h8_any *)(x + i * 2);
    lowest = min_u16(lowest, v), highest = max_u16(highest, v), positive = max_s16(positive, (s8)v);
  }
#define FOLD(v, act, ...) v = act(v, __builtin_shufflevector(v, v, __VA_ARGS__))
#define FOLD_ALL(v, act)                                                                    \
  FOLD(v, act, 4, 5, 6, 7, 0, 1, 2, 3), FOLD(v, act, 2, 3, 0, 1, 6, 7, 4, 5), FOLD(v, act, 1, 0, 3, 2, 5, 4, 7, 6)
  FOLD_ALL(lowest, min_u16), FOLD_ALL(highest, max_u16), FOLD_ALL(positive, max_s16);
  uint32_t min = highest[0] & 0x8000u ? highest[0] : lowest[0];
  uint32_t max = positive[0] < 0 ? lowest[0] : (uint32_t)positive[0];
  *least = float_of(min << 16), *most = float_of(max << 16);
  return (min & 0x7fffu) < 0x7f80u && (max & 0x7fffu) < 0x7f80u;
}

/* Sixteen values in four vectors. */
INLINE void load_values(enum type from, const uint8_t *x, f4 v[4]) {
  if (from == F32) {
    for (int j = 0; j < 4; j++) v[j] = load4(x + j * 16);
  } else {
    h8 a = *(const h8_any *)x, b = *(const h8_any *)(x + 16);
    v[0] = (f4)(widen_low(a) << 16), v[1] = (f4)(widen_high(a) << 16);
    v[2] = (f4)(widen_low(b) << 16), v[3] = (f4)(widen_high(b) << 16);
  }
}

/* Groups whose scales are computed side by side. */
#define TOGETHER 4

/* Scales and biases of four groups by their least and greatest values. */
INLINE void edges4(f4 least, f4 most, f4 *scales, f4 *biases, const int bits) {
  i4 low_is_edge = abs4(least) > abs4(most);
  f4 scale = (most - least) / (float)((1 << bits) - 1);
  scale = pick4(scale > 1e-7f, scale, splat4(1e-7f));
  scale = pick4(low_is_edge, scale, -scale);
  f4 edge = pick4(low_is_edge, least, most), zero = nearest(edge / scale);
  i4 has_zero = zero != 0;
  *scales = pick4(has_zero, edge / zero, scale);
  *biases = (f4)((i4)edge & has_zero);
}

/* The codes of one group, a multiple of 32 values of f32 or bf16. */
INLINE void code_group(enum type from, const uint8_t *x, int group, uint8_t *codes, float scale, float bias,
                       const int bits) {
  const uint8_t top = (uint8_t)((1 << bits) - 1);
  /*
   * No value is on the far side of the edge, and the scale has not shrunk to less than half: 0 <= steps < 2^10. But where
   * the edge is so far away that its steps are not finite, the scale is 0, and steps are infinite or NaN.
   */
  f4 scale4 = splat4(scale), bias4 = splat4(bias);
  int is_far = scale == 0;
  for (int i = 0; i < group; i += 16) {
    f4 v[4];
    u4 q[4];
    load_values(from, x + i * (from == F32 ? 4 : 2), v);
    for (int j = 0; j < 4; j++) {
      f4 steps = (v[j] - bias4) / scale4;
      if (is_far) steps = (f4)((i4)splat4(top) & (i4)(steps > 0));
      q[j] = (u4)(steps + 8388608.f) & 0xffffu;
    }
    store16(codes + i / 8 * bits, min_u8(narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3])), (c16){0} + top), bits);
  }
}

INLINE int first_bad(enum type from, const uint8_t *x) {
  int i = 0;
  if (from == F32)
    while (is_finite(((const float *)x)[i])) i++;
  else
    while ((((const uint16_t *)x)[i] & 0x7fff) < 0x7f80) i++;
  return i;
}

INLINE int quantize_groups(enum type from, const uint8_t *in, uint8_t *codes, float *scales, float *biases, int group,
                           int first, int end, const int bits) {
  size_t bytes = (size_t)group * (from == F32 ? 4 : 2), code_bytes = (size_t)group / 8 * bits;
  for (int start = first; start < end; start += TOGETHER) {
    int count = end - start < TOGETHER ? end - start : TOGETHER;
    const uint8_t *x = in + start * bytes;
    float least[TOGETHER] = {0}, most[TOGETHER] = {0};
    for (int g = 0; g < count; g++) {
      const uint8_t *own = x + g * bytes;
      if (from == F32 ? range_f32((const float *)own, group, least + g, most + g)
                      : range_bf16(own, group, least + g, most + g))
        continue;
      return (start + g - first) * group + first_bad(from, own);
    }
    f4 scale, bias;
    edges4(load4(least), load4(most), &scale, &bias, bits);
    float own_scales[TOGETHER], own_biases[TOGETHER];
    store4(own_scales, scale), store4(own_biases, bias);
    for (int g = 0; g < count; g++) {
      scales[start + g] = own_scales[g], biases[start + g] = own_biases[g];
      code_group(from, x + g * bytes, group, codes + (start + g) * code_bytes, own_scales[g], own_biases[g], bits);
    }
  }
  return -1;
}

/* f16 by way of f32, a chunk at a time. */
INLINE int quantize_f16(const uint8_t *in, uint8_t *codes, float *scales, float *biases, int group, int first, int end,
                        const int bits) {
  float x[CHUNK];
  for (int start = first; start < end; start += CHUNK / group) {
    int count = end - start < CHUNK / group ? end - start : CHUNK / group;
    int bad = floats_from(F16, in + (size_t)start * group * 2, x, count * group);
    if (bad >= 0) return (start - first) * group + bad;
    quantize_groups(F32, (const uint8_t *)x, codes + (size_t)start * (group / 8 * bits), scales + start, biases + start, group,
                    0, count, bits);
  }
  return -1;
}

/* Rows are groups, each a multiple of 32 values and CHUNK at the most. */
__attribute__((export_name("quantize_affine"))) int quantize_affine(int from, int bits, int group, const uint8_t *in,
                                                                    uint8_t *codes, float *scales, float *biases, int first,
                                                                    int end) {
  if (group % 32 != 0 || group > CHUNK) return UNSUPPORTED;
  switch (from) {
    case F32: WITH_BITS(bits, quantize_groups, F32, in, codes, scales, biases, group, first, end)
    case BF16: WITH_BITS(bits, quantize_groups, BF16, in, codes, scales, biases, group, first, end)
    case F16: WITH_BITS(bits, quantize_f16, in, codes, scales, biases, group, first, end)
    default: return UNSUPPORTED;
  }
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

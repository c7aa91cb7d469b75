/*
 * Small floats in groups with a shared scale, as MLX makes them: mxfp4, mxfp8 and nvfp4. The definition is
 * src/kernels/reference/float-groups.ts.
 */
#include "kernels.h"
#include "parts.h"

/*
 * For each exponent the bits of the least f32 that counts as the next power of two, which depends on how its logarithm
 * rounds. Put here by the host (POWER_EDGES_AT in src/kernels/wasm/power-edges.ts).
 */
#define POWER_EDGES ((const uint32_t *)(65536 + 49152))

/* A small float: bits of its fraction, its least exponent of a normal number, and its largest code. */
#define E2M1 1, 0, 7
#define E4M3 3, -6, 0x7e

/* Magnitudes of f32 to the nearest code, half to even; beyond the largest is the largest. */
INLINE u4 encode4(u4 a, const int fraction, const int least, const int largest) {
  /* The last place of an f32 of this exponent is a step of the subnormal codes. */
  const uint32_t magic = (uint32_t)(127 + least - fraction + 23) << 23;
  u4 tiny = (u4)((f4)a + float_of(magic)) - magic;
  const int drop = 23 - fraction;
  u4 normal = ((a + ((1u << (drop - 1)) - 1) + (a >> drop & 1u)) >> drop) - ((uint32_t)(126 + least) << fraction);
  u4 is_tiny = (u4)(a < (uint32_t)(127 + least) << 23);
  return minu4((tiny & is_tiny) | (normal & ~is_tiny), splatu((uint32_t)largest));
}

INLINE u4 encode_e2m1(f4 v) { return encode4((u4)abs4(v), E2M1) | ((u4)v >> 28 & 8u); }
INLINE u4 encode_e4m3(f4 v) { return encode4((u4)abs4(v), E4M3) | ((u4)v >> 24 & 0x80u); }

/* Of NaN and the powers of two from 2^-127. */
INLINE float decode_e8m0(uint8_t code) {
  if (code == 0xff) return float_of(0x7fc00000u);
  return float_of(code == 0 ? 0x00400000u : (uint32_t)code << 23);
}

INLINE float decode_scale(uint8_t code, const int is_power) {
  return is_power ? decode_e8m0(code) : decode_e4m3(splatu(code))[0];
}

/* The code of the nearest power of two. */
INLINE uint8_t encode_power(float x) {
  uint32_t bits = bits_of(x), exponent = bits >> 23;
  uint32_t code = exponent + (bits >= POWER_EDGES[exponent]);
  return (uint8_t)(code < 254 ? code : 254);
}

/* One group; whether all its values are finite. */
INLINE int quantize_group(const float *x, uint8_t *codes, uint8_t *scales, const int bits, const int group,
                          const int is_power) {
  u4 worst = {0};
  for (int i = 0; i < group; i += 4) worst = maxu4(worst, (u4)load4(x + i) & 0x7fffffffu);
  worst = maxu4(worst, __builtin_shufflevector(worst, worst, 2, 3, 0, 1));
  uint32_t largest = maxu4(worst, __builtin_shufflevector(worst, worst, 1, 0, 3, 2))[0];
  if (largest >= LIMIT_F32) return 0;
  float ratio = float_of(largest) / (bits == 4 ? 6.f : 448.f);
  uint8_t code = is_power ? encode_power(ratio) : (uint8_t)encode_e4m3(splat4(ratio))[0];
  *scales = code;
  float scale = decode_scale(code, is_power);
  if (scale == 0) {
    for (int i = 0; i < group / 8 * bits; i++) codes[i] = 0;
    return 1;
  }
  f4 scale4 = splat4(scale);
  for (int i = 0; i < group; i += 16) {
    u4 q[4];
    for (int j = 0; j < 4; j++) {
      f4 v = load4(x + i + j * 4) / scale4;
      q[j] = bits == 4 ? encode_e2m1(v) : encode_e4m3(v);
    }
    store16(codes + i / 8 * bits, narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3])), bits);
  }
  return 1;
}

INLINE int quantize_groups(enum type from, const uint8_t *in, uint8_t *codes, uint8_t *scales, int first, int end,
                           const int bits, const int group, const int is_power) {
  float converted[CHUNK];
  size_t width = from == F32 ? 4 : 2;
  for (int start = first; start < end; start += CHUNK / group) {
    int count = end - start < CHUNK / group ? end - start : CHUNK / group;
    const float *x = (const float *)(in + (size_t)start * group * width);
    if (from != F32) {
      int bad = floats_from(from, (const uint8_t *)x, converted, count * group);
      if (bad >= 0) return (start - first) * group + bad;
      x = converted;
    }
    for (int g = start; g < start + count; g++, x += group)
      if (!quantize_group(x, codes + (size_t)g * (group / 8 * bits), scales + g, bits, group, is_power))
        return (g - first) * group + first_to_blame(x, group);
  }
  return -1;
}

/* The first two bytes of the sixteen E2M1 values as f32; the others are 0. */
#define E2M1_HIGH ((c16){0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0})
#define E2M1_LOW ((c16){0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0, 0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0})

INLINE c16 lookup(c16 table, c16 index) { return (c16)wasm_i8x16_swizzle((v128_t)table, (v128_t)index); }

INLINE void dequantize_group(const uint8_t *codes, f4 scale, float *y, const int bits, const int group) {
  for (int i = 0; i < group; i += 16) {
    c16 q = load16(codes + i / 8 * bits, bits);
    if (bits == 4) {
      c16 high = lookup(E2M1_HIGH, q), low = lookup(E2M1_LOW, q);
      h8 a = (h8)__builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      h8 b = (h8)__builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      store4(y + i, (f4)(widen_low(a) << 16) * scale), store4(y + i + 4, (f4)(widen_high(a) << 16) * scale);
      store4(y + i + 8, (f4)(widen_low(b) << 16) * scale), store4(y + i + 12, (f4)(widen_high(b) << 16) * scale);
    } else {
      i4 v[4];
      widen16(q, v, v + 1, v + 2, v + 3);
      for (int j = 0; j < 4; j++) store4(y + i + j * 4, decode_e4m3((u4)v[j]) * scale);
    }
  }
}

INLINE int dequantize_groups(const uint8_t *codes, const uint8_t *scales, float *out, int first, int end,
                             const int bits, const int group, const int is_power) {
  int large = 0;
  for (int g = first; g < end; g++) {
    float scale = decode_scale(scales[g], is_power);
    large |= is_large(scale);
    dequantize_group(codes + (size_t)g * (group / 8 * bits), splat4(scale), out + (size_t)g * group, bits, group);
  }
  return large ? first_not_finite(out + (size_t)first * group, (end - first) * group) : -1;
}

/* `bits` and `group` tell the three modes: 4 and 32 is mxfp4, 8 and 32 mxfp8, 4 and 16 nvfp4. */
#define WITH_MODE(kernel, ...)                                            \
  if (bits == 4 && group == 32) return kernel(__VA_ARGS__, 4, 32, 1);     \
  if (bits == 8 && group == 32) return kernel(__VA_ARGS__, 8, 32, 1);     \
  if (bits == 4 && group == 16) return kernel(__VA_ARGS__, 4, 16, 0);     \
  return UNSUPPORTED;

__attribute__((export_name("quantize_floats"))) int quantize_floats(int from, int bits, int group, const uint8_t *in,
                                                                    uint8_t *codes, uint8_t *scales, int first, int end) {
  if (from > BF16) return UNSUPPORTED;
  WITH_MODE(quantize_groups, (enum type)from, in, codes, scales, first, end)
}

__attribute__((export_name("dequantize_floats"))) int dequantize_floats(int bits, int group, const uint8_t *codes,
                                                                        const uint8_t *scales, float *out, int first,
                                                                        int end) {
  WITH_MODE(dequantize_groups, codes, scales, out, first, end)
}

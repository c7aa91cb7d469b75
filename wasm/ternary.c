/*
 * TQ1_0 and TQ2_0: -1, 0 or 1 times a scale, which is the block's greatest magnitude. TQ1_0 packs five of them into a byte,
 * as a fraction of 3^5 in 256ths; TQ2_0 four. Layouts: block_tq1_0 and block_tq2_0 of ggml-common.h.
 */
#include "half.h"
#include "kernels.h"

#define BLOCK 256
#define BYTES_TQ1 54
#define BYTES_TQ2 66

/* 0, 1 and 2 for -1, 0 and 1. Returns the scale. */
INLINE float codes_of(const float *x, uint8_t *codes, uint32_t *magnitude) {
  u4 m = splatu(0);
  for (int i = 0; i < BLOCK; i += 4) m = maxu4(m, (u4)abs4(load4(x + i)));
  uint32_t a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3];
  *magnitude = a > b ? a : b;
  float d = float_of(*magnitude), inverse = 1.f / d;
  /* Of 0, or so small that its inverse is Inf: in ggml too all codes are then those of 0. */
  f4 by = splat4(is_finite(inverse) ? inverse : 0.f);
  for (int i = 0; i < BLOCK; i += 16) {
    i4 q[4];
    for (int v = 0; v < 4; v++) {
      f4 value = load4(x + i + v * 4) * by;
      q[v] = (value <= -0.5f) - (value >= 0.5f) + 1;
    }
    *(c16_any *)(codes + i) = narrow_u8(narrow_s16(q[0], q[1]), narrow_s16(q[2], q[3]));
  }
  return d;
}

/* `count` bytes of `digits` base-3 digits each, the first digit highest; digit k of byte i is codes[i + k * count]. */
INLINE void pack3(const uint8_t *codes, uint8_t *out, const int count, const int digits) {
  for (int i = 0; i < count; i++) {
    uint32_t q = 0;
    for (int k = 0; k < 5; k++) q = q * 3 + (k < digits ? codes[i + k * count] : 0);
    /* Rounded up, so that the digits come out again by multiplying with 3. */
    out[i] = (uint8_t)((q * 256 + 242) / 243);
  }
}

int quantize_tq1_0(const float *x, uint8_t *out, int n) {
  for (int i = 0; i < n; i += BLOCK, x += BLOCK, out += BYTES_TQ1) {
    uint8_t codes[BLOCK];
    uint32_t magnitude;
    float d = codes_of(x, codes, &magnitude);
    if (magnitude >= LIMIT_F16) return i + first_to_blame(x, BLOCK);
    pack3(codes, out, 32, 5);
    pack3(codes + 160, out + 32, 16, 5);
    pack3(codes + 240, out + 48, 4, 4);
    *(u16_any *)(out + 52) = f16_bits(d);
  }
  return -1;
}

int quantize_tq2_0(const float *x, uint8_t *out, int n) {
  for (int i = 0; i < n; i += BLOCK, x += BLOCK, out += BYTES_TQ2) {
    uint8_t codes[BLOCK];
    uint32_t magnitude;
    float d = codes_of(x, codes, &magnitude);
    if (magnitude >= LIMIT_F16) return i + first_to_blame(x, BLOCK);
    for (int half = 0; half < 2; half++) {
      for (int j = 0; j < 32; j += 16) {
        const uint8_t *q = codes + half * 128 + j;
        *(c16_any *)(out + half * 32 + j) = *(c16_any *)q | (c16)(*(h8_any *)(q + 32) << 2) |
                                            (c16)(*(h8_any *)(q + 64) << 4) | (c16)(*(h8_any *)(q + 96) << 6);
      }
    }
    *(u16_any *)(out + 64) = f16_bits(d);
  }
  return -1;
}

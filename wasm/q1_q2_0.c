/*
 * Q1_0 and Q2_0: a sign times the mean magnitude of 128 values, or -1, 0, 1 or 2 times the greatest of 64. Layouts: block_q1_0
 * and block_q2_0 of ggml-common.h.
 */
#include "half.h"
#include "kernels.h"

#define BLOCK_Q1 128
#define BYTES_Q1 18
#define BLOCK_Q2 64
#define BYTES_Q2 18
/* Blocks side by side, since the sum of each goes element by element. */
#define GROUP 4

/* The sums of the magnitudes of four blocks, of which the last may be the same one. */
INLINE f4 sum_magnitudes(const float *const *block) {
  f4 sum = {0};
  for (int i = 0; i < BLOCK_Q1; i += 4) {
    f4 a = abs4(load4(block[0] + i)), b = abs4(load4(block[1] + i)), c = abs4(load4(block[2] + i)), d = abs4(load4(block[3] + i));
    transpose4(&a, &b, &c, &d);
    sum += a, sum += b, sum += c, sum += d;
  }
  return sum;
}

int quantize_q1_0(const float *x, uint8_t *out, int n) {
  for (int i = 0; i < n; i += GROUP * BLOCK_Q1) {
    int blocks = (n - i) / BLOCK_Q1 < GROUP ? (n - i) / BLOCK_Q1 : GROUP;
    const float *block[GROUP];
    for (int b = 0; b < GROUP; b++) block[b] = x + i + (b < blocks ? b : blocks - 1) * BLOCK_Q1;
    f4 sum = sum_magnitudes(block);
    for (int b = 0; b < blocks; b++, out += BYTES_Q1) {
      float d = sum[b] / BLOCK_Q1;
      if (!fits_f16(d)) return i + b * BLOCK_Q1 + first_to_blame(block[b], BLOCK_Q1);
      *(u16_any *)out = f16_bits(d);
      for (int j = 0; j < BLOCK_Q1; j += 8) {
        const float *v = block[b] + j;
        out[2 + j / 8] = (uint8_t)(wasm_i32x4_bitmask((v128_t)(load4(v) >= 0.f)) | wasm_i32x4_bitmask((v128_t)(load4(v + 4) >= 0.f)) << 4);
      }
    }
  }
  return -1;
}

int quantize_q2_0(const float *x, uint8_t *out, int n) {
  for (int i = 0; i < n; i += BLOCK_Q2, x += BLOCK_Q2, out += BYTES_Q2) {
    u4 m = splatu(0);
    for (int j = 0; j < BLOCK_Q2; j += 4) m = maxu4(m, (u4)abs4(load4(x + j)));
    uint32_t a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3], magnitude = a > b ? a : b;
    if (magnitude >= LIMIT_F16) return i + first_to_blame(x, BLOCK_Q2);
    float d = float_of(magnitude), inverse = magnitude == 0 ? 0.f : 1.f / d;
    *(u16_any *)out = f16_bits(d);
    if (!is_finite(inverse)) {
      /* What Inf makes becomes C's least integer, and with that the least code. */
      __builtin_memset(out + 2, 0, BYTES_Q2 - 2);
      continue;
    }
    for (int j = 0; j < BLOCK_Q2; j += 16) {
      /* Byte k of the sixteen values: v 4k to 4k + 3, so that the codes of one vector make one byte. */
      f4 v[4] = {load4(x + j), load4(x + j + 4), load4(x + j + 8), load4(x + j + 12)};
      transpose4(v, v + 1, v + 2, v + 3);
      u4 codes = splatu(0);
      for (int k = 0; k < 4; k++) {
        f4 q = v[k] * inverse;
        codes |= (u4)((q <= -0.5f) - (q >= 0.5f) + 1) << (2 * k);
      }
      h8 halves = low_halves(codes, codes);
      *(u32_any *)(out + 2 + j / 4) = (uint32_t)wasm_i32x4_extract_lane((v128_t)narrow_u8(halves, halves), 0);
    }
  }
  return -1;
}

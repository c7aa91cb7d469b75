/*
 * MXFP4: 32 four-bit floats (sign, two bits of exponent, one of mantissa) and a power of two as an exponent alone. Layout:
 * block_mxfp4 of ggml-common.h.
 */
#include "blocks32.h"
#include "half.h"
#include "kernels.h"

#define BLOCK 32
#define BLOCK_BYTES 17

/*
 * floor(log2f(v)) for v > 0, as glibc's log2f rounds: v = 2^n (1 - k 2^-24) with a small k has log2 v = n - 1.4427 k 2^-24,
 * which rounds to n if that is less than half of what separates the floats just below n.
 */
static int floor_log2(float v) {
  uint32_t bits = bits_of(v);
  int exponent = (int)(bits >> 23) - 127;
  if (exponent == -127) {
    /* Subnormal: as a normal number 2^23 times as large. */
    bits = bits_of(v * 8388608.f);
    exponent = (int)(bits >> 23) - 127 - 23;
  }
  int n = exponent + 1, away = n < 0 ? -n : n;
  if (n == 0) return exponent;
  float half = float_of((bits_of((float)away) & 0x7f800000u)); /* the power of two in |n|: half the gap, in 2^-24 */
  if (n > 0 && half == (float)away) half /= 2;                 /* below a power of two floats lie closer */
  float k = (float)(0x800000u - (bits & 0x7fffffu));
  return k * 1.442695f < half ? n : exponent;
}

/* Half of 2^(e - 127). */
static float half_scale(uint8_t e) { return float_of(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }

int quantize_mxfp4(const float *x, uint8_t *out, int n) {
  for (int i = 0; i < n; i += BLOCK, x += BLOCK, out += BLOCK_BYTES) {
    u4 m = splatu(0);
    for (int j = 0; j < BLOCK; j += 4) m = maxu4(m, (u4)abs4(load4(x + j)));
    uint32_t a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3], magnitude = a > b ? a : b;
    if (magnitude >= LIMIT_F32) return i + first_to_blame(x, BLOCK);
    /* A magnitude below 2^-125 wraps, as in ggml: its block is then all zeros. */
    uint8_t e = magnitude == 0 ? 0 : (uint8_t)(floor_log2(float_of(magnitude)) - 2 + 127);
    float d = half_scale(e);
    /* A value that overflows is never the nearest; with 2^125 those of the last two codes do. */
    i4 most = (i4){0} + (is_finite(d * 8.f) ? 7 : 5);
    uint8_t codes[BLOCK];
    for (int j = 0; j < BLOCK; j += 16) {
      u4 q[4];
      for (int v = 0; v < 4; v++) {
        f4 value = load4(x + j + v * 4), size = abs4(value);
        /* Midways between 0, 1, 2, 3, 4, 6, 8 and 12; a tie goes to the smaller. */
        i4 code = -((size > d * 0.5f) + (size > d * 1.5f) + (size > d * 2.5f) + (size > d * 3.5f) + (size > d * 5.f) +
                    (size > d * 7.f) + (size > d * 10.f));
        code = mini4(code, most);
        q[v] = (u4)(code | ((value < 0.f) & (code != 0) & 8));
      }
      *(c16_any *)(codes + j) = narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3]));
    }
    out[0] = e;
    write_codes4(codes, out + 1);
  }
  return -1;
}

/*
 * Q6_K: blocks of 256 in 16 sub-blocks of 16 with a signed scale each, which is searched: 19 trial scales, for each the
 * least-squares fit, with weights x^2 or the importances as they are. Layout: block_q6_K of ggml-common.h.
 */
#include "half.h"
#include "kernels.h"
#include "signed_scale.h"

#define BLOCK 256
#define BLOCK_BYTES 210
#define SUB 16
#define SUBS 16

/* Sixteen codes, each capped to -32..31 and shifted to 0..63. */
INLINE c16 codes16(const i4 *l) {
  return (c16)(clamp_s8(narrow_s8(narrow_s16(l[0], l[1]), narrow_s16(l[2], l[3])), -32, 31) + 32);
}

/* Writes a block. Returns 0 if its scale overflows. */
static int finish(const signed_search *k, const float *x, uint8_t *out) {
  uint8_t codes[BLOCK];
  float magnitude = 0, max = 0;
  for (int j = 0; j < SUBS; j++) {
    float a = __builtin_fabsf(k->scale[j]);
    if (a > magnitude) magnitude = a, max = k->scale[j];
  }
  if (magnitude < EPSILON) {
    __builtin_memset(out, 0, BLOCK_BYTES);
    return 1;
  }
  float inverse = -128.f / max;
  if (!fits_f16(1 / inverse)) return 0;
  uint16_t half = f16_bits(1 / inverse);
  *(u16_any *)(out + 208) = half;
  float d = f16_float(half);
  for (int j = 0; j < SUBS; j++) {
    const float *sub = x + j * SUB;
    int sc = nearest_int(inverse * k->scale[j]);
    out[192 + j] = (uint8_t)(int8_t)(sc > 127 ? 127 : sc);
    float scale = d * (float)(int8_t)out[192 + j];
    i4 l[4];
    if (scale != 0) {
      for (int v = 0; v < 4; v++) l[v] = nearest_int4(load4(sub + v * 4) / scale);
    } else {
      /* The codes of the search stay; those of zeros are 0 before the shift that others have had. */
      float by = k->code_inverse[j];
      for (int v = 0; v < 4; v++) l[v] = by == 0 ? (i4){-32, -32, -32, -32} : nearest_int4(load4(sub + v * 4) * by);
    }
    *(c16_any *)(codes + j * SUB) = codes16(l);
  }
  for (int h = 0; h < 2; h++) {
    for (int l = 0; l < 32; l += 16) {
      const uint8_t *q = codes + h * 128 + l;
      c16 a = *(c16_any *)q, b = *(c16_any *)(q + 32), c = *(c16_any *)(q + 64), e = *(c16_any *)(q + 96);
      *(c16_any *)(out + h * 64 + l) = (a & 15) | (c16)((h8)(c & 15) << 4);
      *(c16_any *)(out + h * 64 + 32 + l) = (b & 15) | (c16)((h8)(e & 15) << 4);
      /* The high two bits of all four; shifted as pairs of bytes, so what crosses over is masked. */
      c16 high = (c16)((h8)(a & 48) >> 4) | (c16)((h8)(b & 48) >> 2) | (c & 48) | (c16)((h8)(e & 48) << 2);
      *(c16_any *)(out + 128 + h * 32 + l) = high;
    }
  }
  return 1;
}

INLINE int quantize(const float *x, uint8_t *out, int n, const float *importance, const int weighted) {
  signed_search k __attribute__((aligned(64)));
  for (int i = 0; i < n; i += BLOCK) {
    uint32_t magnitude = gather(k.rows->x, x + i, SUBS, SUB);
    if (weighted) {
      gather(k.rows->weight, importance + i, SUBS, SUB);
    } else {
      for (row *r = k.rows; r < k.rows + SUB; r++)
        for (int g = 0; g < NV; g++) AT(r->weight, g) = AT(r->x, g) * AT(r->x, g);
    }
    search_signed_16_32(&k);
    if (magnitude >= LIMIT_F32 || !finish(&k, x + i, out + i / BLOCK * BLOCK_BYTES)) return i + first_to_blame(x + i, BLOCK);
  }
  return -1;
}

int quantize_q6_k(const float *x, uint8_t *out, int n) { return quantize(x, out, n, 0, 0); }
int weighted_q6_k(const float *x, uint8_t *out, int n, const float *importance, float unused) {
  (void)unused;
  return quantize(x, out, n, importance, 1);
}

/*
 * Q4_1 and Q5_1: a scale and a minimum a block of 32, from its least and its greatest value. Four blocks at a time, so that
 * four scales share a vector. Layouts: block_q4_1 and block_q5_1 of ggml-common.h.
 */
#include "blocks32.h"
#include "half.h"
#include "kernels.h"

#define BLOCK 32
#define GROUP 4

/* The least and greatest of each of four blocks. */
INLINE void extremes4(const float *x, f4 *least, f4 *greatest) {
  f4 low[GROUP], high[GROUP];
  for (int b = 0; b < GROUP; b++) {
    low[b] = high[b] = load4(x + b * BLOCK);
    for (int i = 4; i < BLOCK; i += 4) {
      f4 v = load4(x + b * BLOCK + i);
      low[b] = min4(low[b], v), high[b] = max4(high[b], v);
    }
  }
  transpose4(&low[0], &low[1], &low[2], &low[3]);
  transpose4(&high[0], &high[1], &high[2], &high[3]);
  *least = min4(min4(low[0], low[1]), min4(low[2], low[3]));
  *greatest = max4(max4(high[0], high[1]), max4(high[2], high[3]));
  /* Of zeros of both signs the first is the least, and in a block of nothing else the greatest too. */
  i4 zero = *least == 0.f;
  if (any4(zero)) {
    for (int b = 0; b < GROUP; b++) {
      if (!zero[b]) continue;
      const float *v = x + b * BLOCK;
      while (*v != 0) v++;
      (*least)[b] = *v;
      if ((*greatest)[b] == 0) (*greatest)[b] = *v;
    }
  }
}

INLINE int group(const float *x, uint8_t *out, const int bits) {
  const int bytes = bits == 4 ? 20 : 24;
  f4 min, max;
  extremes4(x, &min, &max);
  f4 d = (max - min) / (float)((1 << bits) - 1);
  f4 inverse = 1.f / d;
  /* Where it is Inf the codes are 0: so they are with an inverse of 0. */
  inverse = (f4)((i4)inverse & ~(((i4)inverse & 0x7fffffff) == 0x7f800000));
  u4 scales = (u4)d & 0x7fffffffu, mins = (u4)min & 0x7fffffffu, tops = (u4)max & 0x7fffffffu;
  u4 finite = splatu(0);
  for (int i = 0; i < GROUP * BLOCK; i += 4) finite = maxu4(finite, (u4)load4(x + i) & 0x7fffffffu);
  if (any4((i4)((finite >= LIMIT_F32) | (scales >= LIMIT_F16) | (mins >= LIMIT_F16) | (tops >= LIMIT_F32))))
    for (int b = 0; b < GROUP; b++) {
      int good = scales[b] < LIMIT_F16 && mins[b] < LIMIT_F16;
      for (int i = 0; i < BLOCK; i++) good &= is_finite(x[b * BLOCK + i]);
      if (!good) return b * BLOCK + first_to_blame(x + b * BLOCK, BLOCK);
    }
  u4 half_d = f16_bits4(d), half_min = f16_bits4(min);
  for (int b = 0; b < GROUP; b++, x += BLOCK, out += bytes) {
    uint8_t codes[BLOCK];
    *(u32_any *)out = half_d[b] | half_min[b] << 16;
    f4 by = splat4(inverse[b]), from = splat4(min[b]);
    for (int i = 0; i < BLOCK; i += 16) {
      u4 q[4];
      for (int j = 0; j < 4; j++)
        q[j] = (u4)(truncate((load4(x + i + j * 4) - from) * by + 0.5f) + 8388608.f) & 0xffffu;
      c16 all = narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3]));
      *(c16_any *)(codes + i) = bits == 4 ? min_u8(all, (c16){0} + 15) : all;
    }
    if (bits == 4) write_codes4(codes, out + 4);
    else write_codes5(codes, out + 4);
  }
  return -1;
}

INLINE int q4_1_group(const float *x, uint8_t *out) { return group(x, out, 4); }
INLINE int q5_1_group(const float *x, uint8_t *out) { return group(x, out, 5); }

int quantize_q4_1(const float *x, uint8_t *out, int n) { EACH_GROUP(q4_1_group, 20) }
int quantize_q5_1(const float *x, uint8_t *out, int n) { EACH_GROUP(q5_1_group, 24) }

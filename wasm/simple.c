/*
 * Q8_0, Q4_0 and Q5_0: one scale a block of 32. Four blocks at a time, so that the four scales share a vector; inside a
 * block the order does not matter, a maximum being a maximum. Layouts: ggml-common.h.
 */
#include "blocks32.h"
#include "half.h"
#include "kernels.h"

#define BLOCK 32
#define GROUP 4

/* 1 / d, but 0 where d is 0 or so small that 1 / d is Inf; `lost` says which of these are the latter. */
INLINE f4 inverse4(f4 d, i4 *lost) {
  f4 inverse = 1.f / d;
  i4 infinite = ((i4)inverse & 0x7fffffff) == 0x7f800000;
  *lost = infinite & ((u4)d << 1 != 0u);
  return (f4)((i4)inverse & ~infinite);
}

INLINE u4 reduce_max(u4 a, u4 b, u4 c, u4 d) {
  transpose4((f4 *)&a, (f4 *)&b, (f4 *)&c, (f4 *)&d);
  return maxu4(maxu4(a, b), maxu4(c, d));
}

/* The element of greatest magnitude, the first of equals. */
static float first_max(const float *x) {
  float magnitude = 0, max = 0;
  for (int i = 0; i < BLOCK; i++) {
    float a = __builtin_fabsf(x[i]);
    if (magnitude < a) magnitude = a, max = x[i];
  }
  return max;
}

/* The signed maxima of four blocks; `worst` is the greatest magnitude's bits of all. */
INLINE f4 signed_max4(const float *x, u4 *magnitudes) {
  u4 positive[GROUP], negative[GROUP];
  for (int b = 0; b < GROUP; b++) {
    i4 high = {0};
    u4 low = {0};
    for (int i = 0; i < BLOCK; i += 4) {
      i4 v = (i4)load4(x + b * BLOCK + i);
      high = maxi4(high, v); /* as int32 the positive floats are ordered, and above all negative ones */
      low = maxu4(low, (u4)v); /* as uint32 the negative ones by magnitude, above all positive ones */
    }
    positive[b] = (u4)high, negative[b] = low;
  }
  u4 p = reduce_max(positive[0], positive[1], positive[2], positive[3]);
  u4 n = reduce_max(negative[0], negative[1], negative[2], negative[3]);
  u4 has_negative = (u4)((i4)n < 0);
  u4 nm = n & 0x7fffffffu & has_negative;
  u4 larger = (u4)(nm > p);
  *magnitudes = maxu4(p, nm);
  f4 max = (f4)((n & larger) | (p & ~larger));
  i4 tie = (nm == p) & (p != 0u);
  if (any4(tie))
    for (int b = 0; b < GROUP; b++) max[b] = tie[b] ? first_max(x + b * BLOCK) : max[b];
  return max;
}

/* Whether all of four blocks are finite and their scales are so as f16; if not, the first element to blame. */
INLINE int blame(const float *x, u4 magnitudes, f4 d) {
  u4 scales = (u4)d & 0x7fffffffu;
  if (!any4((magnitudes >= LIMIT_F32) | (scales >= LIMIT_F16))) return -1;
  for (int b = 0; b < GROUP; b++)
    if (magnitudes[b] >= LIMIT_F32 || scales[b] >= LIMIT_F16) return b * BLOCK + first_to_blame(x + b * BLOCK, BLOCK);
  return -1;
}

INLINE int q8_0_group(const float *x, uint8_t *out) {
  u4 m[GROUP];
  for (int b = 0; b < GROUP; b++) {
    m[b] = splatu(0);
    for (int i = 0; i < BLOCK; i += 4) m[b] = maxu4(m[b], (u4)load4(x + b * BLOCK + i) & 0x7fffffffu);
  }
  u4 magnitudes = reduce_max(m[0], m[1], m[2], m[3]);
  i4 lost;
  f4 d = (f4)magnitudes / 127.f;
  f4 inverse = inverse4(d, &lost); /* where it is lost the codes are 0: so they are with an inverse of 0 */
  u4 halves = f16_bits4(d);
  int bad = blame(x, magnitudes, d);
  if (bad >= 0) return bad;
  for (int b = 0; b < GROUP; b++, x += BLOCK, out += 34) {
    f4 id = splat4(inverse[b]);
    *(u16_any *)out = (uint16_t)halves[b];
    for (int half = 0; half < 2; half++) {
      u4 q[4];
      for (int i = 0; i < 4; i++) {
        f4 v = load4(x + half * 16 + i * 4) * id;
        /* roundf: towards zero after adding just less than a half. Then 2^23 + 2^22 leaves the integer in the low bits. */
        f4 nudge = (f4)(((u4)v & 0x80000000u) | bits_of(0x1.fffffep-2f));
        q[i] = (u4)(truncate(v + nudge) + 12582912.f) & 0xffffu;
      }
      *(c16_any *)(out + 2 + half * 16) = (c16)narrow_s8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3]));
    }
  }
  return -1;
}

/* Sixteen codes from `range + 0.5 + x / d` towards zero, as bytes of at most `top`. */
INLINE c16 codes16(const float *x, f4 id, float offset, uint8_t top) {
  u4 q[4];
  for (int i = 0; i < 4; i++) q[i] = (u4)(truncate(load4(x + i * 4) * id + offset) + 8388608.f) & 0xffffu;
  c16 codes = narrow_u8(narrow_u16(q[0], q[1]), narrow_u16(q[2], q[3]));
  return min_u8(codes, (c16){0} + top);
}

INLINE int q4_0_group(const float *x, uint8_t *out) {
  u4 magnitudes;
  i4 lost;
  f4 d = signed_max4(x, &magnitudes) / -8.f;
  f4 inverse = inverse4(d, &lost);
  u4 halves = f16_bits4(d);
  int bad = blame(x, magnitudes, d);
  if (bad >= 0) return bad;
  for (int b = 0; b < GROUP; b++, x += BLOCK, out += 18) {
    f4 id = splat4(inverse[b]);
    *(u16_any *)out = (uint16_t)halves[b];
    c16 low = codes16(x, id, 8.5f, 15), high = codes16(x + 16, id, 8.5f, 15);
    c16 codes = low | (c16)((h8)high << 4);
    if (lost[b]) codes = (c16){0}; /* x * Inf, which as a byte is 0 */
    *(c16_any *)(out + 2) = codes;
  }
  return -1;
}

INLINE int q5_0_group(const float *x, uint8_t *out) {
  u4 magnitudes;
  i4 lost;
  f4 d = signed_max4(x, &magnitudes) / -16.f;
  f4 inverse = inverse4(d, &lost);
  u4 halves = f16_bits4(d);
  int bad = blame(x, magnitudes, d);
  if (bad >= 0) return bad;
  for (int b = 0; b < GROUP; b++, x += BLOCK, out += 22) {
    f4 id = splat4(inverse[b]);
    *(u16_any *)out = (uint16_t)halves[b];
    c16 low = codes16(x, id, 16.5f, 31), high = codes16(x + 16, id, 16.5f, 31);
    if (lost[b]) low = high = (c16){0};
    /* The fifth bits, moved to the top of each byte, are what bitmask gathers. */
    uint32_t fifth = top_bits((c16)((h8)low << 3)) | top_bits((c16)((h8)high << 3)) << 16;
    *(u32_any *)(out + 2) = fifth;
    *(c16_any *)(out + 6) = (low & 15) | (c16)((h8)(high & 15) << 4);
  }
  return -1;
}

int quantize_q8_0(const float *x, uint8_t *out, int n) { EACH_GROUP(q8_0_group, 34) }
int quantize_q4_0(const float *x, uint8_t *out, int n) { EACH_GROUP(q4_0_group, 18) }
int quantize_q5_0(const float *x, uint8_t *out, int n) { EACH_GROUP(q5_0_group, 22) }

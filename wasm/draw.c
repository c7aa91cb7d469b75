/*
 * Random values from a counter: element i depends on the seed and i alone. The reference is
 * src/kernels/reference/draw.ts; these bytes must never change.
 */
#include "half.h"
#include "kernels.h"

/* Elements between two looks at the running maximum. */
#define CHUNK 2048

/* MurmurHash3's finaliser over state and word. */
INLINE u4 mix4(u4 state, u4 word) {
  u4 h = state + word * 0x85ebca6bu;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

/* Four uniform values whose indices have these lower words. */
INLINE f4 uniform4(u4 index, uint32_t seed, uint32_t high_word, double low, float span) {
  u4 bits = mix4(mix4(splatu(seed ^ 0x9e3779b9u), index), splatu(high_word));
  f4 unit = __builtin_convertvector(bits >> 8, f4) * 0x1p-24f;
  return add_wide4(splat4(span) * unit, low);
}

INLINE uint32_t limit_of(enum type to) { return to == F16 ? LIMIT_F16 : to == BF16 ? LIMIT_BF16 : LIMIT_F32; }

INLINE int uniform_as(enum type to, uint8_t *out, int n, uint32_t seed, uint32_t word, uint32_t high_word, double low,
                      float span) {
  const u4 lanes = {0, 1, 2, 3};
  for (int start = 0; start < n; start += CHUNK) {
    int end = n - start < CHUNK ? n : start + CHUNK, i = start;
    u4 magnitude = splatu(0);
    for (; i < end; i += 8) {
      f4 a = uniform4(splatu(word + (uint32_t)i) + lanes, seed, high_word, low, span);
      f4 b = uniform4(splatu(word + (uint32_t)i + 4) + lanes, seed, high_word, low, span);
      uint8_t last[32], *p = end - i < 8 ? last : out + (size_t)i * (to == F32 ? 4 : 2);
      if (to == F32) store4(p, a), store4(p + 16, b);
      else if (to == F16) *(h8_any *)p = low_halves(f16_bits4(a), f16_bits4(b));
      else *(h8_any *)p = narrow_u16(bf16_bits4(a), bf16_bits4(b));
      if (p == last) __builtin_memcpy(out + (size_t)i * (to == F32 ? 4 : 2), last, (size_t)(end - i) * (to == F32 ? 4 : 2));
      magnitude = maxu4(magnitude, maxu4((u4)a & 0x7fffffffu, (u4)b & 0x7fffffffu));
    }
    uint32_t worst = 0;
    for (int lane = 0; lane < 4; lane++) worst = magnitude[lane] > worst ? magnitude[lane] : worst;
    if (worst < limit_of(to)) continue;
    for (i = start; i < end; i++) {
      f4 value = uniform4(splatu(word + (uint32_t)i), seed, high_word, low, span);
      if ((bits_of(value[0]) & 0x7fffffffu) >= limit_of(to)) return i;
    }
  }
  return -1;
}

__attribute__((export_name("draw_uniform"))) int draw_uniform(int to, uint8_t *out, int n, uint32_t seed, uint32_t word,
                                                              uint32_t high_word, double low, float span) {
  switch (to) {
    case F32: return uniform_as(F32, out, n, seed, word, high_word, low, span);
    case F16: return uniform_as(F16, out, n, seed, word, high_word, low, span);
    default: return uniform_as(BF16, out, n, seed, word, high_word, low, span);
  }
}

/* The hashes of four pairs of elements. */
INLINE u4 pairs4(u4 key, uint32_t seed, u4 pair) {
  u4 h = pair * 0x9e3779b1u + key;
  h = (h ^ (h >> 16)) * 0x21f0aaadu;
  h = (h ^ (h >> 15) ^ splatu(seed)) * 0x735a2d97u;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

INLINE void copy_one(enum type to, const uint8_t *table, uint8_t *out, uint32_t at) {
  if (to == F32) *(u32_any *)out = ((const uint32_t *)table)[at];
  else *(u16_any *)out = ((const uint16_t *)table)[at];
}

INLINE int normal_as(enum type to, const uint8_t *table, uint8_t *out, int n, uint32_t seed, uint32_t word,
                     uint32_t high_word) {
  const size_t width = to == F32 ? 4 : 2;
  const u4 lanes = {0, 1, 2, 3};
  uint64_t first = ((uint64_t)high_word << 32 | word) >> 1;
  uint32_t pair = (uint32_t)first;
  u4 key = mix4(splatu(seed ^ 0x9e3779b9u), splatu((uint32_t)(first >> 32)));
  int i = 0;
  if ((word & 1) && n > 0) {
    copy_one(to, table, out, pairs4(key, seed, splatu(pair++))[0] >> 16);
    i = 1;
  }
  for (; i + 8 <= n; i += 8, pair += 4) {
    u4 hash = pairs4(key, seed, splatu(pair) + lanes);
    uint8_t *p = out + (size_t)i * width;
    for (int lane = 0; lane < 4; lane++) {
      copy_one(to, table, p + 2 * lane * width, hash[lane] & 0xffffu);
      copy_one(to, table, p + (2 * lane + 1) * width, hash[lane] >> 16);
    }
  }
  for (; i < n; i++) {
    uint32_t hash = pairs4(key, seed, splatu(pair))[0];
    copy_one(to, table, out + (size_t)i * width, hash & 0xffffu);
    if (++i < n) copy_one(to, table, out + (size_t)i * width, hash >> 16);
    pair++;
  }
  return -1;
}

/* Values of a table of 2^16, two for each hash. */
__attribute__((export_name("draw_normal"))) int draw_normal(int to, const uint8_t *table, uint8_t *out, int n, uint32_t seed,
                                                            uint32_t word, uint32_t high_word) {
  return to == F32 ? normal_as(F32, table, out, n, seed, word, high_word)
                   : normal_as(F16, table, out, n, seed, word, high_word);
}

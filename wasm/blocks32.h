/* What the types with blocks of 32 share: how codes are packed, and the walk over groups of blocks. */
#pragma once
#include "simd.h"

/* 32 codes of four bits: the second sixteen in the high halves of the first. */
INLINE void write_codes4(const uint8_t *codes, uint8_t *out) {
  c16 low = *(const c16_any *)codes, high = *(const c16_any *)(codes + 16);
  *(c16_any *)out = (low & 15) | (c16)((h8)(high & 15) << 4);
}

/* 32 codes of five bits: 32 bits with the fifth of each, then the others as above. */
INLINE void write_codes5(const uint8_t *codes, uint8_t *out) {
  c16 low = *(const c16_any *)codes, high = *(const c16_any *)(codes + 16);
  /* Moved to the top of each byte the fifth bits are what bitmask gathers. */
  *(u32_any *)out = top_bits((c16)((h8)low << 3)) | top_bits((c16)((h8)high << 3)) << 16;
  write_codes4(codes, out + 4);
}

/* The body of a function of x, out and n: groups of GROUP blocks of BLOCK, the last one filled up with zeros. */
#define EACH_GROUP(group, bytes)                                                  \
  int i = 0;                                                                      \
  for (; i + GROUP * BLOCK <= n; i += GROUP * BLOCK) {                            \
    int bad = group(x + i, out + i / BLOCK * bytes);                              \
    if (bad >= 0) return i + bad;                                                 \
  }                                                                               \
  if (i < n) {                                                                    \
    float last[GROUP * BLOCK];                                                    \
    uint8_t codes[GROUP * bytes];                                                 \
    for (int j = 0; j < GROUP * BLOCK; j++) last[j] = j < n - i ? x[i + j] : 0.f; \
    int bad = group(last, codes);                                                 \
    if (bad >= 0) return i + bad;                                                 \
    __builtin_memcpy(out + i / BLOCK * bytes, codes, (n - i) / BLOCK * bytes);    \
  }                                                                               \
  return -1;

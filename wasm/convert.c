/* The one function that the host calls: any supported conversion of n elements, in chunks that stay in the L1 cache. */
#include "kernels.h"
#include "simd.h"

/* Elements of f32 scratch on the stack (8 KiB): two of Q4_K's pairs of blocks. */
#define CHUNK 2048
#define UNSUPPORTED -2

/* Through f32, a chunk at a time. The sizes are arguments, for the compiler would make a table of them: a data segment. */
INLINE int through_f32(enum type from, const uint8_t *in, uint8_t *out, int n, int (*quantize)(const float *, uint8_t *, int),
                       int block, int bytes) {
  float x[CHUNK];
  for (int i = 0; i < n; i += CHUNK) {
    int count = n - i < CHUNK ? n - i : CHUNK;
    int bad = floats_from(from, in + (size_t)i * 2, x, count);
    if (bad >= 0) {
      /* An earlier block's scale may overflow: it then comes first. */
      int before = quantize(x, out + (size_t)(i / block) * bytes, bad / block * block);
      return i + (before >= 0 ? before : bad);
    }
    bad = quantize(x, out + (size_t)(i / block) * bytes, count);
    if (bad >= 0) return i + bad;
  }
  return -1;
}

INLINE int quantize(enum type from, const uint8_t *in, uint8_t *out, int n, int (*kernel)(const float *, uint8_t *, int),
                    int block, int bytes) {
  return from == F32 ? kernel((const float *)in, out, n) : through_f32(from, in, out, n, kernel, block, bytes);
}

/* The index of the first bad element, -1 if all are good, -2 if there is no such conversion. */
__attribute__((export_name("convert"))) int convert(int from, int to, const uint8_t *in, uint8_t *out, int n) {
  if (from > BF16) return to == F32 ? dequantize((enum type)from, in, (float *)out, n) : UNSUPPORTED;
  switch (to) {
    case Q8_0: return quantize((enum type)from, in, out, n, quantize_q8_0, 32, 34);
    case Q4_0: return quantize((enum type)from, in, out, n, quantize_q4_0, 32, 18);
    case Q5_0: return quantize((enum type)from, in, out, n, quantize_q5_0, 32, 22);
    case Q4_K: return quantize((enum type)from, in, out, n, quantize_q4_k, 256, 144);
    case Q6_K: return quantize((enum type)from, in, out, n, quantize_q6_k, 256, 210);
    default: return to <= BF16 ? cast((enum type)from, (enum type)to, in, out, n) : UNSUPPORTED;
  }
}

/* Casts among f32, f16 and bf16, the checking copy included. */
#include "half.h"
#include "kernels.h"

/* Elements between two looks at the running maximum: small enough to find the culprit again in cache. */
#define CHUNK 2048

INLINE uint32_t max_of(u4 v) {
  uint32_t a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}

INLINE int size_of(enum type t) { return t == F32 ? 4 : 2; }

/* Eight elements as two vectors of f32; `magnitude` takes the greatest bits that say whether all are finite. */
INLINE void load8(enum type from, const uint8_t *p, f4 *a, f4 *b, u4 *magnitude) {
  if (from == F32) {
    *a = load4(p), *b = load4(p + 16);
  } else {
    h8 h = *(const h8_any *)p;
    u4 low = widen_low(h), high = widen_high(h);
    if (from == F16) {
      *magnitude = maxu4(*magnitude, maxu4(low & 0x7fffu, high & 0x7fffu));
      *a = f16_floats4(low), *b = f16_floats4(high);
    } else {
      *a = (f4)(low << 16), *b = (f4)(high << 16);
    }
  }
  if (from != F16) *magnitude = maxu4(*magnitude, maxu4((u4)*a & 0x7fffffffu, (u4)*b & 0x7fffffffu));
}

INLINE void store8(enum type to, uint8_t *p, f4 a, f4 b) {
  if (to == F32) {
    store4(p, a), store4(p + 16, b);
  } else if (to == F16) {
    *(h8_any *)p = low_halves(f16_bits4(a), f16_bits4(b));
  } else {
    *(h8_any *)p = narrow_u16(bf16_bits4(a), bf16_bits4(b));
  }
}

/* From which bits on an element is bad: as f16 bits where that is what is looked at, else as f32 bits. */
INLINE uint32_t limit(enum type from, enum type to) {
  if (from == F16) return 0x7c00u;
  if (from == to) return LIMIT_F32;
  return to == F16 ? LIMIT_F16 : to == BF16 ? LIMIT_BF16 : LIMIT_F32;
}

INLINE int cast_as(enum type from, enum type to, const uint8_t *in, uint8_t *out, int n) {
  int si = size_of(from), so = size_of(to);
  for (int start = 0; start < n; start += CHUNK) {
    int end = n - start < CHUNK ? n : start + CHUNK, i = start;
    u4 magnitude = splatu(0);
    f4 a, b;
    for (; i + 8 <= end; i += 8) {
      load8(from, in + (size_t)i * si, &a, &b, &magnitude);
      if (from == to) *(c16_any *)(out + (size_t)i * so) = *(const c16_any *)(in + (size_t)i * si);
      if (from == to && from == F32) store4(out + (size_t)i * 4 + 16, b);
      if (from != to) store8(to, out + (size_t)i * so, a, b);
    }
    if (i < end) {
      uint8_t last_in[32] = {0}, last_out[32];
      __builtin_memcpy(last_in, in + (size_t)i * si, (size_t)(end - i) * si);
      load8(from, last_in, &a, &b, &magnitude);
      if (from == to) __builtin_memcpy(last_out, last_in, 32);
      else store8(to, last_out, a, b);
      __builtin_memcpy(out + (size_t)i * so, last_out, (size_t)(end - i) * so);
    }
    uint32_t worst = limit(from, to);
    if (max_of(magnitude) < worst) continue;
    for (i = start; i < end; i++) {
      uint32_t bits = from == F32 ? *(const u32_any *)(in + (size_t)i * 4) : *(const u16_any *)(in + (size_t)i * 2);
      if (from == BF16) bits <<= 16;
      if ((bits & (from == F16 ? 0x7fffu : 0x7fffffffu)) >= worst) return i;
    }
  }
  return -1;
}

int cast(enum type from, enum type to, const uint8_t *in, uint8_t *out, int n) {
  switch (from * 3 + to) {
    case F32 * 3 + F32: return cast_as(F32, F32, in, out, n);
    case F32 * 3 + F16: return cast_as(F32, F16, in, out, n);
    case F32 * 3 + BF16: return cast_as(F32, BF16, in, out, n);
    case F16 * 3 + F32: return cast_as(F16, F32, in, out, n);
    case F16 * 3 + F16: return cast_as(F16, F16, in, out, n);
    case F16 * 3 + BF16: return cast_as(F16, BF16, in, out, n);
    case BF16 * 3 + F32: return cast_as(BF16, F32, in, out, n);
    case BF16 * 3 + F16: return cast_as(BF16, F16, in, out, n);
    default: return cast_as(BF16, BF16, in, out, n);
  }
}

int floats_from(enum type from, const uint8_t *in, float *out, int n) { return cast(from, F32, in, (uint8_t *)out, n); }

int first_to_blame(const float *x, int n) {
  int worst = 0;
  for (int i = 0; i < n; i++) {
    if (!is_finite(x[i])) return i;
    if ((bits_of(x[i]) & 0x7fffffffu) > (bits_of(x[worst]) & 0x7fffffffu)) worst = i;
  }
  return worst;
}

int first_not_finite(const float *x, int n) {
  for (int i = 0; i < n; i++)
    if (!is_finite(x[i])) return i;
  return -1;
}

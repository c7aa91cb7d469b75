/* Casts among f32, f16 and bf16, the checking copy included. */
#include "half.h"
#include "kernels.h"

/* Elements between two looks at the running maximum: small enough to find the culprit again in cache. */
#define CHUNK 2048

INLINE int size_of(enum type t) { return t == F32 ? 4 : 2; }

/* The greatest of the bits of magnitudes: four of f32, or eight of a type of sixteen bits. */
INLINE uint32_t max_of(enum type from, u4 v) {
  uint32_t max = 0;
  for (int i = 0; i < 4; i++) {
    if (from == F32) max = v[i] > max ? v[i] : max;
    else max = v[i] >> 16 > max ? v[i] >> 16 : max, max = (v[i] & 0xffffu) > max ? v[i] & 0xffffu : max;
  }
  return max;
}

INLINE void take_magnitudes(u4 *magnitude, h8 v) { *magnitude = (u4)max_u16((h8)*magnitude, v & 0x7fff); }

/* Eight elements as two vectors of f32; `magnitude` takes the greatest bits that say whether all are finite. */
INLINE void load8(enum type from, const uint8_t *p, f4 *a, f4 *b, u4 *magnitude) {
  if (from == F32) {
    *a = load4(p), *b = load4(p + 16);
    /* Opaque, or for V8 every use is the making of a constant. */
    u4 mask = opaque(splatu(0x7fffffffu));
    *magnitude = maxu4(*magnitude, maxu4((u4)*a & mask, (u4)*b & mask));
    return;
  }
  h8 h = *(const h8_any *)p, zero = {0};
  take_magnitudes(magnitude, h);
  if (from == F16) {
    *a = f16_floats4(widen_low(h)), *b = f16_floats4(widen_high(h));
  } else {
    *a = (f4)__builtin_shufflevector(zero, h, 0, 8, 1, 9, 2, 10, 3, 11);
    *b = (f4)__builtin_shufflevector(zero, h, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

INLINE void store8(enum type to, uint8_t *p, f4 a, f4 b) {
  if (to == F32) {
    store4(p, a), store4(p + 16, b);
  } else if (to == F16) {
    *(h8_any *)p = narrow_u16(f16_bits4(a), f16_bits4(b));
  } else {
    *(h8_any *)p = narrow_u16(bf16_bits4(a), bf16_bits4(b));
  }
}

/*
 * Eight elements from f16 to bf16 or back as they are, unless there are any that are subnormal as f16: where both types
 * are normal only exponent and mantissa move. bf16's mantissa fits, that of f16 is rounded. Returns 0 if there are any.
 */
INLINE int move8(enum type to, h8 v, h8 *out) {
  h8 a = v & 0x7fff, moved;
  h8 tiny = (h8)((s8)a < (s8)((h8){0} + (uint16_t)(to == F16 ? 0x3880 : 0x400)));
  if (any4((i4)(a & tiny))) return 0;
  if (to == F16) moved = (a - 0x3800) << 3;
  else moved = ((a + 3 + (a >> 3 & 1)) >> 3) + 0x3800;
  *out = (moved & ~tiny) | (v & 0x8000);
  return 1;
}

/* From which bits on an element is bad, as bits of its own type. */
INLINE uint32_t limit(enum type from, enum type to) {
  if (from == F16) return 0x7c00u;
  uint32_t bits = from != to && to == F16 ? LIMIT_F16 : from != to && to == BF16 ? LIMIT_BF16 : LIMIT_F32;
  return from == F32 ? bits : (bits + 0xffffu) >> 16;
}

INLINE int cast_as(enum type from, enum type to, const uint8_t *in, uint8_t *out, int n) {
  int si = size_of(from), so = size_of(to);
  for (int start = 0; start < n; start += CHUNK) {
    int end = n - start < CHUNK ? n : start + CHUNK, i = start;
    u4 magnitude = splatu(0);
    f4 a, b;
    for (; i + 8 <= end; i += 8) {
      const uint8_t *p = in + (size_t)i * si;
      uint8_t *q = out + (size_t)i * so;
      if (from != F32 && to != F32) {
        h8 v = *(const h8_any *)p, moved = v;
        if (from == to || move8(to, v, &moved)) {
          take_magnitudes(&magnitude, v);
          *(h8_any *)q = moved;
          continue;
        }
      }
      load8(from, p, &a, &b, &magnitude);
      store8(to, q, a, b);
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
    if (max_of(from, magnitude) < worst) continue;
    for (i = start; i < end; i++) {
      uint32_t bits = from == F32 ? *(const u32_any *)(in + (size_t)i * 4) & 0x7fffffffu
                                  : *(const u16_any *)(in + (size_t)i * 2) & 0x7fffu;
      if (bits >= worst) return i;
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

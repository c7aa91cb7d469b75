/*
 * Vectors of floats as the compiler's own vector types, so that the kernels are the same source for WASM (4 lanes) and,
 * with VL = 8, for AVX2. Nothing here or in the kernels may be contracted or reordered: the bytes are ggml's, and ggml's
 * sums are sequential float32 (build with -ffp-contract=off).
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef VL
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float fv __attribute__((vector_size(VL * 4)));
typedef int32_t iv __attribute__((vector_size(VL * 4)));
typedef uint32_t uv __attribute__((vector_size(VL * 4)));

/* The simple types work inside a block and transpose 4 x 4: always four lanes. */
typedef float f4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
typedef uint32_t u4 __attribute__((vector_size(16)));
typedef int16_t s8 __attribute__((vector_size(16)));
typedef uint16_t h8 __attribute__((vector_size(16)));
typedef uint16_t h4 __attribute__((vector_size(8)));
typedef int8_t b16 __attribute__((vector_size(16)));
typedef uint8_t c16 __attribute__((vector_size(16)));

/* Loads and stores at any address. */
typedef float f4_any __attribute__((vector_size(16), aligned(1)));
typedef int32_t i4_any __attribute__((vector_size(16), aligned(1), may_alias));
typedef h8 h8_any __attribute__((aligned(1)));
typedef c16 c16_any __attribute__((aligned(1)));
typedef uint32_t u32_any __attribute__((aligned(1), may_alias));
typedef uint16_t u16_any __attribute__((aligned(1), may_alias));

/*
 * The same pointer, but the optimiser does not know: offsets from it then stay in the loads and stores. Otherwise LLVM
 * computes an address of its own for every access of a loop, which costs up to half the speed.
 */
#define opaque(p) ({ __typeof__(p) p_ = (p); __asm__("" : "+r"(p_)); p_; })

INLINE f4 load4(const void *p) { return *(const f4_any *)p; }
INLINE void store4(void *p, f4 v) { *(f4_any *)p = v; }

INLINE fv splat(float x) { return (fv){0} + x; }
INLINE f4 splat4(float x) { return (f4){x, x, x, x}; }
INLINE u4 splatu(uint32_t x) { return (u4){x, x, x, x}; }

/* Mask (all ones or all zeros a lane) ? a : b. */
INLINE fv pick(iv mask, fv a, fv b) { return (fv)(((iv)a & mask) | ((iv)b & ~mask)); }
INLINE f4 pick4(i4 mask, f4 a, f4 b) { return (f4)(((i4)a & mask) | ((i4)b & ~mask)); }

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
/* One x86 instruction each, where the IEEE minimum takes eight: b < a ? b : a, and a < b ? b : a. */
INLINE f4 min4(f4 a, f4 b) { return (f4)wasm_f32x4_pmin((v128_t)a, (v128_t)b); }
INLINE f4 max4(f4 a, f4 b) { return (f4)wasm_f32x4_pmax((v128_t)a, (v128_t)b); }
INLINE int any4(i4 mask) { return wasm_v128_any_true((v128_t)mask); }
INLINE u4 maxu4(u4 a, u4 b) { return (u4)wasm_u32x4_max((v128_t)a, (v128_t)b); }
INLINE h8 min_u16(h8 a, h8 b) { return (h8)wasm_u16x8_min((v128_t)a, (v128_t)b); }
INLINE h8 max_u16(h8 a, h8 b) { return (h8)wasm_u16x8_max((v128_t)a, (v128_t)b); }
INLINE s8 max_s16(s8 a, s8 b) { return (s8)wasm_i16x8_max((v128_t)a, (v128_t)b); }
INLINE u4 minu4(u4 a, u4 b) { return (u4)wasm_u32x4_min((v128_t)a, (v128_t)b); }
INLINE i4 maxi4(i4 a, i4 b) { return (i4)wasm_i32x4_max((v128_t)a, (v128_t)b); }
INLINE i4 mini4(i4 a, i4 b) { return (i4)wasm_i32x4_min((v128_t)a, (v128_t)b); }
/* Eight int32 to int16, sixteen int16 to int8 or uint8; what does not fit saturates. */
INLINE h8 narrow_u16(u4 a, u4 b) { return (h8)wasm_u16x8_narrow_i32x4((v128_t)a, (v128_t)b); }
INLINE h8 narrow_s16(i4 a, i4 b) { return (h8)wasm_i16x8_narrow_i32x4((v128_t)a, (v128_t)b); }
INLINE c16 narrow_u8(h8 a, h8 b) { return (c16)wasm_u8x16_narrow_i16x8((v128_t)a, (v128_t)b); }
INLINE b16 narrow_s8(h8 a, h8 b) { return (b16)wasm_i8x16_narrow_i16x8((v128_t)a, (v128_t)b); }
INLINE c16 min_u8(c16 a, c16 b) { return (c16)wasm_u8x16_min((v128_t)a, (v128_t)b); }
INLINE b16 clamp_s8(b16 v, int8_t low, int8_t high) {
  return (b16)wasm_i8x16_min(wasm_i8x16_max((v128_t)v, wasm_i8x16_splat(low)), wasm_i8x16_splat(high));
}
/* x + y in double, rounded to float. */
INLINE f4 add_wide4(f4 x, double y) {
  v128_t wide = wasm_f64x2_splat(y), upper = wasm_i32x4_shuffle((v128_t)x, (v128_t)x, 2, 3, 2, 3);
  v128_t a = wasm_f32x4_demote_f64x2_zero(wasm_f64x2_add(wasm_f64x2_promote_low_f32x4((v128_t)x), wide));
  v128_t b = wasm_f32x4_demote_f64x2_zero(wasm_f64x2_add(wasm_f64x2_promote_low_f32x4(upper), wide));
  return (f4)wasm_i32x4_shuffle(a, b, 0, 1, 4, 5);
}
/* The top bits of the sixteen bytes. */
INLINE uint32_t top_bits(c16 v) { return wasm_i8x16_bitmask((v128_t)v); }
#else
#error "no vector extension but WASM's is mapped yet"
#endif

#if VL == 4
#define vmin min4
#define vmax max4
#define vany any4
#define vmaxi maxi4
#define vmini mini4
#endif

INLINE fv vabs(fv v) { return (fv)((uv)v & 0x7fffffffu); }
INLINE f4 abs4(f4 v) { return (f4)((u4)v & 0x7fffffffu); }
/* Half to even, for |v| < 2^31. */
#define nearest(v) __builtin_elementwise_roundeven(v)
#define truncate(v) __builtin_elementwise_trunc(v)
#define square_root(v) __builtin_elementwise_sqrt(v)

INLINE void transpose4(f4 *a, f4 *b, f4 *c, f4 *d) {
  f4 t0 = __builtin_shufflevector(*a, *b, 0, 4, 1, 5), t1 = __builtin_shufflevector(*a, *b, 2, 6, 3, 7);
  f4 t2 = __builtin_shufflevector(*c, *d, 0, 4, 1, 5), t3 = __builtin_shufflevector(*c, *d, 2, 6, 3, 7);
  *a = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
  *b = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
  *c = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
  *d = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
}

INLINE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
INLINE float float_of(uint32_t x) { return __builtin_bit_cast(float, x); }
INLINE int is_finite(float x) { return (bits_of(x) & 0x7fffffffu) < 0x7f800000u; }

/* ggml's nearest_int, nonsense beyond 2^22 included. */
INLINE int nearest_int(float v) { return (int)(bits_of(v + 12582912.f) & 0x007fffff) - 0x00400000; }
INLINE i4 nearest_int4(f4 v) { return ((i4)(v + 12582912.f) & 0x007fffff) - 0x00400000; }

// Sixteen-lane vectors as one AVX-512 register (F, BW, DQ, VL, VNNI).
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define FORERUN_ISA avx512
#define FORERUN_INLINE inline __attribute__((always_inline))
#define FORERUN_METHOD inline __attribute__((always_inline))

namespace forerun::avx512 {

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct u8x64 {
  __m512i v;
};

FORERUN_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
FORERUN_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
FORERUN_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
FORERUN_INLINE i32x16 set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
FORERUN_INLINE f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
FORERUN_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FORERUN_INLINE f32x16 sqrt(f32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
FORERUN_INLINE f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
FORERUN_INLINE f32x16 round_even(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FORERUN_INLINE i32x16 to_i32(f32x16 a) { return {_mm512_cvttps_epi32(a.v)}; }
FORERUN_INLINE f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
FORERUN_INLINE f32x16 bits_to_f32(i32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
FORERUN_INLINE i32x16 bits_to_i32(f32x16 a) { return {_mm512_castps_si512(a.v)}; }
FORERUN_INLINE i32x16 add(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
FORERUN_INLINE i32x16 sub(i32x16 a, i32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
FORERUN_INLINE i32x16 bit_and(i32x16 a, i32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int N>
FORERUN_INLINE i32x16 shl(i32x16 a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
FORERUN_INLINE i32x16 sar(i32x16 a) {
  return {_mm512_srai_epi32(a.v, N)};
}
FORERUN_INLINE i32x16 shr(i32x16 a, int n) { return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(n))}; }
FORERUN_INLINE i32x16 widen_u8(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
FORERUN_INLINE i32x16 load_i32(const void* p) { return {_mm512_loadu_si512(p)}; }
FORERUN_INLINE f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
FORERUN_INLINE f32x16 keep_lanes(f32x16 a, int lo, int hi, float fill) {
  const uint32_t below_hi = hi >= 16 ? 0xffffu : hi <= 0 ? 0u : (1u << hi) - 1;
  const uint32_t below_lo = lo >= 16 ? 0xffffu : lo <= 0 ? 0u : (1u << lo) - 1;
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(below_hi & ~below_lo), _mm512_set1_ps(fill), a.v)};
}
FORERUN_INLINE f32x16 load_f16(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
FORERUN_INLINE void store_i8(int8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
FORERUN_INLINE float first_lane(f32x16 a) { return _mm512_cvtss_f32(a.v); }
FORERUN_INLINE float hsum(f32x16 a) {
  const __m256 h8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_add_ss(h2, _mm_shuffle_ps(h2, h2, 1)));
}
FORERUN_INLINE float hmax(f32x16 a) { return _mm512_reduce_max_ps(a.v); }

FORERUN_INLINE u8x64 load_u8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
FORERUN_INLINE void store_u8(uint8_t* p, u8x64 a) { _mm512_storeu_si512(p, a.v); }
FORERUN_INLINE u8x64 bit_or(u8x64 a, u8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
// Count bits of every byte, from position `from` to position `to`; all others become zero.
template <int Count>
FORERUN_INLINE u8x64 move_bits(u8x64 a, int from, int to) {
  using Words = uint16_t __attribute__((vector_size(64)));
  const Words words = reinterpret_cast<Words>(a.v);
  const __m512i moved = reinterpret_cast<__m512i>(from < to ? words << static_cast<uint16_t>(to - from)
                                                            : words >> static_cast<uint16_t>(from - to));
  return {_mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(((1 << Count) - 1) << to)))};
}
FORERUN_INLINE u8x64 lookup(u8x64 nibbles, const uint8_t (&table)[16]) {
  const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(numbers), nibbles.v)};
}
// Four signed activations in memory; the product broadcasts them itself.
struct s8x4 {
  const int8_t* p;
};
FORERUN_INLINE s8x4 load_s8x4(const int8_t* p) { return {p}; }
// Sums of products per column, exact: `begin` takes and `end` gives them as numbers above a start. Weights are at most
// Top.
template <int Top>
struct Dot {
  static constexpr int kBias = 0;
  __m512i sums;
  FORERUN_METHOD static Dot begin(i32x16 start) { return {start.v}; }
  FORERUN_METHOD void add(u8x64 w, s8x4 a) {
    // In assembly: around the intrinsic GCC copies accumulators and keeps broadcasts in registers that are needed
    // elsewhere.
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w.v), "m"(*reinterpret_cast<const int32_t*>(a.p)));
  }
  FORERUN_METHOD i32x16 end(i32x16) const { return {sums}; }
};

inline constexpr int kStreamRows = 8;
inline constexpr int kStreamPanels[9] = {0, 4, 4, 4, 2, 1, 1, 1, 1};
inline constexpr int kFinePanels = 4;
inline constexpr int kTileRows = 6, kTilePanels = 2, kUnpackRows = 64;
inline constexpr int kVectorRegisters = 32;

}  // namespace forerun::avx512

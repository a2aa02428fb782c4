// Sixteen-lane vectors as two AVX2 registers (AVX2, FMA, F16C). The order of every operation is that of one register
// of 16.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define FORERUN_ISA avx2
#define FORERUN_INLINE inline __attribute__((always_inline))
#define FORERUN_METHOD inline __attribute__((always_inline))

namespace forerun::avx2 {

struct f32x16 {
  __m256 a, b;
};
struct i32x16 {
  __m256i a, b;
};
struct u8x64 {
  __m256i a, b;
};

FORERUN_INLINE f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FORERUN_INLINE void store(float* p, f32x16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
FORERUN_INLINE f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
FORERUN_INLINE i32x16 set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
#define FORERUN_BINARY(name, type, op) \
  FORERUN_INLINE type name(type x, type y) { return {op(x.a, y.a), op(x.b, y.b)}; }
FORERUN_BINARY(add, f32x16, _mm256_add_ps)
FORERUN_BINARY(sub, f32x16, _mm256_sub_ps)
FORERUN_BINARY(mul, f32x16, _mm256_mul_ps)
FORERUN_BINARY(div, f32x16, _mm256_div_ps)
FORERUN_BINARY(max, f32x16, _mm256_max_ps)
FORERUN_BINARY(min, f32x16, _mm256_min_ps)
FORERUN_BINARY(add, i32x16, _mm256_add_epi32)
FORERUN_BINARY(sub, i32x16, _mm256_sub_epi32)
FORERUN_BINARY(bit_and, i32x16, _mm256_and_si256)
#undef FORERUN_BINARY
FORERUN_INLINE f32x16 fma(f32x16 x, f32x16 y, f32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
FORERUN_INLINE f32x16 sqrt(f32x16 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
FORERUN_INLINE f32x16 abs(f32x16 x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
FORERUN_INLINE f32x16 round_even(f32x16 x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
FORERUN_INLINE i32x16 to_i32(f32x16 x) { return {_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)}; }
FORERUN_INLINE f32x16 to_f32(i32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
FORERUN_INLINE f32x16 bits_to_f32(i32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
FORERUN_INLINE i32x16 bits_to_i32(f32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
template <int N>
FORERUN_INLINE i32x16 shl(i32x16 x) {
  return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
FORERUN_INLINE i32x16 sar(i32x16 x) {
  return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)};
}
FORERUN_INLINE i32x16 shr(i32x16 x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return {_mm256_srl_epi32(x.a, count), _mm256_srl_epi32(x.b, count)};
}
FORERUN_INLINE i32x16 widen_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
FORERUN_INLINE i32x16 load_i32(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
FORERUN_INLINE f32x16 select_less(f32x16 x, f32x16 y, f32x16 yes, f32x16 no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
FORERUN_INLINE f32x16 keep_lanes(f32x16 x, int lo, int hi, float fill) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lane8 = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
  const __m256i low = _mm256_set1_epi32(lo - 1), high = _mm256_set1_epi32(hi);
  const __m256i keep_a = _mm256_and_si256(_mm256_cmpgt_epi32(lane, low), _mm256_cmpgt_epi32(high, lane));
  const __m256i keep_b = _mm256_and_si256(_mm256_cmpgt_epi32(lane8, low), _mm256_cmpgt_epi32(high, lane8));
  const __m256 f = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(f, x.a, _mm256_castsi256_ps(keep_a)), _mm256_blendv_ps(f, x.b, _mm256_castsi256_ps(keep_b))};
}
FORERUN_INLINE f32x16 load_f16(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
FORERUN_INLINE void store_i8(int8_t* p, i32x16 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
FORERUN_INLINE float first_lane(f32x16 x) { return _mm256_cvtss_f32(x.a); }
FORERUN_INLINE float hsum(f32x16 x) {
  const __m256 h8 = _mm256_add_ps(x.a, x.b);
  const __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_add_ss(h2, _mm_shuffle_ps(h2, h2, 1)));
}
FORERUN_INLINE float hmax(f32x16 x) {
  const __m256 h8 = _mm256_max_ps(x.a, x.b);
  const __m128 h4 = _mm_max_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = _mm_max_ps(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(_mm_max_ss(h2, _mm_shuffle_ps(h2, h2, 1)));
}

FORERUN_INLINE u8x64 load_u8(const uint8_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
FORERUN_INLINE void store_u8(uint8_t* p, u8x64 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, x.b);
}
FORERUN_INLINE u8x64 bit_or(u8x64 x, u8x64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
// Count bits of every byte, from position `from` to position `to`; all others become zero.
template <int Count>
FORERUN_INLINE __m256i move_bits_half(__m256i x, int from, int to) {
  using Words = uint16_t __attribute__((vector_size(32)));
  const Words words = reinterpret_cast<Words>(x);
  const __m256i moved = reinterpret_cast<__m256i>(from < to ? words << static_cast<uint16_t>(to - from)
                                                            : words >> static_cast<uint16_t>(from - to));
  return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(((1 << Count) - 1) << to)));
}
template <int Count>
FORERUN_INLINE u8x64 move_bits(u8x64 x, int from, int to) {
  return {move_bits_half<Count>(x.a, from, to), move_bits_half<Count>(x.b, from, to)};
}
FORERUN_INLINE u8x64 lookup(u8x64 nibbles, const uint8_t (&table)[16]) {
  const __m256i numbers = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(numbers, nibbles.a), _mm256_shuffle_epi8(numbers, nibbles.b)};
}
// Four signed activations, the same for all columns.
struct s8x4 {
  __m256i v;
};
FORERUN_INLINE s8x4 load_s8x4(const int8_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x)};
}
// Sums of products per column, exact: `begin` takes and `end` gives them as numbers above a start. Weights are at most
// Top; small ones are added up in 16 bits, or at least in pairs. Pairs of bytes up to 255 would not fit there: kBias is
// taken off them, and the activation takes the sign of what is left.
template <int Top>
struct Dot {
  static constexpr bool kWords = 8 * 2 * 127 * Top < 1 << 15;
  static constexpr int kBias = 2 * 127 * Top < 1 << 15 ? 0 : 128;
  __m256i a, b;
  FORERUN_METHOD static Dot begin(i32x16 start) {
    if constexpr (kWords) return {_mm256_setzero_si256(), _mm256_setzero_si256()};
    return {start.a, start.b};
  }
  FORERUN_METHOD void add(u8x64 w, s8x4 x) { a = add_half(a, w.a, x.v), b = add_half(b, w.b, x.v); }
  FORERUN_METHOD i32x16 end(i32x16 start) const {
    if constexpr (!kWords) return {a, b};
    const __m256i one = _mm256_set1_epi16(1);
    return forerun::avx2::add(start, i32x16{_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)});
  }

 private:
  FORERUN_METHOD static __m256i add_half(__m256i sums, __m256i w, __m256i x) {
    if constexpr (kWords) return _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x));
    if constexpr (kBias != 0) {
      w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
      x = _mm256_sign_epi8(x, w);
      w = _mm256_abs_epi8(w);
    }
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
  }
};

inline constexpr int kStreamRows = 4;
inline constexpr int kStreamPanels[5] = {0, 2, 1, 1, 1};
inline constexpr int kFinePanels = 1;
inline constexpr int kTileRows = 4, kTilePanels = 1, kUnpackRows = 16;
inline constexpr int kVectorRegisters = 8;

}  // namespace forerun::avx2

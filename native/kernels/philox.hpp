// Philox4x32-10, the counter-based random numbers: the upper 24 bits of the numbers of 64 tokens from 16 counters.
// Counter q = (first_quad + q, position, 0, 0) gives the numbers of tokens 4 q .. 4 q + 3; the key is the seed.
#pragma once

namespace forerun::FORERUN_ISA::sampling {

#if defined(__AVX2__)
// One counter per 64-bit lane, its words in the lower halves; what is left in the upper halves is never read.
#if defined(__AVX512F__)
struct Lanes {
  __m512i v;
};
static constexpr int kCounters = 8;  // of a register
FORERUN_INLINE Lanes every_lane(uint32_t x) { return {_mm512_set1_epi64(x)}; }
// Numbered so that joining words pairwise puts the counters into ascending order.
FORERUN_INLINE Lanes lane_numbers() { return {_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)}; }
FORERUN_INLINE Lanes plus(Lanes a, Lanes b) { return {_mm512_add_epi64(a.v, b.v)}; }
FORERUN_INLINE Lanes product(Lanes a, Lanes b) { return {_mm512_mul_epu32(a.v, b.v)}; }
FORERUN_INLINE Lanes mixed(Lanes p, Lanes a, Lanes key) {  // upper half of p, a and the key
  return {_mm512_ternarylogic_epi64(_mm512_srli_epi64(p.v, 32), a.v, key.v, 0x96)};
}
FORERUN_INLINE void store_upper_bits(int32_t* out, const Lanes* c) {
  const __m512i first = _mm512_mask_blend_epi32(0xaaaa, c[0].v, _mm512_slli_epi64(c[1].v, 32));
  const __m512i second = _mm512_mask_blend_epi32(0xaaaa, c[2].v, _mm512_slli_epi64(c[3].v, 32));
  _mm512_storeu_si512(out, _mm512_srli_epi32(_mm512_unpacklo_epi64(first, second), 8));
  _mm512_storeu_si512(out + 16, _mm512_srli_epi32(_mm512_unpackhi_epi64(first, second), 8));
}
#else
struct Lanes {
  __m256i v;
};
static constexpr int kCounters = 4;
FORERUN_INLINE Lanes every_lane(uint32_t x) { return {_mm256_set1_epi64x(x)}; }
FORERUN_INLINE Lanes lane_numbers() { return {_mm256_setr_epi64x(0, 2, 1, 3)}; }
FORERUN_INLINE Lanes plus(Lanes a, Lanes b) { return {_mm256_add_epi64(a.v, b.v)}; }
FORERUN_INLINE Lanes product(Lanes a, Lanes b) { return {_mm256_mul_epu32(a.v, b.v)}; }
FORERUN_INLINE Lanes mixed(Lanes p, Lanes a, Lanes key) {
  return {_mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p.v, 32), a.v), key.v)};
}
FORERUN_INLINE void store_upper_bits(int32_t* out, const Lanes* c) {
  const __m256i first = _mm256_blend_epi32(c[0].v, _mm256_slli_epi64(c[1].v, 32), 0xaa);
  const __m256i second = _mm256_blend_epi32(c[2].v, _mm256_slli_epi64(c[3].v, 32), 0xaa);
  __m256i* to = reinterpret_cast<__m256i*>(out);
  _mm256_storeu_si256(to, _mm256_srli_epi32(_mm256_unpacklo_epi64(first, second), 8));
  _mm256_storeu_si256(to + 1, _mm256_srli_epi32(_mm256_unpackhi_epi64(first, second), 8));
}
#endif
#else
struct Lanes {
  uint32_t v;
  uint32_t upper;
};
static constexpr int kCounters = 1;
FORERUN_INLINE Lanes every_lane(uint32_t x) { return {x, 0}; }
FORERUN_INLINE Lanes lane_numbers() { return {0, 0}; }
FORERUN_INLINE Lanes plus(Lanes a, Lanes b) { return {a.v + b.v, 0}; }
FORERUN_INLINE Lanes product(Lanes a, Lanes b) {
  const uint64_t p = static_cast<uint64_t>(a.v) * b.v;
  return {static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32)};
}
FORERUN_INLINE Lanes mixed(Lanes p, Lanes a, Lanes key) { return {p.upper ^ a.v ^ key.v, 0}; }
FORERUN_INLINE void store_upper_bits(int32_t* out, const Lanes* c) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<int32_t>(c[i].v >> 8);
}
#endif

static void random_bits(uint64_t seed, int32_t position, int first_quad, int32_t* out) {
  constexpr int kParts = 16 / kCounters;
  const Lanes m0 = every_lane(0xD2511F53u), m1 = every_lane(0xCD9E8D57u);
  Lanes c[kParts][4];
  for (int i = 0; i < kParts; ++i) {
    c[i][0] = plus(every_lane(static_cast<uint32_t>(first_quad + i * kCounters)), lane_numbers());
    c[i][1] = every_lane(static_cast<uint32_t>(position));
    c[i][2] = c[i][3] = every_lane(0);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Lanes key0 = every_lane(k0), key1 = every_lane(k1);
    for (int i = 0; i < kParts; ++i) {
      const Lanes p = product(c[i][0], m0), q = product(c[i][2], m1);
      c[i][0] = mixed(q, c[i][1], key0);
      c[i][1] = q;
      c[i][2] = mixed(p, c[i][3], key1);
      c[i][3] = p;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kParts; ++i) store_upper_bits(out + 4 * kCounters * i, c[i]);
}

}  // namespace forerun::FORERUN_ISA::sampling

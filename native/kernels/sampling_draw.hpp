// The draw: the largest of l / T + Gumbel noise among the survivors, the noise a function of (seed, position, token).
#pragma once
#include "kernels/philox.hpp"
#include "kernels/sampling_select.hpp"

namespace forerun::FORERUN_ISA::sampling {

static constexpr float kMostNoise = 16.6356f;  // not below -log(-log(1 - 2^-24))
static constexpr float kBelowOne = 0.999999940395355224609375f;

// Strictly between 0 and 1; the topmost number would round to 1.
FORERUN_INLINE f32x16 uniform(const int32_t* bits24) {
  const f32x16 u = mul(add(to_f32(load_i32(bits24)), set1(0.5f)), set1(5.9604644775390625e-8f));
  return min(u, set1(kBelowOne));
}
FORERUN_INLINE f32x16 gumbel(f32x16 u) {
  const f32x16 zero = set1(0.0f);
  return sub(zero, log32(sub(zero, log32(u))));
}

// Not below e^x for x within -80..80, less than 7 % above: the bits of a float are almost its logarithm.
FORERUN_INLINE f32x16 exp_bound(f32x16 x) {
  const f32x16 y = max(min(x, set1(80.0f)), set1(-80.0f));
  const i32x16 bits = to_i32(round_even(mul(y, set1(12102203.0f))));  // 2^23 / log(2)
  return mul(bits_to_f32(add(bits, set1(127 << 23))), set1(1.002f));
}

// l / T of a block's survivors that reach min_p, minus infinity for the other tokens and up to 64.
static void scale_block(const Logits& l, int b, Cut cut, float temperature, float min_p, float* scaled) {
  const f32x16 t = set1(temperature), top = set1(l.top / temperature), none = set1(-kInfinity);
  const int begin = b * kSampleBlock, n = l.block_end(b) - begin;
  for (int i = 0; i < n; i += 16) {
    f32x16 z = div(load(l.values + begin + i), t);
    if (min_p > 0.0f) z = select_less(exp32(sub(z, top)), set1(min_p), none, z);
    store(scaled + i, z);
  }
  for (int i = n; i < kSampleBlock; ++i) scaled[i] = -kInfinity;
  drop_cut_off(l, b, cut, -kInfinity, scaled);
}

// Whether a token of the block may reach the score `bound`: -log(u) >= 1 - u, so its noise is at most -log(1 - u).
static bool can_reach(const float* scaled, const int32_t* bits24, float bound) {
  f32x16 room = set1(-1.0f);
  for (int i = 0; i < kSampleBlock; i += 16) {
    const f32x16 limit = exp_bound(sub(load(scaled + i), set1(bound)));
    room = max(room, sub(limit, sub(set1(1.0f), uniform(bits24 + i))));
  }
  return hmax(room) >= 0.0f;
}

// Tokens that cannot win are passed over before anything costly is computed for them. `token`: the most probable one.
static int draw(const Logits& l, Cut cut, float temperature, float min_p, uint64_t seed, int32_t position, int token) {
  float scaled[kSampleBlock], score[kSampleBlock];
  int32_t bits24[kSampleBlock];
  const int home = token / kSampleBlock;
  random_bits(seed, position, home * (kSampleBlock / 4), bits24);
  for (int i = 0; i < kSampleBlock; i += 16) store(score + i, gumbel(uniform(bits24 + i)));
  const float top = l.top / temperature, slack = 1e-3f + 4.8e-7f * (top < 0.0f ? -top : top);  // for rounded scores
  float best = -kInfinity, bound = top + score[token % kSampleBlock];
  for (int b = 0; b < l.blocks; ++b) {
    if (!(l.block_max[b] >= cut.threshold) || l.block_max[b] / temperature + kMostNoise < bound) continue;
    scale_block(l, b, cut, temperature, min_p, scaled);
    random_bits(seed, position, b * (kSampleBlock / 4), bits24);
    if (!can_reach(scaled, bits24, bound - slack)) continue;
    for (int i = 0; i < kSampleBlock; i += 16) store(score + i, add(load(scaled + i), gumbel(uniform(bits24 + i))));
    for (int i = 0; i < kSampleBlock; ++i) {
      if (!(score[i] > best)) continue;
      best = score[i];
      token = b * kSampleBlock + i;
    }
    bound = best > bound ? best : bound;
  }
  return token;
}

}  // namespace forerun::FORERUN_ISA::sampling

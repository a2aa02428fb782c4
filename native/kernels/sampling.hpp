// Draws the next token of one row of logits; the definitions are those of docs/numerics.md, "Sampling".
// All cuts keep a prefix of one order, (adjusted logit descending, id ascending), and are described by where it ends.
// Probabilities are added up as whole multiples of 2^-34 of the largest one, so that no sum depends on its order.
#pragma once
#include "kernels/sampling_draw.hpp"
#include "kernels/sampling_select.hpp"
#include "kernels/sampling_types.hpp"

namespace forerun::FORERUN_ISA {
namespace sampling {

static void adjust(const SampleRow& row) {
  for (int i = 0; i < row.adjust_count; ++i) {
    float& x = row.logits[row.adjust_ids[i]];
    x = x > 0.0f ? x / row.adjust_rep[i] : x * row.adjust_rep[i];
    x = x + row.adjust_add[i];
  }
}

static void exclude_all_but_allowed(const SampleRow& row, float* kept) {
  for (int i = 0; i < row.allow_count; ++i) kept[row.allow_ids[i]] = row.logits[row.allow_ids[i]];
  for (int i = 0; i < row.vocab; ++i) row.logits[i] = -kInfinity;
  for (int i = 0; i < row.allow_count; ++i) row.logits[row.allow_ids[i]] = kept[row.allow_ids[i]];
}

static void exclude_masked(const SampleRow& row) {
  for (int begin = 0; begin < row.vocab; begin += 32) {
    const uint32_t bits = row.mask[begin / 32];
    const int n = row.vocab - begin < 32 ? row.vocab - begin : 32;
    float* x = row.logits + begin;
    if (bits == 0xffffffffu) continue;
    for (int i = 0; i < n; ++i) x[i] = bits >> i & 1 ? x[i] : -kInfinity;
  }
}

// Maxima of the row and of its blocks. False when there is a NaN or plus infinity, or nothing above minus infinity.
static bool scan(const SampleRow& row, float* block_max, Logits& out) {
  const int padded = (row.vocab + 15) / 16 * 16, blocks = (row.vocab + kSampleBlock - 1) / kSampleBlock;
  for (int i = row.vocab; i < padded; ++i) row.logits[i] = -kInfinity;
  const f32x16 infinity = set1(kInfinity), zero = set1(0.0f), one = set1(1.0f);
  f32x16 wrong = zero;
  float top = -kInfinity;
  for (int b = 0; b < blocks; ++b) {
    const int end = (b + 1) * kSampleBlock < padded ? (b + 1) * kSampleBlock : padded;
    f32x16 m = set1(-kInfinity);
    for (int i = b * kSampleBlock; i < end; i += 16) {
      const f32x16 x = load(row.logits + i);
      wrong = max(wrong, select_less(x, infinity, zero, one));
      m = max(m, x);
    }
    block_max[b] = hmax(m);
    top = block_max[b] > top ? block_max[b] : top;
  }
  out = {row.logits, block_max, row.vocab, padded, blocks, top};
  return hmax(wrong) == 0.0f && top >= kLowest;
}

static int first_of_largest(const Logits& l) {
  int b = 0;
  while (l.block_max[b] != l.top) ++b;
  int i = b * kSampleBlock;
  while (l.values[i] != l.top) ++i;
  return i;
}

// max + log(sum of exp(l - max)), the sum in 16 lanes.
static float log_of_sum(const Logits& l) {
  const f32x16 top = set1(l.top);
  f32x16 sum = set1(0.0f);
  for (int i = 0; i < l.padded; i += 16) sum = add(sum, exp32(sub(load(l.values + i), top)));
  return l.top + log32(hsum(sum));
}

static void report_most_probable(const SampleRow& row, const Logits& l, float log_sum, SampleScratch& s) {
  const int n = collect(l, cut_to_largest(l, row.num_logprobs, s), s);
  uint64_t* order = reinterpret_cast<uint64_t*>(s.mass);
  for (int i = 0; i < n; ++i) order[i] = static_cast<uint64_t>(~s.keys[i]) << 32 | static_cast<uint32_t>(s.ids[i]);
  sort_ascending(order, n);
  for (int i = 0; i < n; ++i) {
    row.top_ids[i] = static_cast<int32_t>(order[i] & 0xffffffffu);
    row.top_logprobs[i] = l.values[row.top_ids[i]] - log_sum;
  }
}

static int draw_with_temperature(const SampleRow& row, const Logits& l, int fallback, SampleScratch& s) {
  int k = row.top_k > 0 ? row.top_k : row.vocab;
  if (row.global_topk > 0 && row.global_topk < k) k = row.global_topk;
  const float min_p = row.min_p < 1.0f ? row.min_p : 1.0f;  // the most probable token always survives
  Cut cut = k < row.vocab ? cut_to_largest(l, k, s) : kNoCut;
  if (row.top_p < 1.0f) cut = cut_to_mass(l, cut, row.temperature, 0.0f, row.top_p, s);
  if (row.deterministic) return cut_to_mass(l, cut, row.temperature, min_p, 0.5f, s).last;
  return draw(l, cut, row.temperature, min_p, row.seed, row.position, fallback);
}

}  // namespace sampling

static void sample_row(const SampleRow& row, SampleScratch& scratch) {
  using namespace sampling;
  *row.token = -1;
  *row.logprob = __builtin_nanf("");
  for (int i = 0; i < row.top_width; ++i) row.top_ids[i] = -1, row.top_logprobs[i] = -kInfinity;

  Logits l;
  adjust(row);
  if (!scan(row, scratch.block_max, l)) return;
  if (row.allow_count > 0) exclude_all_but_allowed(row, scratch.weights);
  if (row.mask != nullptr) exclude_masked(row);
  if ((row.allow_count > 0 || row.mask != nullptr) && !scan(row, scratch.block_max, l)) return;
  int token = first_of_largest(l);
  const float top_scaled = l.top / row.temperature;  // beyond float32: the temperature is as good as 0
  if (row.temperature > 0.0f && top_scaled >= kLowest && top_scaled <= -kLowest)
    token = draw_with_temperature(row, l, token, scratch);
  *row.token = token;
  if (row.num_logprobs < 0) return;
  const float log_sum = log_of_sum(l);
  *row.logprob = l.values[token] - log_sum;
  if (row.num_logprobs > 0) report_most_probable(row, l, log_sum, scratch);
}

}  // namespace forerun::FORERUN_ISA

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

static void exclude_all_but_allowed(const SampleRow& row, SampleColumns own, float* kept) {
  for (int i = 0; i < row.allow_count; ++i) kept[row.allow_ids[i]] = row.logits[row.allow_ids[i]];
  for (int i = own.begin; i < own.end; ++i) row.logits[i] = -kInfinity;
  for (int i = 0; i < row.allow_count; ++i) row.logits[row.allow_ids[i]] = kept[row.allow_ids[i]];
}

static void exclude_masked(const SampleRow& row, SampleColumns own) {
  for (int begin = own.begin / 32 * 32; begin < own.end; begin += 32) {
    const uint32_t bits = row.mask[begin / 32];
    const int n = row.vocab - begin < 32 ? row.vocab - begin : 32;
    float* x = row.logits + begin;
    if (bits == 0xffffffffu) continue;
    for (int i = 0; i < n; ++i) x[i] = bits >> i & 1 ? x[i] : -kInfinity;
  }
}

// All of the row's blocks as if they held minus infinity.
static Logits empty_blocks(const SampleRow& row, float* block_max) {
  const int padded = (row.vocab + 15) / 16 * 16, blocks = (row.vocab + kSampleBlock - 1) / kSampleBlock;
  for (int b = 0; b < blocks; ++b) block_max[b] = -kInfinity;
  return {row.logits, block_max, row.vocab, padded, blocks, -kInfinity, false};
}

// Maxima of the columns and of their blocks; the other columns count as minus infinity. False when there is a NaN or
// plus infinity, or nothing above minus infinity.
static bool scan(const SampleRow& row, SampleColumns own, float* block_max, Logits& out) {
  out = empty_blocks(row, block_max);
  const int first = own.begin / kSampleBlock, last = (own.end + kSampleBlock - 1) / kSampleBlock;
  for (int i = first * kSampleBlock; i < own.begin; ++i) row.logits[i] = -kInfinity;
  for (int i = own.end; i < last * kSampleBlock && i < out.padded; ++i) row.logits[i] = -kInfinity;
  const f32x16 infinity = set1(kInfinity), zero = set1(0.0f), one = set1(1.0f);
  f32x16 wrong = zero;
  for (int b = first; b < last; ++b) {
    f32x16 m = set1(-kInfinity);
    for (int i = b * kSampleBlock; i < out.block_end(b); i += 16) {
      const f32x16 x = load(row.logits + i);
      wrong = max(wrong, select_less(x, infinity, zero, one));
      m = max(m, x);
    }
    block_max[b] = hmax(m);
    out.top = block_max[b] > out.top ? block_max[b] : out.top;
  }
  out.wrong = hmax(wrong) != 0.0f;
  return !out.wrong && out.top >= kLowest;
}

// The columns' logits after the adjustments, without the tokens that cannot come; false as in `scan`.
static bool prepare(const SampleRow& row, SampleColumns own, SampleScratch& s, Logits& out) {
  adjust(row);
  if (!scan(row, own, s.block_max, out)) return false;
  if (row.allow_count > 0) exclude_all_but_allowed(row, own, s.weights);
  if (row.mask != nullptr) exclude_masked(row, own);
  return (row.allow_count == 0 && row.mask == nullptr) || scan(row, own, s.block_max, out);
}

// The candidates as the row's only tokens above minus infinity; false as in `scan`.
static bool spread(const SampleRow& row, const Candidate* const* lists, int members, int count, float* block_max,
                   Logits& out) {
  out = empty_blocks(row, block_max);
  for (int m = 0; m < members; ++m)
    for (const Candidate* c = lists[m]; c < lists[m] + count; ++c) {
      if (c->id < 0 || c->id >= row.vocab) continue;
      out.wrong |= !(c->logit < kInfinity);
      const int b = c->id / kSampleBlock;
      if (block_max[b] == -kInfinity)
        for (int i = b * kSampleBlock; i < out.block_end(b); ++i) row.logits[i] = -kInfinity;
      row.logits[c->id] = c->logit;
      block_max[b] = c->logit > block_max[b] ? c->logit : block_max[b];
      out.top = c->logit > out.top ? c->logit : out.top;
    }
  return !out.wrong && out.top >= kLowest;
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

static int choose(const SampleRow& row, const Logits& l, SampleScratch& s) {
  const int first = first_of_largest(l);
  const float top_scaled = l.top / row.temperature;  // beyond float32: the temperature is as good as 0
  if (!(row.temperature > 0.0f && top_scaled >= kLowest && top_scaled <= -kLowest)) return first;
  return draw_with_temperature(row, l, first, s);
}

static void clear_results(const SampleRow& row) {
  *row.token = -1;
  *row.logprob = __builtin_nanf("");
  for (int i = 0; i < row.top_width; ++i) row.top_ids[i] = -1, row.top_logprobs[i] = -kInfinity;
}

}  // namespace sampling

static void sample_row(const SampleRow& row, SampleScratch& scratch) {
  using namespace sampling;
  clear_results(row);
  Logits l;
  if (!prepare(row, {0, row.vocab}, scratch, l)) return;
  const int token = choose(row, l, scratch);
  *row.token = token;
  if (row.num_logprobs < 0) return;
  const float log_sum = log_of_sum(l);
  *row.logprob = l.values[token] - log_sum;
  if (row.num_logprobs > 0) report_most_probable(row, l, log_sum, scratch);
}

// The only tokens among the columns that can be drawn, whatever the other columns hold: the one that these columns
// alone would give, or the `count` first ones of the order where the row keeps no more. A token that is not finite
// stands for all.
static void name_candidates(const SampleRow& row, SampleColumns own, int count, Candidate* out,
                            SampleScratch& scratch) {
  using namespace sampling;
  for (int i = 0; i < count; ++i) out[i] = {-1, -kInfinity};
  Logits l;
  if (!prepare(row, own, scratch, l)) {
    if (l.wrong) out[0] = {own.begin, kInfinity};
    return;
  }
  if (count == 1) {
    const int token = choose(row, l, scratch);
    out[0] = {token, l.values[token]};
    return;
  }
  const int n = collect(l, cut_to_largest(l, count, scratch), scratch);
  for (int i = 0; i < n; ++i) out[i] = {scratch.ids[i], l.values[scratch.ids[i]]};
}

// Draws among what members named of their columns, `count` tokens each. Log-probabilities need more than that.
static void sample_candidates(const SampleRow& row, const Candidate* const* lists, int members, int count,
                              SampleScratch& scratch) {
  using namespace sampling;
  clear_results(row);
  Logits l;
  if (spread(row, lists, members, count, scratch.block_max, l)) *row.token = choose(row, l, scratch);
}

}  // namespace forerun::FORERUN_ISA

// Sampling where the logits are with several members: each names the few tokens of its own columns that can be drawn,
// and all draw among what was named. The token is the one that all logits would give, since what makes a token win, its
// logit, its noise and its place in the order, does not depend on the others.
#include <algorithm>
#include <cstring>

#include "runtime/executor.hpp"

namespace forerun {

// How many tokens every member names for sampled row `at`; 0: all logits are needed, or are not more than the names.
int Executor::candidates(int at) const {
  const StepArrays& s = *step_;
  if (!exchange_ || !draws_from_head() || s.logits || s.keep_logits || s.num_logprobs[at] >= 0) return 0;
  const int cut = s.top_k[at] > 0 && limits_.global_topk > 0 ? std::min(s.top_k[at], limits_.global_topk)
                                                             : std::max(s.top_k[at], limits_.global_topk);
  const bool kept = cut > 0 && cut < limits_.vocab;
  // The other cuts depend on weights of tokens that lie with other members.
  if (s.temperature[at] > 0.0f && !kept && (s.top_p[at] < 1.0f || s.min_p[at] > 0.0f || limits_.deterministic))
    return 0;
  const int count = s.temperature[at] > 0.0f && kept ? cut : 1;
  return sizeof(Candidate) * count * ranks_.members() < sizeof(float) * limits_.vocab ? count : 0;
}

// Of the vocabulary that a member computes.
Share Executor::tokens_of(int member) const {
  const Share panels = units(head(), member);
  return {std::min(panels.begin * kPanel, limits_.vocab), std::min(panels.end * kPanel, limits_.vocab)};
}

// What a member gives of sampled rows.
size_t Executor::sampled_bytes(int member, Rows rows) const {
  const Share own = tokens_of(member);
  size_t bytes = 0;
  for (int at = rows.first; at < rows.first + rows.count; ++at) {
    const int count = candidates(at);
    bytes += count > 0 ? sizeof(Candidate) * count : sizeof(float) * (own.end - own.begin);
  }
  return bytes;
}

bool Executor::names_candidates(Rows rows) const {
  if (draws_greedily(rows)) return false;
  for (int at = rows.first; at < rows.first + rows.count; ++at)
    if (candidates(at) > 0) return true;
  return false;
}

// Each row's candidates, or its logits, go where the exchange takes them from.
void Executor::name_candidates(Rows rows, int thread) {
  const Buffer& logits = buffers_[head().output];
  const Share own = tokens_of(ranks_.own);
  SampleScratch scratch = carve_sample_scratch(sample_memory_[thread].data(), limits_.vocab);
  for (int r = thread; r < rows.count; r += team_.size()) {
    uint8_t* const to = sent_.data() + sampled_bytes(ranks_.own, {rows.first, r});
    float* const row = logits.f32 + static_cast<size_t>(r) * logits.width;
    const int at = rows.first + r, count = candidates(at);
    if (count > 0) {
      kernels_.name_candidates(sample_row(at, row), {own.begin, own.end}, count, reinterpret_cast<Candidate*>(to),
                               scratch);
    } else {
      std::memcpy(to, row + own.begin, sizeof(float) * (own.end - own.begin));
    }
  }
}

void Executor::exchange_sampled(Rows rows) {
  for (int m = 0; m < ranks_.members(); ++m) counts_[m] = sampled_bytes(m, rows);
  exchange_->all_gather(sent_.data(), counts_, received_.data());
}

// Draws row r of `rows` from what arrived.
void Executor::sample_exchanged(const SampleRow& row, Rows rows, int r, int thread, SampleScratch& scratch) {
  const int count = candidates(rows.first + r), members = ranks_.members();
  const Candidate** const named = named_.data() + static_cast<size_t>(thread) * members;
  const uint8_t* from = received_.data();
  for (int m = 0; m < members; from += counts_[m++]) {
    const uint8_t* const part = from + sampled_bytes(m, {rows.first, r});
    const Share theirs = tokens_of(m);
    named[m] = reinterpret_cast<const Candidate*>(part);
    if (count == 0 && m != ranks_.own)
      std::memcpy(row.logits + theirs.begin, part, sizeof(float) * (theirs.end - theirs.begin));
  }
  if (count > 0) {
    kernels_.sample_candidates(row, named, members, count, scratch);
  } else {
    kernels_.sample_row(row, scratch);
  }
}

}  // namespace forerun

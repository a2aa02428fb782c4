#include "runtime/greedy.hpp"

#include <algorithm>
#include <limits>

namespace forerun {
namespace {
constexpr float kInfinity = std::numeric_limits<float>::infinity();
}

bool only_greedy(const StepArrays& s, int first, int rows) {
  if (s.logits || s.keep_logits) return false;
  const int mask = first_mask(s, first);
  if (mask < s.mask_count && s.mask_rows[mask] < first + rows) return false;
  for (int r = first; r < first + rows; ++r)
    if (s.temperature[r] > 0.0f || s.num_logprobs[r] >= 0 || s.adjust_starts[r + 1] > s.adjust_starts[r] ||
        s.allow_starts[r + 1] > s.allow_starts[r])
      return false;
  return true;
}

LargestOutput* GreedyRows::begin(int thread, int rows) {
  LargestOutput* own = largest_.data() + static_cast<size_t>(thread) * rows_;
  for (int r = 0; r < rows; ++r) {
    std::fill_n(own[r].value, kPanel, -kInfinity);
    std::fill_n(own[r].panel, kPanel, 0.0f);
    std::fill_n(own[r].wrong, kPanel, 0.0f);
  }
  return own;
}

void LargestToken::take(const LargestToken& other) {
  wrong |= other.wrong;
  if (other.value > value || (other.value == value && other.id < id)) value = other.value, id = other.id;
}

LargestToken GreedyRows::largest(int row) const {
  LargestToken top = others_[row];
  for (size_t at = row; at < largest_.size(); at += rows_)
    for (int lane = 0; lane < kPanel; ++lane) {
      const LargestOutput& l = largest_[at];
      top.take({l.value[lane], static_cast<int>(l.panel[lane]) * kPanel + lane, l.wrong[lane] > 0.0f});
    }
  return top;
}

void GreedyRows::finish(const StepArrays& s, int row, int to) const {
  const LargestToken top = largest(row);
  s.tokens[to] = top.wrong ? -1 : top.id;
  s.logprobs[to] = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(s.top_ids + static_cast<size_t>(to) * s.top_width, s.top_width, -1);
  std::fill_n(s.top_logprobs + static_cast<size_t>(to) * s.top_width, s.top_width, -kInfinity);
}

}  // namespace forerun

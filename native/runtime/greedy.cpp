#include "runtime/greedy.hpp"

#include <algorithm>
#include <limits>

namespace forerun {
namespace {
constexpr float kInfinity = std::numeric_limits<float>::infinity();
}

bool only_greedy(const StepArrays& s, int first, int rows) {
  if (s.logits) return false;
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

void GreedyRows::finish(const StepArrays& s, int row, int to) const {
  float top = -kInfinity;
  int token = -1;
  bool wrong = false;
  for (size_t at = row; at < largest_.size(); at += rows_)
    for (int lane = 0; lane < kPanel; ++lane) {
      const LargestOutput& l = largest_[at];
      const int id = static_cast<int>(l.panel[lane]) * kPanel + lane;
      wrong |= l.wrong[lane] > 0.0f;
      if (l.value[lane] > top || (l.value[lane] == top && id < token)) top = l.value[lane], token = id;
    }
  s.tokens[to] = wrong ? -1 : token;
  s.logprobs[to] = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(s.top_ids + static_cast<size_t>(to) * s.top_width, s.top_width, -1);
  std::fill_n(s.top_logprobs + static_cast<size_t>(to) * s.top_width, s.top_width, -kInfinity);
}

}  // namespace forerun

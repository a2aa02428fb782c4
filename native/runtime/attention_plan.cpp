#include "runtime/attention_plan.hpp"

#include <algorithm>

namespace forerun {
namespace {
constexpr int kMaxGroups = 4096;  // split row blocks of a chunk
}

AttentionPlan::AttentionPlan(const ExecutorLimits& limits, int kv_heads, size_t states_floats)
    : layers_(limits.layers),
      kv_heads_(kv_heads),
      threads_(limits.threads),
      states_floats_(states_floats),
      next_item_(std::make_unique<std::atomic<int>[]>(limits.layers)),
      parts_done_(std::make_unique<std::atomic<int>[]>(static_cast<size_t>(kMaxGroups) * limits.layers)) {}

void AttentionPlan::cut(const StepArrays& s, int begin, int end, size_t state_floats) {
  items_.clear();
  groups_ = 0, used_ = 0, self_contained_ = true;
  for (int q = 0; q < s.seqs; ++q) {
    const int from = std::max(begin, s.query_starts[q]), to = std::min(end, s.query_starts[q + 1]);
    const bool few = to - from <= kQueryRows;
    self_contained_ &= few;
    for (int row = from; row < to; row += kQueryRows)
      cut_rows(q, row, std::min(kQueryRows, to - row), s.positions[row], few, state_floats);
  }
  if (end - begin > kQueryRows)  // the long ones first, so that the threads finish together
    std::stable_sort(items_.begin(), items_.end(), [](const AttentionItem& a, const AttentionItem& b) {
      return (a.tile_end - a.tile_begin) * a.rows > (b.tile_end - b.tile_begin) * b.rows;
    });
  for (int l = 0; l < layers_; ++l) next_item_[l].store(0, std::memory_order_relaxed);
  for (int g = 0; g < groups_ * layers_; ++g) parts_done_[g].store(0, std::memory_order_relaxed);
}

// One item per KV head, or one per KV head and tile.
void AttentionPlan::cut_rows(int seq, int row, int rows, int first_position, bool may_split, size_t state_floats) {
  const int tiles = (first_position + rows + kTile - 1) / kTile;
  for (int h = 0; h < kv_heads_; ++h) {
    const bool split = may_split && tiles > 1 && threads_ > 1 && groups_ < kMaxGroups &&
                       used_ + state_floats * tiles <= states_floats_;
    if (!split) {
      items_.push_back({seq, row, rows, first_position, h, 0, tiles, 0, 0, 1, 0});
      continue;
    }
    for (int t = 0; t < tiles; ++t)
      items_.push_back({seq, row, rows, first_position, h, t, t + 1, groups_, t, tiles, used_});
    used_ += state_floats * tiles;
    ++groups_;
  }
}

}  // namespace forerun

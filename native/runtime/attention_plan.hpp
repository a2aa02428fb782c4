// How the attention of a chunk is cut into pieces, and which thread takes which.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "kernels/types.hpp"
#include "runtime/step.hpp"

namespace forerun {

// Up to kQueryRows rows of one sequence, one KV head, a range of tiles.
struct AttentionItem {
  int seq, row, rows, first_position, kv_head, tile_begin, tile_end;
  int group, part, parts;  // parts > 1: one tile each, merged by whoever finishes last
  size_t state;            // floats into the states that the parts share

  bool same_queries(const AttentionItem& other) const { return row == other.row && kv_head == other.kv_head; }
  // Whether keys of its own rows lie in its tiles.
  bool holds_own_keys() const {
    return first_position / kTile < tile_end && (first_position + rows - 1) / kTile >= tile_begin;
  }
};

class AttentionPlan {
 public:
  // `kv_heads`: heads of the cache.
  AttentionPlan(const ExecutorLimits& limits, int kv_heads, size_t states_floats);

  // Cuts rows [begin, end) of a step. `state_floats`: the state of a whole item, for as many heads as any layer has.
  void cut(const StepArrays& s, int begin, int end, size_t state_floats);

  const std::vector<AttentionItem>& items() const { return items_; }
  // Every sequence has so few rows that one item holds them all, for one KV head: then an item can rotate its own
  // queries and write its own keys and values, and needs no stage before it.
  bool self_contained() const { return self_contained_; }
  // Calls run(item, following item or -1) for every item that `thread` of `threads` takes in a layer.
  template <class Run>
  void take(int layer, int thread, int threads, const Run& run) {
    const int count = static_cast<int>(items_.size());
    if (groups_ > 0) {  // pieces of equal size: neighbours on one thread, each fetching the next one's keys
      const int begin = count * thread / threads, end = count * (thread + 1) / threads;
      for (int n = begin; n < end; ++n) run(n, n + 1 < end ? n + 1 : -1);
    } else {
      for (int n; (n = next_item_[layer].fetch_add(1, std::memory_order_relaxed)) < count;) run(n, -1);
    }
  }
  // Whether the item, which has just been computed, was the last of its parts.
  bool complete(int layer, const AttentionItem& item) {
    if (item.parts == 1) return true;
    std::atomic<int>& done = parts_done_[static_cast<size_t>(layer) * groups_ + item.group];
    return done.fetch_add(1, std::memory_order_acq_rel) + 1 == item.parts;
  }

 private:
  void cut_rows(int seq, int row, int rows, int first_position, bool may_split, size_t state_floats);

  const int layers_, kv_heads_, threads_;
  const size_t states_floats_;
  std::vector<AttentionItem> items_;
  int groups_ = 0;  // of items that were split
  size_t used_ = 0;
  bool self_contained_ = false;
  std::unique_ptr<std::atomic<int>[]> next_item_;   // per layer
  std::unique_ptr<std::atomic<int>[]> parts_done_;  // per layer and group
};

}  // namespace forerun

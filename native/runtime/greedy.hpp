// Greedy tokens without logits: every thread keeps the largest outputs of its share of the LM head, then they are
// merged.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/types.hpp"
#include "runtime/step.hpp"

namespace forerun {

// Whether sampled rows [first, first + rows) need nothing but the id of the largest logit.
bool only_greedy(const StepArrays& s, int first, int rows);

struct LargestToken {
  float value;
  int32_t id;     // -1: none yet
  int32_t wrong;  // not 0: a NaN or plus infinity was among the logits

  void take(const LargestToken& other);
};

class GreedyRows {
 public:
  GreedyRows(int threads, int rows)
      : rows_(rows), largest_(static_cast<size_t>(threads) * rows), others_(rows, kNone) {}

  // A thread's own rows, made ready.
  LargestOutput* begin(int thread, int rows);
  // From what all threads kept for a row, and what `merge` brought.
  LargestToken largest(int row) const;
  // Adds what was found elsewhere, for the row since `forget`.
  void merge(int row, const LargestToken& found) { others_[row].take(found); }
  void forget(int row) { others_[row] = kNone; }
  // Writes sampled row `to` of the step.
  void finish(const StepArrays& s, int row, int to) const;

 private:
  static constexpr LargestToken kNone{-std::numeric_limits<float>::infinity(), -1, 0};
  const int rows_;
  std::vector<LargestOutput> largest_;
  std::vector<LargestToken> others_;
};

}  // namespace forerun

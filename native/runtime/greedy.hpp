// Greedy tokens without logits: every thread keeps the largest outputs of its share of the LM head, then they are
// merged.
#pragma once
#include <vector>

#include "kernels/types.hpp"
#include "runtime/step.hpp"

namespace forerun {

// Whether sampled rows [first, first + rows) need nothing but the id of the largest logit.
bool only_greedy(const StepArrays& s, int first, int rows);

class GreedyRows {
 public:
  GreedyRows(int threads, int rows) : rows_(rows), largest_(static_cast<size_t>(threads) * rows) {}

  // A thread's own rows, made ready.
  LargestOutput* begin(int thread, int rows);
  // Writes sampled row `to` of the step, from what all threads kept for row `row`.
  void finish(const StepArrays& s, int row, int to) const;

 private:
  const int rows_;
  std::vector<LargestOutput> largest_;
};

}  // namespace forerun

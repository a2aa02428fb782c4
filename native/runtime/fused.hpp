// Drafts with one program and verifies with another, within one call of the team that both work with.
#pragma once
#include <cstdint>
#include <exception>
#include <vector>

#include "runtime/executor.hpp"

namespace forerun {

// What is drafted, for each sequence of the first run (forerun.runtime.step.DraftRows).
struct DraftArrays {
  int seqs = 0, rows = 0;
  const int32_t* lengths = nullptr;  // tokens, at least 1
  const int32_t* places = nullptr;   // the row of the step that the first one goes to
  int32_t* token_ids = nullptr;      // [rows] of the step
};

class FusedStep {
 public:
  FusedStep(Executor& target, Executor& draft, ThreadTeam& team) : target_(target), draft_(draft), team_(team) {}

  // Runs `first` and one run after the other until every sequence has its tokens, then `verify`, whose token ids are
  // those of `drafts`. A token that is none of the target's, or that could not be drawn, becomes token 0. Throws
  // std::invalid_argument for wrong input; the target has computed nothing then.
  void step(const StepArrays& verify, const StepArrays& first, const DraftArrays& drafts);
  // Of the last step, until its verification began.
  int64_t drafting_ns() const { return drafting_ns_; }

 private:
  void check() const;
  void next();  // by thread 0: the program and the chunk that all threads work on next, or none
  void begin_run();
  void take_tokens();

  Executor& target_;
  Executor& draft_;
  ThreadTeam& team_;
  const StepArrays* verify_ = nullptr;
  const StepArrays* first_ = nullptr;
  DraftArrays drafts_;

  Executor* current_ = nullptr;
  StepArrays run_;
  int depth_ = 0;            // runs done
  std::vector<int> active_;  // sequences of the run under way
  std::exception_ptr failure_;
  int64_t began_ns_ = 0, drafting_ns_ = 0;

  // Arrays of the runs behind the first.
  std::vector<int32_t> token_ids_, positions_, starts_, tables_, top_k_, num_logprobs_, adjust_starts_, allow_starts_,
      allow_ids_, tokens_;
  std::vector<float> temperature_, top_p_, min_p_, logprobs_;
  std::vector<uint64_t> seed_;
};

}  // namespace forerun

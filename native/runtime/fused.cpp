#include "runtime/fused.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace forerun {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <class T>
void pick(std::vector<T>& to, const T* from, const std::vector<int>& which) {
  to.clear();
  for (int index : which) to.push_back(from[index]);
}

}  // namespace

void FusedStep::step(const StepArrays& verify, const StepArrays& first, const DraftArrays& drafts) {
  verify_ = &verify, first_ = &first, drafts_ = drafts;
  check();
  current_ = nullptr, depth_ = 0, failure_ = nullptr;
  active_.resize(first.seqs);
  std::iota(active_.begin(), active_.end(), 0);
  tokens_.resize(first.seqs), logprobs_.resize(first.seqs);
  run_ = first;
  began_ns_ = now_ns();
  team_.run([this](int thread) {
    for (;;) {
      if (thread == 0) next();
      team_.barrier();
      if (current_ == nullptr) return;
      current_->work(thread);
      team_.barrier();  // everybody has left the chunk before the next one is set up
    }
  });
  if (failure_) std::rethrow_exception(failure_);
}

void FusedStep::check() const {
  const StepArrays& f = *first_;
  check_step(*verify_, target_.limits());
  check_step(f, draft_.limits());
  require(drafts_.rows == verify_->rows && drafts_.token_ids == verify_->token_ids,
          "drafts: token_ids are not those of the step");
  require(drafts_.seqs == f.seqs && f.sampled == f.seqs && f.adjust_count == 0 && f.mask_count == 0 && f.top_width == 0,
          "drafts: the first run must sample one row of each sequence, without adjustments and masks");
  for (int s = 0; s < f.seqs; ++s) {
    const int last = f.query_starts[s + 1] - 1, length = drafts_.lengths[s];
    require(f.sample_rows[s] == last && f.num_logprobs[s] == -1,
            "drafts: the last row of each sequence is sampled, without log-probabilities");
    require(
        length >= 1 && length <= verify_->rows && drafts_.places[s] >= 0 && drafts_.places[s] <= verify_->rows - length,
        "drafts: lengths and places must lie within the rows of the step");
    const int64_t end = static_cast<int64_t>(f.positions[last]) + length;  // the last token is drawn, not computed
    const int size = draft_.limits().block_size;
    require(end <= draft_.limits().max_model_len && end <= static_cast<int64_t>(f.table_width) * size,
            "drafts: positions beyond the draft model's length or the block table");
    for (int64_t b = 0; b * size < end; ++b) {
      const int block = f.block_tables[static_cast<size_t>(s) * f.table_width + b];
      require(block >= 0 && block < draft_.limits().num_blocks,
              "drafts: block " + std::to_string(block) + " does not exist");
    }
  }
}

void FusedStep::next() {
  try {
    if (current_ != nullptr && current_->next_chunk()) return;
    if (current_ == &target_) {
      current_ = nullptr;
      return;
    }
    if (current_ == &draft_) take_tokens();
    if (active_.empty()) {
      drafting_ns_ = now_ns() - began_ns_;
      target_.begin(*verify_);
      current_ = &target_;
    } else {
      begin_run();
      current_ = &draft_;
    }
    current_->next_chunk();
  } catch (...) {
    failure_ = std::current_exception();
    current_ = nullptr;
  }
}

void FusedStep::take_tokens() {
  for (size_t a = 0; a < active_.size(); ++a) {
    const int token = tokens_[a];
    drafts_.token_ids[drafts_.places[active_[a]] + depth_] = token < 0 || token >= target_.limits().vocab ? 0 : token;
  }
  ++depth_;
  active_.erase(
      std::remove_if(active_.begin(), active_.end(), [this](int seq) { return drafts_.lengths[seq] <= depth_; }),
      active_.end());
}

void FusedStep::begin_run() {
  const StepArrays& f = *first_;
  run_.tokens = tokens_.data(), run_.logprobs = logprobs_.data();
  if (depth_ > 0) {
    const int count = static_cast<int>(active_.size());
    token_ids_.clear(), positions_.clear(), tables_.clear(), allow_ids_.clear(), allow_starts_.assign(1, 0);
    for (int seq : active_) {
      token_ids_.push_back(std::min(drafts_.token_ids[drafts_.places[seq] + depth_ - 1], draft_.limits().vocab - 1));
      positions_.push_back(f.positions[f.query_starts[seq + 1] - 1] + depth_);
      const int32_t* table = f.block_tables + static_cast<size_t>(seq) * f.table_width;
      tables_.insert(tables_.end(), table, table + f.table_width);
      allow_ids_.insert(allow_ids_.end(), f.allow_ids + f.allow_starts[seq], f.allow_ids + f.allow_starts[seq + 1]);
      allow_starts_.push_back(static_cast<int32_t>(allow_ids_.size()));
    }
    starts_.resize(count + 1);
    std::iota(starts_.begin(), starts_.end(), 0);
    adjust_starts_.assign(count + 1, 0), num_logprobs_.assign(count, -1);
    pick(temperature_, f.temperature, active_), pick(top_p_, f.top_p, active_), pick(min_p_, f.min_p, active_);
    pick(top_k_, f.top_k, active_), pick(seed_, f.seed, active_);
    run_.rows = run_.seqs = run_.sampled = count;
    run_.token_ids = token_ids_.data(), run_.positions = positions_.data(), run_.query_starts = starts_.data();
    run_.sample_rows = starts_.data(), run_.block_tables = tables_.data();
    run_.temperature = temperature_.data(), run_.top_p = top_p_.data(), run_.min_p = min_p_.data();
    run_.top_k = top_k_.data(), run_.seed = seed_.data(), run_.num_logprobs = num_logprobs_.data();
    run_.adjust_starts = adjust_starts_.data(), run_.allow_starts = allow_starts_.data();
    run_.allow_ids = allow_ids_.data(), run_.allow_count = static_cast<int>(allow_ids_.size());
  }
  draft_.begin(run_);
}

}  // namespace forerun

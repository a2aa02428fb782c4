// One step as the engine hands it over, the limits that were reserved for, and the check of the one against the other.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace forerun {

struct ExecutorLimits {
  int threads = 1;       // those of the team that an executor was given
  int max_rows = 0;      // rows of a step
  int chunk_rows = 256;  // rows that pass through the layers together
  int strips = 1;        // of a chunk at most: members exchange the results of one while they compute the next
  int strip_rows = 64;   // the least rows of a strip where there are several
  int max_seqs = 0;
  int max_sample_rows = 0;
  int head_rows = 16;  // sampled rows that the LM head serves together: with that many, its weights are read once
  int max_model_len = 0;
  int num_blocks = 0;
  int block_size = 0;
  bool kv_int8 = false;
  int layers = 0, kv_heads = 0, head_dim = 0;
  int kv_splits = 1;  // a KV head counts as so many, each with its part of the query heads: what ranks share out
  int vocab = 0;
  int global_topk = 0;
  bool deterministic = false;
};

// The arrays of one step, as the engine hands them over (forerun.runtime.step.StepInput).
struct StepArrays {
  int rows = 0, seqs = 0, table_width = 0, sampled = 0;
  const int32_t *token_ids = nullptr, *positions = nullptr, *query_starts = nullptr, *block_tables = nullptr,
                *sample_rows = nullptr;
  const float *temperature = nullptr, *top_p = nullptr, *min_p = nullptr;
  const int32_t *top_k = nullptr, *num_logprobs = nullptr;
  const uint64_t* seed = nullptr;
  const int32_t *adjust_starts = nullptr, *adjust_ids = nullptr, *allow_starts = nullptr, *allow_ids = nullptr;
  const float *adjust_add = nullptr, *adjust_rep = nullptr;
  int adjust_count = 0, allow_count = 0;
  const int32_t* mask_rows = nullptr;  // [mask_count] sampled rows that have a mask, ascending
  const uint32_t* masks = nullptr;     // [mask_count, mask_words]
  int mask_count = 0, mask_words = 0;
  bool keep_logits = false;  // for Executor::redraw
  // results
  int32_t* tokens = nullptr;
  float* logprobs = nullptr;
  int top_width = 0;
  int32_t* top_ids = nullptr;
  float* top_logprobs = nullptr;
  float* logits = nullptr;  // [sampled, vocab] or null
};

// Throws std::invalid_argument when a size, index or value of the step lies outside the limits or its own arrays.
void check_step(const StepArrays& s, const ExecutorLimits& limits);

// The first mask of a row that is not before `row`, as an index of mask_rows.
int first_mask(const StepArrays& s, int row);

inline void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

}  // namespace forerun

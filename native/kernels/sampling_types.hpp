// What the sampler of every instruction set is given: plain structures, no code that could be shared between them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace forerun {

// One row of logits whose next token is drawn. Lists and sizes have been checked by the caller:
// ids within 0..vocab-1, 1 <= vocab <= 2^19, temperature, top_p, min_p finite and >= 0, top_k >= 0.
struct SampleRow {
  float* logits = nullptr;  // [vocab rounded up to 16], changed in place
  int32_t vocab = 0;
  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // 1 or more: off
  float min_p = 0.0f;        // 0: off
  uint64_t seed = 0;
  int32_t position = 0;                 // of the token that is drawn: that of the row plus 1
  int32_t num_logprobs = -1;            // -1: no log-probabilities at all; at most top_width
  int32_t global_topk = 0;              // a cut for every row; 0: off
  bool deterministic = false;           // the random number is 0.5
  const int32_t* adjust_ids = nullptr;  // [adjust_count]
  const float* adjust_add = nullptr;
  const float* adjust_rep = nullptr;
  int32_t adjust_count = 0;
  const int32_t* allow_ids = nullptr;  // [allow_count]; 0 allows every token
  int32_t allow_count = 0;
  const uint32_t* mask = nullptr;  // bit i % 32 of word i / 32 is set where token i is possible; null: all are
  // Results
  int32_t* token = nullptr;       // -1 when the logits are not finite
  float* logprob = nullptr;       // NaN when not asked for or not finite
  int32_t* top_ids = nullptr;     // [top_width], filled up with -1
  float* top_logprobs = nullptr;  // [top_width], filled up with -inf
  int32_t top_width = 0;
};

// A token that may be drawn, with its logit after the adjustments.
struct Candidate {
  int32_t id;  // -1: none
  float logit;
};

// Columns [begin, end) of a row.
struct SampleColumns {
  int32_t begin, end;
};

// Logits are looked at in blocks of this many tokens: 16 quadruples of random numbers.
inline constexpr int kSampleBlock = 64;

// Memory of one thread, carved from sample_scratch_bytes(vocab) bytes aligned to 64.
struct SampleScratch {
  int64_t* mass = nullptr;     // [tokens]
  uint32_t* keys = nullptr;    // [tokens]
  int32_t* ids = nullptr;      // [tokens]
  float* weights = nullptr;    // [tokens]
  float* block_max = nullptr;  // [tokens / 64]
};
constexpr size_t sample_scratch_tokens(int vocab) {
  return (static_cast<size_t>(vocab) / kSampleBlock + 2) * kSampleBlock;
}
constexpr size_t sample_scratch_bytes(int vocab) {
  return sample_scratch_tokens(vocab) * (8 + 4 + 4 + 4) + sample_scratch_tokens(vocab) / 16;
}
static inline SampleScratch carve_sample_scratch(void* memory, int vocab) {
  const size_t tokens = sample_scratch_tokens(vocab);
  SampleScratch s;
  s.mass = static_cast<int64_t*>(memory);
  s.keys = reinterpret_cast<uint32_t*>(s.mass + tokens);
  s.ids = reinterpret_cast<int32_t*>(s.keys + tokens);
  s.weights = reinterpret_cast<float*>(s.ids + tokens);
  s.block_max = s.weights + tokens;
  return s;
}

}  // namespace forerun

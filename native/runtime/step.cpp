#include "runtime/step.hpp"

#include <algorithm>
#include <limits>

namespace forerun {
namespace {

void check_tables(const StepArrays& s, const ExecutorLimits& l) {
  for (int q = 0; q < s.seqs; ++q) {
    const int begin = s.query_starts[q], end = s.query_starts[q + 1];
    require(begin < end && end <= s.rows, "step: query_starts must ascend");
    const int first = s.positions[begin];
    require(first >= 0 && first < l.max_model_len && end - begin <= l.max_model_len - first,
            "step: positions must lie within 0.." + std::to_string(l.max_model_len - 1));
    for (int r = begin; r < end; ++r)
      require(s.positions[r] == first + (r - begin), "step: positions of a sequence must be consecutive");
    const int blocks = (first + (end - begin) + l.block_size - 1) / l.block_size;
    require(blocks <= s.table_width, "step: the block table is too narrow");
    for (int b = 0; b < blocks; ++b) {
      const int block = s.block_tables[static_cast<size_t>(q) * s.table_width + b];
      require(block >= 0 && block < l.num_blocks, "step: block " + std::to_string(block) + " does not exist");
    }
  }
}

void check_sampling(const StepArrays& s, const ExecutorLimits& l) {
  for (int r = 0; r < s.sampled; ++r) {
    require(s.sample_rows[r] >= 0 && s.sample_rows[r] < s.rows && (r == 0 || s.sample_rows[r] > s.sample_rows[r - 1]),
            "step: sample_rows must ascend within the rows of the step");
    require(s.temperature[r] >= 0.0f && s.temperature[r] < 1e6f, "step: temperature must be within 0..1e6");
    require(s.top_k[r] >= 0 && s.top_p[r] > 0.0f && s.top_p[r] <= 1.0f && s.min_p[r] >= 0.0f && s.min_p[r] <= 1.0f,
            "step: top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1 must hold");
    require(s.num_logprobs[r] >= -1 && s.num_logprobs[r] <= s.top_width,
            "step: num_logprobs is outside the result arrays");
    require(s.adjust_starts[r] >= 0 && s.adjust_starts[r] <= s.adjust_starts[r + 1] &&
                s.adjust_starts[r + 1] <= s.adjust_count && s.allow_starts[r] >= 0 &&
                s.allow_starts[r] <= s.allow_starts[r + 1] && s.allow_starts[r + 1] <= s.allow_count,
            "step: adjustment lists are outside their arrays");
  }
  for (int i = 0; i < s.adjust_count; ++i) {
    require(s.adjust_ids[i] >= 0 && s.adjust_ids[i] < l.vocab, "step: an adjustment is outside the vocabulary");
    require(s.adjust_add[i] < std::numeric_limits<float>::infinity(), "step: adjust_add must be finite or -infinity");
    require(s.adjust_rep[i] > 0.0f && s.adjust_rep[i] < std::numeric_limits<float>::infinity(),
            "step: adjust_rep must be finite and positive");
  }
  for (int i = 0; i < s.allow_count; ++i)
    require(s.allow_ids[i] >= 0 && s.allow_ids[i] < l.vocab, "step: an allowed token is outside the vocabulary");
  require(s.mask_count == 0 || s.mask_words == (l.vocab + 31) / 32, "step: masks must have a bit for every token");
  for (int i = 0; i < s.mask_count; ++i)
    require(s.mask_rows[i] >= 0 && s.mask_rows[i] < s.sampled && (i == 0 || s.mask_rows[i] > s.mask_rows[i - 1]),
            "step: mask_rows must ascend within the sampled rows");
}

}  // namespace

int first_mask(const StepArrays& s, int row) {
  return static_cast<int>(std::lower_bound(s.mask_rows, s.mask_rows + s.mask_count, row) - s.mask_rows);
}

void check_step(const StepArrays& s, const ExecutorLimits& l) {
  require(s.rows >= 1 && s.rows <= l.max_rows,
          "step: " + std::to_string(s.rows) + " rows, the limit is " + std::to_string(l.max_rows));
  require(s.seqs >= 1 && s.seqs <= l.max_seqs,
          "step: " + std::to_string(s.seqs) + " sequences, the limit is " + std::to_string(l.max_seqs));
  require(s.sampled >= 0 && s.sampled <= l.max_sample_rows,
          "step: " + std::to_string(s.sampled) + " sampled rows, the limit is " + std::to_string(l.max_sample_rows));
  require(s.query_starts[0] == 0 && s.query_starts[s.seqs] == s.rows,
          "step: query_starts must run from 0 to the number of rows");
  for (int r = 0; r < s.rows; ++r)
    require(s.token_ids[r] >= 0 && s.token_ids[r] < l.vocab, "step: token id " + std::to_string(s.token_ids[r]) +
                                                                 " is outside the vocabulary of " +
                                                                 std::to_string(l.vocab));
  check_tables(s, l);
  check_sampling(s, l);
}

}  // namespace forerun

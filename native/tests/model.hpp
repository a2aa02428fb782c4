// A random tiny decoder, built through the executor's C++ interface, and the steps that are run on it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.hpp"

namespace forerun::test {

// Small random numbers from a seed, the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  int below(int n) { return static_cast<int>(next() >> 33) % n; }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(next() >> 40) / 16777216.0f; }

 private:
  uint64_t state_;
};

struct Shape {
  int layers = 2, hidden = 64, heads = 4, kv_heads = 2, head_dim = 16, ffn = 128, vocab = 300;
  int window = 0;        // of the last layer
  bool qk_norm = false;  // and no biases then
};

// Weights in memory of their own, shared by the executors that read them.
class Model {
 public:
  Model(const Shape& shape, Format format, uint64_t seed);

  // Of a group of ranks; as it is: alone.
  struct Place {
    Ranks ranks = {};
    Exchange* exchange = nullptr;
    int kv_splits = 1;
    int strips = 1;  // of 10 rows and more
  };
  std::unique_ptr<Executor> start(const std::string& isa, ThreadTeam& team, bool kv_int8, int chunk_rows,
                                  const Place& place) const;
  std::unique_ptr<Executor> start(const std::string& isa, ThreadTeam& team, bool kv_int8, int chunk_rows = 64) const {
    return start(isa, team, kv_int8, chunk_rows, {});
  }
  const Shape& shape() const { return shape_; }

  static constexpr int kBlocks = 40, kBlockSize = 32, kMaxLen = 1100, kMaxRows = 640, kMaxSeqs = 16, kMaxSampled = 24;

 private:
  struct Matrix {
    Format format;
    int n, k;
    std::vector<uint8_t> data;
    std::vector<float> scales;
  };
  int matrix(Random& random, Format format, int n, int k);
  const float* vector(Random& random, int n);

  Shape shape_;
  Format format_;
  std::vector<Matrix> matrices_;  // embedding, then qkv, o, gate/up, down of each layer, then the head
  std::vector<std::vector<float>> vectors_;
};

// The arrays of one step with their memory, filled sequence by sequence.
struct Step {
  std::vector<int32_t> token_ids, positions, query_starts{0}, block_tables, sample_rows;
  std::vector<float> temperature, top_p, min_p, adjust_add, adjust_rep;
  std::vector<int32_t> top_k, num_logprobs, adjust_starts{0}, adjust_ids, allow_starts{0}, allow_ids, mask_rows;
  std::vector<uint32_t> masks;
  std::vector<uint64_t> seed;
  int table_width = Model::kBlocks;
  std::vector<int32_t> tokens, top_ids;
  std::vector<float> logprobs, top_logprobs, logits;

  // `count` tokens from position `first`; blocks first_block, first_block + 1, ...; the last row is sampled.
  Step& add(Random& random, const Shape& shape, int first, int count, int first_block);
  // Greedy sampling of one more row.
  void sample_greedy(int row);
  // Replaces the greedy sampling by random parameters of every kind.
  void sample_randomly(Random& random, int vocab);
  // The arrays as the executor takes them, with results of `top_width` columns; valid while the step lives.
  StepArrays arrays(int vocab, int top_width = 5);
  // Everything that came out, bit by bit; all NaNs count as one.
  void append_results(std::vector<uint32_t>& out) const;
};

}  // namespace forerun::test

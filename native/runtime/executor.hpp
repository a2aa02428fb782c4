// Runs a program: one call per engine step, everything allocated before. Built through add_* calls, then used through
// step.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/table.hpp"
#include "runtime/attention_plan.hpp"
#include "runtime/greedy.hpp"
#include "runtime/memory.hpp"
#include "runtime/ranks.hpp"
#include "runtime/step.hpp"
#include "runtime/thread_team.hpp"

namespace forerun {

inline constexpr int kRepeatRows = 8;  // set_repeat_rows takes at most

enum class BufferType { F32, Q15 };
enum class Op { Embed, Norm, NormQuant, Quantize, Linear, RopeKv, Attention, SelectRows, Sample };

// Rows that an instruction works on: of the chunk, or, behind select_rows, sampled ones.
struct Rows {
  int first;  // in the step, or among its sampled rows
  int count;
  int at = 0;     // the first one in buffers
  int strip = 0;  // of the chunk
};

// Whole panels of a matrix that lie in memory together.
struct Shard {
  Share panels;
  const uint8_t* weights;
  const float* channel_scale;  // null unless Int8Channel
};

// Panels that one thread reads one after the other, and the shard that they are in.
struct Piece {
  Share panels;
  Shard shard;
};

// A matrix in shards, ascending; a member may lack what only others use.
struct WeightRef {
  Format format = Format::Float32;
  int blocks = 0;  // of 64 along K
  int rows = 0;    // rows of W
  int n = 0;       // the same, padded
  std::vector<Shard> shards;

  bool holds(Share panels) const {
    for (const Shard& s : shards)
      if (s.panels.begin <= panels.begin && panels.begin < s.panels.end) panels.begin = s.panels.end;
    return panels.begin >= panels.end;
  }
  const Shard& shard_of(int panel) const;
  const uint8_t* first_bytes(const Piece& piece) const;
  // `to`, with this matrix, for panels of the shard by their numbers in the whole matrix.
  LinearArgs args_of(const Shard& shard, LinearArgs to = {}) const;
};

// One instruction with everything resolved to indices; -1 where it does not apply.
struct Instruction {
  Op op = Op::Embed;
  std::string label;
  int input = -1, output = -1;
  int weight = -1;                 // Linear, Embed
  std::span<const float> vector;   // Norm: weight; RopeKv: q norm; Linear: bias
  std::span<const float> vector2;  // RopeKv: k norm
  float eps = 0.0f, scale = 1.0f;
  float fine_above = 0.0f;  // NormQuant, Quantize: see quantize_row
  int splits = 1;
  int column = 0;  // of the output at which a linear layer begins
  Epilogue epilogue = Epilogue::Store;
  int width = 0;  // Norm, NormQuant, Embed: true row length
  int layer = 0, window = 0;
  int heads = 0;  // RopeKv, Attention; Linear that makes (some of) those and their keys and values, cut by heads
  // Set by Executor::add.
  bool sampled = false;         // works on sampled rows
  bool into_attention = false;  // RopeKv: nobody else reads its queries, so attention may do its work
  int rope = -1;                // Attention: that instruction
  int next_linear = -1;         // Linear: the one that the program comes to afterwards; the first one after the last
  std::vector<std::vector<Piece>> pieces;  // Linear: of each thread
  bool own_input = false;                  // reads what row-wise work left, with few rows in every thread's own copy
};

class Executor {
 public:
  // Works with `team`, which outlives it and may serve others too. With several members, `exchange` brings them
  // together and outlives it, too; all of them are built alike and get the same steps.
  Executor(const Kernels& kernels, ExecutorLimits limits, ThreadTeam& team, Ranks ranks = {},
           Exchange* exchange = nullptr);

  // Building. All throw std::invalid_argument for sizes that do not fit.
  int add_buffer(BufferType type, int width, bool sampled);
  // The shards' sizes in bytes and scales come beside them.
  struct StoredShard {
    int first_panel;
    std::span<const uint8_t> weights;
    std::span<const float> channel_scale;
  };
  int add_weight(Format format, int n, int k, std::span<const StoredShard> shards);
  void set_rope(const float* inv_freq, int pairs, float scale);
  void add(Instruction instruction);
  // Throws std::invalid_argument for an unknown name.
  static Op op_named(const std::string& name);
  const std::vector<Instruction>& instructions() const { return program_; }

  // Checks every size and index, then runs; throws std::invalid_argument and changes nothing when the input is wrong.
  void step(const StepArrays& step);
  // The same in parts, for whoever runs several programs within one call of the team: `begin` checks; then, for every
  // chunk, one thread calls `next_chunk` (false: there is none) and, behind a barrier, all of them `work`, which ends
  // with a barrier. `next_chunk` throws what an exchange between members threw; the step is over then.
  void begin(const StepArrays& step);
  bool next_chunk();
  void work(int thread);

  // What sampled row `row` of the last step would have drawn with `mask` (a bit for each token), -1 where that leaves
  // nothing. For steps that kept their logits, whose sampled rows were all served together; the row's adjustments,
  // allowed list and cuts do not count. Throws std::invalid_argument for other steps and rows.
  int redraw(int row, std::span<const uint32_t> mask);

  // Up to so many rows every thread does row-wise work itself and saves a barrier. Throws std::invalid_argument outside
  // 0..kRepeatRows.
  void set_repeat_rows(int rows);
  int repeat_rows() const { return repeat_rows_; }
  // From so many rows on integer layers may run on tile registers. Throws std::invalid_argument below 0.
  void set_tile_rows(int rows);

  void set_profile(bool on);
  // Nanoseconds per instruction since profiling was switched on, and those spent outside instructions (last entry).
  const std::vector<int64_t>& profile() const { return profile_; }
  size_t reserved_bytes() const { return reserved_; }
  // Takes a part of the KV pool from the system, so that no request pays for fresh pages.
  void populate_kv(size_t begin, size_t bytes) const { kv_.populate(begin, bytes); }
  size_t kv_bytes() const { return kv_.size() + kv_scales_.size(); }
  // Places of tokens in the pool that were ever written, counted from its beginning; may be asked for by any thread.
  int64_t slots_used() const { return slots_used_.load(std::memory_order_relaxed); }
  const ExecutorLimits& limits() const { return limits_; }

 private:
  struct Buffer {
    BufferType type;
    int width = 0;  // columns, padded
    bool sampled = false;
    bool by_rows = false;  // while building: the last instruction that wrote it works row by row
    Pages memory;          // shared rows
    float* f32 = nullptr;
    QuantRows quant;
    std::vector<Pages> own_memory;  // a few rows per thread, for work that every thread repeats
    std::vector<float*> own_f32;
    std::vector<QuantRows> own_quant;
  };
  void check(const Instruction& i) const;
  void check_operands(const Instruction& i) const;
  void reserve_scratch(size_t bytes);  // of each thread
  void link_linear();
  void link_rope();
  enum class Works { OnRows, OnSampled, OnEither };  // of a step
  // An operator in one row: its name in a program, whether the sizes of an instruction of it fit, and a thread's share
  // of its work.
  struct Operator {
    Op op;
    const char* name;
    bool row_wise;  // from row to row, so that every thread may repeat it for few of them
    Works works;
    bool (Executor::*fits)(const Instruction&) const;  // once its operands are known to exist
    void (Executor::*run)(const Instruction&, Rows, int thread);
  };
  static const Operator kOperators[];  // in the order of Op
  static const Operator& row_of(Op op) { return kOperators[static_cast<int>(op)]; }

  // Rows of a chunk that pass through the layers one strip behind the other, as far as the next exchange: while what
  // members give each other of one strip is on its way, the next one is computed.
  struct Strip {
    Rows rows;
    AttentionPlan plan;
    std::unique_ptr<Exchange::Gather> gather;  // what was sent last, until it is received; thread 0's
  };
  void cut_strips();
  std::span<Strip> strips() { return {strips_.data(), strip_count_}; }
  void work_strip(Strip& strip, size_t begin, size_t end, int thread);
  void work_sampled(int thread);
  const Instruction& head() const { return program_[program_.size() - 2]; }  // makes what sample reads
  bool repeated(const Instruction& i, int rows) const { return rows <= repeat_rows_ && row_of(i.op).row_wise; }
  int head_rows() const { return std::min(limits_.head_rows, limits_.max_sample_rows); }

  bool embed_fits(const Instruction& i) const;
  bool row_wise_fits(const Instruction& i) const;
  bool linear_fits(const Instruction& i) const;
  bool heads_fit(const Instruction& i) const;
  bool rope_kv_fits(const Instruction& i) const;
  bool attention_fits(const Instruction& i) const;
  bool select_rows_fits(const Instruction& i) const;
  bool sample_fits(const Instruction& i) const;
  void embed(const Instruction& i, Rows rows, int thread);
  void row_wise(const Instruction& i, Rows rows, int thread);
  void linear(const Instruction& i, Rows rows, int thread);
  void rope_kv(const Instruction& i, Rows rows, int thread);
  void attention(const Instruction& i, Rows rows, int thread);
  void select_rows(const Instruction& i, Rows rows, int thread);
  void sample(const Instruction& i, Rows rows, int thread);
  SampleRow sample_row(int at, float* logits) const;                          // sampled row `at` of the step
  LinearArgs linear_args(const Instruction& i, Rows rows, int thread) const;  // without weights
  void keep(const StepArrays& s);
  bool draws_from_head() const;
  bool draws_greedily(Rows rows) const;
  void lm_head_greedy(const Instruction& i, Rows rows, int thread);
  void sample_greedily(Rows rows, int thread) const;
  KvLayer layer(int index) const;
  size_t state_floats() const;
  int heads_in_all() const { return limits_.kv_heads * limits_.kv_splits; }  // of the cache, over all members
  Share own_heads() const { return ranks_.share(heads_in_all()); }
  int group(const Instruction& i) const { return i.heads / heads_in_all(); }  // query heads of a head of the cache
  RopeKvArgs rope_args(const Instruction& i) const;
  AttentionArgs attention_args(const Instruction& i, const AttentionItem& item, float* own) const;
  void rope_item(const RopeKvArgs& rope, const AttentionItem& item, float* q) const;
  static int panels_of_unit(const Instruction& i) { return i.epilogue == Epilogue::SiluMul ? 2 : 1; }
  Share units(const Instruction& i, int member) const;  // of a linear layer
  std::vector<Share> own_panels(const Instruction& i) const;
  std::vector<std::vector<Piece>> pieces_of(const Instruction& i) const;
  void run_shards(const Instruction& i, const LinearArgs& of, int thread) const;
  bool cut_by_heads_fits(const Instruction& i) const;

  void reserve_exchange(const Instruction& i);
  // Whether other members need what an instruction makes.
  bool exchanged(const Instruction& i) const {
    return exchange_ && ((i.op == Op::Linear && !i.heads) || i.op == Op::Attention || i.op == Op::Embed);
  }
  size_t behind_exchange(size_t begin) const;
  template <class Meet>
  void meet(int thread, const Meet& with_others);
  void send(Strip& strip, const Instruction& i, int thread);
  void receive(Strip& strip, size_t index, int thread);
  void share(const Instruction& i, Rows rows, int thread, bool greedy);
  std::unique_ptr<Exchange::Gather> start(const Instruction& i, Rows rows);
  void finish(const Instruction& i, Rows rows, Exchange::Gather& gather);
  Share columns(const Instruction& i, int member) const;
  size_t part_bytes(const Instruction& i, Rows rows, int member) const;
  template <bool Out>
  void copy_part(const Instruction& i, Rows rows, int member, uint8_t* packed) const;
  void exchange_largest(int rows);
  int candidates(int at) const;
  Share tokens_of(int member) const;
  size_t sampled_bytes(int member, Rows rows) const;
  bool names_candidates(Rows rows) const;
  void name_candidates(Rows rows, int thread);
  void exchange_sampled(Rows rows);
  void sample_exchanged(const SampleRow& row, Rows rows, int r, int thread, SampleScratch& scratch);
  int owner(const WeightRef& table, int token) const;
  void finish_instruction(size_t index, int thread);

  const Kernels& kernels_;
  ExecutorLimits limits_;
  KvShape shape_;
  ThreadTeam& team_;
  const Ranks ranks_;
  Exchange* const exchange_;
  std::vector<Buffer> buffers_;
  std::vector<WeightRef> weights_;
  std::vector<Instruction> program_;
  int last_linear_ = -1, last_rope_ = -1, max_heads_ = 1, layers_attended_ = 0, rope_pairs_ = 0;
  size_t head_begin_ = 0;  // first instruction that works on sampled rows
  Pages kv_, kv_scales_, rope_, states_, scratch_;
  size_t scratch_stride_ = 0;
  std::vector<Pages> sample_memory_;
  size_t reserved_ = 0;

  // Of the step and the chunk under way.
  const StepArrays* step_ = nullptr;
  int chunk_begin_ = 0, chunk_end_ = 0, sample_begin_ = 0, sample_end_ = 0;
  struct KeptRow {
    float temperature;
    uint64_t seed;
    int position;
  };
  std::vector<KeptRow> kept_;  // sampled rows whose logits still are where sample found them
  const int32_t* positions_ = nullptr;
  std::vector<int64_t> slots_;
  std::atomic<int64_t> slots_used_ = 0;
  std::vector<Strip> strips_;  // as many as there may be
  size_t strip_count_ = 1;     // of the chunk
  GreedyRows greedy_;
  std::vector<uint8_t> sent_, received_;
  std::vector<size_t> counts_;           // of an exchange: bytes of each member
  std::vector<const Candidate*> named_;  // of each thread: where each member's are
  std::exception_ptr failure_;           // of an exchange

  int repeat_rows_ = kRepeatRows, tile_rows_ = 0;
  bool profiling_ = false;
  std::vector<int64_t> profile_;
  int64_t stamp_ = 0;
};

}  // namespace forerun

// Building an executor: buffers, weights and instructions, each checked as it arrives.
#include <cmath>

#include "runtime/executor.hpp"
#include "runtime/rope_table.hpp"

namespace forerun {
namespace {

constexpr size_t kStatesBytes = size_t{24} << 20;  // of attention that is split over tiles
// So far apart that no product of sizes, and no share of one among threads, leaves its type.
constexpr int kMostColumns = 1 << 24, kMostLayers = 1 << 12, kMostKvHeads = 1 << 8, kMostChunkRows = 1 << 12;
constexpr int kMostRanks = 1 << 10;
constexpr float kHighestFrequency = 1 << 20;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

ExecutorLimits checked_limits(ExecutorLimits l, int threads) {
  l.threads = threads;
  require(l.max_rows >= 1 && l.chunk_rows >= 1 && l.max_seqs >= 1 && l.max_sample_rows >= 1 && l.head_rows >= 1,
          "max_rows, chunk_rows, max_seqs, max_sample_rows and head_rows must be positive");
  require(l.block_size >= 16 && l.block_size <= 4096 && l.block_size % 16 == 0 && kTile % l.block_size == 0,
          "block_size must be 16, 32, 64, 128 or 256");
  require(l.num_blocks >= 1 && l.max_model_len >= 1 && l.layers >= 1 && l.kv_heads >= 1 && l.vocab >= 1,
          "num_blocks, max_model_len, layers, kv_heads and vocab must be positive");
  require(l.vocab <= 1 << 19, "vocab must be at most 524288");
  require(l.layers <= kMostLayers && l.kv_heads <= kMostKvHeads, "more than 4096 layers or 256 key heads");
  require(l.kv_splits >= 1 && l.kv_splits <= kMostKvHeads, "kv_splits must be within 1..256");
  require(l.head_dim >= 2 && l.head_dim % 2 == 0 && l.head_dim <= 512, "head_dim must be even and at most 512");
  require(l.strips >= 1, "strips must be positive");
  // Work that every thread repeats for itself keeps few rows only, and those of one strip.
  require(l.strip_rows > kRepeatRows, "strip_rows must be more than " + std::to_string(kRepeatRows));
  l.chunk_rows = std::min(l.chunk_rows, l.max_rows);
  require(l.chunk_rows <= kMostChunkRows, "chunk_rows must be at most 4096");
  return l;
}

// Carves arrays for `rows` quantised rows of k elements out of one allocation.
Pages make_quant(int rows, int k, QuantRows& out) {
  const size_t groups = static_cast<size_t>(rows) * (k / kGroup);
  Pages pages(groups * 2 * sizeof(QuantGroup) + rows * sizeof(int32_t));
  out.high = reinterpret_cast<QuantGroup*>(pages.data());
  out.low = out.high + groups;
  out.fine = reinterpret_cast<int32_t*>(out.low + groups);
  out.groups = k / kGroup;
  return pages;
}

Ranks checked_ranks(Ranks r, const Exchange* exchange) {
  const int members = r.members();
  bool ascending = members >= 1 && r.begins.front() == 0 && r.begins.back() <= kMostRanks;
  for (int m = 0; m < members; ++m) ascending &= r.begins[m] < r.begins[m + 1];
  require(ascending, "ranks: every member needs ranks of its own, 0 to " + std::to_string(kMostRanks) + " in order");
  require(r.own >= 0 && r.own < members, "ranks: this member is none of them");
  require((members > 1) == (exchange != nullptr), "ranks: several members, and only those, need an exchange");
  return r;
}

}  // namespace

Executor::Executor(const Kernels& kernels, ExecutorLimits limits, ThreadTeam& team, Ranks ranks, Exchange* exchange)
    : kernels_(kernels),
      limits_(checked_limits(limits, team.size())),
      team_(team),
      ranks_(checked_ranks(std::move(ranks), exchange)),
      exchange_(exchange),
      greedy_(limits_.threads, head_rows()) {
  const ExecutorLimits& l = limits_;
  const int kv_heads = own_heads().end - own_heads().begin;
  const int strips = exchange ? std::clamp(l.chunk_rows / l.strip_rows, 1, l.strips) : 1;
  for (int n = 0; n < strips; ++n)
    strips_.push_back({{0, 0}, AttentionPlan(limits_, kv_heads, kStatesBytes / sizeof(float)), nullptr});
  shape_ = {kv_heads, l.head_dim, round_up(l.head_dim, 16), l.block_size, __builtin_ctz(l.block_size), l.kv_int8};
  const size_t halves = size_t{2} * l.layers * l.num_blocks;  // of a block: keys and values; below 2^44
  kv_ = Pages(checked_product(halves, shape_.block_stride()));
  if (l.kv_int8) kv_scales_ = Pages(checked_product(halves, sizeof(float) * kv_heads * l.block_size));
  states_ = Pages(kStatesBytes);
  slots_.resize(limits_.chunk_rows);
  reserved_ = kv_.size() + kv_scales_.size() + states_.size();
  for (int t = 0; t < l.threads; ++t) sample_memory_.emplace_back(sample_scratch_bytes(l.vocab));
}

int Executor::add_buffer(BufferType type, int width, bool sampled) {
  require(width >= 1 && width <= kMostColumns, "buffer width must be within 1..2^24");
  Buffer b;
  b.type = type;
  b.width = round_up(width, kBlock);
  b.sampled = sampled;
  const int rows = sampled ? head_rows() : limits_.chunk_rows;
  const auto make = [&](int n, float*& f32, QuantRows& quant) {
    if (type != BufferType::F32) return make_quant(n, b.width, quant);
    Pages pages(sizeof(float) * n * b.width);
    f32 = pages.as<float>();
    return pages;
  };
  b.memory = make(rows, b.f32, b.quant);
  reserved_ += b.memory.size();
  for (int t = 0; t < limits_.threads; ++t) {
    b.own_f32.push_back(nullptr);
    b.own_quant.emplace_back();
    b.own_memory.push_back(make(std::min(rows, kRepeatRows), b.own_f32.back(), b.own_quant.back()));
  }
  buffers_.push_back(std::move(b));
  return static_cast<int>(buffers_.size()) - 1;
}

int Executor::add_weight(Format format, int n, int k, std::span<const StoredShard> shards) {
  require(n >= 1 && k >= 1 && n <= kMostColumns && k <= kMostColumns, "weight: sizes must be within 1..2^24");
  WeightRef w;
  w.rows = n;
  w.n = round_up(n, kPanel);
  w.format = format;
  w.blocks = round_up(k, kBlock) / kBlock;
  const size_t each = panel_bytes(format, w.blocks);
  for (const StoredShard& s : shards) {
    const size_t bytes = s.weights.size(), panels = bytes / each;
    require(bytes % each == 0,
            "weight: " + std::to_string(bytes) + " bytes are no whole panels of " + std::to_string(each));
    require(panels >= 1 && panels <= static_cast<size_t>(w.n / kPanel), "weight: a shard has too few or many panels");
    const bool follows = s.first_panel >= (w.shards.empty() ? 0 : w.shards.back().panels.end);
    require(follows && s.first_panel <= w.n / kPanel - static_cast<int>(panels), "weight: its shards do not ascend");
    require(s.channel_scale.size() == (format == Format::Int8Channel ? panels * kPanel : 0),
            "weight: one scale per (padded) output channel is needed for int8_channel and for nothing else");
    w.shards.push_back({{s.first_panel, s.first_panel + static_cast<int>(panels)},
                        s.weights.data(),
                        s.channel_scale.empty() ? nullptr : s.channel_scale.data()});
  }
  weights_.push_back(w);
  reserve_scratch(kernels_.linear_scratch(w.blocks));
  return static_cast<int>(weights_.size()) - 1;
}

void Executor::set_rope(const float* inv_freq, int pairs, float scale) {
  require(pairs > 0 && pairs * 2 <= limits_.head_dim, "rope: needs 1 to head_dim / 2 frequencies");
  require(std::isfinite(scale), "rope: the scale must be finite");
  for (int i = 0; i < pairs; ++i)
    require(std::abs(inv_freq[i]) <= kHighestFrequency, "rope: frequencies must be within -2^20..2^20");
  rope_pairs_ = pairs;
  const size_t n = static_cast<size_t>(limits_.max_model_len) * pairs;
  rope_ = Pages(2 * n * sizeof(float));
  reserved_ += rope_.size();
  fill_rope_table(inv_freq, pairs, scale, limits_.max_model_len, rope_.as<float>(), rope_.as<float>() + n);
}

void Executor::add(Instruction i) {
  check(i);
  i.own_input = (i.op == Op::Linear || row_of(i.op).row_wise) && buffers_[i.input].by_rows;
  if (i.output >= 0) buffers_[i.output].by_rows = row_of(i.op).row_wise;
  i.sampled = i.op == Op::SelectRows || (i.input >= 0 && buffers_[i.input].sampled);
  if (!i.sampled) head_begin_ = program_.size() + 1;
  if (i.op == Op::Linear) i.pieces = pieces_of(i);
  if (i.op == Op::Attention) ++layers_attended_;
  program_.push_back(i);
  link_linear();
  link_rope();
  profile_.assign(program_.size() + 1, 0);
  max_heads_ = std::max(max_heads_, i.heads);
  const size_t group = max_heads_ / heads_in_all() + 1;
  reserve_scratch(group * kQueryRows * (kTile + shape_.padded_dim + 2 * attention_state_floats(shape_.padded_dim)) *
                  sizeof(float));
  if (i.op == Op::NormQuant) reserve_scratch(buffers_[i.input].width * sizeof(float));
  if (exchange_) reserve_exchange(i);
  if (scratch_.size() < scratch_stride_ * limits_.threads) scratch_ = Pages(scratch_stride_ * limits_.threads);
}

void Executor::reserve_scratch(size_t bytes) { scratch_stride_ = std::max(scratch_stride_, (bytes + 63) / 64 * 64); }

// The linear layers as a ring, so that each knows which weights are read after its own.
void Executor::link_linear() {
  const int index = static_cast<int>(program_.size()) - 1;
  if (program_[index].op != Op::Linear) return;
  program_[index].next_linear = last_linear_ < 0 ? index : program_[last_linear_].next_linear;
  if (last_linear_ >= 0) program_[last_linear_].next_linear = index;
  last_linear_ = index;
}

// Attention right behind its rope_kv may do that one's work, as long as nobody else reads the rotated queries and
// nothing overwrites what they are made of.
void Executor::link_rope() {
  const int index = static_cast<int>(program_.size()) - 1;
  Instruction& i = program_[index];
  if (i.op == Op::RopeKv) {
    last_rope_ = index;
    return;
  }
  if (last_rope_ < 0) return;
  Instruction& rope = program_[last_rope_];
  if (i.input == rope.output) {
    const bool fits = i.op == Op::Attention && index == last_rope_ + 1 && i.output != rope.input &&
                      i.layer == rope.layer && i.heads == rope.heads;
    rope.into_attention = fits;
    program_[last_rope_ + 1].rope = fits ? last_rope_ : -1;
  }
  if (i.output == rope.output) last_rope_ = -1;  // the queries are gone
}

}  // namespace forerun

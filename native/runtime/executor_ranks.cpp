// Where the shards of a matrix lie, and how members give each other what they computed.
#include <algorithm>
#include <cstring>

#include "runtime/executor.hpp"

namespace forerun {
namespace {

// Every member's part of a row: columns [first(m), first(m + 1)) of `floats`.
struct Columns {
  float* floats;
  int stride, rows;
  std::vector<int> first;  // of each member, then the end

  size_t bytes(int member) const {
    return sizeof(float) * rows * static_cast<size_t>(first[member + 1] - first[member]);
  }
};

// Copies a member's part out of the rows, or back into them.
template <bool Out>
void copy_part(const Columns& c, int member, uint8_t* packed) {
  const size_t bytes = sizeof(float) * (c.first[member + 1] - c.first[member]);
  for (int r = 0; r < c.rows; ++r, packed += bytes) {
    float* const row = c.floats + static_cast<size_t>(r) * c.stride + c.first[member];
    Out ? std::memcpy(packed, row, bytes) : std::memcpy(row, packed, bytes);
  }
}

}  // namespace

const Shard& WeightRef::shard_of(int panel) const {
  return *std::find_if(shards.begin(), shards.end(), [&](const Shard& s) { return panel < s.panels.end; });
}

LinearArgs WeightRef::args_of(const Shard& shard, LinearArgs to) const {
  // Kernels count panels from the matrix's first one, wherever that may lie.
  const uintptr_t before = panel_bytes(format, blocks) * shard.panels.begin;
  to.format = format;
  to.blocks = blocks;
  to.weights = reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(shard.weights) - before);
  if (shard.channel_scale)
    to.channel_scale = reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(shard.channel_scale) -
                                                      sizeof(float) * kPanel * shard.panels.begin);
  return to;
}

int Executor::owner(const WeightRef& table, int token) const {
  int member = 0;
  while (ranks_.share(table.n / kPanel, member).end <= token / kPanel) ++member;
  return member;
}

// The most that an instruction will exchange.
void Executor::reserve_exchange(const Instruction& i) {
  if (i.output < 0) return;
  const Buffer& out = buffers_[i.output];
  const size_t rows = out.sampled ? head_rows() : limits_.chunk_rows;
  const size_t bytes =
      std::max(sizeof(float) * rows * out.width, sizeof(LargestToken) * ranks_.members() * head_rows());
  if (received_.size() < bytes) sent_.resize(bytes), received_.resize(bytes);
  counts_.resize(ranks_.members());
  named_.resize(static_cast<size_t>(limits_.threads) * ranks_.members());
}

// Behind the barrier that ends an instruction whose outputs lie with several members. What fails is thrown when the
// chunk is over, and nothing is exchanged until then.
void Executor::share(const Instruction& i, Rows rows, int thread, bool greedy) {
  if (i.op != Op::Linear && i.op != Op::Attention && i.op != Op::Embed) return;
  if (&i == &head() && names_candidates(rows)) name_candidates(rows, thread), team_.barrier();
  if (thread == 0 && !failure_) {
    try {
      exchange(i, rows, greedy);
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  team_.barrier();
}

void Executor::exchange(const Instruction& i, Rows rows, bool greedy) {
  if (i.op == Op::Embed) return exchange_embedding(i, rows);
  if (greedy && &i == &head()) return exchange_largest(rows.count);
  if (&i == &head() && names_candidates(rows)) return exchange_sampled(rows);
  exchange_columns(i, rows.count);
}

// Columns of a linear layer, or heads of attention.
void Executor::exchange_columns(const Instruction& i, int rows) {
  const Buffer& out = buffers_[i.output];
  Columns c{out.f32, out.width, rows, {}};
  const int wide = i.op == Op::Linear ? kPanel : group(i) * limits_.head_dim;
  for (int m = 0; m < ranks_.members(); ++m) {
    const Share part = i.op == Op::Linear ? units(i, m) : ranks_.share(heads_in_all(), m);
    if (m == 0) c.first.push_back(i.column);
    c.first.push_back(i.column + part.end * wide);
  }
  for (int m = 0; m < ranks_.members(); ++m) counts_[m] = c.bytes(m);
  copy_part<true>(c, ranks_.own, sent_.data());
  exchange_->all_gather(sent_.data(), counts_, received_.data());
  uint8_t* from = received_.data();
  for (int m = 0; m < ranks_.members(); from += counts_[m++])
    if (m != ranks_.own) copy_part<false>(c, m, from);
}

// Whole rows, each from the member that holds its token.
void Executor::exchange_embedding(const Instruction& i, Rows rows) {
  const Buffer& out = buffers_[i.output];
  const size_t bytes = sizeof(float) * out.width;
  const auto owner_of = [&](int row) { return owner(weights_[i.weight], step_->token_ids[rows.first + row]); };
  std::fill(counts_.begin(), counts_.end(), 0);
  uint8_t* to = sent_.data();
  for (int r = 0; r < rows.count; ++r) {
    counts_[owner_of(r)] += bytes;
    if (owner_of(r) != ranks_.own) continue;
    std::memcpy(to, out.f32 + static_cast<size_t>(r) * out.width, bytes);
    to += bytes;
  }
  exchange_->all_gather(sent_.data(), counts_, received_.data());
  const uint8_t* from = received_.data();
  for (int m = 0; m < ranks_.members(); ++m)
    for (int r = 0; r < rows.count; ++r)
      if (owner_of(r) == m) {
        std::memcpy(out.f32 + static_cast<size_t>(r) * out.width, from, bytes);
        from += bytes;
      }
}

// The largest logit of each row, instead of all logits.
void Executor::exchange_largest(int rows) {
  const size_t bytes = sizeof(LargestToken) * rows;
  std::fill(counts_.begin(), counts_.end(), bytes);
  for (int r = 0; r < rows; ++r) {
    greedy_.forget(r);  // the row before
    const LargestToken own = greedy_.largest(r);
    std::memcpy(sent_.data() + r * sizeof own, &own, sizeof own);
  }
  exchange_->all_gather(sent_.data(), counts_, received_.data());
  for (int m = 0; m < ranks_.members(); ++m)
    for (int r = 0; r < rows; ++r) {
      LargestToken theirs;
      std::memcpy(&theirs, received_.data() + m * bytes + r * sizeof theirs, sizeof theirs);
      if (m != ranks_.own) greedy_.merge(r, theirs);
    }
}

}  // namespace forerun

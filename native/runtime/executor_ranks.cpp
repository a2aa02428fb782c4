// Where the shards of a matrix lie, and how members give each other what they computed.
#include <algorithm>
#include <cstring>

#include "runtime/executor.hpp"

namespace forerun {
namespace {

// Copies `bytes` out of a row, or back into it.
template <bool Out>
uint8_t* copy(float* row, size_t bytes, uint8_t* packed) {
  Out ? std::memcpy(packed, row, bytes) : std::memcpy(row, packed, bytes);
  return packed + bytes;
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

const uint8_t* WeightRef::first_bytes(const Piece& piece) const {
  return piece.shard.weights + panel_bytes(format, blocks) * (piece.panels.begin - piece.shard.panels.begin);
}

Share Executor::units(const Instruction& i, int member) const {
  return ranks_.share(weights_[i.weight].n / kPanel / panels_of_unit(i), member);
}

// What this member computes of a linear layer: its share of the units, or the heads that its attention works with, keys
// and values that others compute, too, among them.
std::vector<Share> Executor::own_panels(const Instruction& i) const {
  if (!i.heads) {
    const Share own = units(i, ranks_.own);
    return {{own.begin * panels_of_unit(i), own.end * panels_of_unit(i)}};
  }
  const Share own = own_heads();
  if (own.begin == own.end) return {};
  const int splits = limits_.kv_splits, each = limits_.head_dim / kPanel;
  const Share keys = {own.begin / splits, (own.end + splits - 1) / splits};
  const int first = i.column / kPanel, count = weights_[i.weight].n / kPanel;
  std::vector<Share> parts;
  const auto add = [&](int head, Share heads) {
    const int begin = std::max((head + heads.begin) * each - first, 0),
              end = std::min((head + heads.end) * each - first, count);
    if (begin >= end) return;
    if (!parts.empty() && parts.back().end == begin) {
      parts.back().end = end;
    } else {
      parts.push_back({begin, end});
    }
  };
  add(0, {own.begin * group(i), own.end * group(i)});
  add(i.heads, keys);
  add(i.heads + limits_.kv_heads, keys);
  return parts;
}

// Equal shares of it for the threads, cut where parts and shards end. Where the team has as many threads for each rank,
// they are cut at the ranks' bounds, too.
std::vector<std::vector<Piece>> Executor::pieces_of(const Instruction& i) const {
  const WeightRef& w = weights_[i.weight];
  const std::vector<Share> parts = own_panels(i);
  int64_t units = 0;
  for (Share part : parts) units += (part.end - part.begin) / panels_of_unit(i);
  std::vector<std::vector<Piece>> pieces(team_.size());
  for (int t = 0; t < team_.size(); ++t) {
    // As places among all panels of the parts.
    const int begin = static_cast<int>(units * t / team_.size()) * panels_of_unit(i),
              end = static_cast<int>(units * (t + 1) / team_.size()) * panels_of_unit(i);
    int place = 0;
    for (Share part : parts) {
      const int stop = std::min(part.end, part.begin + end - place);
      for (int at = std::max(part.begin, part.begin + begin - place); at < stop;) {
        const Shard& shard = w.shard_of(at);
        const Share panels = {at, std::min(stop, shard.panels.end)};
        pieces[t].push_back({panels, shard});
        at = panels.end;
      }
      place += part.end - part.begin;
    }
  }
  return pieces;
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

// The instruction behind the next one, from `begin` on, that is exchanged.
size_t Executor::behind_exchange(size_t begin) const {
  while (begin < head_begin_ && !exchanged(program_[begin])) ++begin;
  return std::min(begin + 1, head_begin_);
}

// What fails is thrown when the chunk is over, and nothing is exchanged until then.
template <class Meet>
void Executor::meet(int thread, const Meet& with_others) {
  if (thread != 0 || failure_) return;
  try {
    with_others();
  } catch (...) {
    failure_ = std::current_exception();
    for (Strip& strip : strips_) strip.gather.reset();
  }
}

// Behind the barrier that ends an instruction whose outputs lie with several members.
void Executor::send(Strip& strip, const Instruction& i, int thread) {
  meet(thread, [&] { strip.gather = start(i, strip.rows); });
}

// Ends with a barrier.
void Executor::receive(Strip& strip, size_t index, int thread) {
  meet(thread, [&] {
    finish(program_[index], strip.rows, *strip.gather);
    strip.gather.reset();
  });
  team_.barrier();
  finish_instruction(index, thread);
}

// Both at once.
void Executor::share(const Instruction& i, Rows rows, int thread, bool greedy) {
  const bool named = &i == &head() && names_candidates(rows);
  if (named) name_candidates(rows, thread), team_.barrier();
  meet(thread, [&] {
    if (greedy && &i == &head()) {
      exchange_largest(rows.count);
    } else if (named) {
      exchange_sampled(rows);
    } else {
      finish(i, rows, *start(i, rows));
    }
  });
  team_.barrier();
}

// A member's columns of a linear layer's output, or of attention's: heads.
Share Executor::columns(const Instruction& i, int member) const {
  const Share part = i.op == Op::Linear ? units(i, member) : ranks_.share(heads_in_all(), member);
  const int wide = i.op == Op::Linear ? kPanel : group(i) * limits_.head_dim;
  return {i.column + part.begin * wide, i.column + part.end * wide};
}

// Bytes of a member's part of what an instruction made of these rows.
size_t Executor::part_bytes(const Instruction& i, Rows rows, int member) const {
  if (i.op != Op::Embed) {
    const Share c = columns(i, member);
    return sizeof(float) * rows.count * static_cast<size_t>(c.end - c.begin);
  }
  size_t owned = 0;
  for (int r = 0; r < rows.count; ++r) owned += owner(weights_[i.weight], step_->token_ids[rows.first + r]) == member;
  return sizeof(float) * owned * buffers_[i.output].width;
}

// Copies a member's part out of the output, or back into it: columns of all rows, or the rows of its tokens.
template <bool Out>
void Executor::copy_part(const Instruction& i, Rows rows, int member, uint8_t* packed) const {
  const Buffer& out = buffers_[i.output];
  const bool embeds = i.op == Op::Embed;
  const Share c = embeds ? Share{0, out.width} : columns(i, member);
  for (int r = 0; r < rows.count; ++r)
    if (!embeds || owner(weights_[i.weight], step_->token_ids[rows.first + r]) == member)
      packed = copy<Out>(out.f32 + static_cast<size_t>(rows.at + r) * out.width + c.begin,
                         sizeof(float) * (c.end - c.begin), packed);
}

std::unique_ptr<Exchange::Gather> Executor::start(const Instruction& i, Rows rows) {
  for (int m = 0; m < ranks_.members(); ++m) counts_[m] = part_bytes(i, rows, m);
  copy_part<true>(i, rows, ranks_.own, sent_.data());
  return exchange_->start(sent_.data(), counts_);
}

void Executor::finish(const Instruction& i, Rows rows, Exchange::Gather& gather) {
  gather.finish(received_.data());
  uint8_t* from = received_.data();
  for (int m = 0; m < ranks_.members(); from += part_bytes(i, rows, m++))
    if (m != ranks_.own) copy_part<false>(i, rows, m, from);
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

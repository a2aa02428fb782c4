// The executor's two instructions over the KV cache: writing keys and values, and attention.
#include <algorithm>
#include <cstring>

#include "runtime/executor.hpp"

namespace forerun {

RopeKvArgs Executor::rope_args(const Instruction& i) const {
  const Buffer& in = buffers_[i.input];
  RopeKvArgs a;
  a.qkv = in.f32;
  a.ldqkv = in.width;
  a.heads = i.heads;
  a.kv_heads = limits_.kv_heads;
  a.group = group(i);
  a.first_head = own_heads().begin;
  a.splits = limits_.kv_splits;
  a.scale = i.scale;
  a.q_norm = i.vector.data();
  a.k_norm = i.vector2.data();
  a.eps = i.eps;
  a.cos = rope_.as<float>();
  a.sin = a.cos + static_cast<size_t>(limits_.max_model_len) * rope_pairs_;
  a.pairs = rope_pairs_;
  a.positions = positions_;
  a.slots = slots_.data();
  a.layer = layer(i.layer);
  a.shape = shape_;
  return a;
}

void Executor::rope_kv(const Instruction& i, Rows rows, int thread) {
  const RopeKvArgs a = rope_args(i);
  const Buffer& out = buffers_[i.output];
  const int kv_heads = shape_.kv_heads, units = rows.count * kv_heads;
  for (int unit = units * thread / team_.size(); unit < units * (thread + 1) / team_.size(); ++unit) {
    const int row = rows.at + unit / kv_heads, head = unit % kv_heads;
    float* q = out.f32 + static_cast<size_t>(row) * out.width + static_cast<size_t>(head) * a.group * shape_.padded_dim;
    kernels_.rope_kv(a, row, head, q, true);
  }
}

KvLayer Executor::layer(int index) const {
  const size_t bytes = shape_.block_stride() * limits_.num_blocks;
  const size_t scales = static_cast<size_t>(limits_.num_blocks) * shape_.kv_heads * limits_.block_size;
  KvLayer l;
  l.k = kv_.data() + bytes * 2 * index;
  l.v = l.k + bytes;
  if (limits_.kv_int8) {
    l.k_scale = kv_scales_.as<float>() + scales * 2 * index;
    l.v_scale = l.k_scale + scales;
  }
  return l;
}

size_t Executor::state_floats() const {
  return static_cast<size_t>(max_heads_ / heads_in_all()) * kQueryRows * attention_state_floats(shape_.padded_dim);
}

AttentionArgs Executor::attention_args(const Instruction& i, const AttentionItem& item, float* own) const {
  const Buffer& q = buffers_[i.input];
  AttentionArgs a;
  a.q = q.f32 + static_cast<size_t>(item.row - chunk_begin_) * q.width +
        static_cast<size_t>(item.kv_head) * group(i) * shape_.padded_dim;
  a.ldq = q.width;
  a.out = buffers_[i.output].f32 + static_cast<size_t>(own_heads().begin) * group(i) * limits_.head_dim;
  a.ldo = buffers_[i.output].width;
  a.group = group(i);
  a.kv_head = item.kv_head;
  a.window = i.window;
  a.row_begin = item.row - chunk_begin_;
  a.rows = item.rows;
  a.first_position = item.first_position;
  a.tile_begin = item.tile_begin;
  a.tile_end = item.tile_end;
  a.block_table = step_->block_tables + static_cast<size_t>(item.seq) * step_->table_width;
  a.layer = layer(i.layer);
  a.shape = shape_;
  a.state = item.parts > 1 ? states_.as<float>() + item.state + state_floats() * item.part : own;
  a.scratch = own + state_floats();
  return a;
}

// Rotates an item's queries into q and writes those of its keys and values that lie in its tiles.
void Executor::rope_item(const RopeKvArgs& rope, const AttentionItem& item, float* q) const {
  for (int r = 0; r < item.rows; ++r, q += static_cast<size_t>(rope.group) * shape_.padded_dim) {
    const int tile = (item.first_position + r) / kTile;
    kernels_.rope_kv(rope, item.row - chunk_begin_ + r, item.kv_head, q,
                     tile >= item.tile_begin && tile < item.tile_end);
  }
}

void Executor::attention(const Instruction& i, Rows rows, int thread) {
  AttentionPlan& plan = strips_[rows.strip].plan;
  float* own = reinterpret_cast<float*>(scratch_.data() + scratch_stride_ * thread);
  const int group = this->group(i);
  // Behind the state and the scores of a whole item.
  float* own_q = own + 2 * state_floats() + static_cast<size_t>(group) * kQueryRows * kTile;
  const bool rotates = plan.self_contained() && i.rope >= 0;
  const RopeKvArgs rope = rotates ? rope_args(program_[i.rope]) : RopeKvArgs();
  const AttentionItem* rotated = nullptr;  // whose queries are in own_q
  plan.take(i.layer, thread, team_.size(), [&](int n, int next) {
    const AttentionItem& item = plan.items()[n];
    AttentionArgs a = attention_args(i, item, own), following;
    if (next >= 0) {
      following = attention_args(i, plan.items()[next], own);
      a.next = &following;
    }
    if (rotates) {
      if (!rotated || !rotated->same_queries(item) || item.holds_own_keys()) rope_item(rope, item, own_q);
      rotated = &item;
      a.q = own_q;
      a.ldq = group * shape_.padded_dim;
    }
    kernels_.attend_tiles(a);
    if (!plan.complete(i.layer, item)) return;
    if (item.parts > 1) a.state = states_.as<float>() + item.state;
    kernels_.attend_finish(a, item.parts, state_floats());
  });
}

}  // namespace forerun

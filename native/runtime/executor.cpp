#include "runtime/executor.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "runtime/rope_table.hpp"

namespace forerun {
namespace {

constexpr int kRepeatRows = 8;    // up to so many rows every thread does row-wise work itself and saves a barrier
constexpr int kSampleRows = 16;   // rows of logits held at a time
constexpr int kSplitRows = 8;     // sequences with up to so many rows are split over tiles
constexpr int kMaxGroups = 4096;  // split row blocks of a chunk
constexpr size_t kStatesBytes = size_t{24} << 20;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

bool row_wise_op(Op op) { return op == Op::Norm || op == Op::NormQuant || op == Op::Quantize; }

void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

int checked_threads(int threads) {
  require(threads >= 1 && threads <= 1024, "threads must be within 1..1024");
  return threads;
}

// Carves arrays for `rows` quantised rows of k elements out of one allocation.
Pages make_quant(int rows, int k, QuantRows& out) {
  const size_t n = static_cast<size_t>(rows) * k, groups = n / kGroup;
  Pages pages(n * 2 + groups * 13);
  out.high = reinterpret_cast<int8_t*>(pages.data());
  out.low = out.high + n;
  out.scale = reinterpret_cast<float*>(out.low + n);
  out.scaled_sum = out.scale + groups;
  out.sum = reinterpret_cast<int32_t*>(out.scaled_sum + groups);
  out.fine = reinterpret_cast<uint8_t*>(out.sum + groups);
  out.k = k;
  return pages;
}

}  // namespace

Executor::Executor(const Kernels& kernels, ExecutorLimits limits)
    : kernels_(kernels), limits_(std::move(limits)), team_(checked_threads(limits_.threads), limits_.cpus) {
  const ExecutorLimits& l = limits_;
  require(l.max_rows >= 1 && l.chunk_rows >= 1 && l.max_seqs >= 1 && l.max_sample_rows >= 1,
          "max_rows, chunk_rows, max_seqs and max_sample_rows must be positive");
  require(l.block_size >= 16 && l.block_size <= 4096 && l.block_size % 16 == 0 && kTile % l.block_size == 0,
          "block_size must be 16, 32, 64, 128 or 256");
  require(l.num_blocks >= 1 && l.max_model_len >= 1 && l.layers >= 1 && l.kv_heads >= 1 && l.vocab >= 1,
          "num_blocks, max_model_len, layers, kv_heads and vocab must be positive");
  require(l.vocab <= 1 << 19, "vocab must be at most 524288");
  require(l.head_dim >= 2 && l.head_dim % 2 == 0 && l.head_dim <= 512, "head_dim must be even and at most 512");
  limits_.chunk_rows = std::min(l.chunk_rows, l.max_rows);
  shape_ = {l.kv_heads, l.head_dim, round_up(l.head_dim, 16), l.block_size, __builtin_ctz(l.block_size), l.kv_int8};
  const size_t layer_bytes = shape_.block_stride() * l.num_blocks;
  kv_ = Pages(layer_bytes * 2 * l.layers);
  if (l.kv_int8) kv_scales_ = Pages(sizeof(float) * 2 * l.layers * l.num_blocks * l.kv_heads * l.block_size);
  states_ = Pages(kStatesBytes);
  states_floats_ = kStatesBytes / sizeof(float);
  slots_.resize(limits_.chunk_rows);
  next_item_ = std::make_unique<std::atomic<int>[]>(l.layers);
  parts_done_ = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(kMaxGroups) * l.layers);
  reserved_ = kv_.size() + kv_scales_.size() + states_.size();
  for (int t = 0; t < l.threads; ++t) sample_memory_.emplace_back(sample_scratch_bytes(l.vocab));
}

int Executor::add_buffer(BufferType type, int width, bool sampled) {
  require(width >= 1, "buffer width must be positive");
  Buffer b;
  b.type = type;
  b.width = round_up(width, kBlock);
  b.sampled = sampled;
  const int rows = sampled ? std::min(kSampleRows, limits_.max_sample_rows) : limits_.chunk_rows;
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

int Executor::add_weight(Format format, int n, int k, const uint8_t* data, size_t bytes, const float* channel_scale,
                         size_t channel_count) {
  require(n >= 1 && k >= 1, "weight: sizes must be positive");
  WeightRef w;
  w.n = round_up(n, kPanel);
  w.args.format = format;
  w.args.blocks = round_up(k, kBlock) / kBlock;
  w.args.weights = data;
  w.args.channel_scale = channel_scale;
  const size_t need = block_bytes(format) * w.args.blocks * (w.n / kPanel);
  require(bytes == need, "weight: has " + std::to_string(bytes) + " bytes instead of " + std::to_string(need));
  require((format == Format::Int8Channel) == (channel_scale != nullptr) &&
              (!channel_scale || channel_count == static_cast<size_t>(w.n)),
          "weight: one scale per (padded) output channel is needed for int8_channel and for nothing else");
  weights_.push_back(w);
  const size_t stride = (kernels_.linear_scratch(w.args.blocks) + 63) / 64 * 64;
  if (stride > scratch_stride_) scratch_stride_ = stride;
  return static_cast<int>(weights_.size()) - 1;
}

void Executor::set_rope(const float* inv_freq, int half) {
  require(half * 2 == limits_.head_dim, "rope: needs head_dim / 2 frequencies");
  const size_t n = static_cast<size_t>(limits_.max_model_len) * half;
  rope_ = Pages(2 * n * sizeof(float));
  reserved_ += rope_.size();
  fill_rope_table(inv_freq, half, limits_.max_model_len, rope_.as<float>(), rope_.as<float>() + n);
}

void Executor::add(Instruction i) {
  const int buffers = static_cast<int>(buffers_.size());
  require(i.input < buffers && i.output < buffers && i.weight < static_cast<int>(weights_.size()),
          i.label + ": unknown buffer or weight");
  const auto type = [&](int b) { return buffers_[b].type; };
  const auto width = [&](int b) { return b < 0 ? 0 : buffers_[b].width; };
  switch (i.op) {
    case Op::Embed:
      require(i.output >= 0 && i.weight >= 0 && type(i.output) == BufferType::F32 && i.width >= 1 &&
                  i.width <= width(i.output) && width(i.output) == weights_[i.weight].args.blocks * kBlock,
              i.label + ": embedding width differs");
      break;
    case Op::Norm:
    case Op::NormQuant:
    case Op::Quantize:
      require(i.input >= 0 && i.output >= 0 && type(i.input) == BufferType::F32 && width(i.input) == width(i.output) &&
                  (type(i.output) == BufferType::F32) == (i.op == Op::Norm) &&
                  (i.op == Op::Quantize || (i.vector && i.width >= 1 && i.width <= width(i.input))),
              i.label + ": buffers do not fit");
      break;
    case Op::Linear: {
      require(i.input >= 0 && i.output >= 0 && i.weight >= 0 && type(i.output) == BufferType::F32,
              i.label + ": buffers");
      const WeightRef& w = weights_[i.weight];
      const int out = i.epilogue == Epilogue::SiluMul ? w.n / 2 : w.n;
      require(width(i.input) >= w.args.blocks * kBlock && width(i.output) >= out &&
                  is_integer(w.args.format) == (type(i.input) != BufferType::F32) &&
                  (!is_integer(w.args.format) || width(i.input) == w.args.blocks * kBlock) &&
                  (i.epilogue != Epilogue::SiluMul || w.n % 32 == 0) && i.splits >= 1 && i.splits <= 8 &&
                  (i.splits & (i.splits - 1)) == 0 && i.splits <= w.args.blocks,
              i.label + ": widths, types or splits do not fit the weight");
      break;
    }
    case Op::RopeKv:
      require(i.input >= 0 && i.output >= 0 && i.layer >= 0 && i.layer < limits_.layers && i.heads >= 1 &&
                  i.heads % limits_.kv_heads == 0 && rope_.data() &&
                  width(i.input) >= (i.heads + 2 * limits_.kv_heads) * limits_.head_dim &&
                  width(i.output) >= i.heads * shape_.padded_dim,
              i.label + ": shapes do not fit");
      break;
    case Op::Attention:
      require(i.input >= 0 && i.output >= 0 && i.layer >= 0 && i.layer < limits_.layers && i.window >= 0 &&
                  i.heads >= 1 && i.heads % limits_.kv_heads == 0 && width(i.input) >= i.heads * shape_.padded_dim &&
                  width(i.output) >= i.heads * limits_.head_dim,
              i.label + ": shapes do not fit");
      break;
    case Op::SelectRows:
      require(i.input >= 0 && i.output >= 0 && buffers_[i.output].sampled && !buffers_[i.input].sampled &&
                  width(i.input) == width(i.output),
              i.label + ": buffers do not fit");
      break;
    case Op::Sample:
      require(i.input >= 0 && buffers_[i.input].sampled && width(i.input) >= limits_.vocab, i.label + ": buffers");
      break;
  }
  i.own_input = i.op == Op::Linear && buffers_[i.input].by_rows;
  if (i.output >= 0) buffers_[i.output].by_rows = row_wise_op(i.op);
  i.sampled = i.op == Op::SelectRows || (i.input >= 0 && buffers_[i.input].sampled);
  const bool started = !program_.empty() && program_.back().sampled;
  require(!started || i.sampled, i.label + ": comes after the rows were selected");
  if (!i.sampled) head_begin_ = program_.size() + 1;
  program_.push_back(i);
  profile_.assign(program_.size() + 1, 0);
  int heads = 1;
  for (const Instruction& p : program_) heads = std::max(heads, p.heads);
  const size_t group = heads / limits_.kv_heads + 1;
  const size_t attention_floats = (group * kQueryRows) * (kTile + 2 * attention_state_floats(shape_.padded_dim));
  const size_t stride = (attention_floats * sizeof(float) + 63) / 64 * 64;
  if (stride > scratch_stride_) scratch_stride_ = stride;
  if (scratch_.size() < scratch_stride_ * limits_.threads) scratch_ = Pages(scratch_stride_ * limits_.threads);
}

void Executor::set_profile(bool on) {
  profiling_ = on;
  profile_.assign(program_.size() + 1, 0);
}

void Executor::check(const StepArrays& s) const {
  const ExecutorLimits& l = limits_;
  require(!program_.empty() && program_.back().op == Op::Sample, "the program does not end with sample");
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
  check_tables(s);
  check_sampling(s);
}

void Executor::check_tables(const StepArrays& s) const {
  for (int q = 0; q < s.seqs; ++q) {
    const int begin = s.query_starts[q], end = s.query_starts[q + 1];
    require(begin < end && end <= s.rows, "step: query_starts must ascend");
    const int first = s.positions[begin];
    require(first >= 0 && first < limits_.max_model_len && end - begin <= limits_.max_model_len - first,
            "step: positions must lie within 0.." + std::to_string(limits_.max_model_len - 1));
    for (int r = begin; r < end; ++r)
      require(s.positions[r] == first + (r - begin), "step: positions of a sequence must be consecutive");
    const int blocks = (first + (end - begin) + limits_.block_size - 1) / limits_.block_size;
    require(blocks <= s.table_width, "step: the block table is too narrow");
    for (int b = 0; b < blocks; ++b) {
      const int block = s.block_tables[static_cast<size_t>(q) * s.table_width + b];
      require(block >= 0 && block < limits_.num_blocks, "step: block " + std::to_string(block) + " does not exist");
    }
  }
}

void Executor::check_sampling(const StepArrays& s) const {
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
    require(s.adjust_ids[i] >= 0 && s.adjust_ids[i] < limits_.vocab, "step: an adjustment is outside the vocabulary");
    require(s.adjust_add[i] < std::numeric_limits<float>::infinity(), "step: adjust_add must be finite or -infinity");
    require(s.adjust_rep[i] > 0.0f && s.adjust_rep[i] < std::numeric_limits<float>::infinity(),
            "step: adjust_rep must be finite and positive");
  }
  for (int i = 0; i < s.allow_count; ++i)
    require(s.allow_ids[i] >= 0 && s.allow_ids[i] < limits_.vocab, "step: an allowed token is outside the vocabulary");
}

void Executor::step(const StepArrays& s) {
  check(s);
  sample_begin_ = 0;
  for (int begin = 0; begin < s.rows; begin += limits_.chunk_rows) {
    const int end = std::min(s.rows, begin + limits_.chunk_rows);
    begin_chunk(s, begin, end);
    run_chunk(s, begin, end);
  }
}

void Executor::begin_chunk(const StepArrays& s, int begin, int end) {
  chunk_begin_ = begin;
  positions_ = s.positions + begin;
  for (int q = 0; q < s.seqs; ++q) {
    const int32_t* table = s.block_tables + static_cast<size_t>(q) * s.table_width;
    for (int r = std::max(begin, s.query_starts[q]); r < std::min(end, s.query_starts[q + 1]); ++r)
      slots_[r - begin] = static_cast<int64_t>(table[s.positions[r] / limits_.block_size]) * limits_.block_size +
                          s.positions[r] % limits_.block_size;
  }
  plan_attention(s, begin, end);
  for (int l = 0; l < limits_.layers; ++l) next_item_[l].store(0, std::memory_order_relaxed);
  for (int g = 0; g < max_groups_ * limits_.layers; ++g) parts_done_[g].store(0, std::memory_order_relaxed);
}

// Row blocks times KV heads; those of short row counts and long contexts are split into their tiles.
void Executor::plan_attention(const StepArrays& s, int begin, int end) {
  items_.clear();
  max_groups_ = 0;
  int heads = 0;
  for (const Instruction& i : program_) heads = std::max(heads, i.heads);
  const size_t state =
      static_cast<size_t>(heads / limits_.kv_heads) * kQueryRows * attention_state_floats(shape_.padded_dim);
  size_t used = 0;
  for (int q = 0; q < s.seqs; ++q) {
    const int from = std::max(begin, s.query_starts[q]), to = std::min(end, s.query_starts[q + 1]);
    for (int row = from; row < to; row += kQueryRows) {
      const int rows = std::min(kQueryRows, to - row), first = s.positions[row];
      const int tiles = (first + rows + kTile - 1) / kTile;
      for (int h = 0; h < limits_.kv_heads; ++h) {
        const bool split = to - from <= kSplitRows && tiles > 1 && limits_.threads > 1 && max_groups_ < kMaxGroups &&
                           used + state * tiles <= states_floats_;
        if (!split) {
          items_.push_back({q, row, rows, first, h, 0, tiles, 0, 0, 1, 0});
          continue;
        }
        for (int t = 0; t < tiles; ++t)
          items_.push_back({q, row, rows, first, h, t, t + 1, max_groups_, t, tiles, used});
        used += state * tiles;
        ++max_groups_;
      }
    }
  }
  if (end - begin > kSplitRows)  // the long ones first, so that the threads finish together
    std::stable_sort(items_.begin(), items_.end(), [](const AttentionItem& a, const AttentionItem& b) {
      return (a.tile_end - a.tile_begin) * a.rows > (b.tile_end - b.tile_begin) * b.rows;
    });
}

bool Executor::repeated(const Instruction& i, int rows) const { return rows <= kRepeatRows && row_wise_op(i.op); }

void Executor::finish_instruction(size_t index, int thread) {
  if (!profiling_ || thread != 0) return;
  const int64_t t = now_ns();
  profile_[index] += t - stamp_;
  stamp_ = t;
}

void Executor::run_chunk(const StepArrays& s, int begin, int end) {
  int sample_end = sample_begin_;
  while (sample_end < s.sampled && s.sample_rows[sample_end] < end) ++sample_end;
  const int first = sample_begin_;
  stamp_ = profiling_ ? now_ns() : 0;
  team_.run([&](int thread) {
    finish_instruction(program_.size(), thread);
    for (size_t n = 0; n < head_begin_; ++n) {
      run(program_[n], s, end - begin, thread);
      if (!repeated(program_[n], end - begin)) team_.barrier();
      finish_instruction(n, thread);
    }
    run_sampled(s, first, sample_end, thread);
  });
  sample_begin_ = sample_end;
}

void Executor::run_sampled(const StepArrays& s, int first, int last, int thread) {
  const int most = std::min(kSampleRows, limits_.max_sample_rows);
  for (int at = first; at < last; at += most) {
    const int rows = std::min(most, last - at);
    for (size_t n = head_begin_; n < program_.size(); ++n) {
      const Instruction& i = program_[n];
      if (i.op == Op::SelectRows) {
        select_rows(i, s, at, rows, thread);
      } else if (i.op == Op::Sample) {
        sample(i, s, at, rows, thread);
      } else {
        run(i, s, rows, thread);
      }
      if (!repeated(i, rows)) team_.barrier();
      finish_instruction(n, thread);
    }
  }
}

void Executor::run(const Instruction& i, const StepArrays& s, int rows, int thread) {
  switch (i.op) {
    case Op::Embed:
      return embed(i, s, rows, thread);
    case Op::Norm:
    case Op::NormQuant:
    case Op::Quantize:
      return row_wise(i, rows, thread);
    case Op::Linear:
      return linear(i, rows, thread);
    case Op::RopeKv:
      return rope_kv(i, rows, thread);
    case Op::Attention:
      return attention(i, s, thread);
    case Op::SelectRows:
    case Op::Sample:
      return;  // run_sampled
  }
}

void Executor::embed(const Instruction& i, const StepArrays& s, int rows, int thread) {
  Buffer& out = buffers_[i.output];
  for (int r = thread; r < rows; r += team_.size()) {
    float* x = out.f32 + static_cast<size_t>(r) * out.width;
    kernels_.embedding_row(weights_[i.weight].args, s.token_ids[chunk_begin_ + r], x);
    std::fill(x + i.width, x + out.width, 0.0f);  // padding of K may hold minima
  }
}

void Executor::row_wise(const Instruction& i, int rows, int thread) {
  const Buffer& in = buffers_[i.input];
  Buffer& out = buffers_[i.output];
  const bool own = repeated(i, rows);
  const int begin = own ? 0 : rows * thread / team_.size(), end = own ? rows : rows * (thread + 1) / team_.size();
  float* normed = reinterpret_cast<float*>(scratch_.data() + scratch_stride_ * thread);
  for (int r = begin; r < end; ++r) {
    const float* x = in.f32 + static_cast<size_t>(r) * in.width;
    const QuantRows& quant = own ? out.own_quant[thread] : out.quant;
    if (i.op == Op::Quantize) {
      kernels_.quantize_row(x, in.width, i.fine_above, quant, r);
    } else if (i.op == Op::NormQuant) {
      kernels_.rms_norm(x, i.vector, i.eps, i.width, in.width, normed);
      kernels_.quantize_row(normed, in.width, i.fine_above, quant, r);
    } else {
      float* y = (own ? out.own_f32[thread] : out.f32) + static_cast<size_t>(r) * out.width;
      kernels_.rms_norm(x, i.vector, i.eps, i.width, in.width, y);
    }
  }
}

void Executor::linear(const Instruction& i, int rows, int thread) {
  const Buffer& in = buffers_[i.input];
  Buffer& out = buffers_[i.output];
  const WeightRef& w = weights_[i.weight];
  LinearArgs a = w.args;
  const bool own = rows <= kRepeatRows && i.own_input;
  a.bias = i.vector;
  a.splits = i.splits;
  a.quant = own ? in.own_quant[thread] : in.quant;
  a.x = own ? in.own_f32[thread] : in.f32;
  a.ldx = in.width;
  a.rows = rows;
  a.y = out.f32;
  a.ldy = out.width;
  a.epilogue = i.epilogue;
  a.scratch = scratch_.data() + scratch_stride_ * thread;
  const int unit = i.epilogue == Epilogue::SiluMul ? 2 : 1, units = w.n / kPanel / unit;
  a.panel_begin = units * thread / team_.size() * unit;
  a.panel_end = units * (thread + 1) / team_.size() * unit;
  if (a.panel_begin < a.panel_end) kernels_.linear(a);
}

void Executor::rope_kv(const Instruction& i, int rows, int thread) {
  const Buffer& in = buffers_[i.input];
  const int half = limits_.head_dim / 2;
  RopeKvArgs a;
  a.qkv = in.f32;
  a.ldqkv = in.width;
  a.q = buffers_[i.output].f32;
  a.heads = i.heads;
  a.scale = i.scale;
  a.q_norm = i.vector;
  a.k_norm = i.vector2;
  a.eps = i.eps;
  a.cos = rope_.as<float>();
  a.sin = a.cos + static_cast<size_t>(limits_.max_model_len) * half;
  a.positions = positions_;
  a.slots = slots_.data();
  a.layer = layer(i.layer);
  a.shape = shape_;
  const int units = rows * (i.heads + limits_.kv_heads);
  a.unit_begin = units * thread / team_.size();
  a.unit_end = units * (thread + 1) / team_.size();
  kernels_.rope_kv(a);
}

KvLayer Executor::layer(int index) const {
  const size_t bytes = shape_.block_stride() * limits_.num_blocks;
  const size_t scales = static_cast<size_t>(limits_.num_blocks) * limits_.kv_heads * limits_.block_size;
  KvLayer l;
  l.k = kv_.data() + bytes * 2 * index;
  l.v = l.k + bytes;
  if (limits_.kv_int8) {
    l.k_scale = kv_scales_.as<float>() + scales * 2 * index;
    l.v_scale = l.k_scale + scales;
  }
  return l;
}

void Executor::attention(const Instruction& i, const StepArrays& s, int thread) {
  const Buffer& out = buffers_[i.output];
  AttentionArgs common;
  common.q = buffers_[i.input].f32;
  common.out = out.f32;
  common.ldo = out.width;
  common.heads = i.heads;
  common.window = i.window;
  common.layer = layer(i.layer);
  common.shape = shape_;
  float* own = reinterpret_cast<float*>(scratch_.data() + scratch_stride_ * thread);
  const size_t states =
      static_cast<size_t>(i.heads / limits_.kv_heads) * kQueryRows * attention_state_floats(shape_.padded_dim);
  common.scratch = own + states;
  const int count = static_cast<int>(items_.size());
  const auto describe = [&](int n) {
    const AttentionItem& item = items_[n];
    AttentionArgs a = common;
    a.kv_head = item.kv_head;
    a.row_begin = item.row - chunk_begin_;
    a.rows = item.rows;
    a.first_position = item.first_position;
    a.tile_begin = item.tile_begin;
    a.tile_end = item.tile_end;
    a.block_table = s.block_tables + static_cast<size_t>(item.seq) * s.table_width;
    a.state = (item.parts > 1 ? states_.as<float>() + item.state : own) + states * item.part;
    return a;
  };
  const auto run_item = [&](int n, int next) {
    AttentionArgs a = describe(n), following;
    if (next < count) {
      following = describe(next);
      a.next = &following;
    }
    kernels_.attend_tiles(a);
    const AttentionItem& item = items_[n];
    if (item.parts > 1) {
      std::atomic<int>& done = parts_done_[static_cast<size_t>(i.layer) * max_groups_ + item.group];
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < item.parts) return;
      a.state = states_.as<float>() + item.state;
    }
    kernels_.attend_finish(a, item.parts, states);
  };
  if (max_groups_ > 0) {  // pieces of equal size: neighbours on one thread, each fetching the next one's keys
    const int begin = count * thread / team_.size(), end = count * (thread + 1) / team_.size();
    for (int n = begin; n < end; ++n) run_item(n, n + 1 < end ? n + 1 : count);
  } else {
    for (int n; (n = next_item_[i.layer].fetch_add(1, std::memory_order_relaxed)) < count;) run_item(n, count);
  }
}

void Executor::select_rows(const Instruction& i, const StepArrays& s, int first, int rows, int thread) {
  const Buffer& in = buffers_[i.input];
  Buffer& out = buffers_[i.output];
  for (int r = thread; r < rows; r += team_.size())
    std::memcpy(out.f32 + static_cast<size_t>(r) * out.width,
                in.f32 + static_cast<size_t>(s.sample_rows[first + r] - chunk_begin_) * in.width,
                sizeof(float) * in.width);
}

void Executor::sample(const Instruction& i, const StepArrays& s, int first, int rows, int thread) {
  const Buffer& in = buffers_[i.input];
  SampleScratch scratch = carve_sample_scratch(sample_memory_[thread].data(), limits_.vocab);
  for (int r = thread; r < rows; r += team_.size()) {
    const int at = first + r, adjust = s.adjust_starts[at], allow = s.allow_starts[at];
    SampleRow row;
    row.logits = in.f32 + static_cast<size_t>(r) * in.width;
    row.vocab = limits_.vocab;
    if (s.logits) std::memcpy(s.logits + static_cast<size_t>(at) * row.vocab, row.logits, sizeof(float) * row.vocab);
    row.temperature = s.temperature[at];
    row.top_k = s.top_k[at];
    row.top_p = s.top_p[at];
    row.min_p = s.min_p[at];
    row.seed = s.seed[at];
    row.position = s.positions[s.sample_rows[at]] + 1;
    row.num_logprobs = s.num_logprobs[at];
    row.global_topk = limits_.global_topk;
    row.deterministic = limits_.deterministic;
    row.adjust_ids = s.adjust_ids + adjust;
    row.adjust_add = s.adjust_add + adjust;
    row.adjust_rep = s.adjust_rep + adjust;
    row.adjust_count = s.adjust_starts[at + 1] - adjust;
    row.allow_ids = s.allow_ids + allow;
    row.allow_count = s.allow_starts[at + 1] - allow;
    row.token = s.tokens + at;
    row.logprob = s.logprobs + at;
    row.top_width = s.top_width;
    row.top_ids = s.top_ids + static_cast<size_t>(at) * s.top_width;
    row.top_logprobs = s.top_logprobs + static_cast<size_t>(at) * s.top_width;
    kernels_.sample_row(row, scratch);
  }
}

}  // namespace forerun

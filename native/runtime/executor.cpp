#include "runtime/executor.hpp"

#include <chrono>
#include <cstring>

namespace forerun {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void Executor::set_repeat_rows(int rows) {
  require(rows >= 0 && rows <= kRepeatRows, "repeat_rows must be within 0.." + std::to_string(kRepeatRows));
  repeat_rows_ = rows;
}

void Executor::set_tile_rows(int rows) {
  require(rows >= 0, "tile_rows must not be negative");
  tile_rows_ = rows;
}

void Executor::set_profile(bool on) {
  profiling_ = on;
  profile_.assign(program_.size() + 1, 0);
}

void Executor::step(const StepArrays& s) {
  begin(s);
  while (next_chunk()) team_.run([this](int thread) { work(thread); });
}

void Executor::begin(const StepArrays& s) {
  require(program_.size() > 1 && program_.back().op == Op::Sample, "the program does not end with sample");
  check_step(s, limits_);
  step_ = &s;
  chunk_end_ = sample_end_ = 0;
  kept_.clear();
}

bool Executor::next_chunk() {
  const StepArrays& s = *step_;
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (chunk_end_ == s.rows) return false;
  chunk_begin_ = chunk_end_, sample_begin_ = sample_end_;
  chunk_end_ = std::min(s.rows, chunk_begin_ + limits_.chunk_rows);
  while (sample_end_ < s.sampled && s.sample_rows[sample_end_] < chunk_end_) ++sample_end_;
  if (s.keep_logits && sample_begin_ == 0 && sample_end_ == s.sampled && s.sampled <= head_rows()) keep(s);
  positions_ = s.positions + chunk_begin_;
  for (int q = 0; q < s.seqs; ++q) {
    const int32_t* table = s.block_tables + static_cast<size_t>(q) * s.table_width;
    for (int r = std::max(chunk_begin_, s.query_starts[q]); r < std::min(chunk_end_, s.query_starts[q + 1]); ++r)
      slots_[r - chunk_begin_] = static_cast<int64_t>(table[s.positions[r] / limits_.block_size]) * limits_.block_size +
                                 s.positions[r] % limits_.block_size;
  }
  const int64_t highest = *std::max_element(slots_.begin(), slots_.begin() + (chunk_end_ - chunk_begin_));
  if (highest >= slots_used_.load(std::memory_order_relaxed)) slots_used_.store(highest + 1, std::memory_order_relaxed);
  cut_strips();
  stamp_ = profiling_ ? now_ns() : 0;
  return true;
}

void Executor::cut_strips() {
  const int rows = chunk_end_ - chunk_begin_, most = static_cast<int>(strips_.size());
  const int count = std::clamp(rows / limits_.strip_rows, 1, most);
  strip_count_ = count;
  for (int n = 0; n < count; ++n) {
    const int begin = rows * n / count, end = rows * (n + 1) / count;
    strips_[n].rows = {chunk_begin_ + begin, end - begin, begin, n};
    strips_[n].plan.cut(*step_, chunk_begin_ + begin, chunk_begin_ + end, state_floats());
  }
}

void Executor::finish_instruction(size_t index, int thread) {
  if (!profiling_ || thread != 0) return;
  const int64_t t = now_ns();
  profile_[index] += t - stamp_;
  stamp_ = t;
}

void Executor::work(int thread) {
  finish_instruction(program_.size(), thread);
  size_t begin = 0;
  for (size_t end; begin < head_begin_; begin = end) {
    end = behind_exchange(begin);
    for (Strip& strip : strips()) {
      if (begin > 0) receive(strip, begin - 1, thread);
      work_strip(strip, begin, end, thread);
      if (exchanged(program_[end - 1])) send(strip, program_[end - 1], thread);
    }
  }
  if (begin > 0 && exchanged(program_[begin - 1]))
    for (Strip& strip : strips()) receive(strip, begin - 1, thread);
  work_sampled(thread);
}

void Executor::work_strip(Strip& strip, size_t begin, size_t end, int thread) {
  for (size_t n = begin; n < end; ++n) {
    const Instruction& i = program_[n];
    if (i.op == Op::RopeKv && i.into_attention && strip.plan.self_contained()) continue;
    (this->*row_of(i.op).run)(i, strip.rows, thread);
    if (!repeated(i, strip.rows.count)) team_.barrier();
    finish_instruction(n, thread);
  }
}

void Executor::work_sampled(int thread) {
  for (int at = sample_begin_; at < sample_end_; at += head_rows()) {
    const Rows rows{at, std::min(head_rows(), sample_end_ - at)};
    const bool greedy = draws_greedily(rows);
    for (size_t n = head_begin_; n < program_.size(); ++n) {
      const Instruction& i = program_[n];
      if (greedy && i.op == Op::Sample) {
        sample_greedily(rows, thread);
      } else if (greedy && &i == &head()) {
        lm_head_greedy(i, rows, thread);
      } else {
        (this->*row_of(i.op).run)(i, rows, thread);
      }
      if (!repeated(i, rows.count)) team_.barrier();
      if (exchanged(i)) share(i, rows, thread, greedy);
      finish_instruction(n, thread);
    }
  }
}

void Executor::embed(const Instruction& i, Rows rows, int thread) {
  Buffer& out = buffers_[i.output];
  const WeightRef& table = weights_[i.weight];
  for (int r = thread; r < rows.count; r += team_.size()) {
    const int token = step_->token_ids[rows.first + r];
    if (owner(table, token) != ranks_.own) continue;
    float* x = out.f32 + static_cast<size_t>(rows.at + r) * out.width;
    kernels_.embedding_row(table.args_of(table.shard_of(token / kPanel)), token, x);
    std::fill(x + i.width, x + out.width, 0.0f);  // padding of K may hold minima
  }
}

void Executor::row_wise(const Instruction& i, Rows rows, int thread) {
  const Buffer& in = buffers_[i.input];
  Buffer& out = buffers_[i.output];
  const bool own = repeated(i, rows.count);
  const int begin = own ? 0 : rows.at + rows.count * thread / team_.size(),
            end = own ? rows.count : rows.at + rows.count * (thread + 1) / team_.size();
  const float* from = own && i.own_input ? in.own_f32[thread] : in.f32;
  float* normed = reinterpret_cast<float*>(scratch_.data() + scratch_stride_ * thread);
  for (int r = begin; r < end; ++r) {
    const float* x = from + static_cast<size_t>(r) * in.width;
    const QuantRows& quant = own ? out.own_quant[thread] : out.quant;
    if (i.op == Op::Quantize) {
      kernels_.quantize_row(x, in.width, i.fine_above, quant, r);
    } else if (i.op == Op::NormQuant) {
      kernels_.rms_norm(x, i.vector.data(), i.eps, i.width, in.width, normed);
      kernels_.quantize_row(normed, in.width, i.fine_above, quant, r);
    } else {
      float* y = (own ? out.own_f32[thread] : out.f32) + static_cast<size_t>(r) * out.width;
      kernels_.rms_norm(x, i.vector.data(), i.eps, i.width, in.width, y);
    }
  }
}

LinearArgs Executor::linear_args(const Instruction& i, Rows rows, int thread) const {
  const Buffer& in = buffers_[i.input];
  const Buffer& out = buffers_[i.output];
  LinearArgs a;
  const bool own = rows.count <= repeat_rows_ && i.own_input;
  a.bias = i.vector.data();
  a.splits = i.splits;
  if (in.type == BufferType::Q15) {
    a.quant = own ? in.own_quant[thread] : in.quant.from(rows.at);
  } else {
    a.x = own ? in.own_f32[thread] : in.f32 + static_cast<size_t>(rows.at) * in.width;
  }
  a.ldx = in.width;
  a.rows = rows.count;
  a.tiles = rows.count >= tile_rows_;
  a.y = out.f32 + static_cast<size_t>(rows.at) * out.width + i.column;
  a.ldy = out.width;
  a.epilogue = i.epilogue;
  a.scratch = scratch_.data() + scratch_stride_ * thread;
  return a;
}

// A thread's share of a linear layer, piece by piece.
void Executor::run_shards(const Instruction& i, const LinearArgs& of, int thread) const {
  const WeightRef& w = weights_[i.weight];
  const std::vector<Piece>& pieces = i.pieces[thread];
  for (size_t n = 0; n < pieces.size(); ++n) {
    LinearArgs a = w.args_of(pieces[n].shard, of);
    a.panel_begin = pieces[n].panels.begin;
    a.panel_end = pieces[n].panels.end;
    const Instruction& reader = n + 1 < pieces.size() ? i : program_[i.next_linear];
    const std::vector<Piece>& coming = reader.pieces[thread];
    const size_t next = n + 1 < pieces.size() ? n + 1 : 0;
    a.following = next < coming.size() ? weights_[reader.weight].first_bytes(coming[next]) : nullptr;
    kernels_.linear(a);
  }
}

void Executor::linear(const Instruction& i, Rows rows, int thread) {
  run_shards(i, linear_args(i, rows, thread), thread);
}

void Executor::lm_head_greedy(const Instruction& i, Rows rows, int thread) {
  LinearArgs a = linear_args(i, rows, thread);
  a.epilogue = Epilogue::Largest;
  a.largest = greedy_.begin(thread, rows.count);
  a.columns = limits_.vocab;
  run_shards(i, a, thread);
}

// The program ends with the LM head and sample.
bool Executor::draws_from_head() const {
  return head().op == Op::Linear && head().epilogue == Epilogue::Store && head().column == 0 &&
         head().output == program_.back().input;
}

// And the rows ask for nothing else than the largest logit.
bool Executor::draws_greedily(Rows rows) const {
  return draws_from_head() && only_greedy(*step_, rows.first, rows.count);
}

void Executor::select_rows(const Instruction& i, Rows rows, int thread) {
  const Buffer& in = buffers_[i.input];
  Buffer& out = buffers_[i.output];
  for (int r = thread; r < rows.count; r += team_.size())
    std::memcpy(out.f32 + static_cast<size_t>(r) * out.width,
                in.f32 + static_cast<size_t>(step_->sample_rows[rows.first + r] - chunk_begin_) * in.width,
                sizeof(float) * in.width);
}

void Executor::sample_greedily(Rows rows, int thread) const {
  for (int r = thread; r < rows.count; r += team_.size()) greedy_.finish(*step_, r, rows.first + r);
}

void Executor::sample(const Instruction& i, Rows rows, int thread) {
  const StepArrays& s = *step_;
  const Buffer& in = buffers_[i.input];
  SampleScratch scratch = carve_sample_scratch(sample_memory_[thread].data(), limits_.vocab);
  const bool named = names_candidates(rows);
  if (named && failure_) return;  // nothing arrived to draw from
  for (int r = thread; r < rows.count; r += team_.size()) {
    const int at = rows.first + r;
    const SampleRow row = sample_row(at, in.f32 + static_cast<size_t>(r) * in.width);
    if (s.logits) std::memcpy(s.logits + static_cast<size_t>(at) * row.vocab, row.logits, sizeof(float) * row.vocab);
    if (named) {
      sample_exchanged(row, rows, r, thread, scratch);
    } else {
      kernels_.sample_row(row, scratch);
    }
  }
}

SampleRow Executor::sample_row(int at, float* logits) const {
  const StepArrays& s = *step_;
  const int adjust = s.adjust_starts[at], allow = s.allow_starts[at];
  SampleRow row;
  row.logits = logits;
  row.vocab = limits_.vocab;
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
  const int mask = first_mask(s, at);
  if (mask < s.mask_count && s.mask_rows[mask] == at) row.mask = s.masks + static_cast<size_t>(mask) * s.mask_words;
  row.token = s.tokens + at;
  row.logprob = s.logprobs + at;
  row.top_width = s.top_width;
  row.top_ids = s.top_ids + static_cast<size_t>(at) * s.top_width;
  row.top_logprobs = s.top_logprobs + static_cast<size_t>(at) * s.top_width;
  return row;
}

void Executor::keep(const StepArrays& s) {
  for (int r = 0; r < s.sampled; ++r) kept_.push_back({s.temperature[r], s.seed[r], s.positions[s.sample_rows[r]] + 1});
}

int Executor::redraw(int row, std::span<const uint32_t> mask) {
  require(row >= 0 && row < static_cast<int>(kept_.size()), "redraw: the last step kept no logits of that row");
  require(mask.size() == (static_cast<size_t>(limits_.vocab) + 31) / 32, "redraw: the mask has another length");
  const Buffer& in = buffers_[program_.back().input];
  SampleScratch scratch = carve_sample_scratch(sample_memory_[0].data(), limits_.vocab);
  int32_t token;
  float logprob;
  SampleRow drawn;
  drawn.logits = in.f32 + static_cast<size_t>(row) * in.width;
  drawn.vocab = limits_.vocab;
  drawn.temperature = kept_[row].temperature;
  drawn.seed = kept_[row].seed;
  drawn.position = kept_[row].position;
  drawn.num_logprobs = -1;
  drawn.mask = mask.data();
  drawn.token = &token;
  drawn.logprob = &logprob;
  kernels_.sample_row(drawn, scratch);
  return token;
}

}  // namespace forerun

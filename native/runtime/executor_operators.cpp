// The table of operators, and what must hold between an instruction and the buffers, weights, vectors and limits that
// it will index: the last word before memory is read, whoever wrote the program.
#include <algorithm>

#include "runtime/executor.hpp"

namespace forerun {
namespace {

bool reads(Op op) { return op != Op::Embed; }
bool writes(Op op) { return op != Op::Sample; }
bool weighs(Op op) { return op == Op::Embed || op == Op::Linear; }
bool covers(std::span<const float> vector, int64_t entries) { return static_cast<int64_t>(vector.size()) >= entries; }

}  // namespace

const Executor::Operator Executor::kOperators[] = {
    {Op::Embed, "embed", false, Works::OnRows, &Executor::embed_fits, &Executor::embed},
    {Op::Norm, "norm", true, Works::OnEither, &Executor::row_wise_fits, &Executor::row_wise},
    {Op::NormQuant, "norm_quant", true, Works::OnEither, &Executor::row_wise_fits, &Executor::row_wise},
    {Op::Quantize, "quantize", true, Works::OnEither, &Executor::row_wise_fits, &Executor::row_wise},
    {Op::Linear, "linear", false, Works::OnEither, &Executor::linear_fits, &Executor::linear},
    {Op::RopeKv, "rope_kv", false, Works::OnRows, &Executor::rope_kv_fits, &Executor::rope_kv},
    {Op::Attention, "attention", false, Works::OnRows, &Executor::attention_fits, &Executor::attention},
    {Op::SelectRows, "select_rows", false, Works::OnRows, &Executor::select_rows_fits, &Executor::select_rows},
    {Op::Sample, "sample", false, Works::OnSampled, &Executor::sample_fits, &Executor::sample},
};

Op Executor::op_named(const std::string& name) {
  for (const Operator& row : kOperators)
    if (name == row.name) return row.op;
  throw std::invalid_argument("operator '" + name + "' is unknown");
}

void Executor::check(const Instruction& i) const {
  check_operands(i);
  require((this->*row_of(i.op).fits)(i), i.label + ": sizes do not fit its buffers, weights or the model's limits");
  const bool started = !program_.empty() && program_.back().sampled, goes_back = i.op == Op::SelectRows || !reads(i.op);
  require(!started || (!goes_back && buffers_[i.input].sampled), i.label + ": comes after the rows were selected");
}

// That they exist, hold what the operator reads and writes, and have as many rows as it will touch.
void Executor::check_operands(const Instruction& i) const {
  const auto exists = [](int index, size_t count) { return index >= 0 && static_cast<size_t>(index) < count; };
  require((!reads(i.op) || exists(i.input, buffers_.size())) && (!writes(i.op) || exists(i.output, buffers_.size())) &&
              (!weighs(i.op) || exists(i.weight, weights_.size())),
          i.label + ": unknown buffer or weight");
  if (reads(i.op)) {
    const Buffer& in = buffers_[i.input];
    const bool integer = i.op == Op::Linear && is_integer(weights_[i.weight].format);
    require((in.type == BufferType::Q15) == integer, i.label + ": its input has the wrong type");
    require(row_of(i.op).works != (in.sampled ? Works::OnRows : Works::OnSampled), i.label + ": works on other rows");
    require(i.op == Op::Linear || row_of(i.op).row_wise || !in.by_rows,
            i.label + ": cannot read what each thread did for itself");
  }
  if (writes(i.op)) {
    const Buffer& out = buffers_[i.output];
    const bool quantises = i.op == Op::NormQuant || i.op == Op::Quantize;
    const bool sampled = i.op == Op::SelectRows || (reads(i.op) && buffers_[i.input].sampled);
    require((out.type == BufferType::Q15) == quantises, i.label + ": its output has the wrong type");
    require(out.sampled == sampled && (!reads(i.op) || i.input != i.output), i.label + ": its output does not fit");
  }
}

bool Executor::embed_fits(const Instruction& i) const {
  const WeightRef& table = weights_[i.weight];
  const int out = buffers_[i.output].width;
  return table.rows >= limits_.vocab && table.holds(ranks_.share(table.n / kPanel)) && out == table.blocks * kBlock &&
         i.width >= 1 && i.width <= out;
}

bool Executor::row_wise_fits(const Instruction& i) const {
  const int in = buffers_[i.input].width, out = buffers_[i.output].width;
  const bool norm = i.op != Op::Quantize;
  return in == out &&
         (!norm || (i.width >= 1 && i.width <= in && covers(i.vector, (i.width + kPanel - 1) / kPanel * kPanel)));
}

bool Executor::linear_fits(const Instruction& i) const {
  const WeightRef& w = weights_[i.weight];
  const Buffer& out = buffers_[i.output];
  const int in = buffers_[i.input].width, k = w.blocks * kBlock;
  const bool gated = i.epilogue == Epilogue::SiluMul;
  if (i.heads && !cut_by_heads_fits(i)) return false;
  bool cut_in_pairs = true;
  for (const Shard& s : w.shards) cut_in_pairs &= s.panels.begin % 2 == 0 && s.panels.end % 2 == 0;
  const std::vector<Share> own = own_panels(i);
  return std::all_of(own.begin(), own.end(), [&](Share part) { return w.holds(part); }) && (!gated || cut_in_pairs) &&
         (is_integer(w.format) ? in == k : in >= k) && i.column >= 0 && i.column % kPanel == 0 &&
         out.width - i.column >= (gated ? w.n / 2 : w.n) && (!gated || w.n % (2 * kPanel) == 0) &&
         i.epilogue != Epilogue::Largest &&
         ((i.epilogue != Epilogue::Add && i.epilogue != Epilogue::Gate) || !out.by_rows) &&
         (i.vector.empty() || covers(i.vector, w.n)) && i.splits >= 1 && i.splits <= 8 &&
         (i.splits & (i.splits - 1)) == 0 && i.splits <= w.blocks;
}

// Heads are whole panels of a row of queries, keys and values, of which the matrix makes a part.
bool Executor::cut_by_heads_fits(const Instruction& i) const {
  const int64_t row = (int64_t{i.heads} + 2 * limits_.kv_heads) * limits_.head_dim;
  return i.heads >= 1 && i.heads % heads_in_all() == 0 && limits_.head_dim % kPanel == 0 && i.column >= 0 &&
         i.epilogue == Epilogue::Store && int64_t{i.column} + weights_[i.weight].n <= row &&
         row <= buffers_[i.output].width;
}

bool Executor::heads_fit(const Instruction& i) const {
  return i.heads >= 1 && i.heads % heads_in_all() == 0 && i.layer == layers_attended_ && i.layer < limits_.layers;
}

// Products in 64 bits: `heads` is any number still.
bool Executor::rope_kv_fits(const Instruction& i) const {
  const int64_t in = buffers_[i.input].width, out = buffers_[i.output].width, heads = i.heads, dim = limits_.head_dim;
  const bool normed = !i.vector.empty() || !i.vector2.empty();
  return heads_fit(i) && rope_.data() && in >= (heads + 2 * limits_.kv_heads) * dim &&
         out >= heads * shape_.padded_dim && (!normed || (covers(i.vector, dim) && covers(i.vector2, dim)));
}

bool Executor::attention_fits(const Instruction& i) const {
  const int64_t in = buffers_[i.input].width, out = buffers_[i.output].width, heads = i.heads;
  return heads_fit(i) && i.window >= 0 && in >= heads * shape_.padded_dim && out >= heads * limits_.head_dim;
}

bool Executor::select_rows_fits(const Instruction& i) const {
  return buffers_[i.input].width == buffers_[i.output].width;
}

bool Executor::sample_fits(const Instruction& i) const { return buffers_[i.input].width >= limits_.vocab; }

}  // namespace forerun

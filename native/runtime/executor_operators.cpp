// The table of operators, and what an instruction of each must fulfil.
#include "runtime/executor.hpp"

namespace forerun {

const Executor::Operator Executor::kOperators[] = {
    {Op::Embed, "embed", false, &Executor::check_embed, &Executor::embed},
    {Op::Norm, "norm", true, &Executor::check_row_wise, &Executor::row_wise},
    {Op::NormQuant, "norm_quant", true, &Executor::check_row_wise, &Executor::row_wise},
    {Op::Quantize, "quantize", true, &Executor::check_row_wise, &Executor::row_wise},
    {Op::Linear, "linear", false, &Executor::check_linear, &Executor::linear},
    {Op::RopeKv, "rope_kv", false, &Executor::check_rope_kv, &Executor::rope_kv},
    {Op::Attention, "attention", false, &Executor::check_attention, &Executor::attention},
    {Op::SelectRows, "select_rows", false, &Executor::check_select_rows, &Executor::select_rows},
    {Op::Sample, "sample", false, &Executor::check_sample, &Executor::sample},
};

Op Executor::op_named(const std::string& name) {
  for (const Operator& row : kOperators)
    if (name == row.name) return row.op;
  throw std::invalid_argument("operator '" + name + "' is unknown");
}

void Executor::check_embed(const Instruction& i) const {
  require(i.output >= 0 && i.weight >= 0 && type(i.output) == BufferType::F32 && i.width >= 1 &&
              i.width <= width(i.output) && width(i.output) == weights_[i.weight].args.blocks * kBlock,
          i.label + ": embedding width differs");
}

void Executor::check_row_wise(const Instruction& i) const {
  require(i.input >= 0 && i.output >= 0 && type(i.input) == BufferType::F32 && width(i.input) == width(i.output) &&
              (type(i.output) == BufferType::F32) == (i.op == Op::Norm) &&
              (i.op == Op::Quantize || (i.vector && i.width >= 1 && i.width <= width(i.input))),
          i.label + ": buffers do not fit");
}

void Executor::check_linear(const Instruction& i) const {
  require(i.input >= 0 && i.output >= 0 && i.weight >= 0 && type(i.output) == BufferType::F32, i.label + ": buffers");
  const WeightRef& w = weights_[i.weight];
  const int out = i.epilogue == Epilogue::SiluMul ? w.n / 2 : w.n;
  require(width(i.input) >= w.args.blocks * kBlock && i.column >= 0 && i.column % kPanel == 0 &&
              width(i.output) - i.column >= out && is_integer(w.args.format) == (type(i.input) != BufferType::F32) &&
              (!is_integer(w.args.format) || width(i.input) == w.args.blocks * kBlock) &&
              (i.epilogue != Epilogue::SiluMul || w.n % 32 == 0) && i.splits >= 1 && i.splits <= 8 &&
              (i.splits & (i.splits - 1)) == 0 && i.splits <= w.args.blocks,
          i.label + ": widths, types or splits do not fit the weight");
}

void Executor::check_rope_kv(const Instruction& i) const {
  require(i.input >= 0 && i.output >= 0 && i.layer >= 0 && i.layer < limits_.layers && i.heads >= 1 &&
              i.heads % limits_.kv_heads == 0 && rope_.data() &&
              width(i.input) >= (i.heads + 2 * limits_.kv_heads) * limits_.head_dim &&
              width(i.output) >= i.heads * shape_.padded_dim,
          i.label + ": shapes do not fit");
}

void Executor::check_attention(const Instruction& i) const {
  require(i.input >= 0 && i.output >= 0 && i.layer >= 0 && i.layer < limits_.layers && i.window >= 0 && i.heads >= 1 &&
              i.heads % limits_.kv_heads == 0 && width(i.input) >= i.heads * shape_.padded_dim &&
              width(i.output) >= i.heads * limits_.head_dim,
          i.label + ": shapes do not fit");
}

void Executor::check_select_rows(const Instruction& i) const {
  require(i.input >= 0 && i.output >= 0 && buffers_[i.output].sampled && !buffers_[i.input].sampled &&
              width(i.input) == width(i.output),
          i.label + ": buffers do not fit");
}

void Executor::check_sample(const Instruction& i) const {
  require(i.input >= 0 && buffers_[i.input].sampled && width(i.input) >= limits_.vocab, i.label + ": buffers");
}

}  // namespace forerun

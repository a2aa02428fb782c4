// The Python face of the native core. Arrays are checked here and in the executor; wrong input is an exception.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>

#include "bindings_tools.hpp"
#include "runtime/cpu.hpp"
#include "runtime/executor.hpp"

namespace nb = nanobind;
using namespace forerun;

namespace {

template <class T, int Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <class T, int Dims>
using Out = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

template <class T>
T lookup(const std::map<std::string, T>& names, const std::string& name, const char* what) {
  const auto at = names.find(name);
  if (at == names.end()) throw std::invalid_argument(std::string(what) + " '" + name + "' is unknown");
  return at->second;
}

const std::map<std::string, Format> kFormats = {
    {"float32", Format::Float32},         {"bfloat16", Format::BFloat16},       {"int4_f16_min", Format::Int4F16Min},
    {"int4_f32_min", Format::Int4F32Min}, {"int4_f16", Format::Int4F16},        {"int8_f16", Format::Int8F16},
    {"int8_f16_min", Format::Int8F16Min}, {"int8_channel", Format::Int8Channel}};
const std::map<std::string, BufferType> kTypes = {{"f32", BufferType::F32}, {"q15", BufferType::Q15}};
const std::map<std::string, Op> kOps = {
    {"embed", Op::Embed},   {"norm", Op::Norm},      {"norm_quant", Op::NormQuant}, {"quantize", Op::Quantize},
    {"linear", Op::Linear}, {"rope_kv", Op::RopeKv}, {"attention", Op::Attention},  {"select_rows", Op::SelectRows},
    {"sample", Op::Sample}};
const std::map<std::string, Epilogue> kEpilogues = {
    {"store", Epilogue::Store}, {"add", Epilogue::Add}, {"silu_mul", Epilogue::SiluMul}};

// Executor plus the Python arrays whose memory it reads: those of the model, and those of the bound step.
struct BoundExecutor {
  std::unique_ptr<Executor> executor;
  std::vector<nb::object> kept;
  StepArrays step{};
  std::vector<nb::ndarray<>> step_kept;

  const float* keep_vector(nb::object array, size_t least, const char* what) {
    if (array.is_none()) return nullptr;
    const auto a = nb::cast<Array<float, 1>>(array);
    if (a.shape(0) < least) throw std::invalid_argument(std::string(what) + " is too short");
    kept.push_back(array);
    return a.data();
  }
};

ExecutorLimits read_limits(const nb::dict& d) {
  ExecutorLimits l;
  const auto number = [&](const char* key) { return nb::cast<int>(d[key]); };
  l.threads = number("threads");
  l.cpus = nb::cast<std::vector<int>>(d["cpus"]);
  l.max_rows = number("max_rows");
  l.chunk_rows = number("chunk_rows");
  l.max_seqs = number("max_seqs");
  l.max_sample_rows = number("max_sample_rows");
  l.max_model_len = number("max_model_len");
  l.num_blocks = number("num_blocks");
  l.block_size = number("block_size");
  l.kv_int8 = nb::cast<bool>(d["kv_int8"]);
  l.layers = number("layers");
  l.kv_heads = number("kv_heads");
  l.head_dim = number("head_dim");
  l.vocab = number("vocab");
  l.global_topk = number("global_topk");
  l.deterministic = nb::cast<bool>(d["deterministic"]);
  return l;
}

int add_weight(BoundExecutor& self, const std::string& format, int n, int k, Array<uint8_t, 1> data,
               nb::object scales) {
  size_t count = 0;
  const float* channel = nullptr;
  if (!scales.is_none()) {
    const auto a = nb::cast<Array<float, 1>>(scales);
    channel = a.data();
    count = a.shape(0);
    self.kept.push_back(scales);
  }
  const int id =
      self.executor->add_weight(lookup(kFormats, format, "format"), n, k, data.data(), data.size(), channel, count);
  self.kept.push_back(nb::cast(data));
  return id;
}

void add_instruction(BoundExecutor& self, const nb::dict& d) {
  Instruction i;
  const auto number = [&](const char* key, int otherwise) {
    return d.contains(key) ? nb::cast<int>(d[key]) : otherwise;
  };
  const auto real = [&](const char* key, float otherwise) {
    return d.contains(key) ? nb::cast<float>(d[key]) : otherwise;
  };
  const auto vector = [&](const char* key) -> nb::object { return d.contains(key) ? nb::object(d[key]) : nb::none(); };
  i.op = lookup(kOps, nb::cast<std::string>(d["op"]), "operator");
  i.label = nb::cast<std::string>(d["label"]);
  i.input = number("input", -1);
  i.output = number("output", -1);
  i.weight = number("weight", -1);
  i.eps = real("eps", 0.0f);
  i.scale = real("scale", 1.0f);
  i.fine_above = real("fine_above", 0.0f);
  i.splits = number("splits", 1);
  i.width = number("width", 0);
  i.layer = number("layer", 0);
  i.heads = number("heads", 0);
  i.window = number("window", 0);
  i.epilogue =
      d.contains("epilogue") ? lookup(kEpilogues, nb::cast<std::string>(d["epilogue"]), "epilogue") : Epilogue::Store;
  const size_t least = static_cast<size_t>(number("vector_length", 0));
  i.vector = self.keep_vector(vector("vector"), least, i.label.c_str());
  i.vector2 = self.keep_vector(vector("vector2"), least, i.label.c_str());
  self.executor->add(i);
}

template <class A>
void same_length(const A& array, size_t n, const char* name) {
  if (array.shape(0) != n) throw std::invalid_argument(std::string("step: ") + name + " has a wrong length");
}

// Remembers the arrays of a step, for any number of calls of `step`: their contents may change in between.
void bind_step(BoundExecutor& self, Array<int32_t, 1> token_ids, Array<int32_t, 1> positions,
               Array<int32_t, 1> query_starts, Array<int32_t, 2> block_tables, Array<int32_t, 1> sample_rows,
               Array<float, 1> temperature, Array<int32_t, 1> top_k, Array<float, 1> top_p, Array<float, 1> min_p,
               Array<uint64_t, 1> seed, Array<int32_t, 1> num_logprobs, Array<int32_t, 1> adjust_starts,
               Array<int32_t, 1> adjust_ids, Array<float, 1> adjust_add, Array<float, 1> adjust_rep,
               Array<int32_t, 1> allow_starts, Array<int32_t, 1> allow_ids, Out<int32_t, 1> tokens,
               Out<float, 1> logprobs, Out<int32_t, 2> top_ids, Out<float, 2> top_logprobs, nb::object logits) {
  self.step_kept.clear();
  const size_t sampled = sample_rows.shape(0), seqs = block_tables.shape(0);
  same_length(positions, token_ids.shape(0), "positions");
  same_length(query_starts, seqs + 1, "query_starts");
  for (size_t n : {temperature.shape(0), top_k.shape(0), top_p.shape(0), min_p.shape(0), seed.shape(0),
                   num_logprobs.shape(0), tokens.shape(0), logprobs.shape(0), top_ids.shape(0), top_logprobs.shape(0)})
    if (n != sampled) throw std::invalid_argument("step: sampling and result arrays need one entry per sampled row");
  same_length(adjust_starts, sampled + 1, "adjust_starts");
  same_length(allow_starts, sampled + 1, "allow_starts");
  same_length(adjust_add, adjust_ids.shape(0), "adjust_add");
  same_length(adjust_rep, adjust_ids.shape(0), "adjust_rep");
  if (top_ids.shape(1) != top_logprobs.shape(1)) throw std::invalid_argument("step: top arrays differ in width");
  constexpr size_t kMost = 1u << 30;
  if (token_ids.shape(0) > kMost || adjust_ids.shape(0) > kMost || allow_ids.shape(0) > kMost ||
      block_tables.shape(1) > kMost)
    throw std::invalid_argument("step: an array is too long");
  StepArrays s;
  s.rows = static_cast<int>(token_ids.shape(0));
  s.seqs = static_cast<int>(seqs);
  s.table_width = static_cast<int>(block_tables.shape(1));
  s.sampled = static_cast<int>(sampled);
  s.token_ids = token_ids.data(), s.positions = positions.data(), s.query_starts = query_starts.data();
  s.block_tables = block_tables.data(), s.sample_rows = sample_rows.data();
  s.temperature = temperature.data(), s.top_k = top_k.data(), s.top_p = top_p.data(), s.min_p = min_p.data();
  s.seed = seed.data(), s.num_logprobs = num_logprobs.data();
  s.adjust_starts = adjust_starts.data(), s.adjust_ids = adjust_ids.data();
  s.adjust_add = adjust_add.data(), s.adjust_rep = adjust_rep.data();
  s.allow_starts = allow_starts.data(), s.allow_ids = allow_ids.data();
  s.adjust_count = static_cast<int>(adjust_ids.shape(0)), s.allow_count = static_cast<int>(allow_ids.shape(0));
  s.tokens = tokens.data(), s.logprobs = logprobs.data();
  s.top_width = static_cast<int>(top_ids.shape(1));
  s.top_ids = top_ids.data(), s.top_logprobs = top_logprobs.data();
  if (!logits.is_none()) {
    const auto a = nb::cast<Out<float, 2>>(logits);
    if (a.shape(0) != sampled || a.shape(1) != static_cast<size_t>(self.executor->limits().vocab))
      throw std::invalid_argument("step: logits must have shape [sampled rows, vocabulary]");
    s.logits = a.data();
    self.step_kept.emplace_back(a);
  }
  const auto keep = [&](const auto&... arrays) { (self.step_kept.emplace_back(arrays), ...); };
  keep(token_ids, positions, query_starts, block_tables, sample_rows, temperature, top_k, top_p, min_p, seed,
       num_logprobs, adjust_starts, adjust_ids, adjust_add, adjust_rep, allow_starts, allow_ids, tokens, logprobs,
       top_ids, top_logprobs);
  self.step = s;
}

void step(BoundExecutor& self) {
  if (self.step_kept.empty()) throw std::invalid_argument("step: no arrays are bound");
  nb::gil_scoped_release release;
  self.executor->step(self.step);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Forerun's native core: kernels, thread team and executor.";
  bind_tools(m);
  m.def("usable_isas", &usable_isas, "Instruction sets that this processor can run, lowest first.");
  m.def("testable_isas", &testable_isas, "Those and the emulated ones, which are exact but slow.");
  m.def(
      "block_bytes", [](const std::string& format) { return block_bytes(lookup(kFormats, format, "format")); },
      "Bytes of one packed block (16 columns x 64 of K) of a weight format.");
  nb::class_<BoundExecutor>(m, "Executor")
      .def("__init__",
           [](BoundExecutor* self, const std::string& isa, const nb::dict& limits) {
             new (self) BoundExecutor{std::make_unique<Executor>(kernels_for(isa), read_limits(limits)), {}, {}, {}};
           })
      .def("add_buffer",
           [](BoundExecutor& self, const std::string& type, int width, bool sampled) {
             return self.executor->add_buffer(lookup(kTypes, type, "buffer type"), width, sampled);
           })
      .def("add_weight", &add_weight, nb::arg("format"), nb::arg("n"), nb::arg("k"), nb::arg("data"),
           nb::arg("scales").none())
      .def("set_rope",
           [](BoundExecutor& self, Array<float, 1> inv_freq, float scale) {
             self.executor->set_rope(inv_freq.data(), static_cast<int>(inv_freq.shape(0)), scale);
           })
      .def("add", &add_instruction)
      .def("bind_step", &bind_step, nb::arg("token_ids").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("query_starts").noconvert(), nb::arg("block_tables").noconvert(), nb::arg("sample_rows").noconvert(),
           nb::arg("temperature").noconvert(), nb::arg("top_k").noconvert(), nb::arg("top_p").noconvert(),
           nb::arg("min_p").noconvert(), nb::arg("seed").noconvert(), nb::arg("num_logprobs").noconvert(),
           nb::arg("adjust_starts").noconvert(), nb::arg("adjust_ids").noconvert(), nb::arg("adjust_add").noconvert(),
           nb::arg("adjust_rep").noconvert(), nb::arg("allow_starts").noconvert(), nb::arg("allow_ids").noconvert(),
           nb::arg("tokens").noconvert(), nb::arg("logprobs").noconvert(), nb::arg("top_ids").noconvert(),
           nb::arg("top_logprobs").noconvert(), nb::arg("logits").none())
      .def("step", &step)
      .def("set_profile", [](BoundExecutor& self, bool on) { self.executor->set_profile(on); })
      .def(
          "profile", [](BoundExecutor& self) { return self.executor->profile(); },
          "Nanoseconds per instruction since profiling began; the last entry is the time between instructions.")
      .def("populate_kv",
           [](BoundExecutor& self, size_t begin, size_t bytes) {
             nb::gil_scoped_release release;
             self.executor->populate_kv(begin, bytes);
           })
      .def_prop_ro("reserved_bytes", [](BoundExecutor& self) { return self.executor->reserved_bytes(); })
      .def_prop_ro("kv_bytes", [](BoundExecutor& self) { return self.executor->kv_bytes(); });
}

// The Python face of the native core. Arrays are checked here and in the executor; wrong input is an exception.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <exception>
#include <map>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <tuple>

#include "bindings_exchange.hpp"
#include "bindings_tools.hpp"
#include "runtime/cpu.hpp"
#include "runtime/executor.hpp"
#include "runtime/fused.hpp"

namespace nb = nanobind;
using namespace forerun;

namespace {

template <class T, int Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

template <class T>
T lookup(const std::map<std::string, T>& names, const std::string& name, const char* what) {
  const auto at = names.find(name);
  if (at == names.end()) throw std::invalid_argument(std::string(what) + " '" + name + "' is unknown");
  return at->second;
}

const std::map<std::string, Format> kFormats = {{"float32", Format::Float32},
                                                {"bfloat16", Format::BFloat16},
                                                {"int8_channel", Format::Int8Channel},
                                                {"int8_f16", Format::Int8F16},
                                                {"int4_f16", Format::Int4F16},
                                                {"int4_f16_min", Format::Int4F16Min},
                                                {"int5_f16", Format::Int5F16},
                                                {"int5_f16_min", Format::Int5F16Min},
                                                {"q2_k", Format::Q2K},
                                                {"q3_k", Format::Q3K},
                                                {"q4_k", Format::Q4K},
                                                {"q5_k", Format::Q5K},
                                                {"q6_k", Format::Q6K},
                                                {"iq4_nl", Format::Iq4Nl},
                                                {"iq4_xs", Format::Iq4Xs}};
const std::map<std::string, BufferType> kTypes = {{"f32", BufferType::F32}, {"q15", BufferType::Q15}};
const std::map<std::string, Epilogue> kEpilogues = {
    {"store", Epilogue::Store}, {"add", Epilogue::Add}, {"silu_mul", Epilogue::SiluMul}, {"gate", Epilogue::Gate}};

// The arrays of a step, kept alive for any number of calls: their contents may change in between.
struct BoundStep {
  StepArrays step{};
  std::vector<nb::ndarray<>> kept;
  int vocab = 0;  // that the arrays were checked against

  void check(const Executor& executor) const {
    if (executor.limits().vocab != vocab) throw std::invalid_argument("step: the arrays are another executor's");
  }
};

// Executor plus the Python objects that it needs: its team and the arrays of the model.
struct BoundExecutor {
  nb::object team;
  std::unique_ptr<Exchange> exchange;
  std::unique_ptr<Executor> executor;
  std::vector<nb::object> kept;

  std::span<const float> keep_vector(const nb::dict& d, const char* key) {
    if (!d.contains(key)) return {};
    const auto a = nb::cast<Array<float, 1>>(d[key]);
    kept.push_back(nb::object(d[key]));
    return {a.data(), a.shape(0)};
  }
};

ExecutorLimits read_limits(const nb::dict& d) {
  ExecutorLimits l;
  const auto number = [&](const char* key) { return nb::cast<int>(d[key]); };
  l.max_rows = number("max_rows");
  l.chunk_rows = number("chunk_rows");
  l.strips = number("strips");
  l.strip_rows = number("strip_rows");
  l.max_seqs = number("max_seqs");
  l.max_sample_rows = number("max_sample_rows");
  l.head_rows = number("head_rows");
  l.max_model_len = number("max_model_len");
  l.num_blocks = number("num_blocks");
  l.block_size = number("block_size");
  l.kv_int8 = nb::cast<bool>(d["kv_int8"]);
  l.layers = number("layers");
  l.kv_heads = number("kv_heads");
  l.kv_splits = number("kv_splits");
  l.head_dim = number("head_dim");
  l.vocab = number("vocab");
  l.global_topk = number("global_topk");
  l.deterministic = nb::cast<bool>(d["deterministic"]);
  return l;
}

// `shards`: (first panel, packed panels, channel scales or None), ascending.
int add_weight(BoundExecutor& self, const std::string& format, int n, int k, const nb::list& shards) {
  std::vector<Executor::StoredShard> stored;
  for (nb::handle shard : shards) {
    const auto [first, data, scales] =
        nb::cast<std::tuple<int, Array<uint8_t, 1>, std::optional<Array<float, 1>>>>(shard);
    stored.push_back({first, {data.data(), data.size()}, {}});
    self.kept.push_back(nb::cast(data));
    if (!scales) continue;
    stored.back().channel_scale = {scales->data(), scales->size()};
    self.kept.push_back(nb::cast(*scales));
  }
  return self.executor->add_weight(lookup(kFormats, format, "format"), n, k, stored);
}

void add_instruction(BoundExecutor& self, const nb::dict& d) {
  Instruction i;
  const auto number = [&](const char* key, int otherwise) {
    return d.contains(key) ? nb::cast<int>(d[key]) : otherwise;
  };
  const auto real = [&](const char* key, float otherwise) {
    return d.contains(key) ? nb::cast<float>(d[key]) : otherwise;
  };
  i.op = Executor::op_named(nb::cast<std::string>(d["op"]));
  i.label = nb::cast<std::string>(d["label"]);
  i.input = number("input", -1);
  i.output = number("output", -1);
  i.weight = number("weight", -1);
  i.eps = real("eps", 0.0f);
  i.scale = real("scale", 1.0f);
  i.fine_above = real("fine_above", 0.0f);
  i.splits = number("splits", 1);
  i.column = number("column", 0);
  i.width = number("width", 0);
  i.layer = number("layer", 0);
  i.heads = number("heads", 0);
  i.window = number("window", 0);
  i.epilogue =
      d.contains("epilogue") ? lookup(kEpilogues, nb::cast<std::string>(d["epilogue"]), "epilogue") : Epilogue::Store;
  i.vector = self.keep_vector(d, "vector");
  i.vector2 = self.keep_vector(d, "vector2");
  self.executor->add(i);
}

// Takes the arrays of a step out of a dictionary, by their names in forerun.runtime.step.
class StepReader {
 public:
  StepReader(const nb::dict& arrays, std::vector<nb::ndarray<>>& kept) : arrays_(arrays), kept_(kept) {}

  // One row of the table below: an array of `length` (+ `more`) entries. The first array of a length says what it is.
  template <class T>
  void take(const char* name, T*& to, int& length, int more = 0) {
    const auto array = cast<nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>>(name);
    to = array.data();
    fit(name, length, array.shape(0), more);
  }
  template <class T>
  void take_matrix(const char* name, T*& to, int& length, int& width) {
    const auto array = cast<nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>>(name);
    to = array.data();
    fit(name, length, array.shape(0), 0);
    fit(name, width, array.shape(1), 0);
  }
  bool flag(const char* name) const {
    bool set = false;
    if (has(name) && !nb::try_cast<bool>(arrays_[name], set, false))
      throw nb::type_error((std::string("step: ") + name + " must be true or false").c_str());
    return set;
  }
  bool has(const char* name) const { return arrays_.contains(name) && !nb::object(arrays_[name]).is_none(); }

 private:
  static constexpr size_t kMost = 1u << 30;

  template <class Array>
  Array cast(const char* name) {
    Array array;
    if (!arrays_.contains(name) || !nb::try_cast<Array>(arrays_[name], array, false))
      throw nb::type_error(
          (std::string("step: ") + name + " must be a contiguous array of the type that step.py gives").c_str());
    kept_.emplace_back(array);
    return array;
  }
  static void fit(const char* name, int& length, size_t found, int more) {
    const auto extra = static_cast<size_t>(more);
    if (found < extra || found - extra > kMost || (length >= 0 && found - extra != static_cast<size_t>(length)))
      throw std::invalid_argument(std::string("step: ") + name + " has " + std::to_string(found) + " entries" +
                                  (length >= 0 ? " instead of " + std::to_string(length + more) : ""));
    length = static_cast<int>(found - extra);
  }

  const nb::dict& arrays_;
  std::vector<nb::ndarray<>>& kept_;
};

// Every array of a step: its name, its place, whose type is the array's, and its length.
StepArrays read_step(StepReader& in, int vocab) {
  StepArrays s;
  s.rows = s.seqs = s.table_width = s.sampled = s.adjust_count = s.allow_count = s.mask_count = s.mask_words =
      s.top_width = -1;
  in.take("token_ids", s.token_ids, s.rows);
  in.take("positions", s.positions, s.rows);
  in.take_matrix("block_tables", s.block_tables, s.seqs, s.table_width);
  in.take("query_starts", s.query_starts, s.seqs, 1);
  in.take("sample_rows", s.sample_rows, s.sampled);
  in.take("temperature", s.temperature, s.sampled);
  in.take("top_k", s.top_k, s.sampled);
  in.take("top_p", s.top_p, s.sampled);
  in.take("min_p", s.min_p, s.sampled);
  in.take("seed", s.seed, s.sampled);
  in.take("num_logprobs", s.num_logprobs, s.sampled);
  in.take("adjust_starts", s.adjust_starts, s.sampled, 1);
  in.take("adjust_ids", s.adjust_ids, s.adjust_count);
  in.take("adjust_add", s.adjust_add, s.adjust_count);
  in.take("adjust_rep", s.adjust_rep, s.adjust_count);
  in.take("allow_starts", s.allow_starts, s.sampled, 1);
  in.take("allow_ids", s.allow_ids, s.allow_count);
  in.take("mask_rows", s.mask_rows, s.mask_count);
  in.take_matrix("masks", s.masks, s.mask_count, s.mask_words);
  in.take("tokens", s.tokens, s.sampled);
  in.take("logprobs", s.logprobs, s.sampled);
  in.take_matrix("top_ids", s.top_ids, s.sampled, s.top_width);
  in.take_matrix("top_logprobs", s.top_logprobs, s.sampled, s.top_width);
  s.keep_logits = in.flag("keep_logits");
  if (in.has("logits")) in.take_matrix("logits", s.logits, s.sampled, vocab);
  return s;
}

BoundStep bind_step(const BoundExecutor& self, const nb::dict& arrays) {
  BoundStep bound;
  StepReader reader(arrays, bound.kept);
  bound.vocab = self.executor->limits().vocab;
  bound.step = read_step(reader, bound.vocab);
  return bound;
}

void step(BoundExecutor& self, const BoundStep& bound) {
  bound.check(*self.executor);
  nb::gil_scoped_release release;
  self.executor->step(bound.step);
}

// Two executors with one team.
struct BoundFused {
  nb::object target, draft;
  FusedStep fused;

  static FusedStep make(nb::object target, nb::object draft) {
    BoundExecutor &t = nb::cast<BoundExecutor&>(target), &d = nb::cast<BoundExecutor&>(draft);
    if (!t.team.is(d.team)) throw std::invalid_argument("the draft works with other threads than the target");
    if (&t == &d) throw std::invalid_argument("the draft is the target itself");
    return {*t.executor, *d.executor, nb::cast<ThreadTeam&>(t.team)};
  }
};

void fused_step(BoundFused& self, const BoundStep& bound, const nb::dict& first, const nb::dict& drafts) {
  bound.check(*nb::cast<BoundExecutor&>(self.target).executor);
  std::vector<nb::ndarray<>> kept;
  StepReader run(first, kept);
  const StepArrays arrays = read_step(run, nb::cast<BoundExecutor&>(self.draft).executor->limits().vocab);
  StepReader more(drafts, kept);
  DraftArrays d;
  d.seqs = d.rows = -1;
  more.take("lengths", d.lengths, d.seqs);
  more.take("places", d.places, d.seqs);
  more.take("token_ids", d.token_ids, d.rows);
  nb::gil_scoped_release release;
  self.fused.step(bound.step, arrays, d);
}

// What the system refuses (a thread, above all) is an OSError, as it is everywhere in Python.
void translate_system_error(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
  }
}

}  // namespace

NB_MODULE(_native, m) {
  nb::register_exception_translator(translate_system_error, nullptr);
  m.doc() = "Forerun's native core: kernels, thread team and executor.";
  bind_tools(m);
  m.def("usable_isas", &usable_isas, "Instruction sets that this processor can run, lowest first.");
  m.def("testable_isas", &testable_isas, "Those and the emulated ones, which are exact but slow.");
  m.def(
      "block_bytes", [](const std::string& format) { return block_bytes(lookup(kFormats, format, "format")); },
      "Bytes of one packed block of a weight format: 16 columns by 64 or 256 of K.");
  nb::class_<ThreadTeam>(m, "ThreadTeam")
      .def(nb::init<int, const std::vector<int>&>())
      .def_prop_ro("size", &ThreadTeam::size);
  nb::class_<BoundExecutor>(m, "Executor")
      .def(
          "__init__",
          [](BoundExecutor* self, const std::string& isa, const nb::dict& limits, nb::object team, int member,
             std::vector<int> rank_begins, nb::object all_gather) {
            auto exchange = all_gather.is_none() ? nullptr : std::make_unique<PythonExchange>(all_gather, member);
            auto made = std::make_unique<Executor>(kernels_for(isa), read_limits(limits), nb::cast<ThreadTeam&>(team),
                                                   Ranks{member, std::move(rank_begins)}, exchange.get());
            new (self) BoundExecutor{std::move(team), std::move(exchange), std::move(made), {}};
          },
          nb::arg("isa"), nb::arg("limits"), nb::arg("team"), nb::arg("member") = 0,
          nb::arg("rank_begins") = std::vector<int>{0, 1}, nb::arg("all_gather").none() = nb::none())
      .def("add_buffer",
           [](BoundExecutor& self, const std::string& type, int width, bool sampled) {
             return self.executor->add_buffer(lookup(kTypes, type, "buffer type"), width, sampled);
           })
      .def("add_weight", &add_weight, nb::arg("format"), nb::arg("n"), nb::arg("k"), nb::arg("shards"))
      .def("set_rope",
           [](BoundExecutor& self, Array<float, 1> inv_freq, float scale) {
             self.executor->set_rope(inv_freq.data(), static_cast<int>(inv_freq.shape(0)), scale);
           })
      .def("add", &add_instruction)
      .def("bind_step", &bind_step, nb::arg("arrays"))
      .def("step", &step, nb::arg("bound"))
      .def("redraw",
           [](BoundExecutor& self, int row, Array<uint32_t, 1> mask) {
             return self.executor->redraw(row, {mask.data(), mask.size()});
           })
      .def("set_repeat_rows", [](BoundExecutor& self, int rows) { self.executor->set_repeat_rows(rows); })
      .def("set_tile_rows", [](BoundExecutor& self, int rows) { self.executor->set_tile_rows(rows); })
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
      .def_prop_ro("slots_used", [](BoundExecutor& self) { return self.executor->slots_used(); })
      .def_prop_ro("kv_bytes", [](BoundExecutor& self) { return self.executor->kv_bytes(); });
  nb::class_<BoundStep>(m, "BoundStep");
  nb::class_<BoundFused>(m, "FusedStep")
      .def("__init__",
           [](BoundFused* self, nb::object target, nb::object draft) {
             new (self) BoundFused{target, draft, BoundFused::make(target, draft)};
           })
      .def("step", &fused_step, nb::arg("bound"), nb::arg("first"), nb::arg("drafts"))
      .def_prop_ro("drafting_seconds", [](BoundFused& self) { return self.fused.drafting_ns() / 1e9; });
}

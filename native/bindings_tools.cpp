#include "bindings_tools.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "runtime/bandwidth.hpp"
#include "runtime/cpu.hpp"
#include "runtime/memory.hpp"
#include "runtime/mix_rate.hpp"
#include "runtime/suffix_draft.hpp"
#include "runtime/suffix_index.hpp"

namespace nb = nanobind;
using namespace forerun;

namespace {

template <class T, int Dims>
using In = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <class T, int Dims>
using Out = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

void need(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(std::string("sample: ") + message);
}

// Draws from given logits with the kernels of one instruction set; the executor's own sampling does the same per row.
void sample(const std::string& isa, Out<float, 2> logits, int vocab, In<int32_t, 1> positions, In<float, 1> temperature,
            In<int32_t, 1> top_k, In<float, 1> top_p, In<float, 1> min_p, In<uint64_t, 1> seed,
            In<int32_t, 1> num_logprobs, In<int32_t, 1> adjust_starts, In<int32_t, 1> adjust_ids,
            In<float, 1> adjust_add, In<float, 1> adjust_rep, In<int32_t, 1> allow_starts, In<int32_t, 1> allow_ids,
            In<int32_t, 1> mask_rows, In<uint32_t, 2> masks, int global_topk, bool deterministic,
            Out<int32_t, 1> tokens, Out<float, 1> logprobs, Out<int32_t, 2> top_ids, Out<float, 2> top_logprobs) {
  const Kernels& kernels = kernels_for(isa);
  const size_t rows = logits.shape(0);
  need(vocab >= 1 && vocab <= 1 << 19 && logits.shape(1) >= static_cast<size_t>((vocab + 15) / 16 * 16),
       "vocab or logits");
  for (size_t n :
       {positions.shape(0), temperature.shape(0), top_k.shape(0), top_p.shape(0), min_p.shape(0), seed.shape(0),
        num_logprobs.shape(0), tokens.shape(0), logprobs.shape(0), top_ids.shape(0), top_logprobs.shape(0)})
    need(n == rows, "arrays need one entry per row");
  need(adjust_starts.shape(0) == rows + 1 && allow_starts.shape(0) == rows + 1,
       "list starts need one entry more than rows");
  need(adjust_add.shape(0) == adjust_ids.shape(0) && adjust_rep.shape(0) == adjust_ids.shape(0),
       "adjustment lists differ");
  need(top_ids.shape(1) == top_logprobs.shape(1), "top arrays differ in width");
  for (size_t i = 0; i < adjust_ids.shape(0); ++i)
    need(adjust_ids.data()[i] >= 0 && adjust_ids.data()[i] < vocab, "adjust_ids");
  for (size_t i = 0; i < allow_ids.shape(0); ++i)
    need(allow_ids.data()[i] >= 0 && allow_ids.data()[i] < vocab, "allow_ids");
  need(masks.shape(0) == mask_rows.shape(0), "masks need one row for each of mask_rows");
  need(masks.shape(0) == 0 || masks.shape(1) == static_cast<size_t>((vocab + 31) / 32), "masks");
  const Pages memory(sample_scratch_bytes(vocab));
  SampleScratch scratch = carve_sample_scratch(memory.data(), vocab);
  for (size_t r = 0; r < rows; ++r) {
    const auto list = [&](const In<int32_t, 1>& starts, size_t size) {
      const int begin = starts.data()[r], end = starts.data()[r + 1];
      need(begin >= 0 && begin <= end && static_cast<size_t>(end) <= size, "list starts");
      return std::pair{begin, end - begin};
    };
    const auto [adjust, adjust_count] = list(adjust_starts, adjust_ids.shape(0));
    const auto [allow, allow_count] = list(allow_starts, allow_ids.shape(0));
    SampleRow row;
    row.logits = logits.data() + r * logits.shape(1);
    row.vocab = vocab;
    row.temperature = temperature.data()[r], row.top_k = top_k.data()[r], row.top_p = top_p.data()[r];
    row.min_p = min_p.data()[r], row.seed = seed.data()[r], row.position = positions.data()[r];
    row.num_logprobs = num_logprobs.data()[r];
    need(row.temperature >= 0.0f && row.top_k >= 0 && row.top_p >= 0.0f && row.min_p >= 0.0f,
         "a parameter is negative");
    need(row.num_logprobs >= -1 && row.num_logprobs <= static_cast<int>(top_ids.shape(1)), "num_logprobs");
    row.global_topk = global_topk, row.deterministic = deterministic;
    row.adjust_ids = adjust_ids.data() + adjust, row.adjust_add = adjust_add.data() + adjust;
    row.adjust_rep = adjust_rep.data() + adjust, row.adjust_count = adjust_count;
    row.allow_ids = allow_ids.data() + allow, row.allow_count = allow_count;
    for (size_t m = 0; m < mask_rows.shape(0); ++m)
      if (mask_rows.data()[m] == static_cast<int>(r)) row.mask = masks.data() + m * masks.shape(1);
    row.token = tokens.data() + r, row.logprob = logprobs.data() + r;
    row.top_width = static_cast<int>(top_ids.shape(1));
    row.top_ids = top_ids.data() + r * row.top_width, row.top_logprobs = top_logprobs.data() + r * row.top_width;
    kernels.sample_row(row, scratch);
  }
}

// (tokens, buckets, chances) of a draft, as lists.
auto draft(const std::vector<const SuffixIndex*>& sources, In<float, 1> prior, In<float, 1> right, In<float, 1> tried,
           In<float, 1> scales, float weight, int limit, int min_order, float least) {
  if (sources.empty() || sources[0] == nullptr) throw std::invalid_argument("draft: no sequence to go on from");
  for (const auto& each : {prior, right, tried})
    if (each.shape(0) < sources.size() * kBuckets) throw std::invalid_argument("draft: a chance for every bucket");
  if (scales.shape(0) < sources.size()) throw std::invalid_argument("draft: a scale for every source");
  const Chances chances = {prior.data(), right.data(), tried.data(), scales.data(), weight};
  if (min_order < 1) throw std::invalid_argument("draft: min_order must be at least 1");
  std::vector<int32_t> tokens, buckets;
  std::vector<float> likely;
  for (const Guess& g : suffix_draft(sources, chances, limit, min_order, least))
    tokens.push_back(g.token), buckets.push_back(g.bucket), likely.push_back(g.chance);
  return std::tuple{tokens, buckets, likely};
}

// Contexts, [n, max_order] with -1 behind short ones, and what followed them.
void put_all(SuffixIndex& self, In<int32_t, 2> contexts, In<int32_t, 1> best, In<int32_t, 1> count,
             In<int32_t, 1> follow) {
  const size_t n = contexts.shape(0), width = contexts.shape(1);
  if (best.shape(0) != n || count.shape(0) != n || follow.shape(0) != n)
    throw std::invalid_argument("put: arrays need one entry per context");
  for (size_t i = 0; i < n; ++i) {
    const int32_t* context = contexts.data() + i * width;
    const size_t order = std::find(context, context + width, -1) - context;
    if (order < 1 || order > static_cast<size_t>(self.max_order()) || count.data()[i] < 1 ||
        follow.data()[i] < count.data()[i])
      throw std::invalid_argument("put: a context without tokens, or of too many, or counts that cannot be");
    self.put(context, order, best.data()[i], count.data()[i], follow.data()[i]);
  }
}

void bind_suffix_index(nb::module_& m) {
  nb::class_<SuffixIndex>(m, "SuffixIndex")
      .def(
          "__init__",
          [](SuffixIndex* self, int max_order, size_t max_entries) {
            if (max_order < 1 || max_order > 32) throw std::invalid_argument("max_order must be within 1..32");
            new (self) SuffixIndex(max_order, max_entries);
          },
          nb::arg("max_order"), nb::arg("max_entries"))
      .def("extend", [](SuffixIndex& self, In<int32_t, 1> tokens) { self.extend(tokens.data(), tokens.shape(0)); })
      .def("append", [](SuffixIndex& self, int32_t token) { self.extend(&token, 1); })
      .def("cut", &SuffixIndex::cut)
      .def("put", &put_all, nb::arg("contexts"), nb::arg("best"), nb::arg("count"), nb::arg("follow"))
      .def_prop_ro("size", &SuffixIndex::size)
      .def_prop_ro("entries", &SuffixIndex::entries);
  m.attr("SUFFIX_BUCKETS") = kBuckets;
  m.def("suffix_bucket", &suffix_bucket, nb::arg("order"), nb::arg("count"), nb::arg("follow"));
  m.def("suffix_draft", &draft, nb::arg("sources").none(), nb::arg("prior"), nb::arg("right"), nb::arg("tried"),
        nb::arg("scales"), nb::arg("weight"), nb::arg("limit"), nb::arg("min_order"), nb::arg("least"));
}

}  // namespace

void bind_tools(nb::module_& m) {
  bind_suffix_index(m);
  m.def("sample", &sample, nb::arg("isa"), nb::arg("logits").noconvert(), nb::arg("vocab"), nb::arg("positions"),
        nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"), nb::arg("seed"),
        nb::arg("num_logprobs"), nb::arg("adjust_starts"), nb::arg("adjust_ids"), nb::arg("adjust_add"),
        nb::arg("adjust_rep"), nb::arg("allow_starts"), nb::arg("allow_ids"), nb::arg("mask_rows"), nb::arg("masks"),
        nb::arg("global_topk"), nb::arg("deterministic"), nb::arg("tokens").noconvert(),
        nb::arg("logprobs").noconvert(), nb::arg("top_ids").noconvert(), nb::arg("top_logprobs").noconvert(),
        "Draw from given logits (changed in place); positions are those of the drawn tokens.");
  m.def(
      "read_bandwidth",
      [](int threads, int megabytes) {
        nb::gil_scoped_release release;
        return read_bandwidth(threads, megabytes) / 1e9;
      },
      nb::arg("threads"), nb::arg("megabytes") = 256,
      "GB/s that `threads` threads read from memory, each in four interleaved streams.");
  m.def(
      "mix_rate",
      [](const std::string& isa, int threads) {
        const Kernels& kernels = kernels_for(isa);
        nb::gil_scoped_release release;
        return mix_rate(kernels, threads) / 1e9;
      },
      nb::arg("isa"), nb::arg("threads"),
      "GOPS of an instruction set's bare vector operations for int4 layers, everything in the first caches.");
}

// The kernels of one instruction set as function pointers.
#pragma once
#include "kernels/sampling_types.hpp"
#include "kernels/types.hpp"

namespace forerun {

struct Kernels {
  const char* name;
  void (*linear)(const LinearArgs&);
  size_t (*linear_scratch)(int blocks);               // bytes that linear needs
  double (*bare_mix)(const LinearArgs&, int passes);  // for measuring
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, int padded, float* y);
  void (*quantize_row)(const float* x, int width, float fine_above, const QuantRows& out, int row);
  void (*embedding_row)(const LinearArgs& weights, int index, float* out);
  void (*rope_kv)(const RopeKvArgs&, int row, int kv_head, float* q, bool write);
  void (*attend_tiles)(const AttentionArgs&);
  void (*attend_finish)(const AttentionArgs&, int parts, size_t part_stride);
  void (*sample_row)(const SampleRow&, SampleScratch&);
  void (*name_candidates)(const SampleRow&, SampleColumns, int count, Candidate* out, SampleScratch&);
  void (*sample_candidates)(const SampleRow&, const Candidate* const* lists, int members, int count, SampleScratch&);
};

namespace portable {
const Kernels& kernels();
}
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace amx {
const Kernels* kernels();           // null where the compiler does not know tiles
const Kernels& emulated_kernels();  // for tests; runs wherever avx512 does
}  // namespace amx

}  // namespace forerun

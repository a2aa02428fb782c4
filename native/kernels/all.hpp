// Everything that is compiled once per instruction set; the including file has chosen the vectors before.
#pragma once
// clang-format off
#include "kernels/table.hpp"
#include "kernels/math.hpp"
#include "kernels/packed_block.hpp"
#include "kernels/linear_sums.hpp"
#include "kernels/linear_group.hpp"
#include "kernels/linear_int.hpp"
#include "kernels/bare_mix.hpp"
#include "kernels/linear_float.hpp"
#include "kernels/rows.hpp"
#include "kernels/kv.hpp"
#include "kernels/attention_tile.hpp"
#include "kernels/attention.hpp"
#include "kernels/sampling.hpp"
// clang-format on

namespace forerun::FORERUN_ISA {

static void linear(const LinearArgs& a) {
  with_format(a.format, [&]<Format F>() {
    if constexpr (is_integer(F)) {
      linear_int<F>(a);
    } else {
      linear_float<F>(a);
    }
  });
}

static Kernels make_kernels(const char* name) {
  return {name,    linear,       linear_scratch_bytes, bare_mix,   rms_norm,        quantize_row,     embedding_row,
          rope_kv, attend_tiles, attend_finish,        sample_row, name_candidates, sample_candidates};
}

}  // namespace forerun::FORERUN_ISA

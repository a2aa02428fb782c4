// Everything that is compiled once per instruction set; the including file has chosen the vectors before.
#pragma once
// clang-format off
#include "kernels/table.hpp"
#include "kernels/math.hpp"
#include "kernels/linear_int.hpp"
#include "kernels/linear_float.hpp"
#include "kernels/rows.hpp"
#include "kernels/kv.hpp"
#include "kernels/attention.hpp"
#include "kernels/sampling.hpp"
// clang-format on

namespace forerun::FORERUN_ISA {

static void linear(const LinearArgs& a) {
  switch (a.format) {
    case Format::Float32:
      return linear_float<Format::Float32>(a);
    case Format::BFloat16:
      return linear_float<Format::BFloat16>(a);
    case Format::Int4F16Min:
      return linear_int<Format::Int4F16Min>(a);
    case Format::Int4F32Min:
      return linear_int<Format::Int4F32Min>(a);
    case Format::Int4F16:
      return linear_int<Format::Int4F16>(a);
    case Format::Int8F16:
      return linear_int<Format::Int8F16>(a);
    case Format::Int8F16Min:
      return linear_int<Format::Int8F16Min>(a);
    case Format::Int8Channel:
      return linear_int<Format::Int8Channel>(a);
  }
}

static Kernels make_kernels(const char* name) {
  return {name,          linear,  linear_scratch_bytes, rms_norm,      quantize_row,
          embedding_row, rope_kv, attend_tiles,         attend_finish, sample_row};
}

}  // namespace forerun::FORERUN_ISA

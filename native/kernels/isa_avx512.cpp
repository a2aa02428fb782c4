// The kernels compiled for the instruction set "avx512"; flags: native/CMakeLists.txt.
#include "kernels/types.hpp"
// clang-format off
#include "kernels/simd_avx512.hpp"
#include "kernels/all.hpp"
// clang-format on

namespace forerun::avx512 {
const Kernels& kernels() {
  static const Kernels table = make_kernels("avx512");
  return table;
}
}  // namespace forerun::avx512

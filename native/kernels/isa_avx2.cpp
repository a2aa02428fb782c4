// The kernels compiled for the instruction set "avx2"; flags: native/CMakeLists.txt.
#include "kernels/types.hpp"
// clang-format off
#include "kernels/simd_avx2.hpp"
#include "kernels/all.hpp"
// clang-format on

namespace forerun::avx2 {
const Kernels& kernels() {
  static const Kernels table = make_kernels("avx2");
  return table;
}
}  // namespace forerun::avx2

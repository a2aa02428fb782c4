// The kernels compiled for the instruction set "portable"; flags: native/CMakeLists.txt.
#include "kernels/types.hpp"
// clang-format off
#include "kernels/simd_portable.hpp"
#include "kernels/all.hpp"
// clang-format on

namespace forerun::portable {
const Kernels& kernels() {
  static const Kernels table = make_kernels("portable");
  return table;
}
}  // namespace forerun::portable

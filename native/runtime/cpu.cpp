#include "runtime/cpu.hpp"

#include <algorithm>
#include <stdexcept>

#include "runtime/amx.hpp"

namespace forerun {
namespace {

constexpr char kEmulated[] = "amx_emulated";

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::vector<std::string> usable_isas() {
  std::vector<std::string> isas{"portable"};
#if defined(__x86_64__)
  __builtin_cpu_init();  // reads CPUID and, for the wide registers, XCR0
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) isas.push_back("avx2");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    isas.push_back("avx512");
    if (amx_usable()) isas.push_back("amx");
  }
#endif
  return isas;
}

std::vector<std::string> testable_isas() {
  std::vector<std::string> isas = usable_isas();
  if (contains(isas, "avx512")) isas.push_back(kEmulated);
  return isas;
}

const Kernels& kernels_for(const std::string& isa) {
  if (!contains(testable_isas(), isa)) {
    std::string known;
    for (const std::string& name : usable_isas()) known += (known.empty() ? "" : ", ") + name;
    throw std::invalid_argument("instruction set '" + isa + "' is not usable on this processor (usable: " + known +
                                ")");
  }
#if defined(__x86_64__)
  if (isa == kEmulated) return amx::emulated_kernels();
  if (isa == "amx") return *amx::kernels();
  if (isa == "avx512") return avx512::kernels();
  if (isa == "avx2") return avx2::kernels();
#endif
  return portable::kernels();
}

}  // namespace forerun

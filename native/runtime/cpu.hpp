// What this processor can run, asked from the processor itself.
#pragma once
#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace forerun {

// Names of the usable instruction sets, lowest first ("portable", "avx2", "avx512", "amx").
std::vector<std::string> usable_isas();
// Those and, beside avx512, "amx_emulated": the kernels of amx with tile registers in memory. Exact, but slow.
std::vector<std::string> testable_isas();
// The kernels of one of these; throws std::invalid_argument for a name that is unknown or not usable here.
const Kernels& kernels_for(const std::string& isa);

}  // namespace forerun

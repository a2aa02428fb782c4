// What this processor can run, asked from the processor itself.
#pragma once
#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace forerun {

// Names of the usable instruction sets, lowest first ("portable", "avx2", "avx512").
std::vector<std::string> usable_isas();
// The kernels of one of them; throws std::invalid_argument for a name that is unknown or not usable here.
const Kernels& kernels_for(const std::string& isa);

}  // namespace forerun

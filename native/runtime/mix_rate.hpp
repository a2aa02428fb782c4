// How fast an instruction set can do an integer layer's operations: the limit that prompts are measured against.
#pragma once
#include "kernels/table.hpp"

namespace forerun {

// Products and additions per second of the best of some short rounds of `threads` threads, everything in their first
// caches. Throws std::invalid_argument outside 1..256 threads.
double mix_rate(const Kernels& kernels, int threads);

}  // namespace forerun

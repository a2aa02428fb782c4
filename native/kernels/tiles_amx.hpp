// The processor's tile registers (AMX-TILE, AMX-INT8), configured while an object lives.
#pragma once
#include <cstddef>

#include "kernels/tiles.hpp"

namespace forerun::amx {

// In assembly with "memory" clobbers: the intrinsics of some compilers do not say that they touch memory, and stores
// before or loads behind them may then move across.
template <int Elements>
struct HardwareTiles {
  HardwareTiles() { asm volatile("ldtilecfg %0" : : "m"(kTileConfig<Elements>) : "memory"); }
  ~HardwareTiles() { asm volatile("tilerelease" : : : "memory"); }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;

  template <int Tile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(Tile) : "memory");
  }
  template <int Tile>
  void load(const void* from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
  }
  template <int Tile>
  void store(void* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
  }
  // Sum += signed activations * weights, signed or unsigned. The last operand is the sum, the first the weights.
  template <bool SignedWeights, int Sum, int Activations, int Weights>
  void multiply() {
    if constexpr (SignedWeights) {
      asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Activations), "i"(Weights) : "memory");
    } else {
      asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Activations), "i"(Weights) : "memory");
    }
  }
};

}  // namespace forerun::amx

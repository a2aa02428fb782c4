// Tile registers in plain C++, to run the tile kernel on processors without them. As in the processor, the shapes are
// those of the configuration and everything outside them is zero.
#pragma once
#include <cstddef>
#include <cstring>

#include "kernels/tiles.hpp"

namespace forerun::amx {

template <int Elements>
class EmulatedTiles {
 public:
  template <int Tile>
  void zero() {
    std::memset(tiles_[Tile], 0, sizeof tiles_[Tile]);
  }
  template <int Tile>
  void load(const void* from, size_t stride) {
    zero<Tile>();
    for (int r = 0; r < kConfig.rows[Tile]; ++r)
      std::memcpy(tiles_[Tile][r], static_cast<const uint8_t*>(from) + r * stride, kConfig.row_bytes[Tile]);
  }
  template <int Tile>
  void store(void* to, size_t stride) const {
    for (int r = 0; r < kConfig.rows[Tile]; ++r)
      std::memcpy(static_cast<uint8_t*>(to) + r * stride, tiles_[Tile][r], kConfig.row_bytes[Tile]);
  }
  template <bool SignedWeights, int Sum, int Activations, int Weights>
  void multiply() {
    constexpr int kRows = kConfig.rows[Sum], kColumns = kConfig.row_bytes[Sum] / 4;
    constexpr int kQuadruples = kConfig.rows[Weights];
    static_assert(kConfig.rows[Activations] == kRows && kConfig.row_bytes[Activations] == 4 * kQuadruples &&
                  kConfig.row_bytes[Weights] == 4 * kColumns);
    int32_t sums[kRows][16], weights[4 * kQuadruples][kColumns];
    std::memcpy(sums, tiles_[Sum], sizeof sums);
    for (int k = 0; k < 4 * kQuadruples; ++k)
      for (int n = 0; n < kColumns; ++n) {
        const uint8_t w = tiles_[Weights][k / 4][4 * n + k % 4];
        weights[k][n] = SignedWeights ? static_cast<int8_t>(w) : w;
      }
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < 4 * kQuadruples; ++k) {
        const int32_t a = static_cast<int8_t>(tiles_[Activations][r][k]);
        for (int n = 0; n < kColumns; ++n) sums[r][n] += a * weights[k][n];
      }
    std::memcpy(tiles_[Sum], sums, sizeof sums);
  }

 private:
  static constexpr const TileConfig& kConfig = kTileConfig<Elements>;
  uint8_t tiles_[kTiles][16][64] = {};
};

}  // namespace forerun::amx

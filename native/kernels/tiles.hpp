// Tile registers as the linear kernel uses them: who holds what, in the 64 bytes that ldtilecfg reads.
#pragma once
#include <cstdint>

namespace forerun::amx {

// Products gather in tiles 0-3 (16 rows x 16 int32 columns), activations are in 4 and 5 (16 rows x the elements that
// share a weight scale), weights in 6 and 7 (those elements as quadruples x 16 columns).
inline constexpr int kActivationTile = 4, kWeightTile = 6, kTiles = 8;

struct TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig make_tile_config(int elements) {
  TileConfig c;
  for (int tile = 0; tile < kTiles; ++tile) {
    c.row_bytes[tile] = static_cast<uint16_t>(tile >= kActivationTile && tile < kWeightTile ? elements : 64);
    c.rows[tile] = static_cast<uint8_t>(tile < kWeightTile ? 16 : elements / 4);
  }
  return c;
}
// Constant data, so that no store to it can be late.
template <int Elements>
inline constexpr TileConfig kTileConfig = make_tile_config(Elements);

}  // namespace forerun::amx

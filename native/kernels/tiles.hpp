// Tile registers as the linear kernel uses them: who holds what, in the 64 bytes that ldtilecfg reads.
#pragma once
#include <cstdint>

namespace forerun::amx {

// Products gather in tiles 0-3 (16 rows x 16 int32 columns), activations are in 4 and 5 (16 rows x a group of 32),
// weights in 6 and 7 (a group as 8 quadruples x 16 columns).
inline constexpr int kActivationTile = 4, kWeightTile = 6, kTiles = 8;

struct TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig make_tile_config() {
  TileConfig c;
  for (int tile = 0; tile < kTiles; ++tile) {
    c.row_bytes[tile] = tile >= kActivationTile && tile < kWeightTile ? 32 : 64;
    c.rows[tile] = tile < kWeightTile ? 16 : 8;
  }
  return c;
}
// Constant data, so that no store to it can be late.
inline constexpr TileConfig kTileConfig = make_tile_config();

}  // namespace forerun::amx

// The instruction set "amx": the kernels of "avx512" but for integer linear layers with many rows, which run on tile
// registers. Also built with emulated tiles, for tests on processors without them.
#include "kernels/table.hpp"
// clang-format off
#include "kernels/simd_avx512.hpp"
#include "kernels/math.hpp"
#include "kernels/packed_block.hpp"
#include "kernels/linear_sums.hpp"
#include "kernels/linear_group.hpp"
#include "kernels/linear_int.hpp"
#include "kernels/linear_tiles.hpp"
// clang-format on
#include "kernels/tiles_amx.hpp"
#include "kernels/tiles_emulated.hpp"

namespace forerun::amx {
namespace {

constexpr int kLeastRows = 16;  // below, a tile would be emptier than its panel's unpacking is worth

template <template <int> class Tiles>
void linear(const LinearArgs& a) {
  if (!a.tiles || a.rows < kLeastRows) return avx512::kernels().linear(a);
  with_format(a.format, [&]<Format F>() {
    if constexpr (is_integer(F)) {
      for (int row = 0; row < a.rows; row += kMostRows)
        avx512::linear_tiles<F, Tiles<coding(F).group>>(avx512::rows_of(a, row, kMostRows));
    } else {
      avx512::kernels().linear(a);
    }
  });
}

size_t linear_scratch(int blocks) {
  const size_t other = avx512::kernels().linear_scratch(blocks), own = avx512::tile_scratch_bytes(blocks);
  return own > other ? own : other;
}

template <template <int> class Tiles>
Kernels make_kernels(const char* name) {
  Kernels table = avx512::kernels();
  table.name = name;
  table.linear = linear<Tiles>;
  table.linear_scratch = linear_scratch;
  return table;
}

}  // namespace

const Kernels* kernels() {
#ifdef __AMX_INT8__
  static const Kernels table = make_kernels<HardwareTiles>("amx");
  return &table;
#else
  return nullptr;
#endif
}

const Kernels& emulated_kernels() {
  static const Kernels table = make_kernels<EmulatedTiles>("amx_emulated");
  return table;
}

}  // namespace forerun::amx

// Integer linear layers for many rows on tile registers: a tile holds the exact products of 16 rows and 16 columns over
// one group of 32; vector registers then do the float operations of linear_int.hpp in the same order. Those are the
// larger part of the work (two to four operations per row, panel and group), so tile products always run one block
// ahead, in their shadow.
#pragma once
#include "kernels/tiles.hpp"

namespace forerun::FORERUN_ISA {

inline constexpr int kTileHeight = 16;    // rows of a tile
inline constexpr int kTilesTogether = 4;  // tiles of rows that pass a block of weights while it is in the first cache
inline constexpr int kFoldRows = 8;       // rows whose sums are in registers together, for two panels
inline constexpr int kPackedTiles = 16;   // tiles of rows that are packed together at most
inline constexpr int kPackedKiB = 1024;   // and how much of the second cache they may take

// A block (64 of K) of one plane of 16 rows, as tiles and the vector registers read it; rows beyond the last are zero.
struct alignas(64) RowsBlock {
  int8_t q[kTileHeight][kBlock];
  float scale[2][kTileHeight], offset[2][kTileHeight], scaled_sum[2][3][kTileHeight];
};

// 64 of K of a panel: its groups and their parts as tiles, scales and minima widened. Formats without a minimum have
// their zero subtracted.
struct alignas(64) PanelBlock {
  uint8_t values[2][kGroup * kPanel];
  float scale[2][2][kPanel];
  float minimum[2][2][kPanel];
};

// Packed panels as the kernels for vector registers read them, for the few groups with a second plane.
template <Format F, int Panels>
struct BlockedPanels {
  using T = Traits<F>;
  const PanelBlock* blocks;

  FORERUN_METHOD const PanelBlock& block(int group, int p) const { return blocks[group / 2 * Panels + p]; }
  FORERUN_METHOD u8x64 values(int group, int i, int p) const {
    const u8x64 v = load_u8(block(group, p).values[group % 2] + i * 64);
    return {_mm512_add_epi8(v.v, _mm512_set1_epi8(static_cast<char>(T::kZero)))};
  }
  FORERUN_METHOD f32x16 scale(int group, int part, int p) const { return load(block(group, p).scale[group % 2][part]); }
  FORERUN_METHOD f32x16 minimum(int group, int part, int p) const {
    return load(block(group, p).minimum[group % 2][part]);
  }
};

// Products of two blocks, that at hand and the next: per group, part, turn and panel, [16 rows][16 columns]. Processors
// compare the addresses of loads and earlier stores modulo 4096; in this order what is loaded in one turn never looks
// like what is being stored in the other.
template <int Parts>
struct alignas(4096) Products {
  int32_t sums[2][Parts][2][2][kTileHeight * kPanel];
};

constexpr int packed_tiles(int blocks) {
  const int fit = kPackedKiB / blocks;
  return fit < kTilesTogether ? kTilesTogether : fit > kPackedTiles ? kPackedTiles : fit;
}
// What prepare_rows needs, both planes of the rows, two panels.
constexpr size_t tile_scratch_bytes(int blocks) {
  return linear_scratch_bytes(blocks) +
         static_cast<size_t>(blocks) * (2 * packed_tiles(blocks) * sizeof(RowsBlock) + 2 * sizeof(PanelBlock));
}

// A plane of up to 16 rows, `stride` groups apart; `to` has one entry per block.
static void pack_rows(const QuantGroup* from, int stride, int rows, RowsBlock* to) {
  static constexpr QuantGroup kNone = {};
  for (int g = 0; g < stride; g += 2, ++to)
    for (int r = 0; r < kTileHeight; ++r)
      for (int half = 0; half < 2; ++half) {
        const QuantGroup& x = r < rows ? from[static_cast<size_t>(r) * stride + g + half] : kNone;
        std::memcpy(to->q[r] + half * kGroup, x.q, kGroup);
        to->scale[half][r] = x.scale, to->offset[half][r] = x.offset;
        for (int n = 0; n < 3; ++n) to->scaled_sum[half][n][r] = x.scaled_sum[n];
      }
}

// One panel; `to` has an entry per block for each of `panels` panels in turn.
template <Format F>
void pack_panel(const LinearArgs& a, int panel, PanelBlock* to, int panels) {
  using T = Traits<F>;
  const auto centre = [](u8x64 v) __attribute__((always_inline)) {
    return u8x64{_mm512_sub_epi8(v.v, _mm512_set1_epi8(static_cast<char>(T::kZero)))};
  };
  const uint8_t* base = a.weights + T::bytes_of(a.blocks) * panel;
  for (int g = 0; g < a.blocks * 2; ++g) {
    const uint8_t* w = base + T::kBytes * (g / T::kGroups);
    const int group = g % T::kGroups, half = g % 2;
    PanelBlock& block = to[static_cast<size_t>(g / 2) * panels];
    FORERUN_UNROLL
    for (int i = 0; i < 8; ++i) store_u8(block.values[half] + i * 64, centre(T::values(w, 0, group, i)));
    for (int part = 0; part < T::kParts; ++part) {
      if constexpr (!T::kChannel) store(block.scale[half][part], T::scale(w, group, part));
      if constexpr (T::kMin) store(block.minimum[half][part], T::minimum(w, group, part));
    }
  }
}

// One group's products of 16 rows with all panels.
template <class T, int Half, int Panels, class Tiles>
FORERUN_INLINE void multiply_group(Tiles& tiles, const RowsBlock& x, const PanelBlock* w, Products<T::kParts>& to,
                                   int turn) {
  constexpr int kSum = 2 * Half, kActivations = amx::kActivationTile + Half, kWeights = amx::kWeightTile;
  constexpr int kLength = kGroup / T::kParts;
  constexpr bool kSigned = !T::kMin;
  for (int part = 0; part < T::kParts; ++part) {
    const int first = part * kLength;
    tiles.template load<kActivations>(x.q[0] + Half * kGroup + first, kBlock);
    tiles.template load<kWeights>(w[0].values[Half] + first * kPanel, 64);
    tiles.template zero<kSum>();
    tiles.template multiply<kSigned, kSum, kActivations, kWeights>();
    if constexpr (Panels == 2) {
      tiles.template load<kWeights + 1>(w[1].values[Half] + first * kPanel, 64);
      tiles.template zero<kSum + 1>();
      tiles.template multiply<kSigned, kSum + 1, kActivations, kWeights + 1>();
    }
    tiles.template store<kSum>(to.sums[Half][part][turn][0], 64);
    if constexpr (Panels == 2) tiles.template store<kSum + 1>(to.sums[Half][part][turn][1], 64);
  }
}

// The float operations of a group's part for kFoldRows rows from `first` on, as add_part has them.
template <class T, bool Min, int Panels>
FORERUN_INLINE void fold_products(f32x16 (&acc)[kFoldRows * Panels], const RowsBlock& x, const PanelBlock* w,
                                  const Products<T::kParts>& products, int turn, int half, int part, int first) {
  const float* scaled_sum = x.scaled_sum[half][T::kParts == 1 ? 0 : 1 + part];
  f32x16 d[Panels], m[Panels];
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    if constexpr (!T::kChannel) d[p] = load(w[p].scale[half][part]);
    if constexpr (Min) m[p] = load(w[p].minimum[half][part]);
  }
  FORERUN_UNROLL
  for (int r = 0; r < kFoldRows; ++r) {
    const f32x16 s = set1(x.scale[half][first + r]), offset = set1(x.offset[half][first + r]);
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) {
      const i32x16 whole = load_i32(products.sums[half][part][turn][p] + (first + r) * kPanel);
      f32x16& sum = acc[r * Panels + p];
      const f32x16 t = fma(bits_to_f32(add(whole, set1(kUnitBits))), s, offset);
      if constexpr (T::kChannel) {
        sum = add(sum, t);
      } else {
        sum = fma(t, d[p], sum);
      }
      if constexpr (Min) sum = fma(m[p], set1(scaled_sum[first + r]), sum);
    }
  }
}

// Both groups of a block into the sums of kFoldRows rows.
template <class T, bool Min, int Panels>
FORERUN_INLINE void fold_block(f32x16* sums, const RowsBlock& x, const PanelBlock* w,
                               const Products<T::kParts>& products, int turn, int first) {
  f32x16 acc[kFoldRows * Panels];
  FORERUN_UNROLL
  for (int i = 0; i < kFoldRows * Panels; ++i) acc[i] = sums[first * Panels + i];
  for (int half = 0; half < 2; ++half)
    for (int part = 0; part < T::kParts; ++part)
      fold_products<T, Min, Panels>(acc, x, w, products, turn, half, part, first);
  FORERUN_UNROLL
  for (int i = 0; i < kFoldRows * Panels; ++i) sums[first * Panels + i] = acc[i];
}

// `tiles` tiles of packed rows, of which `rows` rows exist, from row `row` on. `low`: where all groups are fine.
struct PackedRows {
  const RowsBlock *blocks, *low;  // [tiles][blocks of K]
  int row, rows, tiles;
};

// One plane of up to kTilesTogether tiles of rows against one or two packed panels. `rest`: [segment][row][panel] to
// add, or null. `ahead`: panels that are fetched meanwhile.
template <Format F, bool Min, int Panels, class Tiles>
void pass_plane(Tiles& tiles, const LinearArgs& a, const PackedRows& x, const RowsBlock* blocks, const PanelBlock* w,
                const uint8_t* ahead, const f32x16* rest, f32x16 (&sums)[kTilesTogether * kTileHeight * Panels]) {
  using T = Traits<F>;
  constexpr int kSums = kTileHeight * Panels;                          // of one tile of rows
  constexpr size_t kShare = T::kBytes * Panels / (T::kSpan / kBlock);  // of the next panels, for each block
  Tree<kTilesTogether * kSums> tree;
  Products<T::kParts> products;
  multiply_group<T, 0, Panels>(tiles, blocks[0], w, products, 0);
  multiply_group<T, 1, Panels>(tiles, blocks[0], w, products, 0);
  int turn = 0;
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : sums) v = set1(0.0f);
    for (int block = segment_begin(a, segment); block < segment_begin(a, segment + 1); ++block) {
      if (ahead)
        for (size_t at = 0; at < kShare; at += 64) __builtin_prefetch(ahead + kShare * block + at, 0, 2);
      for (int tile = 0; tile < x.tiles; ++tile, turn ^= 1) {
        const bool last = tile + 1 == x.tiles, more = !last || block + 1 < a.blocks;
        const RowsBlock& now = blocks[static_cast<size_t>(tile) * a.blocks + block];
        const RowsBlock& next = last ? blocks[block + 1] : *(&now + a.blocks);
        const PanelBlock *own = w + block * Panels, *next_own = last ? own + Panels : own;
        if (more) multiply_group<T, 0, Panels>(tiles, next, next_own, products, turn ^ 1);
        fold_block<T, Min, Panels>(sums + tile * kSums, now, own, products, turn, 0);
        if (more) multiply_group<T, 1, Panels>(tiles, next, next_own, products, turn ^ 1);
        if (x.rows - tile * kTileHeight > kFoldRows)
          fold_block<T, Min, Panels>(sums + tile * kSums, now, own, products, turn, kFoldRows);
      }
    }
    if (rest)
      for (int i = 0; i < x.rows * Panels; ++i) sums[i] = add(sums[i], rest[segment * x.rows * Panels + i]);
    tree.push(sums);
  }
}

template <Format F, int Panels, class Tiles>
void pass_panels(Tiles& tiles, const LinearArgs& a, const PreparedRows& prepared, const PackedRows& x, int panel,
                 const PanelBlock* w, const uint8_t* ahead) {
  constexpr int kSums = kTilesTogether * kTileHeight * Panels;
  alignas(4096) f32x16 sums[kSums];  // placed like the products
  f32x16 rest[kMostSplits * kSums];
  if (prepared.all_fine) {
    pass_plane<F, false, Panels>(tiles, a, x, x.low, w, nullptr, nullptr, sums);
    for (int i = 0; i < kSums; ++i) rest[i] = sums[i];
  } else {
    for (int i = 0; i < a.splits * x.rows * Panels; ++i) rest[i] = set1(0.0f);
    add_fine_groups<Panels>(rest, BlockedPanels<F, Panels>{w}, prepared, x.row, x.rows);
  }
  pass_plane<F, Traits<F>::kMin, Panels>(tiles, a, x, x.blocks, w, ahead, rest, sums);
  finish_rows<Panels>(a, x.row, x.rows, panel, sums);
}

template <Format F, int Panels, class Tiles>
void tile_panels(Tiles& tiles, const LinearArgs& a, const PreparedRows& prepared, const PackedRows& x, int panel,
                 PanelBlock* w) {
  for (int p = 0; p < Panels; ++p) pack_panel<F>(a, panel + p, w + p, Panels);
  const uint8_t* ahead = a.weights + FormatTraits<F>::bytes_of(a.blocks) * (panel + Panels);
  for (int tile = 0; tile < x.tiles; tile += kTilesTogether) {
    const int most = x.tiles - tile < kTilesTogether ? x.tiles - tile : kTilesTogether;
    const int done = tile * kTileHeight, left = x.rows - done;
    const size_t at = static_cast<size_t>(tile) * a.blocks;
    const PackedRows part = {x.blocks + at, x.low + at, x.row + done,
                             left < most * kTileHeight ? left : most * kTileHeight, most};
    const bool more = tile == 0 && panel + Panels < a.panel_end;
    pass_panels<F, Panels>(tiles, a, prepared, part, panel, w, more ? ahead : nullptr);
  }
}

// Rows are packed in parts of nearly equal size, and all panels visited for each.
template <Format F, class Tiles>
void linear_tiles(const LinearArgs& a) {
  Tiles tiles;
  const PreparedRows prepared = prepare_rows<Traits<F>>(a);
  const int height = (a.rows + kTileHeight - 1) / kTileHeight, most = packed_tiles(a.blocks);
  const int parts = (height + most - 1) / most, part_tiles = (height + parts - 1) / parts;
  RowsBlock* high = reinterpret_cast<RowsBlock*>(a.scratch + linear_scratch_bytes(a.blocks));
  RowsBlock* low = high + static_cast<size_t>(most) * a.blocks;
  PanelBlock* w = reinterpret_cast<PanelBlock*>(low + static_cast<size_t>(most) * a.blocks);
  for (int row = 0; row < a.rows; row += part_tiles * kTileHeight) {
    const int left = a.rows - row, count = left < part_tiles * kTileHeight ? left : part_tiles * kTileHeight;
    const PackedRows x = {high, low, row, count, (count + kTileHeight - 1) / kTileHeight};
    for (int tile = 0; tile < x.tiles; ++tile) {
      const int rest = count - tile * kTileHeight, rows = rest < kTileHeight ? rest : kTileHeight;
      const size_t from = static_cast<size_t>(row + tile * kTileHeight) * a.quant.groups,
                   to = static_cast<size_t>(tile) * a.blocks;
      pack_rows(a.quant.high + from, a.quant.groups, rows, high + to);
      if (prepared.all_fine) pack_rows(a.quant.low + from, a.quant.groups, rows, low + to);
    }
    int panel = a.panel_begin;
    for (; panel + 2 <= a.panel_end; panel += 2) tile_panels<F, 2>(tiles, a, prepared, x, panel, w);
    if (panel < a.panel_end) tile_panels<F, 1>(tiles, a, prepared, x, panel, w);
  }
}

}  // namespace forerun::FORERUN_ISA

// Integer linear layers for many rows on tile registers: a tile holds the exact products of 16 rows and 16 columns over
// the elements that share a weight scale, a group or half of one; vector registers then do the float operations of
// linear_int.hpp in the same order. Those are the larger part of the work (two to four operations per row, panel and
// group), so tile products always run one block ahead, in their shadow.
#pragma once
#include "kernels/tiles.hpp"

namespace forerun::FORERUN_ISA {

inline constexpr int kTileHeight = 16;    // rows of a tile
inline constexpr int kTilesTogether = 4;  // tiles of rows that pass a block of weights while it is in the first cache
inline constexpr int kFoldRows = 8;       // rows whose sums are in registers together, for two panels
inline constexpr int kPackedTiles = 16;   // tiles of rows that are packed together at most
inline constexpr int kPackedKiB = 1024;   // and how much of the second cache they may take

// A block (64 of K) of 16 rows, as tiles and the vector registers read it; rows beyond the last are zero. `scale`
// counts in units of the product that is made: that of both planes where `fine`, else that of `high` alone.
struct alignas(64) RowsBlock {
  int8_t high[kTileHeight][kBlock];
  int8_t low[kTileHeight][kBlock];  // only where fine
  float scale[2][kTileHeight];
  float scaled_sum[2][kTileHeight];
  float half_sum[2][kTileHeight];  // of the group's first 16, scaled as well
  float rest_sum[2][kTileHeight];  // of its last 16
  bool fine[2];                    // of each group: whether any of the rows is
};

// 64 of K of a panel: its groups and their parts as tiles, scales and minima widened. Formats without a minimum have
// their zero subtracted.
struct alignas(64) PanelBlock {
  uint8_t values[2][kGroup * kPanel];
  float scale[2][2][kPanel];
  float minimum[2][2][kPanel];
};

// Products of two blocks, that at hand and the next: per group, part, turn and panel, [16 rows][16 columns]. Processors
// compare the addresses of loads and earlier stores modulo 4096; in this order what is loaded in one turn never looks
// like what is being stored in the other.
template <int Parts>
struct alignas(4096) Products {
  int32_t high[2][Parts][2][2][kTileHeight * kPanel];
  int32_t low[2][Parts][2][2][kTileHeight * kPanel];
};

constexpr int packed_tiles(int blocks) {
  const int fit = kPackedKiB / blocks;
  return fit < kTilesTogether ? kTilesTogether : fit > kPackedTiles ? kPackedTiles : fit;
}
constexpr size_t tile_scratch_bytes(int blocks) {
  return static_cast<size_t>(blocks) * (packed_tiles(blocks) * sizeof(RowsBlock) + 2 * sizeof(PanelBlock));
}

// Two numbers of 32 bits of each of 16 rows, `stride` of them apart, as one vector per position; zero where the mask
// is.
FORERUN_INLINE void gather_pairs(const void* from, int stride, uint32_t mask, f32x16& first, f32x16& second) {
  const __m256i at = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(stride));
  const auto eight = [&](int row) __attribute__((always_inline)) {
    return _mm512_castpd_ps(
        _mm512_mask_i32gather_pd(_mm512_setzero_pd(), static_cast<__mmask8>(mask >> row), at,
                                 static_cast<const float*>(from) + static_cast<size_t>(row) * stride, 4));
  };
  const __m512 low = eight(0), high = eight(8);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  first = {_mm512_permutex2var_ps(low, even, high)};
  second = {_mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high)};
}

FORERUN_INLINE void copy_rows(int8_t (&to)[kTileHeight][kBlock], const int8_t* from, size_t stride, int rows) {
  for (int r = 0; r < kTileHeight; ++r)
    _mm512_store_si512(to[r], r < rows ? _mm512_loadu_si512(from + r * stride) : _mm512_setzero_si512());
}

// Up to 16 rows from `row` on; `to` has one entry per block.
static void pack_rows(const QuantRows& q, int row, int rows, RowsBlock* to) {
  const int groups = q.k / kGroup;
  const uint32_t mask = (1u << rows) - 1;
  const size_t first = static_cast<size_t>(row) * groups;
  for (int g = 0; g < groups; g += 2, ++to) {
    const size_t at = static_cast<size_t>(row) * q.k + static_cast<size_t>(g) * kGroup;
    copy_rows(to->high, q.high + at, q.k, rows);
    int fine[2] = {};
    for (int r = 0; r < rows; ++r)
      for (int half = 0; half < 2; ++half) fine[half] |= q.fine[first + static_cast<size_t>(r) * groups + g + half];
    if (fine[0] | fine[1]) copy_rows(to->low, q.low + at, q.k, rows);
    f32x16 s[2], mu[2], sum[2], half_sum[2];
    gather_pairs(q.scale + first + g, groups, mask, s[0], s[1]);
    gather_pairs(q.scaled_sum + first + g, groups, mask, mu[0], mu[1]);
    gather_pairs(q.sum + first + g, groups, mask, sum[0], sum[1]);
    gather_pairs(q.half_sum + first + g, groups, mask, half_sum[0], half_sum[1]);
    for (int half = 0; half < 2; ++half) {
      to->fine[half] = fine[half] != 0;
      store(to->scale[half], mul(s[half], set1(fine[half] ? 1.0f : 128.0f)));
      store(to->scaled_sum[half], mu[half]);
      const i32x16 all = bits_to_i32(sum[half]), begin = bits_to_i32(half_sum[half]);
      store(to->half_sum[half], mul(s[half], to_f32(begin)));
      store(to->rest_sum[half], mul(s[half], to_f32(sub(all, begin))));
    }
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
  const auto plane = [&](const int8_t* from, int part, int32_t(&out)[2][kTileHeight * kPanel])
      __attribute__((always_inline)) {
    const int first = part * kLength;
    tiles.template load<kActivations>(from + Half * kGroup + first, kBlock);
    tiles.template load<kWeights>(w[0].values[Half] + first * kPanel, 64);
    tiles.template zero<kSum>();
    tiles.template multiply<kSigned, kSum, kActivations, kWeights>();
    if constexpr (Panels == 2) {
      tiles.template load<kWeights + 1>(w[1].values[Half] + first * kPanel, 64);
      tiles.template zero<kSum + 1>();
      tiles.template multiply<kSigned, kSum + 1, kActivations, kWeights + 1>();
    }
    tiles.template store<kSum>(out[0], 64);
    if constexpr (Panels == 2) tiles.template store<kSum + 1>(out[1], 64);
  };
  for (int part = 0; part < T::kParts; ++part) {
    plane(x.high[0], part, to.high[Half][part][turn]);
    if (x.fine[Half]) plane(x.low[0], part, to.low[Half][part][turn]);
  }
}

// The sums of a part of a group that a format's minima are multiplied with.
template <class T>
FORERUN_INLINE const float* scaled_sums(const RowsBlock& x, int half, int part) {
  if constexpr (T::kParts == 1) return x.scaled_sum[half];
  return part ? x.rest_sum[half] : x.half_sum[half];
}

// The float operations of a group's part for kFoldRows rows from `first` on.
template <class T, bool Fine, int Panels>
FORERUN_INLINE void fold_products(f32x16 (&acc)[kFoldRows * Panels], const RowsBlock& x, const PanelBlock* w,
                                  const Products<T::kParts>& products, int turn, int half, int part, int first) {
  const float* scaled = scaled_sums<T>(x, half, part);
  f32x16 d[Panels], m[Panels];
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    d[p] = m[p] = set1(0.0f);
    if constexpr (!T::kChannel) d[p] = load(w[p].scale[half][part]);
    if constexpr (T::kMin) m[p] = load(w[p].minimum[half][part]);
  }
  FORERUN_UNROLL
  for (int r = 0; r < kFoldRows; ++r) {
    const float s = x.scale[half][first + r], mu = scaled[first + r];
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) {
      const int at = (first + r) * kPanel;
      i32x16 whole = load_i32(products.high[half][part][turn][p] + at);
      if constexpr (Fine) whole = add(shl<7>(whole), load_i32(products.low[half][part][turn][p] + at));
      f32x16& sum = acc[r * Panels + p];
      sum = fold_group<T::kChannel, T::kMin>(sum, to_f32(whole), s, mu, d[p], m[p]);
    }
  }
}

// Both groups of a block into the sums of kFoldRows rows.
template <class T, int Panels>
FORERUN_INLINE void fold_block(f32x16* sums, const RowsBlock& x, const PanelBlock* w,
                               const Products<T::kParts>& products, int turn, int first) {
  f32x16 acc[kFoldRows * Panels];
  FORERUN_UNROLL
  for (int i = 0; i < kFoldRows * Panels; ++i) acc[i] = sums[first * Panels + i];
  for (int half = 0; half < 2; ++half)
    for (int part = 0; part < T::kParts; ++part)
      if (x.fine[half]) {
        fold_products<T, true, Panels>(acc, x, w, products, turn, half, part, first);
      } else {
        fold_products<T, false, Panels>(acc, x, w, products, turn, half, part, first);
      }
  FORERUN_UNROLL
  for (int i = 0; i < kFoldRows * Panels; ++i) sums[first * Panels + i] = acc[i];
}

// `tiles` tiles of packed rows, of which `rows` rows exist, from row `row` on.
struct PackedRows {
  const RowsBlock* blocks;  // [tiles][blocks of K]
  int row, rows, tiles;
};

// The rows of up to kTilesTogether tiles against one or two packed panels. `ahead`: panels that are fetched meanwhile.
template <Format F, int Panels, class Tiles>
void pass_panels(Tiles& tiles, const LinearArgs& a, const PackedRows& x, int panel, const PanelBlock* w,
                 const uint8_t* ahead) {
  using T = Traits<F>;
  constexpr int kSums = kTileHeight * Panels;                          // of one tile of rows
  constexpr size_t kShare = T::kBytes * Panels / (T::kSpan / kBlock);  // of the next panels, for each block
  Tree<kTilesTogether * kSums> tree;
  alignas(4096) f32x16 sums[kTilesTogether * kSums];  // placed like the products
  Products<T::kParts> products;
  multiply_group<T, 0, Panels>(tiles, x.blocks[0], w, products, 0);
  multiply_group<T, 1, Panels>(tiles, x.blocks[0], w, products, 0);
  int turn = 0;
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : sums) v = set1(0.0f);
    for (int block = segment_begin(a, segment); block < segment_begin(a, segment + 1); ++block) {
      if (ahead)
        for (size_t at = 0; at < kShare; at += 64) __builtin_prefetch(ahead + kShare * block + at, 0, 2);
      for (int tile = 0; tile < x.tiles; ++tile, turn ^= 1) {
        const bool last = tile + 1 == x.tiles, more = !last || block + 1 < a.blocks;
        const RowsBlock& now = x.blocks[static_cast<size_t>(tile) * a.blocks + block];
        const RowsBlock& next = last ? x.blocks[block + 1] : *(&now + a.blocks);
        const PanelBlock *own = w + block * Panels, *next_own = last ? own + Panels : own;
        if (more) multiply_group<T, 0, Panels>(tiles, next, next_own, products, turn ^ 1);
        fold_block<T, Panels>(sums + tile * kSums, now, own, products, turn, 0);
        if (more) multiply_group<T, 1, Panels>(tiles, next, next_own, products, turn ^ 1);
        if (x.rows - tile * kTileHeight > kFoldRows)
          fold_block<T, Panels>(sums + tile * kSums, now, own, products, turn, kFoldRows);
      }
    }
    tree.push(sums);
  }
  for (int r = 0; r < x.rows; ++r) {
    f32x16 out[Panels];
    for (int p = 0; p < Panels; ++p) out[p] = sums[r * Panels + p];
    finish<Panels>(a, x.row + r, panel, out);
  }
}

template <Format F, int Panels, class Tiles>
void tile_panels(Tiles& tiles, const LinearArgs& a, const PackedRows& x, int panel, PanelBlock* w) {
  for (int p = 0; p < Panels; ++p) pack_panel<F>(a, panel + p, w + p, Panels);
  const uint8_t* ahead = a.weights + FormatTraits<F>::bytes_of(a.blocks) * (panel + Panels);
  for (int tile = 0; tile < x.tiles; tile += kTilesTogether) {
    const int most = x.tiles - tile < kTilesTogether ? x.tiles - tile : kTilesTogether;
    const int done = tile * kTileHeight, left = x.rows - done;
    const PackedRows part = {x.blocks + static_cast<size_t>(tile) * a.blocks, x.row + done,
                             left < most * kTileHeight ? left : most * kTileHeight, most};
    pass_panels<F, Panels>(tiles, a, part, panel, w, tile == 0 && panel + Panels < a.panel_end ? ahead : nullptr);
  }
}

// Rows are packed in parts of nearly equal size, and all panels visited for each.
template <Format F, class Tiles>
void linear_tiles(const LinearArgs& a) {
  Tiles tiles;
  const int height = (a.rows + kTileHeight - 1) / kTileHeight, most = packed_tiles(a.blocks);
  const int parts = (height + most - 1) / most, part_tiles = (height + parts - 1) / parts;
  RowsBlock* rows = reinterpret_cast<RowsBlock*>(a.scratch);
  PanelBlock* w = reinterpret_cast<PanelBlock*>(rows + static_cast<size_t>(most) * a.blocks);
  for (int row = 0; row < a.rows; row += part_tiles * kTileHeight) {
    const int left = a.rows - row, count = left < part_tiles * kTileHeight ? left : part_tiles * kTileHeight;
    const PackedRows x = {rows, row, count, (count + kTileHeight - 1) / kTileHeight};
    for (int tile = 0; tile < x.tiles; ++tile) {
      const int rest = count - tile * kTileHeight;
      pack_rows(a.quant, row + tile * kTileHeight, rest < kTileHeight ? rest : kTileHeight,
                rows + static_cast<size_t>(tile) * a.blocks);
    }
    int panel = a.panel_begin;
    for (; panel + 2 <= a.panel_end; panel += 2) tile_panels<F, 2>(tiles, a, x, panel, w);
    if (panel < a.panel_end) tile_panels<F, 1>(tiles, a, x, panel, w);
  }
}

}  // namespace forerun::FORERUN_ISA

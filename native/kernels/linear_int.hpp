// Integer linear layers on vector registers: few rows unpack weights in registers, many share unpacked panels.
#pragma once

namespace forerun::FORERUN_ISA {

// Panels as they are stored. `ahead`: those that come next, null where others fetch them.
template <Format F, int Panels>
struct PackedPanels {
  using T = Traits<F>;
  const uint8_t *base, *ahead;
  size_t stride;

  FORERUN_METHOD u8x64 values(int group, int i, int p) const {
    return T::values(block(group), stride * p, group % T::kGroups, i);
  }
  FORERUN_METHOD f32x16 scale(int group, int part, int p) const {
    return T::scale(block(group) + stride * p, group % T::kGroups, part);
  }
  FORERUN_METHOD f32x16 minimum(int group, int part, int p) const {
    return T::minimum(block(group) + stride * p, group % T::kGroups, part);
  }
  // A group's share of a block of each of the next panels: a panel is too short for the hardware to keep its pace
  // across panels.
  FORERUN_METHOD void prefetch(int group) const {
    constexpr size_t kShare = (T::kBytes / 64 + T::kGroups - 1) / T::kGroups * 64;
    if (!ahead) return;
    const uint8_t* from = ahead + T::kBytes * (group / T::kGroups) + group % T::kGroups * kShare;
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p)
      for (size_t at = 0; at < kShare; at += 64) __builtin_prefetch(from + stride * p + at, 0, 2);
  }

 private:
  FORERUN_METHOD const uint8_t* block(int group) const { return base + T::kBytes * (group / T::kGroups); }
};

// Panels unpacked for many rows: bytes [k / 4][16][4], then float scales and minima [groups and their parts][16].
template <Format F, int Panels>
struct UnpackedPanels {
  using T = Traits<F>;
  uint8_t* base;
  int blocks;

  FORERUN_METHOD uint8_t* bytes(int group, int p) const {
    return base + p * unpacked_bytes(blocks) + static_cast<size_t>(group) * 512;
  }
  FORERUN_METHOD float* numbers(int which, int group, int part, int p) const {
    uint8_t* const first = base + p * unpacked_bytes(blocks) + static_cast<size_t>(blocks) * 1024;
    return reinterpret_cast<float*>(first) +
           (static_cast<size_t>(which * blocks * 2 + group) * T::kParts + part) * kPanel;
  }
  FORERUN_METHOD u8x64 values(int group, int i, int p) const { return load_u8(bytes(group, p) + i * 64); }
  FORERUN_METHOD f32x16 scale(int group, int part, int p) const { return load(numbers(0, group, part, p)); }
  FORERUN_METHOD f32x16 minimum(int group, int part, int p) const { return load(numbers(1, group, part, p)); }
  FORERUN_METHOD void prefetch(int) const {}
};

template <Format F, int Panels>
FORERUN_INLINE PackedPanels<F, Panels> packed_panels(const LinearArgs& a, int row, int panel) {
  const size_t stride = FormatTraits<F>::bytes_of(a.blocks);
  const uint8_t* base = a.weights + stride * panel;
  const uint8_t* next = panel + Panels < a.panel_end ? base + stride * Panels : a.following;
  return {base, row == 0 ? next : nullptr, stride};
}

template <Format F, int Panels>
void unpack_panels(const LinearArgs& a, int panel, const UnpackedPanels<F, Panels>& to) {
  using T = Traits<F>;
  const auto from = packed_panels<F, Panels>(a, 1, panel);
  for (int p = 0; p < Panels; ++p)
    for (int g = 0; g < a.blocks * 2; ++g) {
      FORERUN_UNROLL
      for (int i = 0; i < 8; ++i) store_u8(to.bytes(g, p) + i * 64, from.values(g, i, p));
      for (int part = 0; part < T::kParts; ++part) {
        if constexpr (!T::kChannel) store(to.numbers(0, g, part, p), from.scale(g, part, p));
        if constexpr (T::kMin) store(to.numbers(1, g, part, p), from.minimum(g, part, p));
      }
    }
}

template <class T>
void list_fine_groups(const LinearArgs& a, PreparedRows& to) {
  FineGroup* next = to.fine;
  for (int row = 0; row < a.rows; ++row) {
    to.fine_begin[row] = static_cast<int>(next - to.fine);
    const QuantGroup* x = a.quant.low + static_cast<size_t>(row) * a.quant.groups;
    int segment = 0;
    for (const QuantGroup* end = x + a.quant.fine[row]; x != end; ++x, ++next) {
      while (x->group >= 2 * segment_begin(a, segment + 1)) ++segment;
      *next = {x, {}, row, segment};
      fill_starts<T>(x, 1, next->start);
    }
  }
  to.fine_begin[a.rows] = static_cast<int>(next - to.fine);
}

template <class T>
PreparedRows prepare_rows(const LinearArgs& a) {
  PreparedRows to;
  to.high_starts = reinterpret_cast<int32_t*>(a.scratch);
  to.low_starts = to.high_starts + static_cast<size_t>(a.rows) * a.quant.groups * T::kParts;
  to.fine = reinterpret_cast<FineGroup*>(a.scratch + starts_bytes(a.blocks));
  to.fine_begin = reinterpret_cast<int*>(to.fine + static_cast<size_t>(a.rows) * a.quant.groups);
  to.all_fine = a.splits == 1;
  for (int row = 0; row < a.rows; ++row) to.all_fine &= a.quant.fine[row] == a.quant.groups;
  if (kZeroLeft<T> != 0) fill_starts<T>(a.quant.high, a.rows * a.quant.groups, to.high_starts);
  if (kZeroLeft<T> != 0 && to.all_fine) fill_starts<T>(a.quant.low, a.rows * a.quant.groups, to.low_starts);
  if (!to.all_fine) list_fine_groups<T>(a, to);
  return to;
}

// Few rows: the packed weights are read once, `Panels` streams at a time, and unpacked in registers.
template <Format F, int Rows, int Panels>
void stream_sums(const LinearArgs& a, const PreparedRows& x, int row, int panel, f32x16 (&sums)[Rows * Panels]) {
  sum_tile<Rows, Panels>(sums, a, x, packed_panels<F, Panels>(a, row, panel), row);
}
template <Format F, int Rows, int Panels>
void stream_rows(const LinearArgs& a, const PreparedRows& x, int row, int panel) {
  f32x16 sums[Rows * Panels];
  stream_sums<F, Rows, Panels>(a, x, row, panel, sums);
  finish_rows<Panels>(a, row, Rows, panel, sums);
}
// Gate and up, where one panel fills the registers.
template <Format F, int Rows>
void stream_pair(const LinearArgs& a, const PreparedRows& x, int row, int panel) {
  f32x16 both[Rows * 2], sums[Rows];
  for (int p = 0; p < 2; ++p) {
    stream_sums<F, Rows, 1>(a, x, row, panel + p, sums);
    for (int r = 0; r < Rows; ++r) both[r * 2 + p] = sums[r];
  }
  finish_rows<2>(a, row, Rows, panel, both);
}

// The panels from `panel` on that a tile of Rows takes together; returns how many.
template <Format F, int Rows>
int stream_tile(const LinearArgs& a, const PreparedRows& x, int row, int panel, int most) {
  constexpr int kMost = kStreamPanels[Rows];
  if (kMost > 1 && most >= kMost) return stream_rows<F, Rows, kMost>(a, x, row, panel), kMost;
  if (a.epilogue == Epilogue::SiluMul) return stream_pair<F, Rows>(a, x, row, panel), 2;
  return stream_rows<F, Rows, 1>(a, x, row, panel), 1;
}

// Calls `work.operator()<N>()` for the N up to Most that n is.
template <int Most, class Work>
FORERUN_INLINE int with_rows(int n, const Work& work) {
  if constexpr (Most > 1)
    if (n < Most) return with_rows<Most - 1>(n, work);
  return work.template operator()<Most>();
}

template <Format F>
void stream_linear(const LinearArgs& a, const PreparedRows& x) {
  // Tiles of nearly equal height; all of them visit the same panels in turn.
  const int tiles = (a.rows + kStreamRows - 1) / kStreamRows, least = a.rows / tiles;
  // Higher tiles are not wider; with both planes of every group there are twice as many sums to hold.
  const int widest = x.all_fine && kStreamPanels[least] > kFinePanels ? kFinePanels : kStreamPanels[least];
  const int step = a.epilogue == Epilogue::SiluMul && widest < 2 ? 2 : widest;
  for (int panel = a.panel_begin; panel < a.panel_end; panel += step) {
    const int end = panel + step < a.panel_end ? panel + step : a.panel_end;
    for (int tile = 0; tile < tiles; ++tile) {
      const int row = a.rows * tile / tiles, rows = a.rows * (tile + 1) / tiles - row;
      for (int at = panel; at < end;)
        at += with_rows<kStreamRows>(rows, [&]<int Rows>() { return stream_tile<F, Rows>(a, x, row, at, end - at); });
    }
  }
}

template <Format F, int Rows, int Panels>
void tile_rows(const LinearArgs& a, const PreparedRows& x, const UnpackedPanels<F, Panels>& w, int row, int panel) {
  f32x16 sums[Rows * Panels];
  prefetch_rows<Panels>(a, row, Rows, panel);
  sum_tile<Rows, Panels>(sums, a, x, w, row);
  finish_rows<Panels>(a, row, Rows, panel, sums);
}
// From kUnpackRows on, panels are unpacked once and reused, by tiles of kTileRows and one row less.
static_assert(kUnpackRows >= (kTileRows - 1) * (kTileRows - 2));

template <Format F, int Panels>
void tile_panels(const LinearArgs& a, const PreparedRows& x, int panel) {
  const UnpackedPanels<F, Panels> w = {a.scratch + prepared_bytes(a.blocks), a.blocks};
  unpack_panels(a, panel, w);
  const int tiles = (a.rows + kTileRows - 1) / kTileRows;
  const size_t stride = FormatTraits<F>::bytes_of(a.blocks),
               coming = panel + Panels < a.panel_end ? stride * Panels : 0;
  const uint8_t* ahead = a.weights + stride * (panel + Panels);
  for (int tile = 0; tile < tiles; ++tile) {
    const int row = a.rows * tile / tiles, rows = a.rows * (tile + 1) / tiles - row;
    for (size_t at = coming * tile / tiles & ~size_t{63}; at < coming * (tile + 1) / tiles; at += 64)
      __builtin_prefetch(ahead + at, 0, 2);
    if (rows == kTileRows) {
      tile_rows<F, kTileRows, Panels>(a, x, w, row, panel);
    } else {
      tile_rows<F, kTileRows - 1, Panels>(a, x, w, row, panel);
    }
  }
}

template <Format F>
void linear_rows(const LinearArgs& a) {
  const PreparedRows x = prepare_rows<Traits<F>>(a);
  if (a.rows < kUnpackRows) return stream_linear<F>(a, x);
  const bool paired = a.epilogue == Epilogue::SiluMul;
  int panel = a.panel_begin;
  if (paired || kTilePanels == 2)
    for (; panel + 2 <= a.panel_end; panel += 2) tile_panels<F, 2>(a, x, panel);
  for (; panel < a.panel_end; ++panel) tile_panels<F, 1>(a, x, panel);
}

template <Format F>
void linear_int(const LinearArgs& a) {
  for (int row = 0; row < a.rows; row += kMostRows) linear_rows<F>(rows_of(a, row, kMostRows));
}

}  // namespace forerun::FORERUN_ISA

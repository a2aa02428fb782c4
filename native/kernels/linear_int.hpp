// Integer linear layers: exact int32 products inside a group of 32, then one fixed sequence of float operations per
// group, so that every kernel, row count, instruction set and thread count gives the same bits (docs/numerics.md).
#pragma once

namespace forerun::FORERUN_ISA {

// One group of 32: acc += scale * dot, in the order that the numerics fix. `whole` counts in units of the fine scale.
template <bool Channel, bool Min>
FORERUN_INLINE f32x16 fold_group(f32x16 acc, f32x16 whole, float s, float mu, f32x16 d, f32x16 m) {
  if constexpr (Channel) return fma(whole, set1(s), acc);
  acc = fma(mul(whole, set1(s)), d, acc);
  if constexpr (Min) acc = fma(m, set1(mu), acc);
  return acc;
}

// The quantised rows that one register tile reads.
template <int Rows>
struct TileInput {
  const int8_t *high, *low;
  const float *scale, *scaled_sum;
  const int32_t *sum, *half_sum;
  const uint8_t* fine;
  size_t k, groups;
  FORERUN_METHOD explicit TileInput(const QuantRows& q, int row)
      : high(q.high + static_cast<size_t>(row) * q.k),
        low(q.low + static_cast<size_t>(row) * q.k),
        k(q.k),
        groups(k / kGroup) {
    const size_t at = row * groups;
    scale = q.scale + at, scaled_sum = q.scaled_sum + at, fine = q.fine + at;
    sum = q.sum + at, half_sum = q.half_sum + at;
  }
  FORERUN_METHOD bool any_fine(int g) const {
    int any = 0;
    for (int r = 0; r < Rows; ++r) any |= fine[r * groups + g];
    return any != 0;
  }
  // Of a whole group (Parts 1) or of one of its halves.
  template <int Parts>
  FORERUN_METHOD int32_t sum_of(int r, int g, int part) const {
    const size_t at = r * groups + g;
    if constexpr (Parts == 1) return sum[at];
    return part ? sum[at] - half_sum[at] : half_sum[at];
  }
  template <int Parts>
  FORERUN_METHOD float scaled_sum_of(int r, int g, int part) const {
    const size_t at = r * groups + g;
    if constexpr (Parts == 1) return scaled_sum[at];
    return scale[at] * static_cast<float>(sum_of<Parts>(r, g, part));
  }
};

// acc += one part of group g for Rows x Count of the Panels, from panel `first` on. `take(i, p)` gives the weights of
// elements 4i..4i+3, `scales(p, part, d, m)` the part's scale and minimum. With Fine both planes are multiplied; where
// low is zero that gives the same bits.
template <class T, bool Fine, int Rows, int Panels, int Count, class Take, class Scales>
FORERUN_INLINE void add_part(f32x16 (&acc)[Rows * Panels], int first, const TileInput<Rows>& x, int g, int part,
                             const Take& take, const Scales& scales) {
  constexpr int kQuadruples = kGroup / 4 / T::kParts;
  i32x16 high[Rows * Count], low[Rows * Count];
  FORERUN_UNROLL
  for (int r = 0; r < Rows; ++r) FORERUN_UNROLL
  for (int p = 0; p < Count; ++p) {
    const int correction = T::kZero ? -T::kZero * x.template sum_of<T::kParts>(r, g, part) : 0;  // in fine units
    high[r * Count + p] = set1(Fine ? 0 : correction / 128);
    if constexpr (Fine) low[r * Count + p] = set1(correction);
  }
  FORERUN_UNROLL
  for (int quadruple = 0; quadruple < kQuadruples; ++quadruple) {
    const int i = part * kQuadruples + quadruple;
    u8x64 values[Count];
    FORERUN_UNROLL
    for (int p = 0; p < Count; ++p) values[p] = take(i, first + p);
    const size_t at = static_cast<size_t>(g) * kGroup + i * 4;
    FORERUN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const s8x4 a = load_s8x4(x.high + r * x.k + at);
      FORERUN_UNROLL
      for (int p = 0; p < Count; ++p) high[r * Count + p] = dot<T::kSmall>(high[r * Count + p], values[p], a);
      if constexpr (Fine) {
        const s8x4 b = load_s8x4(x.low + r * x.k + at);
        FORERUN_UNROLL
        for (int p = 0; p < Count; ++p) low[r * Count + p] = dot<T::kSmall>(low[r * Count + p], values[p], b);
      }
    }
  }
  FORERUN_UNROLL
  for (int p = 0; p < Count; ++p) {
    f32x16 d = set1(0.0f), m = set1(0.0f);
    scales(first + p, part, d, m);
    FORERUN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const int i = r * Count + p;
      const float s = x.scale[r * x.groups + g], mu = T::kMin ? x.template scaled_sum_of<T::kParts>(r, g, part) : 0.0f;
      const f32x16 whole = Fine ? to_f32(add(shl<7>(high[i]), low[i])) : to_f32(high[i]);
      f32x16& sum = acc[r * Panels + first + p];
      sum = fold_group<T::kChannel, T::kMin>(sum, whole, Fine ? s : s * 128.0f, mu, d, m);
    }
  }
}

template <class T, bool Fine, int Rows, int Panels, int Count, class Take, class Scales>
FORERUN_INLINE void add_panels(f32x16 (&acc)[Rows * Panels], int first, const TileInput<Rows>& x, int g,
                               const Take& take, const Scales& scales) {
  FORERUN_UNROLL
  for (int part = 0; part < T::kParts; ++part)
    add_part<T, Fine, Rows, Panels, Count>(acc, first, x, g, part, take, scales);
}

// A whole tile's group: all panels at once, or one by one where two planes would not fit the registers.
template <class T, int Rows, int Panels, class Take, class Scales>
FORERUN_INLINE void add_group(f32x16 (&acc)[Rows * Panels], const TileInput<Rows>& x, int g, const Take& take,
                              const Scales& scales) {
  if (!x.any_fine(g)) {
    add_panels<T, false, Rows, Panels, Panels>(acc, 0, x, g, take, scales);
  } else if constexpr (Rows * Panels <= kFineTile) {
    add_panels<T, true, Rows, Panels, Panels>(acc, 0, x, g, take, scales);
  } else {
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) add_panels<T, true, Rows, Panels, 1>(acc, p, x, g, take, scales);
  }
}

// A group's share of a block of each of the panels that come next: a panel is too short for the hardware to keep its
// pace across panels.
template <class T, int Panels>
FORERUN_INLINE void prefetch_next(const uint8_t* w, size_t stride, int group) {
  constexpr size_t kShare = (T::kBytes / 64 + T::kGroups - 1) / T::kGroups * 64;
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p)
    for (size_t at = 0; at < kShare; at += 64) __builtin_prefetch(w + stride * p + group * kShare + at, 0, 2);
}

// Few rows: the packed weights are read once, `Panels` streams at a time, and unpacked in registers.
template <Format F, int Rows, int Panels>
void stream_rows(const LinearArgs& a, int row, int panel) {
  using T = Traits<F>;
  const size_t stride = T::bytes_of(a.blocks);
  const uint8_t* base = a.weights + stride * panel;
  const uint8_t* ahead = panel + Panels < a.panel_end ? base + stride * Panels : a.following;
  const TileInput<Rows> x(a.quant, row);
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : acc) v = set1(0.0f);
    const int end = 2 * segment_begin(a, segment + 1);
    for (int g = 2 * segment_begin(a, segment); g < end; ++g) {
      const int group = g % T::kGroups;
      const size_t at = T::kBytes * (g / T::kGroups);
      const uint8_t* w = base + at;
      if (row == 0) prefetch_next<T, Panels>(ahead + at, stride, group);
      const auto take = [&](int i, int p) __attribute__((always_inline)) { return T::values(w, stride * p, group, i); };
      const auto scales = [&](int p, int part, f32x16& d, f32x16& m) __attribute__((always_inline)) {
        if constexpr (!T::kChannel) d = T::scale(w + stride * p, group, part);
        if constexpr (T::kMin) m = T::minimum(w + stride * p, group, part);
      };
      add_group<T, Rows, Panels>(acc, x, g, take, scales);
    }
    tree.push(acc);
  }
  finish_rows<Rows, Panels>(a, row, panel, acc);
}

// A panel unpacked for many rows: bytes [k / 4][16][4], then float scales and minima [groups and their parts][16].
struct UnpackedPanel {
  uint8_t* values;
  float* scale;
  float* minimum;
};
FORERUN_INLINE UnpackedPanel unpacked_panel(const LinearArgs& a, int p) {
  uint8_t* values = a.scratch + p * unpacked_bytes(a.blocks);
  float* scale = reinterpret_cast<float*>(values + static_cast<size_t>(a.blocks) * kBlock * kPanel);
  return {values, scale, scale + static_cast<size_t>(a.blocks) * kBlock};
}
template <Format F>
void unpack_panel(const LinearArgs& a, int panel, const UnpackedPanel& to) {
  using T = Traits<F>;
  const uint8_t* base = a.weights + T::bytes_of(a.blocks) * panel;
  for (int g = 0; g < a.blocks * (kBlock / kGroup); ++g) {
    const uint8_t* w = base + T::kBytes * (g / T::kGroups);
    const int group = g % T::kGroups;
    FORERUN_UNROLL
    for (int i = 0; i < 8; ++i) store_u8(to.values + static_cast<size_t>(g) * 512 + i * 64, T::values(w, 0, group, i));
    for (int part = 0; part < T::kParts; ++part) {
      const size_t at = (static_cast<size_t>(g) * T::kParts + part) * kPanel;
      if constexpr (!T::kChannel) store(to.scale + at, T::scale(w, group, part));
      if constexpr (T::kMin) store(to.minimum + at, T::minimum(w, group, part));
    }
  }
}

// Many rows against unpacked panels.
template <Format F, int Rows, int Panels>
void tile_rows(const LinearArgs& a, int row, int panel) {
  using T = Traits<F>;
  const TileInput<Rows> x(a.quant, row);
  UnpackedPanel w[Panels];
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) w[p] = unpacked_panel(a, p);
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : acc) v = set1(0.0f);
    const int end = 2 * segment_begin(a, segment + 1);
    for (int g = 2 * segment_begin(a, segment); g < end; ++g) {
      const auto take = [&](int i, int p) __attribute__((always_inline)) {
        return load_u8(w[p].values + static_cast<size_t>(g) * 512 + i * 64);
      };
      const auto scales = [&](int p, int part, f32x16& d, f32x16& m) __attribute__((always_inline)) {
        const size_t at = (static_cast<size_t>(g) * T::kParts + part) * kPanel;
        if constexpr (!T::kChannel) d = load(w[p].scale + at);
        if constexpr (T::kMin) m = load(w[p].minimum + at);
      };
      add_group<T, Rows, Panels>(acc, x, g, take, scales);
    }
    tree.push(acc);
  }
  finish_rows<Rows, Panels>(a, row, panel, acc);
}

// From this many rows on, a panel is unpacked once and reused (measured: benchmarks/README.md).
inline constexpr int kUnpackRows = 64;

// Panels that `rows` rows take together; gate and up go in pairs.
constexpr int stream_width(int rows, bool paired) {
  return paired && kStreamPanels[rows] < 2 ? 2 : kStreamPanels[rows];
}

template <Format F, int Rows>
FORERUN_INLINE void stream_block(const LinearArgs& a, int row, int panel, int step) {
  if constexpr (Rows <= kStreamRows) {
    if constexpr (stream_width(Rows, true) >= 4)
      if (step == 4) return stream_rows<F, Rows, 4>(a, row, panel);
    if (step == 2) return stream_rows<F, Rows, 2>(a, row, panel);
    stream_rows<F, Rows, 1>(a, row, panel);
  }
}

template <Format F>
void stream_linear(const LinearArgs& a) {
  const bool paired = a.epilogue == Epilogue::SiluMul;
  const int most = a.rows < kStreamRows ? a.rows : kStreamRows;
  for (int panel = a.panel_begin; panel < a.panel_end;) {
    int step = stream_width(most, paired);
    while (step > a.panel_end - panel) step /= 2;
    for (int row = 0; row < a.rows;) {
      const int rows = a.rows - row < most ? a.rows - row : most;
      if (rows >= 4) {
        stream_block<F, 4>(a, row, panel, step);
      } else if (rows == 3) {
        stream_block<F, 3>(a, row, panel, step);
      } else if (rows == 2) {
        stream_block<F, 2>(a, row, panel, step);
      } else {
        stream_block<F, 1>(a, row, panel, step);
      }
      row += rows;
    }
    panel += step;
  }
}

template <Format F, int Panels>
void tile_panels(const LinearArgs& a, int panel) {
  for (int p = 0; p < Panels; ++p) unpack_panel<F>(a, panel + p, unpacked_panel(a, p));
  int row = 0;
  for (; row + kTileRows <= a.rows; row += kTileRows) tile_rows<F, kTileRows, Panels>(a, row, panel);
  for (; row + 2 <= a.rows; row += 2) tile_rows<F, 2, Panels>(a, row, panel);
  for (; row < a.rows; ++row) tile_rows<F, 1, Panels>(a, row, panel);
}

template <Format F>
void linear_int(const LinearArgs& a) {
  if (a.rows < kUnpackRows) return stream_linear<F>(a);
  const bool paired = a.epilogue == Epilogue::SiluMul;
  int panel = a.panel_begin;
  if (paired || kTilePanels == 2)
    for (; panel + 2 <= a.panel_end; panel += 2) tile_panels<F, 2>(a, panel);
  for (; panel < a.panel_end; ++panel) tile_panels<F, 1>(a, panel);
}

}  // namespace forerun::FORERUN_ISA

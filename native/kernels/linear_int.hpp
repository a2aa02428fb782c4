// Integer linear layers: exact int32 products inside a group of 32, then one fixed sequence of float operations per
// group, so that every kernel, row count, instruction set and thread count gives the same bits (docs/numerics.md).
#pragma once

// Register tiles stay in registers only when every loop over them is unrolled.
#define FORERUN_UNROLL _Pragma("GCC unroll 16")

namespace forerun::FORERUN_ISA {

// Adds segment sums as a balanced binary tree with one accumulator set per level.
template <int N>
struct Tree {
  f32x16 level[4][N];
  unsigned count = 0;
  FORERUN_METHOD void push(f32x16 (&acc)[N]) {
    unsigned at = 0;
    for (unsigned c = count; c & 1; c >>= 1, ++at)
      for (int i = 0; i < N; ++i) acc[i] = add(level[at][i], acc[i]);
    for (int i = 0; i < N; ++i) level[at][i] = acc[i];
    ++count;
  }
};

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
  const int32_t* sum;
  const uint8_t* fine;
  size_t k, groups;
  FORERUN_METHOD explicit TileInput(const QuantRows& q, int row)
      : high(q.high + static_cast<size_t>(row) * q.k),
        low(q.low + static_cast<size_t>(row) * q.k),
        k(q.k),
        groups(k / kGroup) {
    const size_t at = row * groups;
    scale = q.scale + at, scaled_sum = q.scaled_sum + at, sum = q.sum + at, fine = q.fine + at;
  }
  FORERUN_METHOD bool any_fine(int g) const {
    int any = 0;
    for (int r = 0; r < Rows; ++r) any |= fine[r * groups + g];
    return any != 0;
  }
};

// acc += one group of 32 for Rows x Count of the Panels, from panel `first` on. `take(i, p)` gives the weights of
// elements 4i..4i+3, `scales(p, d, m)` the group's scale and minimum. With Fine both planes are multiplied; where low
// is zero that gives the same bits.
template <class T, bool Fine, int Rows, int Panels, int Count, class Take, class Scales>
FORERUN_INLINE void add_panels(f32x16 (&acc)[Rows * Panels], int first, const TileInput<Rows>& x, int g,
                               const Take& take, const Scales& scales) {
  i32x16 high[Rows * Count], low[Rows * Count];
  FORERUN_UNROLL
  for (int r = 0; r < Rows; ++r) FORERUN_UNROLL
  for (int p = 0; p < Count; ++p) {
    const int correction = T::kZero ? -T::kZero * x.sum[r * x.groups + g] : 0;  // in fine units
    high[r * Count + p] = set1(Fine ? 0 : correction / 128);
    if constexpr (Fine) low[r * Count + p] = set1(correction);
  }
  FORERUN_UNROLL
  for (int i = 0; i < 8; ++i) {
    u8x64 values[Count];
    FORERUN_UNROLL
    for (int p = 0; p < Count; ++p) values[p] = take(i, first + p);
    const size_t at = static_cast<size_t>(g) * kGroup + i * 4;
    FORERUN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const s8x4 a = load_s8x4(x.high + r * x.k + at);
      FORERUN_UNROLL
      for (int p = 0; p < Count; ++p) high[r * Count + p] = dot<T::kNibbles>(high[r * Count + p], values[p], a);
      if constexpr (Fine) {
        const s8x4 b = load_s8x4(x.low + r * x.k + at);
        FORERUN_UNROLL
        for (int p = 0; p < Count; ++p) low[r * Count + p] = dot<T::kNibbles>(low[r * Count + p], values[p], b);
      }
    }
  }
  FORERUN_UNROLL
  for (int p = 0; p < Count; ++p) {
    f32x16 d = set1(0.0f), m = set1(0.0f);
    scales(first + p, d, m);
    FORERUN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const int i = r * Count + p;
      const float s = x.scale[r * x.groups + g];
      const f32x16 whole = Fine ? to_f32(add(shl<7>(high[i]), low[i])) : to_f32(high[i]);
      f32x16& sum = acc[r * Panels + first + p];
      sum = fold_group<T::kChannel, T::kMin>(sum, whole, Fine ? s : s * 128.0f, x.scaled_sum[r * x.groups + g], d, m);
    }
  }
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

// Ties keep the earlier panel: a thread takes its panels in ascending order.
FORERUN_INLINE void keep_largest(LargestOutput& to, f32x16 x, int panel, int columns) {
  const float infinity = __builtin_inff();
  x = keep_lanes(x, 0, columns - panel * kPanel, -infinity);
  const f32x16 best = load(to.value);
  store(to.wrong, max(load(to.wrong), select_less(x, set1(infinity), set1(0.0f), set1(1.0f))));
  store(to.panel, select_less(best, x, set1(static_cast<float>(panel)), load(to.panel)));
  store(to.value, select_less(best, x, x, best));
}

// Writes one row of one or more neighbouring panels.
template <int Panels>
FORERUN_INLINE void finish(const LinearArgs& a, int row, int panel, f32x16 (&acc)[Panels]) {
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    const int column = (panel + p) * kPanel;
    if (a.format == Format::Int8Channel) acc[p] = mul(acc[p], load(a.channel_scale + column));
    if (a.bias) acc[p] = add(acc[p], load(a.bias + column));
  }
  if (a.epilogue == Epilogue::Largest) {
    for (int p = 0; p < Panels; ++p) keep_largest(a.largest[row], acc[p], panel + p, a.columns);
    return;
  }
  float* y = a.y + static_cast<size_t>(row) * a.ldy;
  if (a.epilogue == Epilogue::SiluMul) {
    for (int p = 0; p + 1 < Panels; p += 2) {
      const f32x16 gate = acc[p];
      const f32x16 e = exp32(sub(set1(0.0f), gate));
      store(y + (panel + p) / 2 * kPanel, mul(div(gate, add(set1(1.0f), e)), acc[p + 1]));
    }
    return;
  }
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    float* at = y + (panel + p) * kPanel;
    store(at, a.epilogue == Epilogue::Add ? add(load(at), acc[p]) : acc[p]);
  }
}

FORERUN_INLINE int segment_begin(const LinearArgs& a, int segment) { return a.blocks * segment / a.splits; }

template <int Rows, int Panels>
FORERUN_INLINE void finish_rows(const LinearArgs& a, int row, int panel, const f32x16 (&acc)[Rows * Panels]) {
  FORERUN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    f32x16 out[Panels];
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) out[p] = acc[r * Panels + p];
    finish<Panels>(a, row + r, panel, out);
  }
}

// Half a block of each of the panels that come next: a panel is too short for the hardware to keep its pace across
// panels.
template <size_t Bytes, int Panels>
FORERUN_INLINE void prefetch_next(const uint8_t* w, size_t stride, int half) {
  constexpr size_t kHalf = (Bytes / 64 + 1) / 2 * 64;
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p)
    for (size_t at = 0; at < kHalf; at += 64) __builtin_prefetch(w + stride * p + half * kHalf + at, 0, 2);
}

// Few rows: the packed weights are read once, `Panels` streams at a time, and unpacked in registers.
template <Format F, int Rows, int Panels>
void stream_rows(const LinearArgs& a, int row, int panel) {
  using T = Traits<F>;
  constexpr size_t kBytes = block_bytes(F);
  const size_t stride = kBytes * a.blocks;
  const uint8_t* base = a.weights + stride * panel;
  const uint8_t* ahead = panel + Panels < a.panel_end ? base + stride * Panels : a.following;
  const TileInput<Rows> x(a.quant, row);
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : acc) v = set1(0.0f);
    const int end = 2 * segment_begin(a, segment + 1);
    for (int g = 2 * segment_begin(a, segment); g < end; ++g) {
      const int half = g % 2;
      const uint8_t* w = base + kBytes * (g / 2);
      if (row == 0) prefetch_next<kBytes, Panels>(ahead + kBytes * (g / 2), stride, half);
      const auto take = [&](int i, int p) __attribute__((always_inline)) { return T::values(w, stride * p, half, i); };
      const auto scales = [&](int p, f32x16& d, f32x16& m) __attribute__((always_inline)) {
        if constexpr (!T::kChannel) d = T::scale(w + stride * p, half);
        if constexpr (T::kMin) m = T::minimum(w + stride * p, half);
      };
      add_group<T, Rows, Panels>(acc, x, g, take, scales);
    }
    tree.push(acc);
  }
  finish_rows<Rows, Panels>(a, row, panel, acc);
}

// A panel unpacked for many rows: bytes [k / 4][16][4], then float scales and minima [groups][16].
struct UnpackedPanel {
  uint8_t* values;
  float* scale;
  float* minimum;
};
FORERUN_INLINE UnpackedPanel unpacked_panel(const LinearArgs& a, int p) {
  uint8_t* base = a.scratch + static_cast<size_t>(p) * a.blocks * (1024 + 128 + 128);
  float* scale = reinterpret_cast<float*>(base + static_cast<size_t>(a.blocks) * 1024);
  return {base, scale, scale + static_cast<size_t>(a.blocks) * 32};
}
template <Format F>
void unpack_panel(const LinearArgs& a, int panel, const UnpackedPanel& to) {
  using T = Traits<F>;
  const uint8_t* w = a.weights + block_bytes(F) * a.blocks * panel;
  for (int block = 0; block < a.blocks; ++block, w += block_bytes(F)) {
    uint8_t* values = to.values + static_cast<size_t>(block) * 1024;
    for (int half = 0; half < 2; ++half) {
      FORERUN_UNROLL
      for (int i = 0; i < 8; ++i) store_u8(values + half * 512 + i * 64, T::values(w, 0, half, i));
      const int at = (block * 2 + half) * kPanel;
      if constexpr (!T::kChannel) store(to.scale + at, T::scale(w, half));
      if constexpr (T::kMin) store(to.minimum + at, T::minimum(w, half));
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
      const auto scales = [&](int p, f32x16& d, f32x16& m) __attribute__((always_inline)) {
        if constexpr (!T::kChannel) d = load(w[p].scale + g * kPanel);
        if constexpr (T::kMin) m = load(w[p].minimum + g * kPanel);
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

// Integer linear layers: exact int32 products inside a group of 32, then one fixed sequence of float operations per group,
// so that every kernel, row count, instruction set and thread count gives the same bits (docs/numerics.md).
#pragma once

namespace forerun::FORERUN_ISA {

template <Format F>
struct Traits {
  static constexpr bool kNibbles = F == Format::Int4F16Min || F == Format::Int4F32Min || F == Format::Int4F16;
  static constexpr bool kMin = F == Format::Int4F16Min || F == Format::Int4F32Min || F == Format::Int8F16Min;
  static constexpr bool kChannel = F == Format::Int8Channel;
  static constexpr bool kFloatScale = F == Format::Int4F32Min;
  static constexpr int kZero = kMin ? 0 : kNibbles ? 8 : 128;
  static constexpr int kValues = kNibbles ? 512 : 1024;  // bytes of values in a block
  static constexpr int kScales = kFloatScale ? 64 : 32;  // bytes of 16 scales
  FORERUN_METHOD static f32x16 scale(const uint8_t* block, int half) {
    const uint8_t* p = block + kValues + half * kScales;
    if constexpr (kFloatScale) return load(reinterpret_cast<const float*>(p));
    return load_f16(p);
  }
  FORERUN_METHOD static f32x16 minimum(const uint8_t* block, int half) {
    return scale(block + 2 * kScales, half);
  }
};

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

// One group of 32: acc += scale * dot, in the order that the numerics fix.
template <bool Channel, bool Min, int Planes>
FORERUN_INLINE f32x16 fold_group(f32x16 acc, i32x16 high, i32x16 low, float s, float mu, f32x16 d, f32x16 m) {
  const i32x16 whole = Planes == 2 ? add(shl<7>(high), low) : high;
  const f32x16 value = to_f32(whole);
  if constexpr (Channel) return fma(value, set1(s), acc);
  acc = fma(mul(value, set1(s)), d, acc);
  if constexpr (Min) acc = fma(m, set1(mu), acc);
  return acc;
}

// Writes one row of one or more neighbouring panels.
template <int Panels>
FORERUN_INLINE void finish(const LinearArgs& a, int row, int panel, f32x16 (&acc)[Panels]) {
  for (int p = 0; p < Panels; ++p) {
    const int column = (panel + p) * kPanel;
    if (a.format == Format::Int8Channel) acc[p] = mul(acc[p], load(a.channel_scale + column));
    if (a.bias) acc[p] = add(acc[p], load(a.bias + column));
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
  for (int p = 0; p < Panels; ++p) {
    float* at = y + (panel + p) * kPanel;
    store(at, a.epilogue == Epilogue::Add ? add(load(at), acc[p]) : acc[p]);
  }
}

FORERUN_INLINE int segment_begin(const LinearArgs& a, int segment) { return a.blocks * segment / a.splits; }

// Few rows: the packed weights are read once, `Panels` streams at a time, and unpacked in registers.
template <Format F, int Rows, int Panels, int Planes>
void stream_rows(const LinearArgs& a, int row, int panel) {
  using T = Traits<F>;
  constexpr size_t kBytes = block_bytes(F);
  const size_t stride = kBytes * a.blocks;
  const uint8_t* base = a.weights + stride * panel;
  const int k = a.quant.k, groups = k / kGroup;
  const int8_t* high = a.quant.high + static_cast<size_t>(row) * k;
  const int8_t* low = Planes == 2 ? a.quant.low + static_cast<size_t>(row) * k : nullptr;
  const float* scale = a.quant.scale + static_cast<size_t>(row) * groups;
  const float* scaled_sum = a.quant.scaled_sum + static_cast<size_t>(row) * groups;
  const int32_t* sum = a.quant.sum + static_cast<size_t>(row) * groups;
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& x : acc) x = set1(0.0f);
    const int end = segment_begin(a, segment + 1);
    for (int block = segment_begin(a, segment); block < end; ++block) {
      const uint8_t* w = base + kBytes * block;
      for (int half = 0; half < 2; ++half) {
        const int g = block * 2 + half;
        i32x16 dots[Planes][Rows * Panels];
        for (int r = 0; r < Rows; ++r)
          for (int p = 0; p < Panels; ++p) {
            dots[0][r * Panels + p] = set1(Planes == 2 ? 0 : -T::kZero * sum[r * groups + g]);
            if constexpr (Planes == 2) dots[1][r * Panels + p] = set1(-T::kZero * sum[r * groups + g]);
          }
        const auto step = [&](int i, const u8x64(&values)[Panels]) __attribute__((always_inline)) {
          const int at = block * kBlock + half * kGroup + i * 4;
          for (int r = 0; r < Rows; ++r) {
            const s8x4 x = load_s8x4(high + static_cast<size_t>(r) * k + at);
            for (int p = 0; p < Panels; ++p)
              dots[0][r * Panels + p] = dot<T::kNibbles>(dots[0][r * Panels + p], values[p], x);
            if constexpr (Planes == 2) {
              const s8x4 z = load_s8x4(low + static_cast<size_t>(r) * k + at);
              for (int p = 0; p < Panels; ++p)
                dots[1][r * Panels + p] = dot<T::kNibbles>(dots[1][r * Panels + p], values[p], z);
            }
          }
        };
        if constexpr (T::kNibbles) {
          for (int i = 0; i < 4; ++i) {
            u8x64 packed[Panels], values[Panels];
            for (int p = 0; p < Panels; ++p) {
              packed[p] = load_u8(w + stride * p + half * 256 + i * 64);
              values[p] = low_nibbles(packed[p]);
            }
            step(i, values);
            for (int p = 0; p < Panels; ++p) values[p] = high_nibbles(packed[p]);
            step(i + 4, values);
          }
        } else {
          for (int i = 0; i < 8; ++i) {
            u8x64 values[Panels];
            for (int p = 0; p < Panels; ++p) values[p] = load_u8(w + stride * p + half * 512 + i * 64);
            step(i, values);
          }
        }
        for (int p = 0; p < Panels; ++p) {
          f32x16 d = set1(0.0f), m = set1(0.0f);
          if constexpr (!T::kChannel) d = T::scale(w + stride * p, half);
          if constexpr (T::kMin) m = T::minimum(w + stride * p, half);
          for (int r = 0; r < Rows; ++r) {
            const int i = r * Panels + p;
            acc[i] = fold_group<T::kChannel, T::kMin, Planes>(acc[i], dots[0][i], dots[Planes - 1][i],
                                                              scale[r * groups + g], scaled_sum[r * groups + g], d, m);
          }
        }
      }
    }
    tree.push(acc);
  }
  for (int r = 0; r < Rows; ++r) {
    f32x16 out[Panels];
    for (int p = 0; p < Panels; ++p) out[p] = acc[r * Panels + p];
    finish<Panels>(a, row + r, panel, out);
  }
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
      if constexpr (T::kNibbles) {
        for (int i = 0; i < 4; ++i) {
          const u8x64 packed = load_u8(w + half * 256 + i * 64);
          store_u8(values + half * 512 + i * 64, low_nibbles(packed));
          store_u8(values + half * 512 + (i + 4) * 64, high_nibbles(packed));
        }
      } else {
        for (int i = 0; i < 8; ++i) store_u8(values + half * 512 + i * 64, load_u8(w + half * 512 + i * 64));
      }
      const int at = (block * 2 + half) * kPanel;
      if constexpr (!T::kChannel) store(to.scale + at, T::scale(w, half));
      if constexpr (T::kMin) store(to.minimum + at, T::minimum(w, half));
    }
  }
}

// Many rows against unpacked panels.
template <Format F, int Rows, int Panels, int Planes>
void tile_rows(const LinearArgs& a, int row, int panel) {
  using T = Traits<F>;
  const int k = a.quant.k, groups = k / kGroup;
  const int8_t* high = a.quant.high + static_cast<size_t>(row) * k;
  const int8_t* low = Planes == 2 ? a.quant.low + static_cast<size_t>(row) * k : nullptr;
  const float* scale = a.quant.scale + static_cast<size_t>(row) * groups;
  const float* scaled_sum = a.quant.scaled_sum + static_cast<size_t>(row) * groups;
  const int32_t* sum = a.quant.sum + static_cast<size_t>(row) * groups;
  UnpackedPanel w[Panels];
  for (int p = 0; p < Panels; ++p) w[p] = unpacked_panel(a, p);
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& x : acc) x = set1(0.0f);
    const int end = 2 * segment_begin(a, segment + 1);
    for (int g = 2 * segment_begin(a, segment); g < end; ++g) {
      i32x16 dots[Planes][Rows * Panels];
      for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < Panels; ++p) {
          dots[0][r * Panels + p] = set1(Planes == 2 ? 0 : -T::kZero * sum[r * groups + g]);
          if constexpr (Planes == 2) dots[1][r * Panels + p] = set1(-T::kZero * sum[r * groups + g]);
        }
      for (int i = 0; i < 8; ++i) {
        u8x64 values[Panels];
        for (int p = 0; p < Panels; ++p) values[p] = load_u8(w[p].values + static_cast<size_t>(g) * 512 + i * 64);
        for (int r = 0; r < Rows; ++r) {
          const s8x4 x = load_s8x4(high + static_cast<size_t>(r) * k + g * kGroup + i * 4);
          for (int p = 0; p < Panels; ++p)
            dots[0][r * Panels + p] = dot<T::kNibbles>(dots[0][r * Panels + p], values[p], x);
          if constexpr (Planes == 2) {
            const s8x4 z = load_s8x4(low + static_cast<size_t>(r) * k + g * kGroup + i * 4);
            for (int p = 0; p < Panels; ++p)
              dots[1][r * Panels + p] = dot<T::kNibbles>(dots[1][r * Panels + p], values[p], z);
          }
        }
      }
      for (int p = 0; p < Panels; ++p) {
        f32x16 d = set1(0.0f), m = set1(0.0f);
        if constexpr (!T::kChannel) d = load(w[p].scale + g * kPanel);
        if constexpr (T::kMin) m = load(w[p].minimum + g * kPanel);
        for (int r = 0; r < Rows; ++r) {
          const int i = r * Panels + p;
          acc[i] = fold_group<T::kChannel, T::kMin, Planes>(acc[i], dots[0][i], dots[Planes - 1][i],
                                                            scale[r * groups + g], scaled_sum[r * groups + g], d, m);
        }
      }
    }
    tree.push(acc);
  }
  for (int r = 0; r < Rows; ++r) {
    f32x16 out[Panels];
    for (int p = 0; p < Panels; ++p) out[p] = acc[r * Panels + p];
    finish<Panels>(a, row + r, panel, out);
  }
}

// From this many rows on, a panel is unpacked once and reused (measured: benchmarks/README.md).
inline constexpr int kUnpackRows = 16;

// Panels that `rows` rows take together; gate and up go in pairs.
constexpr int stream_width(int rows, bool paired) {
  return paired && kStreamPanels[rows] < 2 ? 2 : kStreamPanels[rows];
}

template <Format F, int Rows, int Planes>
FORERUN_INLINE void stream_block(const LinearArgs& a, int row, int panel, int step) {
  if constexpr (Rows <= kStreamRows) {
    if constexpr (stream_width(Rows, true) >= 4)
      if (step == 4) return stream_rows<F, Rows, 4, Planes>(a, row, panel);
    if (step == 2) return stream_rows<F, Rows, 2, Planes>(a, row, panel);
    stream_rows<F, Rows, 1, Planes>(a, row, panel);
  }
}

template <Format F, int Planes>
void stream_linear(const LinearArgs& a) {
  const bool paired = a.epilogue == Epilogue::SiluMul;
  const int most = a.rows < kStreamRows ? a.rows : kStreamRows;
  for (int panel = a.panel_begin; panel < a.panel_end;) {
    int step = stream_width(most, paired);
    while (step > a.panel_end - panel) step /= 2;
    for (int row = 0; row < a.rows;) {
      const int rows = a.rows - row < most ? a.rows - row : most;
      if (rows >= 4) {
        stream_block<F, 4, Planes>(a, row, panel, step);
      } else if (rows == 3) {
        stream_block<F, 3, Planes>(a, row, panel, step);
      } else if (rows == 2) {
        stream_block<F, 2, Planes>(a, row, panel, step);
      } else {
        stream_block<F, 1, Planes>(a, row, panel, step);
      }
      row += rows;
    }
    panel += step;
  }
}

template <Format F, int Panels, int Planes>
void tile_panels(const LinearArgs& a, int panel) {
  constexpr int kMost = Planes == 2 ? (kTileRows + 1) / 2 : kTileRows;
  for (int p = 0; p < Panels; ++p) unpack_panel<F>(a, panel + p, unpacked_panel(a, p));
  int row = 0;
  for (; row + kMost <= a.rows; row += kMost) tile_rows<F, kMost, Panels, Planes>(a, row, panel);
  for (; row < a.rows; ++row) tile_rows<F, 1, Panels, Planes>(a, row, panel);
}

template <Format F, int Planes>
void linear_int(const LinearArgs& a) {
  if (a.rows < kUnpackRows) return stream_linear<F, Planes>(a);
  const bool paired = a.epilogue == Epilogue::SiluMul;
  int panel = a.panel_begin;
  if (paired || kTilePanels == 2)
    for (; panel + 2 <= a.panel_end; panel += 2) tile_panels<F, 2, Planes>(a, panel);
  for (; panel < a.panel_end; ++panel) tile_panels<F, 1, Planes>(a, panel);
}

template <Format F>
void linear_int(const LinearArgs& a) {
  a.planes == 2 ? linear_int<F, 2>(a) : linear_int<F, 1>(a);
}

}  // namespace forerun::FORERUN_ISA

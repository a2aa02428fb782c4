// What every linear layer does with its sums: those of K's segments are added as a tree, then come channel scale, bias
// and epilogue (docs/numerics.md).
#pragma once

// Register tiles stay in registers only when every loop over them is unrolled.
#define FORERUN_UNROLL _Pragma("GCC unroll 16")

namespace forerun::FORERUN_ISA {

// The first block of a segment of K.
inline constexpr int kMostSplits = 8;
FORERUN_INLINE int segment_begin(const LinearArgs& a, int segment) { return a.blocks * segment / a.splits; }

// At most `most` rows from `row` on.
FORERUN_INLINE LinearArgs rows_of(LinearArgs a, int row, int most) {
  a.quant = a.quant.from(row);
  a.y += static_cast<size_t>(row) * a.ldy;
  a.largest += row;
  a.rows = a.rows - row < most ? a.rows - row : most;
  return a;
}

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

// Ties keep the earlier panel: a thread takes its panels in ascending order.
FORERUN_INLINE void keep_largest(LargestOutput& to, f32x16 x, int panel, int columns) {
  const float infinity = __builtin_inff();
  x = keep_lanes(x, 0, columns - panel * kPanel, -infinity);
  const f32x16 best = load(to.value);
  store(to.wrong, max(load(to.wrong), select_less(x, set1(infinity), set1(0.0f), set1(1.0f))));
  store(to.panel, select_less(best, x, set1(static_cast<float>(panel)), load(to.panel)));
  store(to.value, select_less(best, x, x, best));
}

FORERUN_INLINE f32x16 silu(f32x16 x) { return div(x, add(set1(1.0f), exp32(sub(set1(0.0f), x)))); }

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
      store(y + (panel + p) / 2 * kPanel, mul(silu(acc[p]), acc[p + 1]));
    }
    return;
  }
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    float* at = y + (panel + p) * kPanel;
    if (a.epilogue == Epilogue::Add) acc[p] = add(load(at), acc[p]);
    if (a.epilogue == Epilogue::Gate) acc[p] = mul(silu(load(at)), acc[p]);
    store(at, acc[p]);
  }
}

// Asks for the outputs that finish_rows will change, so that they come while the sums are made.
template <int Panels>
FORERUN_INLINE void prefetch_rows(const LinearArgs& a, int row, int rows, int panel) {
  if (a.epilogue == Epilogue::Largest) return;
  const int column = (a.epilogue == Epilogue::SiluMul ? panel / 2 : panel) * kPanel;
  const int lines = a.epilogue == Epilogue::SiluMul ? Panels / 2 : Panels;
  for (int r = 0; r < rows; ++r)
    for (int p = 0; p < lines; ++p)
      __builtin_prefetch(a.y + static_cast<size_t>(row + r) * a.ldy + column + p * kPanel, 0, 3);
}

// acc: [rows][panel].
template <int Panels>
void finish_rows(const LinearArgs& a, int row, int rows, int panel, const f32x16* acc) {
  for (int r = 0; r < rows; ++r) {
    f32x16 out[Panels];
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) out[p] = acc[r * Panels + p];
    finish<Panels>(a, row + r, panel, out);
  }
}

}  // namespace forerun::FORERUN_ISA

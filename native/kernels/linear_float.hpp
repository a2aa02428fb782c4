// Linear layers with float32 or bfloat16 weights: one fused multiply-add per element of K, ascending, in float32.
#pragma once

namespace forerun::FORERUN_ISA {

FORERUN_INLINE f32x16 bf16_even(i32x16 pairs) { return bits_to_f32(shl<16>(pairs)); }
FORERUN_INLINE f32x16 bf16_odd(i32x16 pairs) {
  return bits_to_f32(bit_and(pairs, set1(static_cast<int32_t>(0xffff0000u))));
}

template <Format F, int Rows, int Panels>
void float_sums(const LinearArgs& a, int row, int panel, f32x16 (&sums)[Rows * Panels]) {
  constexpr size_t kBytes = block_bytes(F);
  const size_t stride = kBytes * a.blocks;
  const uint8_t* base = a.weights + stride * panel;
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  Tree<Rows * Panels> tree;
  f32x16 acc[Rows * Panels];
  for (int segment = 0; segment < a.splits; ++segment) {
    for (auto& v : acc) v = set1(0.0f);
    const int end = segment_begin(a, segment + 1) * kBlock;
    for (int k = segment_begin(a, segment) * kBlock; k < end; k += 2) {
      f32x16 even[Panels], odd[Panels];
      for (int p = 0; p < Panels; ++p) {
        const uint8_t* w = base + stride * p + kBytes / kBlock * k;
        if constexpr (F == Format::BFloat16) {
          const i32x16 pairs = load_i32(w);
          even[p] = bf16_even(pairs);
          odd[p] = bf16_odd(pairs);
        } else {
          even[p] = load(reinterpret_cast<const float*>(w));
          odd[p] = load(reinterpret_cast<const float*>(w) + 16);
        }
      }
      for (int r = 0; r < Rows; ++r) {
        const f32x16 x0 = set1(x[static_cast<size_t>(r) * a.ldx + k]),
                     x1 = set1(x[static_cast<size_t>(r) * a.ldx + k + 1]);
        for (int p = 0; p < Panels; ++p) {
          f32x16& sum = acc[r * Panels + p];
          sum = fma(x1, odd[p], fma(x0, even[p], sum));
        }
      }
    }
    tree.push(acc);
  }
  for (int i = 0; i < Rows * Panels; ++i) sums[i] = acc[i];
}

template <Format F, int Rows, int Panels>
void float_rows(const LinearArgs& a, int row, int panel) {
  f32x16 sums[Rows * Panels];
  float_sums<F, Rows, Panels>(a, row, panel, sums);
  finish_rows<Panels>(a, row, Rows, panel, sums);
}
// Gate and up, where one panel fills the registers.
template <Format F, int Rows>
void float_pair(const LinearArgs& a, int row, int panel) {
  f32x16 both[Rows * 2], sums[Rows];
  for (int p = 0; p < 2; ++p) {
    float_sums<F, Rows, 1>(a, row, panel + p, sums);
    for (int r = 0; r < Rows; ++r) both[r * 2 + p] = sums[r];
  }
  finish_rows<2>(a, row, Rows, panel, both);
}

// Tiles of nearly equal height.
template <Format F, int Panels>
FORERUN_INLINE void float_panels(const LinearArgs& a, int panel) {
  constexpr int kMost = kTileRows >= 6 ? 8 : kTileRows;
  const int tiles = (a.rows + kMost - 1) / kMost;
  for (int tile = 0; tile < tiles; ++tile) {
    const int row = a.rows * tile / tiles, rows = a.rows * (tile + 1) / tiles - row;
    with_rows<kMost>(rows, [&]<int Rows>() {
      if constexpr (Panels > kTilePanels) {
        float_pair<F, Rows>(a, row, panel);
      } else {
        float_rows<F, Rows, Panels>(a, row, panel);
      }
      return Rows;
    });
  }
}

template <Format F>
void linear_float(const LinearArgs& a) {
  int panel = a.panel_begin;
  if (a.rows == 1)  // one row: independent sums hide the latency of the additions
    for (; panel + 4 <= a.panel_end; panel += 4) float_rows<F, 1, 4>(a, 0, panel);
  if (kTilePanels == 2 || a.epilogue == Epilogue::SiluMul)
    for (; panel + 2 <= a.panel_end; panel += 2) float_panels<F, 2>(a, panel);
  for (; panel < a.panel_end; ++panel) float_panels<F, 1>(a, panel);
}

}  // namespace forerun::FORERUN_ISA

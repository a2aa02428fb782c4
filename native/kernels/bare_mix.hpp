// The operations of an integer layer without anything around them: one full register tile over groups that are all in
// the first cache. No layer of this instruction set can be faster.
#pragma once

namespace forerun::FORERUN_ISA {

// Runs `passes` times over the groups of a; a.scratch holds unpacked panels, a.quant kTileRows rows, a.y their sums.
// Returns the number of products and additions.
static double bare_mix(const LinearArgs& a, int passes) {
  using Weights = UnpackedPanels<Format::Int4F16Min, kTilePanels>;
  const Weights w = {a.scratch, a.blocks};
  const PlaneRows x = {a.quant.high, nullptr, static_cast<size_t>(a.quant.groups)};
  f32x16 acc[kTileRows * kTilePanels];
  clear(acc);
  for (int pass = 0; pass < passes; ++pass)
    for (int g = 0; g < a.quant.groups; ++g) add_group<true, kTileRows, kTilePanels>(acc, w, x, g, g);
  for (int i = 0; i < kTileRows * kTilePanels; ++i) store(a.y + i * kPanel, acc[i]);
  return 2.0 * passes * a.quant.groups * kTileRows * kTilePanels * kPanel * kGroup;
}

}  // namespace forerun::FORERUN_ISA

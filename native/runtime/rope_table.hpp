// cos and sin of position * frequency, the same bits on every machine.
#pragma once

namespace forerun {

// Fills cos and sin, float32 [positions, half]: the angle is a float32 product, its cosine is computed in double.
void fill_rope_table(const float* inv_freq, int pairs, float scale, int positions, float* cos, float* sin);

}  // namespace forerun

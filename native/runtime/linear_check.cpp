#include "runtime/linear_check.hpp"

#include <cstring>
#include <vector>

#include "runtime/memory.hpp"

namespace forerun {
namespace {

// Small random numbers, the same everywhere.
class Noise {
 public:
  unsigned below(unsigned n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(state_ >> 33) % n;
  }
  int between(int least, int most) { return least + static_cast<int>(below(static_cast<unsigned>(most - least + 1))); }

 private:
  uint64_t state_ = 1;
};

// Any bytes but for those of float16 numbers, which must be moderate ones of either sign.
std::vector<uint8_t> random_weights(Noise& noise, const LinearCase& what) {
  const size_t bytes = block_bytes(what.format), floats = float_offset(what.format);
  std::vector<uint8_t> w(panel_bytes(what.format, what.blocks) * what.panel_end);
  for (size_t at = 0; at < w.size(); ++at) {
    const bool top = at % bytes >= floats && at % 2 == 1;
    w[at] = static_cast<uint8_t>(top ? 0x2c + 0x80 * noise.below(2) : noise.below(256));
  }
  return w;
}

// One plane of a group with numbers of a range; their sum.
int random_group(Noise& noise, int least, int most, float scale, int group, QuantGroup& to) {
  to.sum[0] = to.sum[1] = 0;
  for (int i = 0; i < kGroup; ++i) {
    to.q[i] = static_cast<int8_t>(noise.between(least, most));
    to.sum[i / (kGroup / 2)] = static_cast<int16_t>(to.sum[i / (kGroup / 2)] + to.q[i]);
  }
  to.scale = scale, to.offset = -kUnit * scale, to.group = group;
  return to.sum[0] + to.sum[1];
}

// Quantised rows with the ranges of quantize_row.
struct RandomRows {
  std::vector<QuantGroup> high, low;
  std::vector<int32_t> fine;
  int groups;

  RandomRows(Noise& noise, const LinearCase& what)
      : high(static_cast<size_t>(what.rows) * what.blocks * 2),
        low(high.size()),
        fine(what.rows),
        groups(what.blocks * 2) {
    for (int n = 0; n < what.rows * groups; ++n) {
      const int row = n / groups, group = n % groups;
      const float scale = short_scale(1e-4f * static_cast<float>(noise.between(1, 1000)));
      int sum = 128 * random_group(noise, -127, 127, 128.0f * scale, group, high[n]), half = 128 * high[n].sum[0];
      if (noise.below(100) < what.fine_percent) {
        QuantGroup& rest = low[static_cast<size_t>(row) * groups + fine[row]++];
        sum += random_group(noise, -64, 63, scale, group, rest), half += rest.sum[0];
      }
      high[n].scaled_sum[0] = scale * static_cast<float>(sum);
      high[n].scaled_sum[1] = scale * static_cast<float>(half);
      high[n].scaled_sum[2] = scale * static_cast<float>(sum - half);
    }
  }
  QuantRows view() { return {high.data(), low.data(), fine.data(), groups}; }
};

std::vector<float> run_linear(const Kernels& kernels, LinearArgs args) {
  const Pages scratch(kernels.linear_scratch(args.blocks));
  std::vector<float> y(static_cast<size_t>(args.rows) * args.ldy, 0.5f);
  args.scratch = scratch.data();
  args.y = y.data();
  kernels.linear(args);
  return y;
}

}  // namespace

bool linear_agrees(const Kernels& tried, const Kernels& trusted, const LinearCase& what) {
  Noise noise;
  RandomRows rows(noise, what);
  const std::vector<uint8_t> weights = random_weights(noise, what);
  std::vector<float> vector(static_cast<size_t>(what.panel_end) * kPanel);
  for (float& v : vector) v = 1e-2f * static_cast<float>(noise.below(100));
  LinearArgs args;
  args.weights = weights.data();
  args.channel_scale = vector.data();
  args.bias = what.bias ? vector.data() : nullptr;
  args.format = what.format, args.blocks = what.blocks, args.splits = what.splits;
  args.quant = rows.view();
  args.rows = what.rows;
  args.ldy = what.panel_end * kPanel;
  args.epilogue = what.epilogue;
  args.panel_begin = what.panel_begin, args.panel_end = what.panel_end;
  const std::vector<float> a = run_linear(tried, args), b = run_linear(trusted, args);
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace forerun

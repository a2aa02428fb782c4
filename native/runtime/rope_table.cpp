#include "runtime/rope_table.hpp"

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace forerun {
namespace {

// Taylor series on |x| <= pi / 4: error below 1e-17.
double sin_series(double x) {
  const double z = x * x;
  double s = 1.0 / 355687428096000.0;
  for (double f : {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0,
                   1.0 / 120.0, -1.0 / 6.0})
    s = s * z + f;
  return x + x * (z * s);
}
double cos_series(double x) {
  const double z = x * x;
  double c = 1.0 / 20922789888000.0;
  for (double f :
       {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5})
    c = c * z + f;
  return 1.0 + z * c;
}

}  // namespace

void fill_rope_table(const float* inv_freq, int pairs, float scale, int positions, float* cos, float* sin) {
  // pi / 2 in two parts; the first has 33 bits, so that its multiples up to 2^20 are exact.
  constexpr double kHalfPiHigh = 1.5707963267341256, kHalfPiLow = 6.0771005065061922e-11;
  for (int p = 0; p < positions; ++p)
    for (int i = 0; i < pairs; ++i) {
      const double angle = static_cast<float>(p) * inv_freq[i];
      const double turns = std::nearbyint(angle * 0.63661977236758134);
      const double x = (angle - turns * kHalfPiHigh) - turns * kHalfPiLow;
      const double s = sin_series(x), c = cos_series(x);
      const int quarter = static_cast<int>(static_cast<int64_t>(turns) & 3);
      const double cosine[4] = {c, -s, -c, s}, sine[4] = {s, c, -s, -c};
      cos[static_cast<long>(p) * pairs + i] = static_cast<float>(cosine[quarter]) * scale;
      sin[static_cast<long>(p) * pairs + i] = static_cast<float>(sine[quarter]) * scale;
    }
}

}  // namespace forerun

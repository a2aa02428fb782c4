// exp and logarithm on 16 lanes: fixed polynomials, the same bits on every instruction set (docs/numerics.md).
#pragma once

namespace forerun::FORERUN_ISA {

// e^x in about 1 ulp for x up to 88; exactly 0 below -87. Coefficients: Cephes expf.
FORERUN_INLINE f32x16 exp32_below_88(f32x16 x) {
  const f32x16 shift = set1(12582912.0f);  // 1.5 * 2^23: a sum with it is rounded to a whole number, its lowest bits
  const f32x16 sum = add(mul(x, set1(1.44269504f)), shift);
  const f32x16 n = sub(sum, shift);
  f32x16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  f32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  const f32x16 scale = bits_to_f32(add(shl<23>(bits_to_i32(sum)), set1(127 << 23)));
  return select_less(x, set1(-87.0f), set1(0.0f), mul(p, scale));
}
// Any x; above 88 it counts as 88.
FORERUN_INLINE f32x16 exp32(f32x16 x) { return exp32_below_88(min(set1(88.0f), x)); }  // in this order NaN stays NaN
FORERUN_INLINE float exp32(float x) { return first_lane(exp32(set1(x))); }

// Natural logarithm of normal positive x. Coefficients: Cephes logf.
FORERUN_INLINE f32x16 log32(f32x16 x) {
  const i32x16 bits = bits_to_i32(x);
  f32x16 e = to_f32(sub(sar<23>(bits), set1(126)));  // mantissa m in [0.5, 1)
  f32x16 m = bits_to_f32(add(bit_and(bits, set1(0x007fffff)), set1(0x3f000000)));
  const f32x16 root = set1(0.70710678f);
  e = select_less(m, root, sub(e, set1(1.0f)), e);
  const f32x16 f = sub(select_less(m, root, add(m, m), m), set1(1.0f));
  const f32x16 z = mul(f, f);
  f32x16 y = set1(7.0376836292e-2f);
  y = fma(y, f, set1(-1.1514610310e-1f));
  y = fma(y, f, set1(1.1676998740e-1f));
  y = fma(y, f, set1(-1.2420140846e-1f));
  y = fma(y, f, set1(1.4249322787e-1f));
  y = fma(y, f, set1(-1.6668057665e-1f));
  y = fma(y, f, set1(2.0000714765e-1f));
  y = fma(y, f, set1(-2.4999993993e-1f));
  y = fma(y, f, set1(3.3333331174e-1f));
  y = mul(mul(y, f), z);
  y = fma(e, set1(-2.12194440e-4f), y);
  y = fma(z, set1(-0.5f), y);
  return fma(e, set1(0.693359375f), add(f, y));
}
FORERUN_INLINE float log32(float x) { return first_lane(log32(set1(x))); }

}  // namespace forerun::FORERUN_ISA

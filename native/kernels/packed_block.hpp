// How vectors read a block of packed weights in an integer format: everything follows from the format's Coding.
#pragma once

namespace forerun::FORERUN_ISA {

template <Format F>
struct Traits : FormatTraits<F> {
  using Base = FormatTraits<F>;
  static constexpr Planes kValuePlanes = planes(Base::kCoding.bits), kStepPlanes = planes(Base::kCoding.step_bits);

  // Elements 4i..4i+3 of a group of 32, all sixteen columns, of the block at base + offset.
  FORERUN_METHOD static u8x64 values(const uint8_t* base, size_t offset, int group, int i) {
    const uint8_t* block = base + offset;
    u8x64 v = plane<kValuePlanes.low>(block, group, i, 0);
    if constexpr (kValuePlanes.high != 0)
      v = bit_or(v, plane<kValuePlanes.high>(block + Base::kLowValues, group, i, kValuePlanes.low));
    if constexpr (Base::kCoding.table) v = lookup(v, kNonlinear);
    return v;
  }
  // Scale and minimum of one part of a group of 32.
  FORERUN_METHOD static f32x16 scale(const uint8_t* block, int group, int part) {
    return number<0>(block, group * Base::kParts + part);
  }
  FORERUN_METHOD static f32x16 minimum(const uint8_t* block, int group, int part) {
    return number<1>(block, group * Base::kParts + part);
  }

 private:
  // A plane of Bits bits has as many vectors for a group of 32: the first holds elements 4i..4i+3 in its lowest bits
  // for i = 0, in the next ones for i = Bits, and so on. The bits come back at position `to` of each byte.
  template <int Bits>
  FORERUN_METHOD static u8x64 plane(const uint8_t* from, int group, int i, int to) {
    const u8x64 packed = load_u8(from + (group * Bits + i % Bits) * 64);
    if constexpr (Bits == 8) return packed;
    return move_bits<Bits>(packed, i / Bits * Bits, to);
  }
  // Steps of group n for all columns: 8 / Bits neighbouring groups share bytes.
  template <int Bits>
  FORERUN_METHOD static i32x16 steps(const uint8_t* from, int n) {
    constexpr int kShared = 8 / Bits;
    const i32x16 bytes = widen_u8(from + n / kShared * kPanel);
    if constexpr (Bits == 8) return bytes;
    return bit_and(shr(bytes, n % kShared * Bits), set1((1 << Bits) - 1));
  }
  // Scale (0) or minimum (1) of group n of the block.
  template <int Which>
  FORERUN_METHOD static f32x16 number(const uint8_t* block, int n) {
    const uint8_t* from = block + Base::kValues + Which * Base::kScales;
    if constexpr (!Base::kSteps) {
      return load_f16(from + n * 2 * kPanel);
    } else {
      constexpr int kLow = kStepPlanes.low, kHigh = kStepPlanes.high, kZero = Base::kCoding.step_zero;
      i32x16 step = steps<kLow>(from, n);
      if constexpr (kHigh != 0)
        step = add(step, shl<kLow>(steps<kHigh>(from + kPanel * Base::kGroups * Base::kParts * kLow / 8, n)));
      if constexpr (kZero != 0) step = sub(step, set1(kZero));
      const uint8_t* unit = block + Base::kFloats + Which * Base::kUnits;
      return mul(to_f32(step), load_f16(unit));
    }
  }
};

}  // namespace forerun::FORERUN_ISA

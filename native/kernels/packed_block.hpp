// How vectors read a block of packed weights in an integer format.
#pragma once

namespace forerun::FORERUN_ISA {

template <Format F>
struct Traits : FormatTraits<F> {
  using Base = FormatTraits<F>;
  // Elements 4i..4i+3 of a group, all sixteen columns, of the block at base + offset. Low nibbles hold a group's first
  // 16 elements, high ones the others.
  FORERUN_METHOD static u8x64 values(const uint8_t* base, size_t offset, int group, int i) {
    if constexpr (Base::kNibbles) {
      const u8x64 packed = load_u8(base + offset + group * 256 + i % 4 * 64);
      return i < 4 ? low_nibbles(packed) : high_nibbles(packed);
    } else {
      return load_u8(base + offset + group * 512 + i * 64);
    }
  }
  FORERUN_METHOD static f32x16 scale(const uint8_t* block, int group, int) {
    const uint8_t* p = block + Base::kValues + group * Base::kScales;
    if constexpr (Base::kFloatScale) return load(reinterpret_cast<const float*>(p));
    return load_f16(p);
  }
  FORERUN_METHOD static f32x16 minimum(const uint8_t* block, int group, int part) {
    return scale(block + 2 * Base::kScales, group, part);
  }
};

}  // namespace forerun::FORERUN_ISA

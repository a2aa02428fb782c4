// The weight formats: what a packed block of each holds, and the one way from a format that is known when the program
// runs to code that is compiled for it.
#pragma once
#include <cstddef>

namespace forerun {

// Weights are stored in panels of 16 rows of W (output columns), each panel in blocks of 64 along K.
// One block: the quantised values, then two groups of 16 scales, then two groups of 16 minima (where the format has
// them).
enum class Format : int { Float32, BFloat16, Int4F16Min, Int4F32Min, Int4F16, Int8F16, Int8F16Min, Int8Channel };
inline constexpr int kPanel = 16;  // output columns of a panel
inline constexpr int kBlock = 64;  // elements of K in a block
inline constexpr int kGroup = 32;  // elements that share an activation scale (and a weight scale)

constexpr bool is_integer(Format f) { return f != Format::Float32 && f != Format::BFloat16; }

template <Format F>
struct FormatTraits {
  static constexpr bool kInteger = is_integer(F);
  static constexpr bool kNibbles = F == Format::Int4F16Min || F == Format::Int4F32Min || F == Format::Int4F16;
  static constexpr int kBits = F == Format::Float32 ? 32 : F == Format::BFloat16 ? 16 : kNibbles ? 4 : 8;
  static constexpr bool kMin = F == Format::Int4F16Min || F == Format::Int4F32Min || F == Format::Int8F16Min;
  static constexpr bool kChannel = F == Format::Int8Channel;  // scales are not in the blocks
  static constexpr bool kFloatScale = F == Format::Int4F32Min;
  static constexpr int kTop = kNibbles ? 15 : 255;  // the largest stored value
  static constexpr int kParts = 1;                  // groups of weights in a group of activations
  static constexpr int kGroups = kBlock / kGroup;   // groups of activations in a block
  static constexpr int kZero = !kInteger || kMin ? 0 : kNibbles ? 8 : 128;
  // In bytes: the values of a block, the 16 scales of a group, everything.
  static constexpr int kValues = kPanel * kBlock * kBits / 8;
  static constexpr int kScales = !kInteger || kChannel ? 0 : kPanel * (kFloatScale ? 4 : 2);
  static constexpr size_t kBytes = kValues + (kMin ? 4 : 2) * kScales;
  static constexpr size_t bytes_of(int blocks) { return kBytes * blocks; }  // of a panel
};

// Calls `work.operator()<F>()` for the F that `format` is.
template <class Work>
inline __attribute__((always_inline)) constexpr auto with_format(Format format, const Work& work) {
  switch (format) {
    case Format::Float32:
      return work.template operator()<Format::Float32>();
    case Format::BFloat16:
      return work.template operator()<Format::BFloat16>();
    case Format::Int4F16Min:
      return work.template operator()<Format::Int4F16Min>();
    case Format::Int4F32Min:
      return work.template operator()<Format::Int4F32Min>();
    case Format::Int4F16:
      return work.template operator()<Format::Int4F16>();
    case Format::Int8F16:
      return work.template operator()<Format::Int8F16>();
    case Format::Int8F16Min:
      return work.template operator()<Format::Int8F16Min>();
    case Format::Int8Channel:
      return work.template operator()<Format::Int8Channel>();
  }
  __builtin_trap();
}

constexpr size_t value_bytes(Format format) {  // of a block
  return with_format(format, []<Format F>() { return static_cast<size_t>(FormatTraits<F>::kValues); });
}
constexpr size_t block_bytes(Format format) {
  return with_format(format, []<Format F>() { return FormatTraits<F>::kBytes; });
}

}  // namespace forerun

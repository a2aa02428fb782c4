// The weight formats: how each codes its numbers, what follows from that for a packed block, and the one way from a
// format that is known when the program runs to code that is compiled for it.
#pragma once
#include <cstddef>

namespace forerun {

// Weights are stored in panels of 16 rows of W (output columns), each panel in blocks of 64 or 256 along K.
// One block: the values' low bits, their high bits, the scales of its groups, then their minima (where the format has
// them); formats with steps: their units last.
enum class Format : int {
  Float32,
  BFloat16,
  Int8Channel,
  Int8F16,
  Int4F16,
  Int4F16Min,
  Int5F16,
  Int5F16Min,
  Q2K,
  Q3K,
  Q4K,
  Q5K,
  Q6K,
  Iq4Nl,
  Iq4Xs,
};
inline constexpr int kPanel = 16;  // output columns of a panel
inline constexpr int kBlock = 64;  // elements of K that activations and K's segments are counted in
inline constexpr int kGroup = 32;  // elements that share an activation scale

constexpr bool is_integer(Format f) { return f != Format::Float32 && f != Format::BFloat16; }

// How an integer format codes its numbers: scale * (value - zero), or scale * value + minimum.
struct Coding {
  int bits;           // of a value
  bool minimum;       // groups have a minimum
  int step_bits = 0;  // scales and minima are whole numbers of so many bits times a float16 unit; 0: float16 themselves
  int step_zero = 0;  // the stored step that stands for zero
  int group = kGroup;    // elements that share a scale and a minimum
  bool table = false;    // the stored bits are positions in kNonlinear
  bool channel = false;  // one float32 scale per output column, kept apart
};

constexpr Coding coding(Format f) {
  switch (f) {
    case Format::Float32:
      return {.bits = 32, .minimum = false};
    case Format::BFloat16:
      return {.bits = 16, .minimum = false};
    case Format::Int8Channel:
      return {.bits = 8, .minimum = false, .channel = true};
    case Format::Int8F16:
      return {.bits = 8, .minimum = false};
    case Format::Int4F16:
      return {.bits = 4, .minimum = false};
    case Format::Int4F16Min:
      return {.bits = 4, .minimum = true};
    case Format::Int5F16:
      return {.bits = 5, .minimum = false};
    case Format::Int5F16Min:
      return {.bits = 5, .minimum = true};
    case Format::Q2K:
      return {.bits = 2, .minimum = true, .step_bits = 4, .group = 16};
    case Format::Q3K:
      return {.bits = 3, .minimum = false, .step_bits = 6, .step_zero = 32, .group = 16};
    case Format::Q4K:
      return {.bits = 4, .minimum = true, .step_bits = 8};
    case Format::Q5K:
      return {.bits = 5, .minimum = true, .step_bits = 8};
    case Format::Q6K:
      return {.bits = 6, .minimum = false, .step_bits = 8, .step_zero = 128, .group = 16};
    case Format::Iq4Nl:
      return {.bits = 4, .minimum = false, .table = true};
    case Format::Iq4Xs:
      return {.bits = 4, .minimum = false, .step_bits = 8, .step_zero = 32, .table = true};
  }
  __builtin_trap();
}

// Values that four bits stand for in formats with a table, 128 added.
inline constexpr unsigned char kNonlinear[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                 129, 141, 153, 166, 181, 197, 217, 241};

// Whole numbers are stored as one plane of bits or two, so that each plane's width divides 8.
struct Planes {
  int low, high;
};
constexpr Planes planes(int bits) {
  const int low = bits >= 8 ? bits : bits >= 4 ? 4 : bits >= 2 ? 2 : bits;
  return {low, bits - low};
}

template <Format F>
struct FormatTraits {
  static constexpr Coding kCoding = coding(F);
  static constexpr bool kInteger = is_integer(F);
  static constexpr bool kMin = kCoding.minimum, kChannel = kCoding.channel, kSteps = kCoding.step_bits != 0;
  static constexpr int kTop = kCoding.bits < 8 && !kCoding.table ? (1 << kCoding.bits) - 1 : 255;  // stored values
  static constexpr int kZero = !kInteger || kMin ? 0 : kCoding.table ? 128 : 1 << (kCoding.bits - 1);
  static constexpr int kParts = kGroup / kCoding.group;  // groups of weights in a group of activations
  static constexpr int kSpan = kSteps ? 256 : kBlock;    // elements of K in a block
  static constexpr int kGroups = kSpan / kGroup;         // groups of activations in a block
  // In bytes: the values of a block, its scales (and again its minima), the 16 units, everything.
  static constexpr int kLowValues = kPanel * kSpan * planes(kCoding.bits).low / 8;
  static constexpr int kValues = kPanel * kSpan * kCoding.bits / 8;
  static constexpr int kScaleBits = !kInteger || kChannel ? 0 : kSteps ? kCoding.step_bits : 16;
  static constexpr int kScales = kPanel * kGroups * kParts * kScaleBits / 8;
  static constexpr int kUnits = kSteps ? 2 * kPanel : 0;
  static constexpr int kFloats = kValues + (kSteps ? (kMin ? 2 : 1) * kScales : 0);  // where its float16 numbers begin
  static constexpr size_t kBytes = (kValues + (kMin ? 2 : 1) * (kScales + kUnits) + 63) / 64 * 64;
  static constexpr size_t bytes_of(int blocks) {  // of a panel of so many times 64 of K
    return static_cast<size_t>((blocks * kBlock + kSpan - 1) / kSpan) * kBytes;
  }
};

// Calls `work.operator()<F>()` for the F that `format` is.
template <class Work>
inline __attribute__((always_inline)) constexpr auto with_format(Format format, const Work& work) {
  switch (format) {
    case Format::Float32:
      return work.template operator()<Format::Float32>();
    case Format::BFloat16:
      return work.template operator()<Format::BFloat16>();
    case Format::Int8Channel:
      return work.template operator()<Format::Int8Channel>();
    case Format::Int8F16:
      return work.template operator()<Format::Int8F16>();
    case Format::Int4F16:
      return work.template operator()<Format::Int4F16>();
    case Format::Int4F16Min:
      return work.template operator()<Format::Int4F16Min>();
    case Format::Int5F16:
      return work.template operator()<Format::Int5F16>();
    case Format::Int5F16Min:
      return work.template operator()<Format::Int5F16Min>();
    case Format::Q2K:
      return work.template operator()<Format::Q2K>();
    case Format::Q3K:
      return work.template operator()<Format::Q3K>();
    case Format::Q4K:
      return work.template operator()<Format::Q4K>();
    case Format::Q5K:
      return work.template operator()<Format::Q5K>();
    case Format::Q6K:
      return work.template operator()<Format::Q6K>();
    case Format::Iq4Nl:
      return work.template operator()<Format::Iq4Nl>();
    case Format::Iq4Xs:
      return work.template operator()<Format::Iq4Xs>();
  }
  __builtin_trap();
}

// Bytes of a panel of `blocks` times 64 of K, and of a block of it.
constexpr size_t panel_bytes(Format format, int blocks) {
  return with_format(format, [=]<Format F>() { return FormatTraits<F>::bytes_of(blocks); });
}
constexpr size_t block_bytes(Format format) {
  return with_format(format, []<Format F>() { return FormatTraits<F>::kBytes; });
}
// Bytes of a block before its float16 numbers, which are the last ones.
constexpr size_t float_offset(Format format) {
  return with_format(format, []<Format F>() { return static_cast<size_t>(FormatTraits<F>::kFloats); });
}
constexpr int block_span(Format format) {
  return with_format(format, []<Format F>() { return FormatTraits<F>::kSpan; });
}

}  // namespace forerun

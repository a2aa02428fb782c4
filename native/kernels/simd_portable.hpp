// Sixteen-lane vectors in plain C++: the definition of what every instruction set must compute.
// Included once per translation unit, inside the namespace that FORERUN_ISA names.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define FORERUN_ISA portable
#define FORERUN_INLINE static inline
#define FORERUN_METHOD inline

namespace forerun::portable {

struct f32x16 {
  float v[16];
};
struct i32x16 {
  int32_t v[16];
};
struct u8x64 {
  uint8_t v[64];
};

#define FORERUN_LANES for (int j = 0; j < 16; ++j)

FORERUN_INLINE f32x16 load(const float* p) {
  f32x16 r;
  std::memcpy(r.v, p, 64);
  return r;
}
FORERUN_INLINE void store(float* p, f32x16 a) { std::memcpy(p, a.v, 64); }
FORERUN_INLINE f32x16 set1(float x) {
  f32x16 r;
  FORERUN_LANES r.v[j] = x;
  return r;
}
FORERUN_INLINE i32x16 set1(int32_t x) {
  i32x16 r;
  FORERUN_LANES r.v[j] = x;
  return r;
}
#define FORERUN_BINARY(name, expr)                 \
  FORERUN_INLINE f32x16 name(f32x16 a, f32x16 b) { \
    f32x16 r;                                      \
    FORERUN_LANES r.v[j] = (expr);                 \
    return r;                                      \
  }
FORERUN_BINARY(add, a.v[j] + b.v[j])
FORERUN_BINARY(sub, a.v[j] - b.v[j])
FORERUN_BINARY(mul, a.v[j] * b.v[j])
FORERUN_BINARY(div, a.v[j] / b.v[j])
FORERUN_BINARY(max, a.v[j] > b.v[j] ? a.v[j] : b.v[j])  // second operand when either is NaN, as on x86
FORERUN_BINARY(min, a.v[j] < b.v[j] ? a.v[j] : b.v[j])
#undef FORERUN_BINARY
FORERUN_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  f32x16 r;
  FORERUN_LANES r.v[j] = std::fma(a.v[j], b.v[j], c.v[j]);
  return r;
}
FORERUN_INLINE f32x16 sqrt(f32x16 a) {
  f32x16 r;
  FORERUN_LANES r.v[j] = std::sqrt(a.v[j]);
  return r;
}
FORERUN_INLINE f32x16 abs(f32x16 a) {
  f32x16 r;
  FORERUN_LANES r.v[j] = std::fabs(a.v[j]);
  return r;
}
FORERUN_INLINE f32x16 round_even(f32x16 a) {
  f32x16 r;
  FORERUN_LANES r.v[j] = std::nearbyint(a.v[j]);
  return r;
}
// Integer value of a lane that already holds a whole number within int32; of NaN anything.
FORERUN_INLINE i32x16 to_i32(f32x16 a) {
  i32x16 r;
  FORERUN_LANES r.v[j] = a.v[j] == a.v[j] ? static_cast<int32_t>(a.v[j]) : 0;
  return r;
}
FORERUN_INLINE f32x16 to_f32(i32x16 a) {
  f32x16 r;
  FORERUN_LANES r.v[j] = static_cast<float>(a.v[j]);
  return r;
}
FORERUN_INLINE f32x16 bits_to_f32(i32x16 a) {
  f32x16 r;
  std::memcpy(r.v, a.v, 64);
  return r;
}
FORERUN_INLINE i32x16 bits_to_i32(f32x16 a) {
  i32x16 r;
  std::memcpy(r.v, a.v, 64);
  return r;
}
FORERUN_INLINE i32x16 add(i32x16 a, i32x16 b) {
  i32x16 r;
  FORERUN_LANES r.v[j] = static_cast<int32_t>(static_cast<uint32_t>(a.v[j]) + static_cast<uint32_t>(b.v[j]));
  return r;
}
FORERUN_INLINE i32x16 sub(i32x16 a, i32x16 b) {
  i32x16 r;
  FORERUN_LANES r.v[j] = static_cast<int32_t>(static_cast<uint32_t>(a.v[j]) - static_cast<uint32_t>(b.v[j]));
  return r;
}
FORERUN_INLINE i32x16 bit_and(i32x16 a, i32x16 b) {
  i32x16 r;
  FORERUN_LANES r.v[j] = a.v[j] & b.v[j];
  return r;
}
template <int N>
FORERUN_INLINE i32x16 shl(i32x16 a) {
  i32x16 r;
  FORERUN_LANES r.v[j] = static_cast<int32_t>(static_cast<uint32_t>(a.v[j]) << N);
  return r;
}
FORERUN_INLINE i32x16 shr(i32x16 a, int n) {
  i32x16 r;
  FORERUN_LANES r.v[j] = static_cast<int32_t>(static_cast<uint32_t>(a.v[j]) >> n);
  return r;
}
// Sixteen bytes as lanes.
FORERUN_INLINE i32x16 widen_u8(const uint8_t* p) {
  i32x16 r;
  FORERUN_LANES r.v[j] = p[j];
  return r;
}
template <int N>
FORERUN_INLINE i32x16 sar(i32x16 a) {
  i32x16 r;
  FORERUN_LANES r.v[j] = a.v[j] >> N;
  return r;
}
FORERUN_INLINE i32x16 load_i32(const void* p) {
  i32x16 r;
  std::memcpy(r.v, p, 64);
  return r;
}
// a < b ? x : y per lane
FORERUN_INLINE f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  f32x16 r;
  FORERUN_LANES r.v[j] = a.v[j] < b.v[j] ? x.v[j] : y.v[j];
  return r;
}
// Keeps lanes lo <= j < hi and puts `fill` into the others.
FORERUN_INLINE f32x16 keep_lanes(f32x16 a, int lo, int hi, float fill) {
  f32x16 r;
  FORERUN_LANES r.v[j] = (j >= lo && j < hi) ? a.v[j] : fill;
  return r;
}
FORERUN_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u, fraction = h & 1023u;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  } else {
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
FORERUN_INLINE f32x16 load_f16(const void* p) {
  uint16_t h[16];
  std::memcpy(h, p, 32);
  f32x16 r;
  FORERUN_LANES r.v[j] = half_to_float(h[j]);
  return r;
}
// Stores 16 whole numbers within [-128, 127] as int8.
FORERUN_INLINE void store_i8(int8_t* p, i32x16 a) { FORERUN_LANES p[j] = static_cast<int8_t>(a.v[j]); }
FORERUN_INLINE float first_lane(f32x16 a) { return a.v[0]; }

// hsum16 of docs/numerics.md: halves are added, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
FORERUN_INLINE float hsum(f32x16 a) {
  for (int n = 8; n; n /= 2)
    for (int j = 0; j < n; ++j) a.v[j] = a.v[j] + a.v[j + n];
  return a.v[0];
}
FORERUN_INLINE float hmax(f32x16 a) {
  float m = a.v[0];
  FORERUN_LANES m = a.v[j] > m ? a.v[j] : m;
  return m;
}

FORERUN_INLINE u8x64 load_u8(const uint8_t* p) {
  u8x64 r;
  std::memcpy(r.v, p, 64);
  return r;
}
FORERUN_INLINE void store_u8(uint8_t* p, u8x64 a) { std::memcpy(p, a.v, 64); }
FORERUN_INLINE u8x64 bit_or(u8x64 a, u8x64 b) {
  for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
  return a;
}
// Count bits of every byte, from position `from` to position `to`; all others become zero.
template <int Count>
FORERUN_INLINE u8x64 move_bits(u8x64 a, int from, int to) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<uint8_t>((a.v[i] >> from & ((1 << Count) - 1)) << to);
  return a;
}
// table[nibble] for every byte; all of them are below 16.
FORERUN_INLINE u8x64 lookup(u8x64 nibbles, const uint8_t (&table)[16]) {
  for (int i = 0; i < 64; ++i) nibbles.v[i] = table[nibbles.v[i]];
  return nibbles;
}
// Four signed activations, the same for all columns.
struct s8x4 {
  int8_t v[4];
};
FORERUN_INLINE s8x4 load_s8x4(const int8_t* p) {
  s8x4 r;
  std::memcpy(r.v, p, 4);
  return r;
}
// Sums of products per column, exact: `begin` takes and `end` gives them as numbers above a start. Weights are at most
// Top.
template <int Top>
struct Dot {
  static constexpr int kBias = 0;
  int32_t sums[16];
  FORERUN_METHOD static Dot begin(i32x16 start) {
    Dot dot;
    FORERUN_LANES dot.sums[j] = start.v[j];
    return dot;
  }
  FORERUN_METHOD void add(const u8x64& w, s8x4 a) {
    FORERUN_LANES {
      int32_t sum = 0;
      for (int i = 0; i < 4; ++i) sum += static_cast<int32_t>(w.v[4 * j + i]) * a.v[i];
      sums[j] += sum;
    }
  }
  FORERUN_METHOD i32x16 end(i32x16) const {
    i32x16 r;
    FORERUN_LANES r.v[j] = sums[j];
    return r;
  }
};
#undef FORERUN_LANES

// Register tiles (rows x panels of 16 columns) that fit this instruction set.
inline constexpr int kStreamRows = 1;                                   // rows of one pass over the streamed weights
inline constexpr int kStreamPanels[2] = {0, 1};                         // panels taken together, by rows
inline constexpr int kFinePanels = 1;                                   // the same, where all groups are fine
inline constexpr int kTileRows = 2, kTilePanels = 1, kUnpackRows = 64;  // many rows
inline constexpr int kVectorRegisters = 8;                              // of sixteen lanes

}  // namespace forerun::portable

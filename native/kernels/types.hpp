// Plain structures shared by the runtime and every instruction set's kernels.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/formats.hpp"

namespace forerun {

// Sums of products of 32 weights and activations lie within 2^22 either way. An integer n of that size, added to the
// bits of this number, gives the bits of the float kUnit + n: the way from integers to floats costs nothing.
inline constexpr float kUnit = 12582912.0f;  // 1.5 * 2^23: the last bit of its neighbours counts one
inline constexpr int32_t kUnitBits = 0x4b400000;

// A scale with two bits to spare, so that kUnit times it is exact.
inline __attribute__((always_inline)) float short_scale(float s) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(s) & ~3u);
}

// 32 neighbouring activations of one row in 8 bits: scale * q.
struct QuantGroup {
  int8_t q[kGroup];
  float scale, offset;  // offset: -kUnit * scale
  float scaled_sum[3];  // high plane: the sum of what both planes stand for, over the group, its first half, its second
  int16_t sum[2];       // of q over either half
  int32_t group;        // of the row
};

// Quantised rows. Every group is in `high`. Groups that stick out of their row, and all groups of the LM head's input,
// are fine: what 8 bits leave of them follows, in units of 1/128, in `low`, one such group after the other.
struct QuantRows {
  QuantGroup* high = nullptr;  // [rows, groups]
  QuantGroup* low = nullptr;   // [rows, groups], of which the first fine[row] are used
  int32_t* fine = nullptr;     // [rows]
  int groups = 0;              // an even number

  QuantRows from(int row) const {
    const size_t before = static_cast<size_t>(row) * groups;
    return {high + before, low + before, fine + row, groups};
  }
};

enum class Epilogue : int { Store, Add, SiluMul, Gate, Largest };

// The largest output of one row, kept per lane of a panel, for Epilogue::Largest.
struct LargestOutput {
  float value[kPanel], panel[kPanel];
  float wrong[kPanel];  // above 0: a NaN or plus infinity was among them
};

struct LinearArgs {
  const uint8_t* weights = nullptr;      // panels of the whole matrix
  const float* channel_scale = nullptr;  // [16 * panels], Int8Channel only
  const float* bias = nullptr;           // [16 * panels] or null
  Format format = Format::Float32;
  int blocks = 0;            // blocks of 64 along K
  int splits = 1;            // K segments, a power of two
  QuantRows quant;           // integer formats
  const float* x = nullptr;  // float formats: [rows, ldx], zero beyond K
  int ldx = 0;
  int rows = 0;
  bool tiles = true;   // whether tile registers may be used, where there are some
  float* y = nullptr;  // [rows, ldy]
  int ldy = 0;
  Epilogue epilogue = Epilogue::Store;
  LargestOutput* largest = nullptr;    // Largest, instead of y: [rows]; starts with (-inf, 0, 0)
  int columns = 0;                     // Largest: outputs that count
  int panel_begin = 0, panel_end = 0;  // this thread's share; even bounds with SiluMul
  uint8_t* scratch = nullptr;          // what Kernels::linear_scratch asks for, aligned to 64
  // Weights that this thread reads after its share, so that their first bytes can be on their way; null: none.
  const uint8_t* following = nullptr;
};
inline constexpr int kMostRows = 256;  // that pass a layer's weights together
// What kernels note of so many rows: where the sums of each group's parts begin, for both planes; then up to 32 bytes
// for each group, and an index for each row.
constexpr size_t starts_bytes(int blocks) { return size_t{2} * kMostRows * blocks * 2 * 2 * sizeof(int32_t); }
constexpr size_t prepared_bytes(int blocks) {
  return starts_bytes(blocks) + size_t{32} * kMostRows * blocks * 2 + 8 * kMostRows;
}
// An unpacked panel: bytes, then float scales and minima of groups of 16 at the most.
constexpr size_t unpacked_bytes(int blocks) {
  return static_cast<size_t>(blocks) * (kBlock * kPanel + 2 * kBlock / 16 * kPanel * sizeof(float));
}
// Those and two unpacked panels.
constexpr size_t linear_scratch_bytes(int blocks) { return prepared_bytes(blocks) + 2 * unpacked_bytes(blocks); }

// One layer's keys and values: [block, kv head, ...] with 2 (bf16) or 4 (int8) neighbours packed in 32 bits.
struct KvLayer {
  uint8_t* k = nullptr;
  uint8_t* v = nullptr;
  float* k_scale = nullptr;  // int8 only: [block, kv head, slot]
  float* v_scale = nullptr;
};
struct KvShape {
  int kv_heads = 0;
  int head_dim = 0;     // true size
  int padded_dim = 0;   // multiple of 16
  int block_size = 0;   // tokens, a power of two, at least 16
  int block_shift = 0;  // log2 of block_size
  bool int8 = false;
  size_t head_bytes() const { return static_cast<size_t>(block_size) * padded_dim * (int8 ? 1 : 2); }
  size_t block_stride() const { return head_bytes() * kv_heads; }
};

struct RopeKvArgs {
  const float* qkv = nullptr;  // [rows, ldqkv]: query heads, key heads, value heads
  int ldqkv = 0;
  int heads = 0, kv_heads = 0;  // of qkv
  int group = 1;                // query heads of a head of the cache
  int first_head = 0;           // the cache's first head, among those of the whole model
  int splits = 1;               // heads of the cache that share a key head
  float scale = 1.0f;
  const float* q_norm = nullptr;  // [head_dim] or null
  const float* k_norm = nullptr;
  float eps = 0.0f;
  const float* cos = nullptr;  // [positions, pairs]
  const float* sin = nullptr;
  int pairs = 0;                       // columns i and pairs + i turn together, those behind stay
  const int32_t* positions = nullptr;  // [rows]
  const int64_t* slots = nullptr;      // [rows]: block * block_size + offset
  KvLayer layer;
  KvShape shape;
};

inline constexpr int kTile = 256;     // keys of an attention tile, at absolute positions
inline constexpr int kQueryRows = 8;  // rows handled together

// A piece of attention: up to kQueryRows consecutive rows of one sequence, one KV head, a range of tiles.
struct AttentionArgs {
  const float* q = nullptr;  // the first row's first head of this KV head, already scaled; heads padded_dim apart
  int ldq = 0;               // floats between rows of q
  float* out = nullptr;      // [rows, ldo]: heads * head_dim
  int ldo = 0;
  int group = 0;  // query heads of a head of the cache
  int kv_head = 0;
  int window = 0;  // 0: unlimited
  int row_begin = 0, rows = 0;
  int first_position = 0;  // of row_begin
  int tile_begin = 0, tile_end = 0;
  const int32_t* block_table = nullptr;
  KvLayer layer;
  KvShape shape;
  // The piece that comes next on this thread, so that its keys can be on their way; null: none.
  const AttentionArgs* next = nullptr;
  float* state = nullptr;    // [rows * group][padded_dim + 16]: sum vector, then maximum and denominator
  float* scratch = nullptr;  // attention_scratch_floats(...)
};
constexpr size_t attention_state_floats(int padded_dim) { return static_cast<size_t>(padded_dim) + 16; }

}  // namespace forerun

// Keys and values in blocks. K of a block and head: [slot / 16][dim / pack][16 slots][pack]; V: [slot /
// pack][dim][pack], with pack = 2 neighbours of bfloat16 or 4 of int8 in one 32-bit lane. So scores are computed 16
// keys at a time and sums 16 dimensions at a time.
#pragma once
#include <limits>

namespace forerun::FORERUN_ISA {

// Round to nearest even; without a branch, so that loops over it become vectors.
FORERUN_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

FORERUN_INLINE size_t k_index(const KvShape& s, int slot, int d, int pack) {
  return ((static_cast<size_t>(slot / 16) * (s.padded_dim / pack) + d / pack) * 16 + slot % 16) * pack + d % pack;
}
FORERUN_INLINE size_t v_index(const KvShape& s, int slot, int d, int pack) {
  return (static_cast<size_t>(slot / pack) * s.padded_dim + d) * pack + slot % pack;
}

// One token's n values of one head, in the layout of K or V; four bytes of neighbours make a 32-bit lane.
template <bool Key, class T>
FORERUN_INLINE void kv_put(uint8_t* head, const KvShape& s, int slot, const T* x) {
  constexpr int kPack = 4 / sizeof(T);
  T* to = reinterpret_cast<T*>(head);
  if constexpr (Key) {
    to += k_index(s, slot, 0, kPack);
    for (int d = 0; d < s.padded_dim; d += kPack, to += 16 * kPack) std::memcpy(to, x + d, 4);
  } else {
    to += v_index(s, slot, 0, kPack);
    for (int d = 0; d < s.padded_dim; ++d) to[kPack * d] = x[d];
  }
}

// Writes one token's vector (padded_dim floats, zero beyond head_dim) of one head; K and V differ in their layout only.
template <bool Key>
void kv_write(uint8_t* pool, float* scales, const KvShape& s, int64_t slot, int head, const float* x) {
  const int64_t block = slot >> s.block_shift;
  const int at = static_cast<int>(slot & (s.block_size - 1)), n = s.padded_dim;
  uint8_t* to = pool + block * s.block_stride() + head * s.head_bytes();
  if (!s.int8) {
    uint16_t bits[512];
    for (int d = 0; d < n; ++d) bits[d] = to_bf16(x[d]);
    return kv_put<Key>(to, s, at, bits);
  }
  f32x16 most = set1(0.0f), odd = set1(0.0f);  // odd: NaN once there is an infinity or a NaN
  for (int d = 0; d < n; d += 16) {
    most = max(most, abs(load(x + d)));
    odd = fma(load(x + d), set1(0.0f), odd);
  }
  const bool finite = hsum(odd) == 0.0f;
  const float largest = finite ? hmax(most) : std::numeric_limits<float>::quiet_NaN();
  const bool empty = largest < 1e-30f;
  const f32x16 inverse = empty ? set1(0.0f) : div(set1(127.0f), set1(largest));
  scales[(static_cast<size_t>(block) * s.kv_heads + head) * s.block_size + at] = empty ? 0.0f : largest / 127.0f;
  int8_t q[512];
  for (int d = 0; d < n; d += 16) store_i8(q + d, to_i32(round_even(mul(load(x + d), inverse))));
  kv_put<Key>(to, s, at, q);
}

// Rotates the first 2 * half columns of a head in place: (x1, x2) -> (x1 c - x2 s, x2 c + x1 s). `n` of 16 lanes count.
FORERUN_INLINE void rotate_lanes(float* x1, float* x2, const float* cos, const float* sin) {
  const f32x16 a = load(x1), b = load(x2), c = load(cos), s = load(sin);
  store(x1, fma(a, c, sub(set1(0.0f), mul(b, s))));
  store(x2, fma(b, c, mul(a, s)));
}
static void rotate(float* x, int half, const float* cos, const float* sin) {
  int i = 0;
  for (; i + 16 <= half; i += 16) rotate_lanes(x + i, x + half + i, cos + i, sin + i);
  if (i == half) return;
  float a[16] = {}, b[16] = {}, c[16] = {}, s[16] = {};
  const int n = half - i;
  for (int j = 0; j < n; ++j) a[j] = x[i + j], b[j] = x[half + i + j], c[j] = cos[i + j], s[j] = sin[i + j];
  rotate_lanes(a, b, c, s);
  for (int j = 0; j < n; ++j) x[i + j] = a[j], x[half + i + j] = b[j];
}

// Copies a head out of the row, normalises it when asked, and leaves zeros up to padded_dim.
FORERUN_INLINE void take_head(const RopeKvArgs& a, const float* from, const float* norm, float* head) {
  const int n = a.shape.head_dim, padded = a.shape.padded_dim;
  float raw[512], weight[512];
  if (n < padded) {  // the last vector would reach into the next head
    for (int d = 0; d < padded; ++d) raw[d] = d < n ? from[d] : 0.0f;
    for (int d = 0; norm && d < padded; ++d) weight[d] = d < n ? norm[d] : 0.0f;
    from = raw;
    if (norm) norm = weight;
  }
  if (norm) return rms_norm(from, norm, a.eps, n, padded, head);
  for (int d = 0; d < padded; d += 16) store(head + d, load(from + d));
}

// One head of the cache in a row, and its query heads. Queries: normed, rotated, scaled, into q [group, padded_dim].
// Keys and values, when `write` says so: normed, rotated, into the cache.
static void rope_kv(const RopeKvArgs& a, int row, int kv_head, float* q, bool write) {
  const KvShape& s = a.shape;
  const int n = s.head_dim, group = a.group, head = a.first_head + kv_head, from = head / a.splits;
  const float* qkv = a.qkv + static_cast<size_t>(row) * a.ldqkv;
  const float* cos = a.cos + static_cast<size_t>(a.positions[row]) * a.pairs;
  const float* sin = a.sin + static_cast<size_t>(a.positions[row]) * a.pairs;
  for (int g = 0; g < group; ++g, q += s.padded_dim) {
    take_head(a, qkv + (head * group + g) * n, a.q_norm, q);
    rotate(q, a.pairs, cos, sin);
    for (int d = 0; d < s.padded_dim; d += 16) store(q + d, mul(load(q + d), set1(a.scale)));
  }
  if (!write) return;
  float key[512], value[512];
  take_head(a, qkv + (a.heads + from) * n, a.k_norm, key);
  rotate(key, a.pairs, cos, sin);
  kv_write<true>(a.layer.k, a.layer.k_scale, s, a.slots[row], kv_head, key);
  take_head(a, qkv + (a.heads + a.kv_heads + from) * n, nullptr, value);
  kv_write<false>(a.layer.v, a.layer.v_scale, s, a.slots[row], kv_head, value);
}

}  // namespace forerun::FORERUN_ISA

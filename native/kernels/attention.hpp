// Attention over the block cache for a few consecutive rows of one sequence and the query heads of one KV head. Keys
// are taken in tiles of 256 absolute positions; a tile has its own softmax, and tiles are merged in ascending order, so
// neither the split over threads nor the number of rows changes a bit (docs/numerics.md).
#pragma once

namespace forerun::FORERUN_ISA {

// Four int8 neighbours of a 32-bit lane, widened to floats.
template <int I>
FORERUN_INLINE f32x16 int8_lane(i32x16 packed) {
  return to_f32(sar<24>(shl<24 - 8 * I>(packed)));
}

// scores[q][16] for 16 keys: chains over the dimensions, ascending.
template <bool Int8, int Q>
FORERUN_INLINE void score_keys(const uint8_t* k, int padded_dim, const float* const (&q)[Q], f32x16 (&s)[Q]) {
  FORERUN_UNROLL
  for (int i = 0; i < Q; ++i) s[i] = set1(0.0f);
  if constexpr (Int8) {
    for (int d = 0; d < padded_dim; d += 4, k += 64) {
      const i32x16 packed = load_i32(k);
      const f32x16 k0 = int8_lane<0>(packed), k1 = int8_lane<1>(packed), k2 = int8_lane<2>(packed),
                   k3 = int8_lane<3>(packed);
      FORERUN_UNROLL
      for (int i = 0; i < Q; ++i) {
        s[i] = fma(set1(q[i][d]), k0, s[i]);
        s[i] = fma(set1(q[i][d + 1]), k1, s[i]);
        s[i] = fma(set1(q[i][d + 2]), k2, s[i]);
        s[i] = fma(set1(q[i][d + 3]), k3, s[i]);
      }
    }
  } else {
    for (int d = 0; d < padded_dim; d += 2, k += 64) {
      const i32x16 packed = load_i32(k);
      const f32x16 k0 = bf16_even(packed), k1 = bf16_odd(packed);
      FORERUN_UNROLL
      for (int i = 0; i < Q; ++i) {
        s[i] = fma(set1(q[i][d]), k0, s[i]);
        s[i] = fma(set1(q[i][d + 1]), k1, s[i]);
      }
    }
  }
}

// What a tile needs to know about its keys and queries.
struct TileView {
  const AttentionArgs& a;
  int begin;        // first position of the tile
  int first, last;  // keys [first, last) that some row sees, relative to the tile
  int group;        // query heads per KV head
  const TileView* next;  // the tile that this thread takes afterwards, or null
  const uint8_t* k(int key) const { return head(a.layer.k, key); }
  const uint8_t* v(int key) const { return head(a.layer.v, key); }
  int slot(int key) const { return (begin + key) & (a.shape.block_size - 1); }
  size_t block(int key) const { return static_cast<size_t>(a.block_table[(begin + key) >> a.shape.block_shift]); }
  const float* scales(const float* base, int key) const {
    return base + (block(key) * a.shape.kv_heads + a.kv_head) * a.shape.block_size + slot(key);
  }
  // Keys [low, high) of the tile that row r sees.
  int low(int r) const {
    const int from = a.window ? a.first_position + r - a.window + 1 - begin : 0;
    return from > 0 ? from : 0;
  }
  int high(int r) const {
    const int to = a.first_position + r + 1 - begin;
    return to < kTile ? to : kTile;
  }
  const float* query(int i) const {
    const int row = a.row_begin + i / group, h = a.kv_head * group + i % group;
    return a.q + (static_cast<size_t>(row) * a.heads + h) * a.shape.padded_dim;
  }

 private:
  const uint8_t* head(const uint8_t* base, int key) const {
    return base + block(key) * a.shape.block_stride() + static_cast<size_t>(a.kv_head) * a.shape.head_bytes();
  }
};

// Asks for `bytes` of memory that are needed soon.
FORERUN_INLINE void prefetch(const uint8_t* p, int bytes) {
  for (int at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 2);
}

// The values of 16 keys, while their keys are read.
template <bool Int8>
FORERUN_INLINE void prefetch_values(const TileView& t, int key) {
  constexpr int kPack = Int8 ? 4 : 2;
  const int bytes = t.a.shape.padded_dim * 4;
  prefetch(t.v(key) + static_cast<size_t>(t.slot(key) / kPack) * bytes, bytes * (16 / kPack));
}

// A share of the next tile's keys, while the values at `key` are read.
template <bool Int8>
FORERUN_INLINE void prefetch_next_keys(const TileView& t, int key) {
  constexpr int kPack = Int8 ? 4 : 2;
  if (!t.next || key < t.next->first || key >= t.next->last) return;
  const int group_bytes = t.a.shape.padded_dim * (Int8 ? 16 : 32), share = group_bytes / (16 / kPack);
  const TileView& n = *t.next;
  prefetch(n.k(key) + static_cast<size_t>(n.slot(key) / 16) * group_bytes + key % 16 / kPack * share, share);
}

template <bool Int8, int Q>
void tile_scores(const TileView& t, int i, float* scores) {
  const float* q[Q];
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j) q[j] = t.query(i + j);
  for (int key = t.first / 16 * 16; key < t.last; key += 16) {
    const uint8_t* k = t.k(key) + static_cast<size_t>(t.slot(key) / 16) * t.a.shape.padded_dim * (Int8 ? 16 : 32);
    if (i == 0) prefetch_values<Int8>(t, key);
    f32x16 s[Q];
    score_keys<Int8, Q>(k, t.a.shape.padded_dim, q, s);
    const f32x16 scale = Int8 ? load(t.scales(t.a.layer.k_scale, key)) : set1(1.0f);
    FORERUN_UNROLL
    for (int j = 0; j < Q; ++j) store(scores + (i + j) * kTile + key, Int8 ? mul(s[j], scale) : s[j]);
  }
}

// Turns the scores of one query into weights and returns (maximum, denominator).
static void tile_softmax(const TileView& t, int row, float* s, float* maximum, float* denominator) {
  const int low = t.low(row), high = t.high(row);
  const int begin = t.first / 16 * 16;
  const float lowest = -3.402823466e38f;
  f32x16 m = set1(lowest);
  for (int key = begin; key < t.last; key += 16) m = max(keep_lanes(load(s + key), low - key, high - key, lowest), m);
  const float top = hmax(m);
  f32x16 sum = set1(0.0f);
  for (int key = begin; key < t.last; key += 16) {
    const f32x16 p = keep_lanes(exp32(sub(load(s + key), set1(top))), low - key, high - key, 0.0f);
    store(s + key, p);
    sum = add(sum, p);
  }
  *maximum = top;
  *denominator = hsum(sum);
}

// o[q][dimensions] = sum of p * v, keys ascending.
template <bool Int8, int Q, int D>
void tile_values(const TileView& t, int i, int d, const float* p, float* out, int ldo) {
  constexpr int kPack = Int8 ? 4 : 2;
  f32x16 o[Q][D];
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j)
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) o[j][c] = set1(0.0f);
  const auto take = [&](int key, int n) __attribute__((always_inline)) {
    const uint8_t* v = t.v(key) + (static_cast<size_t>(t.slot(key) / kPack) * t.a.shape.padded_dim + d) * 4;
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) {
      const i32x16 packed = load_i32(v + c * 64);
      f32x16 value[kPack];
      if constexpr (Int8) {
        value[0] = int8_lane<0>(packed), value[1] = int8_lane<1>(packed);
        value[2] = int8_lane<2>(packed), value[3] = int8_lane<3>(packed);
      } else {
        value[0] = bf16_even(packed), value[1] = bf16_odd(packed);
      }
      FORERUN_UNROLL
      for (int j = 0; j < Q; ++j)
        for (int e = 0; e < n; ++e) o[j][c] = fma(set1(p[(i + j) * kTile + key + e]), value[e], o[j][c]);
    }
  };
  int key = t.first / kPack * kPack;
  for (; key + kPack <= t.last; key += kPack) {
    if (i == 0 && d == 0) prefetch_next_keys<Int8>(t, key);
    take(key, kPack);
  }
  if (key < t.last) take(key, t.last - key);  // what lies behind the last key is not read: it may be stale
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j)
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) store(out + static_cast<size_t>(i + j) * ldo + d + c * 16, o[j][c]);
}

template <bool Int8, int Q>
FORERUN_INLINE void tile_values(const TileView& t, int i, const float* p, float* out, int ldo) {
  int d = 0;
  for (; d + 64 <= t.a.shape.padded_dim; d += 64) tile_values<Int8, Q, 4>(t, i, d, p, out, ldo);
  for (; d < t.a.shape.padded_dim; d += 16) tile_values<Int8, Q, 1>(t, i, d, p, out, ldo);
}

// (M, L, O) of `into` merged with those of the next tile.
static void merge_state(float* into, const float* next, int padded_dim) {
  const float m1 = into[padded_dim], m2 = next[padded_dim];
  const float top = m1 > m2 ? m1 : m2;
  const float a = exp32(m1 - top), b = exp32(m2 - top);
  for (int d = 0; d < padded_dim; d += 16) store(into + d, fma(load(into + d), set1(a), mul(load(next + d), set1(b))));
  into[padded_dim] = top;
  into[padded_dim + 1] = first_lane(fma(set1(into[padded_dim + 1]), set1(a), mul(set1(next[padded_dim + 1]), set1(b))));
}

constexpr int kScoreQueries = 6, kValueQueries = 4;

template <bool Int8>
void one_tile(const TileView& t, float* scores, float* state) {
  const int queries = t.a.rows * t.group, stride = t.a.shape.padded_dim + 16;
  int i = 0;
  for (; i + kScoreQueries <= queries; i += kScoreQueries) tile_scores<Int8, kScoreQueries>(t, i, scores);
  for (; i + 3 <= queries; i += 3) tile_scores<Int8, 3>(t, i, scores);
  for (; i < queries; ++i) tile_scores<Int8, 1>(t, i, scores);
  for (i = 0; i < queries; ++i) {
    float* s = scores + i * kTile;
    float* end = state + static_cast<size_t>(i) * stride + t.a.shape.padded_dim;
    tile_softmax(t, i / t.group, s, end, end + 1);
    if constexpr (Int8)
      for (int key = t.first / 16 * 16; key < t.last; key += 16)
        store(s + key, mul(load(s + key), keep_lanes(load(t.scales(t.a.layer.v_scale, key)), 0, t.last - key, 0.0f)));
  }
  i = 0;
  for (; i + kValueQueries <= queries; i += kValueQueries)
    tile_values<Int8, kValueQueries>(t, i, scores, state, stride);
  for (; i + 3 <= queries; i += 3) tile_values<Int8, 3>(t, i, scores, state, stride);
  for (; i < queries; ++i) tile_values<Int8, 1>(t, i, scores, state, stride);
}

static TileView view_tile(const AttentionArgs& a, int tile, const TileView* next) {
  TileView t{a, tile * kTile, 0, 0, a.heads / a.shape.kv_heads, next};
  t.first = t.low(0);
  t.last = t.high(a.rows - 1);
  return t;
}

// Tiles [tile_begin, tile_end) into a.state, a row's tiles without visible keys left out. An untouched state has
// denominator 0.
static void attend_tiles(const AttentionArgs& a) {
  const int group = a.heads / a.shape.kv_heads, queries = a.rows * group, stride = a.shape.padded_dim + 16;
  float* scores = a.scratch;
  float* next = scores + static_cast<size_t>(queries) * kTile;
  for (int i = 0; i < queries; ++i) a.state[static_cast<size_t>(i) * stride + a.shape.padded_dim + 1] = 0.0f;
  const TileView after = a.next ? view_tile(*a.next, a.next->tile_begin, nullptr) : view_tile(a, a.tile_begin, nullptr);
  for (int tile = a.tile_begin; tile < a.tile_end; ++tile) {
    const TileView coming = view_tile(a, tile + 1, nullptr);
    const bool more = tile + 1 < a.tile_end;
    const TileView t = view_tile(a, tile, more ? &coming : a.next ? &after : nullptr);
    if (t.first >= t.last) continue;
    a.shape.int8 ? one_tile<true>(t, scores, next) : one_tile<false>(t, scores, next);
    for (int i = 0; i < queries; ++i) {
      if (t.low(i / group) >= t.high(i / group)) continue;
      float* into = a.state + static_cast<size_t>(i) * stride;
      const float* from = next + static_cast<size_t>(i) * stride;
      if (into[a.shape.padded_dim + 1] == 0.0f) {
        std::memcpy(into, from, sizeof(float) * stride);
      } else {
        merge_state(into, from, a.shape.padded_dim);
      }
    }
  }
}

// Merges `parts` states that lie `part_stride` floats apart (ascending tiles) and writes the rows' outputs.
static void attend_finish(const AttentionArgs& a, int parts, size_t part_stride) {
  const int group = a.heads / a.shape.kv_heads, stride = a.shape.padded_dim + 16;
  for (int i = 0; i < a.rows * group; ++i) {
    float* into = a.state + static_cast<size_t>(i) * stride;
    bool any = into[a.shape.padded_dim + 1] != 0.0f;
    for (int part = 1; part < parts; ++part) {
      const float* from = into + part_stride * part;
      if (from[a.shape.padded_dim + 1] == 0.0f) continue;
      if (any) {
        merge_state(into, from, a.shape.padded_dim);
      } else {
        std::memcpy(into, from, sizeof(float) * stride);
      }
      any = true;
    }
    const float inverse = 1.0f / into[a.shape.padded_dim + 1];
    const int row = a.row_begin + i / group, h = a.kv_head * group + i % group;
    float* out = a.out + static_cast<size_t>(row) * a.ldo + static_cast<size_t>(h) * a.shape.head_dim;
    for (int d = 0; d < a.shape.padded_dim; d += 16) {
      float v[16];
      store(v, mul(load(into + d), set1(inverse)));
      for (int j = 0; j < 16 && d + j < a.shape.head_dim; ++j) out[d + j] = v[j];
    }
  }
}

}  // namespace forerun::FORERUN_ISA

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

template <bool Int8>
FORERUN_INLINE void unpack(i32x16 packed, f32x16 (&out)[Int8 ? 4 : 2]) {
  if constexpr (Int8) {
    out[0] = int8_lane<0>(packed), out[1] = int8_lane<1>(packed);
    out[2] = int8_lane<2>(packed), out[3] = int8_lane<3>(packed);
  } else {
    out[0] = bf16_even(packed), out[1] = bf16_odd(packed);
  }
}

// s[q][g] for Groups x 16 keys, whose packed keys start at k[g]: chains over the dimensions, ascending.
template <bool Int8, int Q, int Groups>
FORERUN_INLINE void score_keys(const uint8_t* const (&k)[Groups], int padded_dim, const float* const (&q)[Q],
                               f32x16 (&s)[Q * Groups]) {
  constexpr int kPack = Int8 ? 4 : 2;
  FORERUN_UNROLL
  for (int i = 0; i < Q * Groups; ++i) s[i] = set1(0.0f);
  for (int d = 0; d < padded_dim; d += kPack) {
    FORERUN_UNROLL
    for (int g = 0; g < Groups; ++g) {
      const i32x16 packed = load_i32(k[g] + d * (64 / kPack));
      f32x16 key[kPack];
      unpack<Int8>(packed, key);
      FORERUN_UNROLL
      for (int e = 0; e < kPack; ++e) FORERUN_UNROLL
      for (int i = 0; i < Q; ++i) s[i * Groups + g] = fma(set1(q[i][d + e]), key[e], s[i * Groups + g]);
    }
  }
}

// What a tile needs to know about its keys and queries.
struct TileView {
  const AttentionArgs& a;
  int begin;             // first position of the tile
  int first, last;       // keys [first, last) that some row sees, relative to the tile
  int group;             // query heads per KV head
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
    return a.q + static_cast<size_t>(i / group) * a.ldq + static_cast<size_t>(i % group) * a.shape.padded_dim;
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

// The next tile's keys at `key`, while the values of 16 keys are read.
template <bool Int8>
FORERUN_INLINE void prefetch_next_keys(const TileView& t, int key) {
  if (!t.next || key + 16 <= t.next->first || key >= t.next->last) return;
  const int bytes = t.a.shape.padded_dim * (Int8 ? 16 : 32);
  prefetch(t.next->k(key) + static_cast<size_t>(t.next->slot(key) / 16) * bytes, bytes);
}

template <bool Int8, int Q, int Groups>
FORERUN_INLINE void score_groups(const TileView& t, int i, int key, const float* const (&q)[Q], float* scores) {
  const uint8_t* k[Groups];
  for (int g = 0; g < Groups; ++g) {
    const int at = key + g * 16;
    if (i == 0) prefetch_values<Int8>(t, at);
    k[g] = t.k(at) + static_cast<size_t>(t.slot(at) / 16) * t.a.shape.padded_dim * (Int8 ? 16 : 32);
  }
  f32x16 s[Q * Groups];
  score_keys<Int8, Q, Groups>(k, t.a.shape.padded_dim, q, s);
  for (int g = 0; g < Groups; ++g) {
    const f32x16 scale = Int8 ? load(t.scales(t.a.layer.k_scale, key + g * 16)) : set1(1.0f);
    for (int j = 0; j < Q; ++j)
      store(scores + (i + j) * kTile + key + g * 16, Int8 ? mul(s[j * Groups + g], scale) : s[j * Groups + g]);
  }
}

// Few queries take two groups of keys at once, so that enough sums are under way to hide the latency of an addition.
template <bool Int8, int Q>
void tile_scores(const TileView& t, int i, float* scores) {
  constexpr int kGroups = Q <= 3 ? 2 : 1;
  const float* q[Q];
  for (int j = 0; j < Q; ++j) q[j] = t.query(i + j);
  int key = t.first / 16 * 16;
  for (; key + kGroups * 16 <= t.last; key += kGroups * 16) score_groups<Int8, Q, kGroups>(t, i, key, q, scores);
  for (; key < t.last; key += 16) score_groups<Int8, Q, 1>(t, i, key, q, scores);
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

// o[q][dimensions] = sum of p * v over the keys that the query's row sees, ascending. The others must not take part
// even with a weight of 0: they may be stale, or hold infinities of another row.
template <bool Int8, int Q, int D>
void tile_values(const TileView& t, int i, int d, const float* p, float* out, int ldo) {
  constexpr int kPack = Int8 ? 4 : 2;
  const size_t stride = static_cast<size_t>(t.a.shape.padded_dim) * 4;
  int low[Q], high[Q];  // what each of them sees; all of them see [low[Q - 1], high[0])
  for (int j = 0; j < Q; ++j) low[j] = t.low((i + j) / t.group), high[j] = t.high((i + j) / t.group);
  f32x16 o[Q][D];
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j) FORERUN_UNROLL
  for (int c = 0; c < D; ++c) o[j][c] = set1(0.0f);
  const auto take = [&](const uint8_t* v, int key) __attribute__((always_inline)) {
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) {
      f32x16 value[kPack];
      unpack<Int8>(load_i32(v + c * 64), value);
      FORERUN_UNROLL
      for (int e = 0; e < kPack; ++e) FORERUN_UNROLL
      for (int j = 0; j < Q; ++j) o[j][c] = fma(set1(p[(i + j) * kTile + key + e]), value[e], o[j][c]);
    }
  };
  const auto take_seen = [&](const uint8_t* v, int key) __attribute__((always_inline)) {
    f32x16 value[D][kPack];
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) unpack<Int8>(load_i32(v + c * 64), value[c]);
    FORERUN_UNROLL
    for (int e = 0; e < kPack; ++e) FORERUN_UNROLL
    for (int j = 0; j < Q; ++j)
      if (key + e >= low[j] && key + e < high[j]) FORERUN_UNROLL
    for (int c = 0; c < D; ++c) o[j][c] = fma(set1(p[(i + j) * kTile + key + e]), value[c][e], o[j][c]);
  };
  for (int group = t.first / 16 * 16; group < t.last; group += 16) {  // 16 keys lie in one block
    const uint8_t* v = t.v(group) + static_cast<size_t>(t.slot(group) / kPack) * stride + d * 4;
    const int end = t.last - group < 16 ? t.last - group : 16;
    const int shared = low[Q - 1] > group ? 0 : high[0] - group < 16 ? high[0] - group : 16;
    if (i == 0 && d == 0) prefetch_next_keys<Int8>(t, group);
    int key = 0;
    for (; key + kPack <= shared; key += kPack, v += stride) take(v, group + key);
    for (; key < end; key += kPack, v += stride) take_seen(v, group + key);
  }
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j) FORERUN_UNROLL
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
        store(s + key, mul(load(s + key), load(t.scales(t.a.layer.v_scale, key))));
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

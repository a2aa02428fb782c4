// One tile of attention: scores, weights and weighted values of up to 256 keys of one KV head, for a few consecutive
// rows of one sequence and the query heads that share it. Every key and value is widened once for as many queries as
// have their sums in registers; the order of a query's operations does not depend on that.
#pragma once

namespace forerun::FORERUN_ISA {

// Neighbour `e` of every 32-bit lane, widened: one of four int8 or of two bfloat16.
template <bool Int8>
FORERUN_INLINE f32x16 neighbour(i32x16 packed, int e) {
  if constexpr (!Int8) return e == 0 ? bf16_even(packed) : bf16_odd(packed);
  return to_f32(sar<24>(e == 0 ? shl<24>(packed) : e == 1 ? shl<16>(packed) : e == 2 ? shl<8>(packed) : packed));
}

// Vectors of keys or values that fit the registers with a sum of each for every query, and one more for broadcasts.
constexpr int vectors_beside(int queries) {
  return (queries + 1) * 4 < kVectorRegisters ? 4 : (queries + 1) * 2 < kVectorRegisters ? 2 : 1;
}

// Asks for a line that is needed soon. One at a time between multiplications: many at once fill the queue of lines that
// are on their way, and loads wait behind them.
FORERUN_INLINE void prefetch(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

// s[q][g] for Groups x 16 keys, whose packed keys start at k[g]: chains over the dimensions, ascending. As many bytes
// from ahead[g] on are asked for meanwhile, unless it is null.
template <bool Int8, int Q, int Groups>
FORERUN_INLINE void score_keys(const uint8_t* const (&k)[Groups], const uint8_t* const (&ahead)[Groups], int padded_dim,
                               const float* const (&q)[Q], f32x16 (&s)[Q * Groups]) {
  constexpr int kPack = Int8 ? 4 : 2;
  FORERUN_UNROLL
  for (int i = 0; i < Q * Groups; ++i) s[i] = set1(0.0f);
  for (int d = 0; d < padded_dim; d += kPack) {
    if (ahead[0])
      for (int g = 0; g < Groups; ++g) prefetch(ahead[g] + d * (64 / kPack));
    FORERUN_UNROLL
    for (int e = 0; e < kPack; ++e) {
      f32x16 key[Groups];
      FORERUN_UNROLL
      for (int g = 0; g < Groups; ++g) key[g] = neighbour<Int8>(load_i32(k[g] + d * (64 / kPack)), e);
      FORERUN_UNROLL
      for (int i = 0; i < Q; ++i) {
        const f32x16 x = set1(q[i][d + e]);
        FORERUN_UNROLL
        for (int g = 0; g < Groups; ++g) s[i * Groups + g] = fma(x, key[g], s[i * Groups + g]);
      }
    }
  }
}

FORERUN_INLINE int smaller(int a, int b) { return a < b ? a : b; }
FORERUN_INLINE int larger(int a, int b) { return a > b ? a : b; }

// What a tile needs to know about its keys and queries.
struct TileView {
  const AttentionArgs& a;
  int begin;             // first position of the tile
  int first, last;       // keys [first, last) that some row sees, relative to the tile
  int group;             // query heads per KV head
  const TileView* next;  // the tile that this thread takes afterwards, or null
  // Packed keys from `key` on, a multiple of 16, or values from `key` on, a multiple of the packed neighbours. They lie
  // together up to the end of the block.
  template <bool Int8>
  const uint8_t* keys(int key) const {
    return part<Int8>(a.layer.k, key);
  }
  template <bool Int8>
  const uint8_t* values(int key) const {
    return part<Int8>(a.layer.v, key);
  }
  int left_in_block(int key) const { return a.shape.block_size - slot(key); }
  // The next tile's keys at the same place, or null where it needs none.
  template <bool Int8>
  const uint8_t* next_keys(int key) const {
    return next && key + left_in_block(key) > next->first && key < next->last ? next->template keys<Int8>(key)
                                                                              : nullptr;
  }
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
  template <bool Int8>
  const uint8_t* part(const uint8_t* base, int key) const {
    return base + block(key) * a.shape.block_stride() + static_cast<size_t>(a.kv_head) * a.shape.head_bytes() +
           static_cast<size_t>(slot(key)) * a.shape.padded_dim * (Int8 ? 1 : 2);
  }
};

template <bool Int8, int Q, int Groups>
FORERUN_INLINE void score_groups(const TileView& t, int i, int key, const float* const (&q)[Q], float* scores) {
  const uint8_t *k[Groups], *ahead[Groups];  // the values of these keys are read next
  for (int g = 0; g < Groups; ++g) {
    k[g] = t.template keys<Int8>(key + g * 16);
    ahead[g] = i == 0 ? t.template values<Int8>(key + g * 16) : nullptr;
  }
  f32x16 s[Q * Groups];
  score_keys<Int8, Q, Groups>(k, ahead, t.a.shape.padded_dim, q, s);
  for (int g = 0; g < Groups; ++g) {
    const f32x16 scale = Int8 ? load(t.scales(t.a.layer.k_scale, key + g * 16)) : set1(1.0f);
    for (int j = 0; j < Q; ++j)
      store(scores + (i + j) * kTile + key + g * 16, Int8 ? mul(s[j * Groups + g], scale) : s[j * Groups + g]);
  }
}

// Few queries take several groups of keys at once, so that enough sums are under way to hide the latency of an
// addition.
template <bool Int8, int Q>
void tile_scores(const TileView& t, int i, float* scores) {
  constexpr int kGroups = vectors_beside(Q);
  const float* q[Q];
  for (int j = 0; j < Q; ++j) q[j] = t.query(i + j);
  int key = t.first / 16 * 16;
  for (; key + kGroups * 16 <= t.last; key += kGroups * 16) score_groups<Int8, Q, kGroups>(t, i, key, q, scores);
  for (; key < t.last; key += 16) score_groups<Int8, Q, 1>(t, i, key, q, scores);
}

// Lanes of 16 keys from `key` on that are in [low, high), `other` in the rest.
FORERUN_INLINE f32x16 within(f32x16 x, int key, int low, int high, float other) {
  return key >= low && key + 16 <= high ? x : keep_lanes(x, low - key, high - key, other);
}

// Of the keys that `row` sees.
static float tile_maximum(const TileView& t, int row, const float* scores) {
  constexpr float kLowest = -3.402823466e38f;
  const int low = t.low(row), high = t.high(row), begin = t.first / 16 * 16, end = t.last;
  f32x16 m = set1(kLowest);
  for (int key = begin; key < end; key += 16) m = max(within(load(scores + key), key, low, high, kLowest), m);
  return hmax(m);
}

// Turns scores into weights and returns their sum.
static float tile_weights(const TileView& t, int row, float maximum, float* scores) {
  const int low = t.low(row), high = t.high(row), begin = t.first / 16 * 16, end = t.last;
  f32x16 sum = set1(0.0f);
  for (int key = begin; key < end; key += 16) {
    const f32x16 w = within(exp32_below_88(sub(load(scores + key), set1(maximum))), key, low, high, 0.0f);
    store(scores + key, w);
    sum = add(sum, w);
  }
  return hsum(sum);
}

// o[q][d .. d + 16 D) += p * v over keys [from, to), multiples of the packed neighbours that all Q queries see.
template <bool Int8, int Q, int D>
void add_values(const TileView& t, int i, int d, int from, int to, const float* p, float* out, int ldo) {
  constexpr int kPack = Int8 ? 4 : 2;
  const size_t stride = static_cast<size_t>(t.a.shape.padded_dim) * 4;
  f32x16 o[Q][D];
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j) FORERUN_UNROLL
  for (int c = 0; c < D; ++c) o[j][c] = load(out + static_cast<size_t>(i + j) * ldo + d + c * 16);
  for (int key = from, end; key < to; key = end) {
    end = smaller(to, key + t.left_in_block(key));
    const uint8_t* v = t.template values<Int8>(key) + d * 4;
    const uint8_t* ahead = i == 0 && d == 0 ? t.template next_keys<Int8>(key) : nullptr;
    for (const float *weight = p + i * kTile + key, *last = weight + end - key; weight < last; weight += kPack) {
      if (ahead)
        for (size_t at = 0; at < stride; at += 64) prefetch(ahead + at);
      FORERUN_UNROLL
      for (int e = 0; e < kPack; ++e) {
        f32x16 value[D];
        FORERUN_UNROLL
        for (int c = 0; c < D; ++c) value[c] = neighbour<Int8>(load_i32(v + c * 64), e);
        FORERUN_UNROLL
        for (int j = 0; j < Q; ++j) {
          const f32x16 w = set1(weight[j * kTile + e]);
          FORERUN_UNROLL
          for (int c = 0; c < D; ++c) o[j][c] = fma(w, value[c], o[j][c]);
        }
      }
      v += stride;
      if (ahead) ahead += stride;
    }
  }
  FORERUN_UNROLL
  for (int j = 0; j < Q; ++j) FORERUN_UNROLL
  for (int c = 0; c < D; ++c) store(out + static_cast<size_t>(i + j) * ldo + d + c * 16, o[j][c]);
}

// The same for one query and any keys.
template <bool Int8, int D>
void add_values_alone(const TileView& t, int d, int from, int to, const float* p, float* out) {
  constexpr int kPack = Int8 ? 4 : 2;
  f32x16 o[D];
  FORERUN_UNROLL
  for (int c = 0; c < D; ++c) o[c] = load(out + d + c * 16);
  for (int key = from; key < to; ++key) {
    const uint8_t* v = t.template values<Int8>(key / kPack * kPack) + d * 4;
    FORERUN_UNROLL
    for (int c = 0; c < D; ++c) o[c] = fma(set1(p[key]), neighbour<Int8>(load_i32(v + c * 64), key % kPack), o[c]);
  }
  FORERUN_UNROLL
  for (int c = 0; c < D; ++c) store(out + d + c * 16, o[c]);
}

// out[q][d .. d + 16 D) = sum of p * v over the keys that the query's row sees, ascending. The others must not take
// part even with a weight of 0: they may be stale, or hold infinities of another row.
template <bool Int8, int Q, int D>
FORERUN_INLINE void value_columns(const TileView& t, int i, int d, const float* p, float* out, int ldo) {
  constexpr int kPack = Int8 ? 4 : 2;
  const int all_low = t.low((i + Q - 1) / t.group), all_high = t.high(i / t.group);
  const int from = (all_low + kPack - 1) / kPack * kPack, to = larger(from, all_high / kPack * kPack);
  const auto alone = [&](int begin, int end) __attribute__((always_inline)) {
    for (int j = i; j < i + Q; ++j)
      add_values_alone<Int8, D>(t, d, larger(begin, t.low(j / t.group)), smaller(end, t.high(j / t.group)),
                                p + j * kTile, out + static_cast<size_t>(j) * ldo);
  };
  for (int j = i; j < i + Q; ++j) std::memset(out + static_cast<size_t>(j) * ldo + d, 0, D * 64);
  if (from > 0) alone(0, from);
  add_values<Int8, Q, D>(t, i, d, from, to, p, out, ldo);
  alone(to, kTile);
}

template <bool Int8, int Q>
void tile_values(const TileView& t, int i, const float* p, float* out, int ldo) {
  constexpr int kVectors = vectors_beside(Q);
  int d = 0;
  for (; d + kVectors * 16 <= t.a.shape.padded_dim; d += kVectors * 16)
    value_columns<Int8, Q, kVectors>(t, i, d, p, out, ldo);
  for (; d < t.a.shape.padded_dim; d += 16) value_columns<Int8, Q, 1>(t, i, d, p, out, ldo);
}

// Calls run<Q>(i) for queries [i, i + Q), in as few pieces as the registers allow: every piece widens all keys anew.
template <class Run>
FORERUN_INLINE void in_pieces(int queries, const Run& run) {
  int i = 0;
  const auto take = [&]<int Q>() __attribute__((always_inline)) {
    if constexpr (Q + 2 <= kVectorRegisters)
      for (; i + Q <= queries; i += Q) run.template operator()<Q>(i);
  };
  take.template operator()<12>();
  take.template operator()<6>();
  take.template operator()<4>();
  take.template operator()<3>();
  take.template operator()<2>();
  take.template operator()<1>();
}

template <bool Int8>
void one_tile(const TileView& t, float* scores, float* state) {
  const int queries = t.a.rows * t.group, stride = t.a.shape.padded_dim + 16;
  in_pieces(queries, [&]<int Q>(int i) { tile_scores<Int8, Q>(t, i, scores); });
  const auto end = [&](int i) { return state + static_cast<size_t>(i) * stride + t.a.shape.padded_dim; };
  // A maximum takes its time, but those of several queries are found at once.
  for (int i = 0; i < queries; ++i) *end(i) = tile_maximum(t, i / t.group, scores + i * kTile);
  for (int i = 0; i < queries; ++i) {
    float* s = scores + i * kTile;
    end(i)[1] = tile_weights(t, i / t.group, *end(i), s);
    if constexpr (Int8)
      for (int key = t.first / 16 * 16; key < t.last; key += 16)
        store(s + key, mul(load(s + key), load(t.scales(t.a.layer.v_scale, key))));
  }
  in_pieces(queries, [&]<int Q>(int i) { tile_values<Int8, Q>(t, i, scores, state, stride); });
}

static TileView view_tile(const AttentionArgs& a, int tile, const TileView* next) {
  TileView t{a, tile * kTile, 0, 0, a.group, next};
  t.first = t.low(0);
  t.last = t.high(a.rows - 1);
  return t;
}

}  // namespace forerun::FORERUN_ISA

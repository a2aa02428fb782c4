// Attention over the block cache for a few consecutive rows of one sequence and the query heads of one KV head. Keys
// are taken in tiles of 256 absolute positions; a tile has its own softmax, and tiles are merged in ascending order, so
// neither the split over threads nor the number of rows changes a bit (docs/numerics.md).
#pragma once

namespace forerun::FORERUN_ISA {

constexpr int kMerged = 16;  // states that are merged at once

// (M, L, O) of `into` merged with those of `count` further tiles, ascending.
static void merge_states(float* into, const float* const* next, int count, int padded_dim) {
  float a[kMerged] = {}, b[kMerged] = {};
  float top = into[padded_dim];
  for (int n = 0; n < count; ++n) {
    const float m = next[n][padded_dim], before = top;
    top = before > m ? before : m;
    a[n] = before - top, b[n] = m - top;
  }
  store(a, exp32(load(a)));
  store(b, exp32(load(b)));
  for (int d = 0; d <= padded_dim; d += 16) {  // the last vector: L, and a sum in place of M
    f32x16 sum = load(into + d);
    for (int n = 0; n < count; ++n) sum = fma(sum, set1(a[n]), mul(load(next[n] + d), set1(b[n])));
    store(into + d, sum);
  }
  into[padded_dim] = top;
}

// Tiles [tile_begin, tile_end) into a.state, a row's tiles without visible keys left out. An untouched state has
// denominator 0.
static void attend_tiles(const AttentionArgs& a) {
  const int group = a.group, queries = a.rows * group, stride = a.shape.padded_dim + 16;
  float* scores = a.scratch;
  float* next = scores + static_cast<size_t>(queries) * kTile;
  for (int i = 0; i < queries; ++i) a.state[static_cast<size_t>(i) * stride + a.shape.padded_dim + 1] = 0.0f;
  const TileView after = a.next ? view_tile(*a.next, a.next->tile_begin, nullptr) : view_tile(a, a.tile_begin, nullptr);
  bool fresh = true;
  for (int tile = a.tile_begin; tile < a.tile_end; ++tile) {
    const TileView coming = view_tile(a, tile + 1, nullptr);
    const bool more = tile + 1 < a.tile_end;
    const TileView t = view_tile(a, tile, more ? &coming : a.next ? &after : nullptr);
    if (t.first >= t.last) continue;
    a.shape.int8 ? one_tile<true>(t, scores, fresh ? a.state : next)
                 : one_tile<false>(t, scores, fresh ? a.state : next);
    for (int i = 0; i < queries && !fresh; ++i) {
      if (t.low(i / group) >= t.high(i / group)) continue;
      float* into = a.state + static_cast<size_t>(i) * stride;
      const float* from = next + static_cast<size_t>(i) * stride;
      if (into[a.shape.padded_dim + 1] == 0.0f) {
        std::memcpy(into, from, sizeof(float) * stride);
      } else {
        merge_states(into, &from, 1, a.shape.padded_dim);
      }
    }
    fresh = false;
  }
}

// A query's states of `parts`, `part_stride` floats apart, merged into the first one.
static void merge_parts(float* into, int parts, size_t part_stride, int padded_dim) {
  const float* next[kMerged];
  int count = 0;
  for (int part = 1; part < parts; ++part) {
    const float* from = into + part_stride * part;
    if (from[padded_dim + 1] == 0.0f) continue;
    if (into[padded_dim + 1] == 0.0f) {
      std::memcpy(into, from, sizeof(float) * (padded_dim + 16));
      continue;
    }
    next[count++] = from;
    if (count < kMerged) continue;
    merge_states(into, next, count, padded_dim);
    count = 0;
  }
  merge_states(into, next, count, padded_dim);
}

// Merges `parts` states that lie `part_stride` floats apart (ascending tiles) and writes the rows' outputs.
static void attend_finish(const AttentionArgs& a, int parts, size_t part_stride) {
  const int group = a.group, padded = a.shape.padded_dim;
  for (int i = 0; i < a.rows * group; ++i) {
    float* state = a.state + static_cast<size_t>(i) * (padded + 16);
    merge_parts(state, parts, part_stride, padded);
    const f32x16 inverse = set1(1.0f / state[padded + 1]);
    const int row = a.row_begin + i / group, h = a.kv_head * group + i % group;
    float* out = a.out + static_cast<size_t>(row) * a.ldo + static_cast<size_t>(h) * a.shape.head_dim;
    for (int d = 0; d < padded; d += 16) store(state + d, mul(load(state + d), inverse));
    std::memcpy(out, state, sizeof(float) * a.shape.head_dim);
  }
}

}  // namespace forerun::FORERUN_ISA

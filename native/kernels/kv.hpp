// Keys and values in blocks. K of a block and head: [slot / 16][dim / pack][16 slots][pack]; V: [slot /
// pack][dim][pack], with pack = 2 neighbours of bfloat16 or 4 of int8 in one 32-bit lane. So scores are computed 16
// keys at a time and sums 16 dimensions at a time.
#pragma once

namespace forerun::FORERUN_ISA {

FORERUN_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FORERUN_INLINE size_t k_index(const KvShape& s, int slot, int d, int pack) {
  return ((static_cast<size_t>(slot / 16) * (s.padded_dim / pack) + d / pack) * 16 + slot % 16) * pack + d % pack;
}
FORERUN_INLINE size_t v_index(const KvShape& s, int slot, int d, int pack) {
  return (static_cast<size_t>(slot / pack) * s.padded_dim + d) * pack + slot % pack;
}

// Writes one token's key and value (padded_dim floats each, zero beyond head_dim) of one head.
static void kv_write(const KvLayer& layer, const KvShape& s, int64_t slot, int head, const float* k, const float* v) {
  const int64_t block = slot >> s.block_shift;
  const int at = static_cast<int>(slot & (s.block_size - 1));
  uint8_t* kb = layer.k + block * s.block_stride() + head * s.head_bytes();
  uint8_t* vb = layer.v + block * s.block_stride() + head * s.head_bytes();
  if (!s.int8) {
    for (int d = 0; d < s.padded_dim; ++d) {
      reinterpret_cast<uint16_t*>(kb)[k_index(s, at, d, 2)] = to_bf16(k[d]);
      reinterpret_cast<uint16_t*>(vb)[v_index(s, at, d, 2)] = to_bf16(v[d]);
    }
    return;
  }
  const size_t scale_at = (static_cast<size_t>(block) * s.kv_heads + head) * s.block_size + at;
  for (int which = 0; which < 2; ++which) {
    const float* x = which ? v : k;
    float largest = 0.0f;
    for (int d = 0; d < s.padded_dim; ++d) {
      const float a = x[d] < 0.0f ? -x[d] : x[d];
      if (!(a <= largest)) largest = a;
    }
    const bool empty = largest < 1e-30f;
    const f32x16 inverse = empty ? set1(0.0f) : div(set1(127.0f), set1(largest));
    (which ? layer.v_scale : layer.k_scale)[scale_at] = empty ? 0.0f : largest / 127.0f;
    for (int d = 0; d < s.padded_dim; d += 16) {
      int8_t q[16];
      store_i8(q, to_i32(round_even(mul(load(x + d), inverse))));
      for (int i = 0; i < 16; ++i) {
        if (which) {
          reinterpret_cast<int8_t*>(vb)[v_index(s, at, d + i, 4)] = q[i];
        } else {
          reinterpret_cast<int8_t*>(kb)[k_index(s, at, d + i, 4)] = q[i];
        }
      }
    }
  }
}

// Rotates the two halves of a head in place: (x1, x2) -> (x1 c - x2 s, x2 c + x1 s).
static void rotate(float* x, int head_dim, const float* cos, const float* sin) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; i += 16) {
    float a[16] = {}, b[16] = {}, c[16] = {}, s[16] = {};
    const int n = half - i < 16 ? half - i : 16;
    for (int j = 0; j < n; ++j) a[j] = x[i + j], b[j] = x[half + i + j], c[j] = cos[i + j], s[j] = sin[i + j];
    const f32x16 va = load(a), vb = load(b), vc = load(c), vs = load(s);
    store(a, fma(va, vc, sub(set1(0.0f), mul(vb, vs))));
    store(b, fma(vb, vc, mul(va, vs)));
    for (int j = 0; j < n; ++j) x[i + j] = a[j], x[half + i + j] = b[j];
  }
}

// Copies a head out of the row, normalises it when asked, and leaves zeros up to padded_dim.
FORERUN_INLINE void take_head(const RopeKvArgs& a, const float* from, const float* norm, float* head) {
  const int n = a.shape.head_dim;
  float raw[512], weight[512];
  for (int d = 0; d < n; ++d) raw[d] = from[d];
  for (int d = n; d < a.shape.padded_dim; ++d) raw[d] = 0.0f;
  if (norm) {
    for (int d = 0; d < n; ++d) weight[d] = norm[d];
    for (int d = n; d < a.shape.padded_dim; ++d) weight[d] = 0.0f;
    rms_norm(raw, weight, a.eps, n, a.shape.padded_dim, head);
  } else {
    for (int d = 0; d < a.shape.padded_dim; ++d) head[d] = raw[d];
  }
}

// Queries: normed, rotated, scaled. Keys and values: normed, rotated, written to the cache.
static void rope_kv(const RopeKvArgs& a) {
  const KvShape& s = a.shape;
  const int n = s.head_dim;
  float key[512], value[512];
  for (int row = a.row_begin; row < a.row_end; ++row) {
    const float* from = a.qkv + static_cast<size_t>(row) * a.ldqkv;
    const float* cos = a.cos + static_cast<size_t>(a.positions[row]) * (n / 2);
    const float* sin = a.sin + static_cast<size_t>(a.positions[row]) * (n / 2);
    for (int h = 0; h < a.heads; ++h) {
      float* q = a.q + (static_cast<size_t>(row) * a.heads + h) * s.padded_dim;
      take_head(a, from + h * n, a.q_norm, q);
      rotate(q, n, cos, sin);
      for (int d = 0; d < s.padded_dim; d += 16) store(q + d, mul(load(q + d), set1(a.scale)));
    }
    for (int h = 0; h < s.kv_heads; ++h) {
      take_head(a, from + (a.heads + h) * n, a.k_norm, key);
      rotate(key, n, cos, sin);
      take_head(a, from + (a.heads + s.kv_heads + h) * n, nullptr, value);
      kv_write(a.layer, s, a.slots[row], h, key, value);
    }
  }
}

}  // namespace forerun::FORERUN_ISA

// Work on single rows: norms, quantisation of activations, embedding look-up.
#pragma once

namespace forerun::FORERUN_ISA {

// y[0..n) = x / rms(x) * weight; y is zero from n to `padded`. All three have room to the next multiple of 16; x and
// weight are zero between n and there.
static void rms_norm(const float* x, const float* weight, float eps, int n, int padded, float* y) {
  f32x16 squares = set1(0.0f);
  for (int i = 0; i < n; i += 16) {
    const f32x16 v = load(x + i);
    squares = fma(v, v, squares);
  }
  const f32x16 mean = div(set1(hsum(squares)), set1(static_cast<float>(n)));
  const f32x16 inverse = div(set1(1.0f), sqrt(add(mean, set1(eps))));
  int i = 0;
  for (; i < n; i += 16) store(y + i, mul(mul(load(x + i), inverse), load(weight + i)));
  for (; i < padded; i += 16) store(y + i, set1(0.0f));
}

// One plane of a group: 32 whole numbers within 8 bits; returns their sum over either half.
struct HalfSums {
  float first, second;  // exact
};
FORERUN_INLINE HalfSums store_group(i32x16 a, i32x16 b, float scale, int group, QuantGroup& to) {
  store_i8(to.q, a);
  store_i8(to.q + 16, b);
  const HalfSums sums = {hsum(to_f32(a)), hsum(to_f32(b))};
  to.scale = scale;
  to.offset = -kUnit * scale;
  to.sum[0] = static_cast<int16_t>(sums.first);
  to.sum[1] = static_cast<int16_t>(sums.second);
  to.group = group;
  return sums;
}

// Quantises one row of `width` floats (a multiple of 16, then zeros up to the last group) in groups of 32. Groups whose
// largest magnitude exceeds `fine_above` times the mean of all groups' keep 15 bits, the others 8.
static void quantize_row(const float* x, int width, float fine_above, const QuantRows& out, int row) {
  QuantGroup* const high = out.high + static_cast<size_t>(row) * out.groups;
  QuantGroup* low = out.low + static_cast<size_t>(row) * out.groups;
  QuantGroup* const first_low = low;
  float total = 0.0f;
  for (int g = 0; g < out.groups; ++g) {
    const int at = g * kGroup;
    f32x16 m = at < width ? abs(load(x + at)) : set1(0.0f);
    if (at + 16 < width) m = max(m, abs(load(x + at + 16)));
    high[g].scale = hmax(m);
    total += high[g].scale;
  }
  const float limit = fine_above * (total / static_cast<float>(out.groups));
  for (int g = 0; g < out.groups; ++g) {
    const int at = g * kGroup;
    const float largest = high[g].scale;
    const bool empty = largest < 1e-30f, fine = !empty && largest > limit;
    const float s = empty ? 0.0f : short_scale(largest / (127.0f * 128.0f));
    const f32x16 inverse = set1(empty ? 0.0f : (fine ? 127.0f * 128.0f : 127.0f) / largest);
    const f32x16 a = at < width ? load(x + at) : set1(0.0f);
    const f32x16 b = at + 16 < width ? load(x + at + 16) : set1(0.0f);
    i32x16 qa = to_i32(round_even(mul(a, inverse))), qb = to_i32(round_even(mul(b, inverse)));
    HalfSums rest = {0.0f, 0.0f};
    if (fine) {
      const i32x16 ha = sar<7>(add(qa, set1(64))), hb = sar<7>(add(qb, set1(64)));
      rest = store_group(sub(qa, shl<7>(ha)), sub(qb, shl<7>(hb)), s, g, *low++);
      qa = ha, qb = hb;
    }
    const HalfSums whole = store_group(qa, qb, s * 128.0f, g, high[g]);
    const float one = 128.0f * whole.first + rest.first, other = 128.0f * whole.second + rest.second;
    high[g].scaled_sum[0] = s * (one + other);
    high[g].scaled_sum[1] = s * one;
    high[g].scaled_sum[2] = s * other;
  }
  out.fine[row] = static_cast<int32_t>(low - first_low);
}

// One column of a block (a row of the matrix) dequantised; used by the embedding.
template <Format F>
void unpack_integers(const uint8_t* block, int lane, const float* channel_scale, int groups, float* out) {
  using T = Traits<F>;
  constexpr int kLength = kGroup / T::kParts;
  for (int group = 0; group < groups; ++group) {
    uint8_t q[8][kPanel][4];
    FORERUN_UNROLL
    for (int i = 0; i < 8; ++i) store_u8(q[i][0], T::values(block, 0, group, i));
    for (int part = 0; part < T::kParts; ++part) {
      float d[kPanel], m[kPanel];
      if constexpr (T::kChannel) {
        d[lane] = *channel_scale;
      } else {
        store(d, T::scale(block, group, part));
      }
      if constexpr (T::kMin) store(m, T::minimum(block, group, part));
      for (int i = part * kLength; i < (part + 1) * kLength; ++i) {
        const float value = d[lane] * static_cast<float>(q[i / 4][lane][i % 4] - T::kZero);
        out[group * kGroup + i] = T::kMin ? value + m[lane] : value;
      }
    }
  }
}

// The same of a block of floats.
template <Format F>
void unpack_floats(const uint8_t* block, int lane, float* out) {
  for (int i = 0; i < kBlock; ++i) {
    if constexpr (F == Format::Float32) {
      out[i] = reinterpret_cast<const float*>(block)[i * kPanel + lane];
    } else {
      const uint16_t top = reinterpret_cast<const uint16_t*>(block)[(i / 2 * kPanel + lane) * 2 + i % 2];
      const uint32_t bits = static_cast<uint32_t>(top) << 16;
      std::memcpy(out + i, &bits, 4);
    }
  }
}

// Row `index` of a packed matrix as floats, k = 64 * blocks of them.
static void embedding_row(const LinearArgs& w, int index, float* out) {
  const int panel = index / kPanel, lane = index % kPanel;
  const float* channel = w.channel_scale ? w.channel_scale + index : nullptr;
  with_format(w.format, [&]<Format F>() {
    using T = FormatTraits<F>;
    const uint8_t* block = w.weights + T::bytes_of(w.blocks) * panel;
    for (int k = 0; k < w.blocks * kBlock; k += T::kSpan, block += T::kBytes) {
      if constexpr (is_integer(F)) {
        const int left = (w.blocks * kBlock - k) / kGroup;
        unpack_integers<F>(block, lane, channel, left < T::kGroups ? left : T::kGroups, out + k);
      } else {
        unpack_floats<F>(block, lane, out + k);
      }
    }
  });
}

}  // namespace forerun::FORERUN_ISA

// Finding where a prefix of the order (logit descending, id ascending) ends, without sorting.
#pragma once
#include "kernels/sampling_types.hpp"

namespace forerun::FORERUN_ISA::sampling {

static constexpr float kInfinity = __builtin_inff();
static constexpr float kLowest = -3.402823466e+38f;  // the lowest finite number
static constexpr double kUnit = 17179869184.0;       // 2^34: weights count as whole multiples of 2^-34

struct Logits {
  const float* values;     // [padded], minus infinity beyond vocab
  const float* block_max;  // [blocks]
  int vocab, padded, blocks;
  float top;   // the largest, finite
  bool wrong;  // there is a NaN or plus infinity
  int block_end(int b) const { return (b + 1) * kSampleBlock < padded ? (b + 1) * kSampleBlock : padded; }
};

// The tokens above the threshold, and those at it whose ids are not beyond `last`.
struct Cut {
  float threshold;
  int32_t last;
};
static constexpr Cut kNoCut = {kLowest, 0x7fffffff};  // everything above minus infinity
FORERUN_INLINE bool survives(float x, int id, Cut cut) {
  return (x > cut.threshold) | ((x == cut.threshold) & (id <= cut.last));
}

// Whole numbers in the order of the finite floats; both zeros are one.
FORERUN_INLINE uint32_t key_of(float x) {
  x += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
FORERUN_INLINE float value_of(uint32_t key) {
  const uint32_t bits = key ^ (key & 0x80000000u ? 0x80000000u : 0xffffffffu);
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Ids and keys of the surviving tokens into the scratch, ids ascending. Returns how many.
static int collect(const Logits& l, Cut cut, SampleScratch& s) {
  int n = 0;
  for (int b = 0; b < l.blocks; ++b) {
    if (!(l.block_max[b] >= cut.threshold)) continue;
    for (int i = b * kSampleBlock; i < l.block_end(b); ++i) {
      s.ids[n] = i;
      s.keys[n] = key_of(l.values[i]);
      n += survives(l.values[i], i, cut);
    }
  }
  return n;
}

// Keeps the entries whose key is within low..high. Returns how many.
static int compact(SampleScratch& s, int n, uint32_t low, uint32_t high) {
  int kept = 0;
  for (int i = 0; i < n; ++i) {
    const uint32_t key = s.keys[i];
    s.keys[kept] = key;
    s.ids[kept] = s.ids[i];
    s.mass[kept] = s.mass[i];
    kept += key - low <= high - low;
  }
  return kept;
}

// A key within low+1..high: the middle of the values or of the keys.
FORERUN_INLINE uint32_t middle_of(uint32_t low, uint32_t high, bool of_values) {
  const uint32_t key = key_of(0.5f * value_of(low) + 0.5f * value_of(high));
  return of_values && key > low && key <= high ? key : low + (high - low) / 2 + 1;
}

// The end of the shortest prefix of the n scratch entries whose mass reaches `need` (1 .. their whole mass).
// Bisection; entries are dropped as it closes in, so that a pass costs less and less. Overwrites the entries.
static Cut prefix_end(SampleScratch& s, int n, int64_t need) {
  uint32_t low = 0xffffffffu, high = 0;
  for (int i = 0; i < n; ++i) {
    low = s.keys[i] < low ? s.keys[i] : low;
    high = s.keys[i] > high ? s.keys[i] : high;
  }
  int inside = n;  // entries within low..high; heavier ones are no longer part of `need`
  for (bool of_values = true; low < high; of_values = !of_values) {
    const uint32_t middle = middle_of(low, high, of_values), span = high - middle;
    int64_t mass = 0, count = 0;
    for (int i = 0; i < n; ++i) {
      const int64_t upper = s.keys[i] - middle <= span ? -1 : 0;  // a mask: no branches
      mass += s.mass[i] & upper;
      count -= upper;
    }
    if (mass >= need) {
      low = middle;
      inside = static_cast<int>(count);
    } else {
      need -= mass;
      high = middle - 1;
      inside -= static_cast<int>(count);
    }
    if (2 * inside <= n) n = compact(s, n, low, high);
  }
  int32_t last = -1;
  for (int i = 0; i < n && need > 0; ++i) {
    if (s.keys[i] != low) continue;
    need -= s.mass[i];
    last = s.ids[i];
  }
  return {value_of(low), last};
}

// The k largest logits; all that are finite when there are fewer.
static Cut cut_to_largest(const Logits& l, int k, SampleScratch& s) {
  Cut cut = kNoCut;
  if (k < l.blocks) {  // k blocks have a token at or above the k-th largest block maximum
    int n = 0;
    for (int b = 0; b < l.blocks; ++b) {
      s.ids[n] = b;
      s.keys[n] = key_of(l.block_max[b]);
      s.mass[n] = 1;
      n += l.block_max[b] >= kLowest;
    }
    if (n >= k) cut.threshold = prefix_end(s, n, k).threshold;
  }
  const int n = collect(l, cut, s);
  if (n <= k) return cut;
  for (int i = 0; i < n; ++i) s.mass[i] = 1;
  return prefix_end(s, n, k);
}

// Puts `fill` in the place of the block's tokens that do not survive.
FORERUN_INLINE void drop_cut_off(const Logits& l, int b, Cut cut, float fill, float* block) {
  if (cut.threshold == kLowest) return;
  const int begin = b * kSampleBlock, n = l.block_end(b) - begin, last = cut.last - begin;
  const float* x = l.values + begin;
  for (int i = 0; i < n; ++i) {
    const bool keep = (x[i] > cut.threshold) | ((x[i] == cut.threshold) & (i <= last));
    block[i] = keep ? block[i] : fill;
  }
}

// exp32(l / T - top / T) of a block's survivors that reach min_p, 0 for the other tokens. Returns their sum in units.
static int64_t weigh_block(const Logits& l, int b, Cut cut, float temperature, float min_p, float* weights) {
  const f32x16 t = set1(temperature), top = set1(l.top / temperature), least = set1(min_p), none = set1(0.0f);
  const int begin = b * kSampleBlock, n = l.block_end(b) - begin;
  float* block = weights + begin;
  for (int i = 0; i < n; i += 16) {
    const f32x16 w = exp32(sub(div(load(l.values + begin + i), t), top));
    store(block + i, select_less(w, least, none, w));
  }
  drop_cut_off(l, b, cut, 0.0f, block);
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<int64_t>(static_cast<double>(block[i]) * kUnit);
  return sum;
}

// Of the survivors of `cut` that reach min_p, the shortest prefix that holds `fraction` of their mass.
static Cut cut_to_mass(const Logits& l, Cut cut, float temperature, float min_p, float fraction, SampleScratch& s) {
  int64_t total = 0;
  for (int b = 0; b < l.blocks; ++b)
    if (l.block_max[b] >= cut.threshold) total += weigh_block(l, b, cut, temperature, min_p, s.weights);
  const double wanted = static_cast<double>(fraction) * static_cast<double>(total);
  int64_t need = static_cast<int64_t>(wanted);
  if (static_cast<double>(need) < wanted || need < 1) ++need;
  // Tokens this light, all together, weigh less than what lies beyond the prefix.
  const float light = static_cast<float>(0.5 / kUnit * (static_cast<double>(total) - wanted) / l.vocab);
  int n = 0;
  for (int b = 0; b < l.blocks; ++b) {
    if (!(l.block_max[b] >= cut.threshold)) continue;
    const int begin = b * kSampleBlock, end = l.block_end(b);
    f32x16 most = load(s.weights + begin);
    for (int i = begin + 16; i < end; i += 16) most = max(most, load(s.weights + i));
    if (!(hmax(most) > light)) continue;
    for (int i = begin; i < end; ++i) {
      s.ids[n] = i;
      s.keys[n] = key_of(l.values[i]);
      s.mass[n] = static_cast<int64_t>(static_cast<double>(s.weights[i]) * kUnit);
      n += s.weights[i] > light;
    }
  }
  return prefix_end(s, n, need);
}

// Heap sort.
static void sort_ascending(uint64_t* a, int n) {
  for (int start = n / 2, end = n; end > 1;) {
    uint64_t x;
    if (start > 0) {
      x = a[--start];
    } else {
      x = a[--end];
      a[end] = a[0];
    }
    int hole = start;
    for (int child = 2 * hole + 1; child < end; child = 2 * hole + 1) {
      if (child + 1 < end && a[child] < a[child + 1]) ++child;
      if (x >= a[child]) break;
      a[hole] = a[child];
      hole = child;
    }
    a[hole] = x;
  }
}

}  // namespace forerun::FORERUN_ISA::sampling

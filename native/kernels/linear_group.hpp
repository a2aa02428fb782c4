// What an integer linear layer does with one group of activations, and with all groups of K for a register tile of rows
// and panels: exact integer products inside a group, then one fixed sequence of float operations (docs/numerics.md).
// The planes of the activations have sums of their own, so that the few groups with a second one are visited alone and
// the loop over all groups has no branch.
#pragma once

namespace forerun::FORERUN_ISA {

// What products still have of the format's zero: dots may take it off by themselves.
template <class T>
inline constexpr int kZeroLeft = T::kZero - Dot<T::kTop>::kBias;

// The integers that a group's sums begin with: the bits of kUnit, less what the format's zero adds to every product.
template <class T>
FORERUN_INLINE int32_t start_of(const QuantGroup& x, int part) {
  const int sum = T::kParts == 1 ? x.sum[0] + x.sum[1] : x.sum[part];
  return kUnitBits - kZeroLeft<T> * sum;
}
template <class T>
FORERUN_INLINE void fill_starts(const QuantGroup* x, int count, int32_t* to) {
  for (int g = 0; g < count; ++g)
    for (int part = 0; part < T::kParts; ++part) *to++ = start_of<T>(x[g], part);
}

// A second plane of one group.
struct FineGroup {
  const QuantGroup* x;
  int32_t start[2];
  int row, segment;  // of the rows and of K that are worked on
};
static_assert(sizeof(FineGroup) <= 32);  // prepared_bytes

// What is known of a call's rows before any weight is read; all in scratch memory.
struct PreparedRows {
  int32_t* high_starts;  // [rows][groups][parts], formats with a zero left only
  int32_t* low_starts;   // the same where all groups are fine
  FineGroup* fine;       // those of row r from fine_begin[r] to fine_begin[r + 1]; none where all are
  int* fine_begin;
  bool all_fine;
};

// Where the n-th of the call's rows begins.
struct PlaneRows {
  const QuantGroup* x;
  const int32_t* starts;
  size_t stride;  // groups of a row
};

// acc += one part of a group for Rows x Panels. `at`: its place in the rows of x; `group`: among the weights.
template <bool Min, int Rows, int Panels, class Weights>
FORERUN_INLINE void add_part(f32x16 (&acc)[Rows * Panels], const Weights& w, const PlaneRows& x, size_t at, int group,
                             int part) {
  using T = typename Weights::T;
  constexpr int kQuadruples = 8 / T::kParts;
  Dot<T::kTop> dots[Rows * Panels];
  i32x16 starts[Rows];
  FORERUN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    starts[r] = kZeroLeft<T> ? set1(x.starts[(r * x.stride + at) * T::kParts + part]) : set1(kUnitBits);
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) dots[r * Panels + p] = Dot<T::kTop>::begin(starts[r]);
  }
  FORERUN_UNROLL
  for (int n = 0; n < kQuadruples; ++n) {
    // Nibbles of one byte are neighbours in this order.
    const int i = T::kParts == 1 ? n % 2 * 4 + n / 2 : part * kQuadruples + n;
    u8x64 values[Panels];
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) values[p] = w.values(group, i, p);
    FORERUN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const s8x4 a = load_s8x4(x.x[r * x.stride + at].q + i * 4);
      FORERUN_UNROLL
      for (int p = 0; p < Panels; ++p) dots[r * Panels + p].add(values[p], a);
    }
  }
  f32x16 d[Panels], m[Panels];
  FORERUN_UNROLL
  for (int p = 0; p < Panels; ++p) {
    if constexpr (!T::kChannel) d[p] = w.scale(group, part, p);
    if constexpr (Min) m[p] = w.minimum(group, part, p);
  }
  FORERUN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const QuantGroup& own = x.x[r * x.stride + at];
    const f32x16 s = set1(own.scale), offset = set1(own.offset);
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) {
      f32x16& sum = acc[r * Panels + p];
      const f32x16 t = fma(bits_to_f32(dots[r * Panels + p].end(starts[r])), s, offset);
      if constexpr (T::kChannel) {
        sum = add(sum, t);
      } else {
        sum = fma(t, d[p], sum);
      }
      if constexpr (Min) sum = fma(m[p], set1(own.scaled_sum[T::kParts == 1 ? 0 : 1 + part]), sum);
    }
  }
}
template <bool Min, int Rows, int Panels, class Weights>
FORERUN_INLINE void add_group(f32x16 (&acc)[Rows * Panels], const Weights& w, const PlaneRows& x, size_t at,
                              int group) {
  FORERUN_UNROLL
  for (int part = 0; part < Weights::T::kParts; ++part) add_part<Min, Rows, Panels>(acc, w, x, at, group, part);
}

// Sums of the second planes of `rows` rows from `row` on: rest[segment][row][panel].
template <int Panels, class Weights>
void add_fine_groups(f32x16* rest, const Weights& w, const PreparedRows& prepared, int row, int rows) {
  const FineGroup* end = prepared.fine + prepared.fine_begin[row + rows];
  for (const FineGroup* fine = prepared.fine + prepared.fine_begin[row]; fine != end; ++fine) {
    f32x16* to = rest + (fine->segment * rows + fine->row - row) * Panels;
    f32x16 acc[Panels];
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) acc[p] = to[p];
    add_group<false, 1, Panels>(acc, w, {fine->x, fine->start, 0}, 0, fine->x->group);
    FORERUN_UNROLL
    for (int p = 0; p < Panels; ++p) to[p] = acc[p];
  }
}

template <int N>
FORERUN_INLINE void clear(f32x16 (&v)[N]) {
  FORERUN_UNROLL
  for (int i = 0; i < N; ++i) v[i] = set1(0.0f);
}

// All of K for Rows x Panels of rows whose groups are all fine: both planes while the weights are at hand, or one after
// the other where the registers do not hold the sums of both.
template <int Rows, int Panels, class Weights>
FORERUN_INLINE void sum_planes(f32x16 (&sums)[Rows * Panels], const Weights& w, const PlaneRows& high,
                               const PlaneRows& low) {
  constexpr bool kTogether = kVectorRegisters >= 16;
  const int groups = static_cast<int>(high.stride);
  f32x16 acc[Rows * Panels], rest[Rows * Panels];
  clear(acc);
  clear(rest);
  for (int g = 0; g < groups; ++g) {
    w.prefetch(g);
    add_group<Weights::T::kMin, Rows, Panels>(acc, w, high, g, g);
    if (kTogether) add_group<false, Rows, Panels>(rest, w, low, g, g);
  }
  if (!kTogether)
    for (int g = 0; g < groups; ++g) add_group<false, Rows, Panels>(rest, w, low, g, g);
  FORERUN_UNROLL
  for (int i = 0; i < Rows * Panels; ++i) sums[i] = add(acc[i], rest[i]);
}

// All of K for Rows x Panels.
template <int Rows, int Panels, class Weights>
FORERUN_INLINE void sum_tile(f32x16 (&sums)[Rows * Panels], const LinearArgs& a, const PreparedRows& prepared,
                             const Weights& w, int row) {
  using T = typename Weights::T;
  constexpr int kSums = Rows * Panels;
  const size_t stride = a.quant.groups, first = stride * row;
  const PlaneRows high = {a.quant.high + first, prepared.high_starts + first * T::kParts, stride};
  if (prepared.all_fine)
    return sum_planes<Rows, Panels>(sums, w, high,
                                    {a.quant.low + first, prepared.low_starts + first * T::kParts, stride});
  f32x16 rest[kMostSplits * kSums];
  for (int i = 0; i < a.splits * kSums; ++i) rest[i] = set1(0.0f);
  add_fine_groups<Panels>(rest, w, prepared, row, Rows);
  Tree<kSums> tree;
  for (int segment = 0; segment < a.splits; ++segment) {
    f32x16 acc[kSums];
    clear(acc);
    const int end = 2 * segment_begin(a, segment + 1);
    for (int g = 2 * segment_begin(a, segment); g < end; ++g) {
      w.prefetch(g);
      add_group<T::kMin, Rows, Panels>(acc, w, high, g, g);
    }
    FORERUN_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = add(acc[i], rest[segment * kSums + i]);
    tree.push(sums);
  }
}

}  // namespace forerun::FORERUN_ISA

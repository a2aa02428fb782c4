// Drafts from several suffix indices: at each place the guess that is right most often.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/suffix_index.hpp"

namespace forerun {

constexpr int kMostOrder = 8;  // longer contexts count as this long
constexpr int kShares = 7;
constexpr int kBuckets = kMostOrder * kShares;  // of one source

// What a guess is worth: by the length of its context, and how often the token followed it, alone or among others.
int suffix_bucket(int order, uint32_t count, uint32_t follow);

struct Guess {
  int32_t token;
  int32_t bucket;  // source * kBuckets + suffix_bucket
  float chance;
};

// How often guesses of a bucket are right, [sources * kBuckets]: `right` of the `tried` ones, and of `weight` more
// prior * scale, at most 0.99. `scales`, [sources].
struct Chances {
  const float *prior, *right, *tried, *scales;
  float weight;

  float of(int source, int bucket) const;
};

// Up to `limit` guesses of what comes after the sequence of sources[0], each after the ones before it. Every source
// (nullptr: none) answers with what most often followed the longest context of at least `min_order` tokens that it
// knows; the answer with the largest chance counts, the first source on ties. Ends where nobody answers, or the draft
// so far is right less often than `least`.
std::vector<Guess> suffix_draft(const std::vector<const SuffixIndex*>& sources, const Chances& chances, int limit,
                                int min_order, float least);

}  // namespace forerun

#include "runtime/suffix_draft.hpp"

#include <algorithm>

namespace forerun {
namespace {

constexpr float kSurest = 0.99f;

int share_of(uint32_t count, uint32_t follow) {
  if (count == follow) return follow == 1 ? 0 : follow <= 3 ? 1 : 2;
  const uint64_t part = uint64_t{count} * 100, whole = follow;
  return part >= whole * 75 ? 3 : part >= whole * 50 ? 4 : part >= whole * 30 ? 5 : 6;
}

// The longest known context of a source: its entry and length; nullptr where there is none.
const SuffixIndex::Entry* longest(const SuffixIndex& source, const std::vector<uint64_t>& keys, int min_order,
                                  int& order) {
  for (order = std::min(source.max_order(), static_cast<int>(keys.size())); order >= min_order; --order)
    if (const SuffixIndex::Entry* e = source.find(keys[order - 1])) return e;
  return nullptr;
}

}  // namespace

float Chances::of(int source, int bucket) const {
  const float start = std::min(kSurest, prior[bucket] * scales[source]);
  return (start * weight + right[bucket]) / (weight + tried[bucket]);
}

int suffix_bucket(int order, uint32_t count, uint32_t follow) {
  return (std::min(order, kMostOrder) - 1) * kShares + share_of(count, follow);
}

std::vector<Guess> suffix_draft(const std::vector<const SuffixIndex*>& sources, const Chances& chances, int limit,
                                int min_order, float least) {
  size_t most = 0;
  for (const SuffixIndex* source : sources)
    if (source != nullptr) most = std::max(most, static_cast<size_t>(source->max_order()));
  std::vector<int32_t> last = sources[0]->last();
  std::vector<uint64_t> keys;
  std::vector<Guess> guesses;
  float reached = 1.0f;
  while (static_cast<int>(guesses.size()) < limit) {
    context_keys(last, most, keys);
    Guess best{0, -1, -1.0f};
    for (size_t s = 0; s < sources.size(); ++s) {
      int order;
      const SuffixIndex::Entry* e = sources[s] == nullptr ? nullptr : longest(*sources[s], keys, min_order, order);
      if (e == nullptr) continue;
      const int bucket = static_cast<int>(s) * kBuckets + suffix_bucket(order, e->best_count, e->follow);
      const float chance = chances.of(static_cast<int>(s), bucket);
      if (chance > best.chance) best = {e->best, bucket, chance};
    }
    if (best.bucket < 0 || (reached *= best.chance) < least) break;
    guesses.push_back(best);
    push_latest(last, best.token, most);
  }
  return guesses;
}

}  // namespace forerun

// What followed which context so far in one sequence of tokens: drafts for speculative decoding that need no model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace forerun {

// Counts every run of 1 to `max_order` tokens (a context) and what came after it. Contexts are known by a 64-bit hash;
// a collision can only make a worse guess. Takes 24 bytes an entry, at most `max_entries` of them: when they are used
// up, new contexts are not learnt any more.
class SuffixIndex {
 public:
  struct Guess {
    int32_t token;
    int32_t order;    // length of the context that it was found by
    uint32_t count;   // how often this token followed that context
    uint32_t follow;  // how often anything did
  };

  SuffixIndex(int max_order, size_t max_entries);

  void extend(const int32_t* tokens, size_t count);

  // Up to `limit` guesses, each after the ones before it: the token that followed the longest known context of at
  // least `min_order` tokens most often, the later one on ties. Ends where no context is known.
  std::vector<Guess> draft(int limit, int min_order) const;

  size_t size() const { return size_; }
  size_t entries() const { return used_; }

 private:
  struct Entry {
    uint64_t key = 0;  // 0: free
    uint32_t seen = 0;
    uint32_t follow = 0;
    uint32_t best_count = 0;
    int32_t best = 0;
  };

  size_t place_of(uint64_t key) const;
  Entry* find_or_add(uint64_t key);
  void grow();

  int max_order_;
  size_t max_entries_, used_ = 0, size_ = 0;
  std::vector<Entry> table_;        // a power of two, at most half full
  std::vector<int32_t> last_;       // the last max_order_ tokens, the latest first
  std::vector<uint64_t> contexts_;  // keys of the last 1, 2, ... tokens
};

}  // namespace forerun

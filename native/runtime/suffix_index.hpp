// What followed which context so far in sequences of tokens: drafts for speculative decoding that need no model.
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
  struct Entry {
    uint64_t key = 0;  // 0: free
    uint32_t seen = 0;
    uint32_t follow = 0;      // how often anything followed this context
    uint32_t best_count = 0;  // how often `best` did
    int32_t best = 0;         // what followed most often, the later one on ties
  };

  SuffixIndex(int max_order, size_t max_entries);

  void extend(const int32_t* tokens, size_t count);

  // The next tokens begin another sequence.
  void cut();

  // Takes a context over as counted: `best` followed it `count` of `follow` times.
  void put(const int32_t* context, size_t order, int32_t best, uint32_t count, uint32_t follow);

  // The entry of a context whose key is known (`context_keys`), or nullptr where nothing ever followed.
  const Entry* find(uint64_t key) const;

  int max_order() const { return max_order_; }
  const std::vector<int32_t>& last() const { return last_; }
  size_t size() const { return size_; }
  size_t entries() const { return used_; }

 private:
  size_t place_of(uint64_t key) const;
  Entry* find_or_add(uint64_t key);
  void grow();

  int max_order_;
  size_t max_entries_, used_ = 0, size_ = 0;
  std::vector<Entry> table_;        // a power of two, at most half full
  std::vector<int32_t> last_;       // the last max_order_ + 1 tokens, the latest first
  std::vector<uint64_t> contexts_;  // keys of the last 1, 2, ... tokens
};

// Keys of the runs of the latest 1, 2, ... `most` tokens; `last` has the latest first.
void context_keys(const std::vector<int32_t>& last, size_t most, std::vector<uint64_t>& keys);

// Puts a token in front and drops what lies beyond `most`.
void push_latest(std::vector<int32_t>& last, int32_t token, size_t most);

}  // namespace forerun

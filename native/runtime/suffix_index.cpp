#include "runtime/suffix_index.hpp"

#include <algorithm>

namespace forerun {
namespace {

// Extends the key of a run to the left by one token.
uint64_t longer(uint64_t key, int32_t token) {
  uint64_t h = (key ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15ull;
  h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9ull;
  h ^= h >> 32;
  return h ? h : 1;
}

}  // namespace

void context_keys(const std::vector<int32_t>& last, size_t most, std::vector<uint64_t>& keys) {
  keys.clear();
  uint64_t key = 0x243f6a8885a308d3ull;
  for (size_t n = 0; n < std::min(last.size(), most); ++n) keys.push_back(key = longer(key, last[n]));
}

void push_latest(std::vector<int32_t>& last, int32_t token, size_t most) {
  last.insert(last.begin(), token);
  if (last.size() > most) last.pop_back();
}

SuffixIndex::SuffixIndex(int max_order, size_t max_entries)
    : max_order_(max_order), max_entries_(max_entries), table_(256) {}

size_t SuffixIndex::place_of(uint64_t key) const {
  const size_t mask = table_.size() - 1;
  size_t at = key & mask;
  while (table_[at].key != 0 && table_[at].key != key) at = (at + 1) & mask;
  return at;
}

void SuffixIndex::grow() {
  std::vector<Entry> old(table_.size() * 2);
  old.swap(table_);
  for (const Entry& e : old)
    if (e.key != 0) table_[place_of(e.key)] = e;
}

SuffixIndex::Entry* SuffixIndex::find_or_add(uint64_t key) {
  Entry* e = &table_[place_of(key)];
  if (e->key == key) return e;
  if (used_ == max_entries_) return nullptr;
  if (++used_ * 2 > table_.size()) {
    grow();
    e = &table_[place_of(key)];
  }
  e->key = key;
  return e;
}

const SuffixIndex::Entry* SuffixIndex::find(uint64_t key) const {
  const Entry& e = table_[place_of(key)];
  return e.key != 0 && e.best_count > 0 ? &e : nullptr;
}

void SuffixIndex::extend(const int32_t* tokens, size_t count) {
  std::vector<uint64_t> runs;
  for (size_t i = 0; i < count; ++i) {
    push_latest(last_, tokens[i], static_cast<size_t>(max_order_) + 1);
    context_keys(last_, static_cast<size_t>(max_order_) + 1, runs);
    // A run of n + 1 tokens is a context of n, known before, and what followed it.
    for (size_t n = 0; n < runs.size(); ++n) {
      Entry* run = find_or_add(runs[n]);
      if (run == nullptr) continue;
      const uint32_t seen = ++run->seen;
      if (n == 0) continue;
      Entry& context = table_[place_of(contexts_[n - 1])];
      if (context.key == 0) continue;
      ++context.follow;
      if (seen >= context.best_count) context.best = tokens[i], context.best_count = seen;
    }
    contexts_.assign(runs.begin(), runs.begin() + std::min(runs.size(), static_cast<size_t>(max_order_)));
    ++size_;
  }
}

void SuffixIndex::cut() {
  last_.clear();
  contexts_.clear();
}

void SuffixIndex::put(const int32_t* context, size_t order, int32_t best, uint32_t count, uint32_t follow) {
  std::vector<uint64_t> keys;
  context_keys(std::vector<int32_t>(std::reverse_iterator(context + order), std::reverse_iterator(context)), order,
               keys);
  if (Entry* e = find_or_add(keys.back())) e->best = best, e->best_count = count, e->follow = follow;
}

}  // namespace forerun

// Members of a rank group as threads: the same bits as one executor, and an exchange that fails ends the step.
#include "runtime/ranks.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

// What members send, until all of them have taken it; nobody waits before that.
class Meeting {
 public:
  explicit Meeting(int members) : sent_(members), received_(members) {}
  void send(int member, const uint8_t* data, size_t count) {
    const std::lock_guard lock(mutex_);
    sent_[member].emplace_back(data, data + count);
    news_.notify_all();
  }
  void receive(int member, std::span<const size_t> counts, uint8_t* to) {
    std::unique_lock lock(mutex_);
    const size_t number = received_[member]++;
    for (size_t m = 0; m < counts.size(); to += counts[m++]) {
      news_.wait(lock, [&] { return sent_[m].size() > number; });
      std::copy_n(sent_[m][number].begin(), counts[m], to);
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<std::vector<std::vector<uint8_t>>> sent_;  // of each member, one after the other
  std::vector<size_t> received_;
};

struct Place final : Exchange {
  struct Coming final : Gather {
    Coming(Place& at, std::span<const size_t> of) : place(at), counts(of.begin(), of.end()) { ++place.under_way; }
    ~Coming() override { --place.under_way; }
    void finish(uint8_t* receive) override {
      if (place.breaks_after-- == 0) throw std::runtime_error("gone");
      place.meeting.receive(place.own, counts, receive);
    }
    Place& place;
    const std::vector<size_t> counts;
  };

  Place(Meeting& at, int member) : meeting(at), own(member) {}
  std::unique_ptr<Gather> start(const uint8_t* send, std::span<const size_t> counts) override {
    meeting.send(own, send, counts[own]);
    auto coming = std::make_unique<Coming>(*this, counts);
    most_under_way = std::max(most_under_way, under_way);
    return coming;
  }
  Meeting& meeting;
  const int own;
  int breaks_after = -1, under_way = 0, most_under_way = 0;
};

Step prompt_of(const Shape& shape, bool random_sampling) {
  Random random(11);
  Step step;
  step.add(random, shape, 0, 37, 0).add(random, shape, 0, 3, 4).add(random, shape, 0, 50, 8);
  if (random_sampling) step.sample_randomly(random, shape.vocab);
  return step;
}

std::vector<uint32_t> run(Executor& executor, const Shape& shape, bool random_sampling, bool logits) {
  Step step = prompt_of(shape, random_sampling);
  StepArrays arrays = step.arrays(shape.vocab);
  if (!logits) arrays.logits = nullptr;
  executor.step(arrays);
  std::vector<uint32_t> bits;
  step.append_results(bits);
  return bits;
}

void compare(Results& results, const Shape& shape, Format format, const std::vector<int>& begins, bool kv_int8,
             int strips) {
  const Model model(shape, format, 4);
  const int members = static_cast<int>(begins.size()) - 1, group = shape.heads / shape.kv_heads;
  ThreadTeam alone(1, {});
  const auto whole = model.start(usable_isas().back(), alone, kv_int8);
  // Greedy rows, rows of every kind, and the same with all logits.
  for (const auto& [random, logits] : {std::pair{false, false}, {true, false}, {true, true}}) {
    const std::vector<uint32_t> expected = run(*whole, shape, random, logits);
    Meeting meeting(members);
    std::vector<std::vector<uint32_t>> bits(members);
    std::vector<int> under_way(members);
    std::vector<std::thread> threads;
    for (int m = 0; m < members; ++m)
      threads.emplace_back([&, m, random = random, logits = logits] {
        Place place(meeting, m);
        ThreadTeam team(1 + m % 2, {});
        const int splits = shape.kv_heads < begins.back() ? group : 1;
        const Model::Place in_group{{m, begins}, &place, splits, strips};
        const auto own = model.start(usable_isas().back(), team, kv_int8, strips == 1 ? 16 : 64, in_group);
        bits[m] = run(*own, shape, random, logits);
        under_way[m] = place.most_under_way;
      });
    for (std::thread& thread : threads) thread.join();
    for (int most : under_way) results.check(most == std::min(strips, 6), "strips are exchanged beside each other");
    for (int m = 0; m < members; ++m) results.check(bits[m] == expected, "a member's results");
  }
}

void test_failure(Results& results) {
  const Model model({}, Format::Int8F16, 4);
  Meeting meeting(1);  // of those that are there
  Place place(meeting, 0);
  ThreadTeam team(2, {});
  const auto own = model.start(usable_isas().back(), team, false, 64, {{0, {0, 1, 2}}, &place, 1, 3});
  for (int again = 0; again < 2; ++again) {
    bool thrown = false;
    place.breaks_after = 0;
    try {
      run(*own, model.shape(), false, true);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    results.check(thrown, "a broken exchange is told");
    results.check(place.under_way == 0, "nothing stays under way");
  }
}

void test_bad_groups(Results& results) {
  const Model model({}, Format::Float32, 1);
  Meeting meeting(2);
  Place place(meeting, 0);
  ThreadTeam team(1, {});
  const auto start = [&](Ranks ranks, Exchange* exchange, int splits) {
    return [&, ranks, exchange, splits] {
      model.start(usable_isas().back(), team, false, 16, {ranks, exchange, splits});
    };
  };
  results.refuses("no members", start({0, {0}}, nullptr, 1));
  results.refuses("a member without ranks", start({0, {0, 1, 1}}, &place, 1));
  results.refuses("a member that is none", start({2, {0, 1, 2}}, &place, 1));
  results.refuses("members that cannot meet", start({0, {0, 1, 2}}, nullptr, 1));
  results.refuses("a meeting with nobody", start({0, {0, 2}}, &place, 1));
  results.refuses("far too many ranks", start({0, {0, 1 << 20}}, nullptr, 1));
  results.refuses("heads that cannot be split so", start({0, {0, 1, 2}}, &place, 3));
}

}  // namespace

void test_ranks(Results& results) {
  for (Format format : {Format::Int4F16Min, Format::Int8Channel, Format::BFloat16})
    for (const std::vector<int>& begins : {std::vector{0, 1, 2}, {0, 1, 2, 3}, {0, 3, 4, 5, 8}})
      for (int strips : {1, 2, 3, 8}) compare(results, {}, format, begins, format != Format::BFloat16, strips);
  test_failure(results);
  test_bad_groups(results);
}

}  // namespace forerun::test

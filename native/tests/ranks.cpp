// Members of a rank group as threads: the same bits as one executor, and an exchange that fails ends the step.
#include "runtime/ranks.hpp"

#include <barrier>
#include <cstring>
#include <thread>

#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

class Meeting {
 public:
  explicit Meeting(int members) : sent_(members), barrier_(members) {}
  void all_gather(int member, const uint8_t* send, std::span<const size_t> counts, uint8_t* receive) {
    sent_[member] = send;
    barrier_.arrive_and_wait();
    for (size_t m = 0; m < counts.size(); receive += counts[m++]) std::memcpy(receive, sent_[m], counts[m]);
    barrier_.arrive_and_wait();
  }

 private:
  std::vector<const uint8_t*> sent_;
  std::barrier<> barrier_;
};

struct Place final : Exchange {
  Place(Meeting& at, int member) : meeting(at), own(member) {}
  void all_gather(const uint8_t* send, std::span<const size_t> counts, uint8_t* receive) override {
    if (broken) throw std::runtime_error("gone");
    meeting.all_gather(own, send, counts, receive);
  }
  Meeting& meeting;
  const int own;
  bool broken = false;
};

Step prompt_of(const Shape& shape, bool random_sampling) {
  Random random(11);
  Step step;
  step.add(random, shape, 0, 37, 0).add(random, shape, 0, 3, 4);
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

void compare(Results& results, const Shape& shape, Format format, const std::vector<int>& begins, bool kv_int8) {
  const Model model(shape, format, 4);
  const int members = static_cast<int>(begins.size()) - 1, group = shape.heads / shape.kv_heads;
  ThreadTeam alone(1, {});
  const auto whole = model.start(usable_isas().back(), alone, kv_int8);
  // Greedy rows, rows of every kind, and the same with all logits.
  for (const auto& [random, logits] : {std::pair{false, false}, {true, false}, {true, true}}) {
    const std::vector<uint32_t> expected = run(*whole, shape, random, logits);
    Meeting meeting(members);
    std::vector<std::vector<uint32_t>> bits(members);
    std::vector<std::thread> threads;
    for (int m = 0; m < members; ++m)
      threads.emplace_back([&, m, random = random, logits = logits] {
        Place place(meeting, m);
        ThreadTeam team(1 + m % 2, {});
        const int splits = shape.kv_heads < begins.back() ? group : 1;
        const auto own = model.start(usable_isas().back(), team, kv_int8, 16, {{m, begins}, &place, splits});
        bits[m] = run(*own, shape, random, logits);
      });
    for (std::thread& thread : threads) thread.join();
    for (int m = 0; m < members; ++m) results.check(bits[m] == expected, "a member's results");
  }
}

void test_failure(Results& results) {
  const Model model({}, Format::Int8F16, 4);
  Meeting meeting(2);
  Place place(meeting, 0);
  place.broken = true;
  ThreadTeam team(2, {});
  const auto own = model.start(usable_isas().back(), team, false, 16, {{0, {0, 1, 2}}, &place, 1});
  for (int again = 0; again < 2; ++again) {
    bool thrown = false;
    try {
      run(*own, model.shape(), false, true);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    results.check(thrown, "a broken exchange is told");
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
      compare(results, {}, format, begins, format != Format::BFloat16);
  test_failure(results);
  test_bad_groups(results);
}

}  // namespace forerun::test

// Thread team and barrier: every thread works, none is early, none is lost.
#include <chrono>
#include <memory>
#include <vector>

#include "check.hpp"
#include "runtime/bandwidth.hpp"
#include "runtime/thread_team.hpp"

namespace forerun::test {
namespace {

// Each round every thread writes its own cell without atomics and, behind the barrier, reads all others': a thread that
// is early is a wrong sum here and a race under ThreadSanitizer.
void rounds(Results& results, ThreadTeam& team, int runs, int barriers) {
  std::vector<int> cells(team.size()), wrong(team.size());
  for (int run = 0; run < runs; ++run)
    team.run([&](int thread) {
      for (int b = 0; b < barriers; ++b) {
        cells[thread] = run + b;
        team.barrier();
        int sum = 0;
        for (int value : cells) sum += value;
        wrong[thread] += sum != (run + b) * team.size();
        team.barrier();
      }
    });
  int total = 0;
  for (int value : wrong) total += value;
  results.check(total == 0, "a team of " + std::to_string(team.size()) + " met too early");
}

void test_sleepers(Results& results) {
  ThreadTeam team(3, {});
  std::vector<int> done(3);
  for (int slow = 0; slow < 3; ++slow)
    team.run([&](int thread) {
      if (thread == slow) std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the others stop spinning
      team.barrier();
      ++done[thread];
    });
  results.check(done == std::vector<int>{3, 3, 3}, "threads that slept at a barrier were not all woken");
}

void test_excused(Results& results) {
  Barrier barrier(4, 300, std::chrono::microseconds(50));
  barrier.excuse(2);
  int met = 0;
  std::thread other([&] { barrier.wait(); });
  barrier.wait();
  ++met;
  other.join();
  results.check(met == 1, "a barrier waits for threads that were excused");
}

// Several teams with more threads than processors, at once.
void test_oversubscription(Results& results) {
  constexpr int kTeams = 3, kThreads = 4;
  Results own[kTeams];
  std::vector<std::thread> callers;
  for (int c = 0; c < kTeams; ++c)
    callers.emplace_back([&own, c] {
      ThreadTeam team(kThreads, {});
      rounds(own[c], team, 5, 4);
    });
  for (auto& caller : callers) caller.join();
  for (const Results& r : own) results.check(r.failures == 0 && r.checks == 1, "a team failed beside others");
}

}  // namespace

void test_team(Results& results) {
  for (int size : {1, 2, 3, 5}) {
    ThreadTeam team(size, {});
    rounds(results, team, 50, size > 3 ? 2 : 4);
  }
  for (int i = 0; i < 30; ++i) ThreadTeam idle(1 + i % 4, {});  // stopped before it ever worked
  ThreadTeam pinned(3, {0, 0, 100000});                         // no such processor: runs unpinned
  rounds(results, pinned, 3, 2);
  test_sleepers(results);
  test_excused(results);
  test_oversubscription(results);
  results.check(read_bandwidth(2, 16) > 0, "read_bandwidth measured nothing");
  results.refuses("read_bandwidth with 0 threads", [] { read_bandwidth(0, 16); });
}

}  // namespace forerun::test

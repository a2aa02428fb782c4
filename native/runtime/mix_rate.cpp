#include "runtime/mix_rate.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "runtime/memory.hpp"
#include "runtime/thread_team.hpp"

namespace forerun {
namespace {

constexpr int kBlocks = 4, kRows = 8, kPasses = 1000;  // kRows: as many as any register tile has
constexpr std::chrono::milliseconds kLong{100};        // until the system has spread the threads

// What one thread works on; zeros take as long as anything else.
struct Share {
  std::vector<QuantGroup> groups = std::vector<QuantGroup>(kRows * kBlocks * 2);
  std::vector<float> sums = std::vector<float>(kRows * 4 * kPanel);
  Pages panels{2 * unpacked_bytes(kBlocks)};

  LinearArgs args() {
    LinearArgs a;
    a.blocks = kBlocks, a.quant.high = groups.data(), a.quant.groups = kBlocks * 2;
    a.y = sums.data(), a.scratch = panels.data();
    return a;
  }
};

}  // namespace

double mix_rate(const Kernels& kernels, int threads) {
  if (threads < 1 || threads > 256) throw std::invalid_argument("mix_rate: 1..256 threads");
  std::vector<Share> shares(threads);
  ThreadTeam team(threads, {});
  double best = 0.0;
  const auto end = std::chrono::steady_clock::now() + kLong;
  for (auto begin = end - kLong; begin < end; begin = std::chrono::steady_clock::now()) {
    std::vector<double> done(threads);
    team.run([&](int t) { done[t] = kernels.bare_mix(shares[t].args(), kPasses); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, done[0] * threads / seconds.count());
  }
  return best;
}

}  // namespace forerun

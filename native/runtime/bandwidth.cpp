#include "runtime/bandwidth.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "runtime/memory.hpp"
#include "runtime/thread_team.hpp"

namespace forerun {
namespace {

constexpr int kStreams = 4;
constexpr size_t kStep = 256;  // bytes of a stream per turn

uint64_t read_streams(const unsigned char* data, size_t bytes) {
  const size_t part = bytes / kStreams / kStep * kStep;
  uint64_t sums[32] = {};  // wide enough for the compiler to use its widest registers
  for (size_t at = 0; at < part; at += kStep)
    for (int s = 0; s < kStreams; ++s) {
      uint64_t words[32];
      std::memcpy(words, data + s * part + at, kStep);
      for (int i = 0; i < 32; ++i) sums[i] ^= words[i];
    }
  uint64_t all = 0;
  for (uint64_t x : sums) all ^= x;
  return all;
}

}  // namespace

double read_bandwidth(int threads, int megabytes) {
  if (threads < 1 || threads > 256 || megabytes < 16 || megabytes > 4096)
    throw std::invalid_argument("read_bandwidth: 1..256 threads and 16..4096 megabytes");
  const size_t bytes = static_cast<size_t>(megabytes) << 20, share = bytes / threads;
  const Pages memory(bytes);
  std::memset(memory.data(), 1, bytes);
  ThreadTeam team(threads, {});
  std::atomic<uint64_t> sink{0};
  double best = 0.0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    team.run([&](int t) { sink.fetch_xor(read_streams(memory.data() + share * t, share)); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = static_cast<double>(share * threads) / seconds.count() > best ? share * threads / seconds.count() : best;
  }
  return best;
}

}  // namespace forerun

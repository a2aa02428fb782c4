// A team of threads that runs one function together, with barriers inside. The caller is thread 0.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace forerun {

// Meets `size` threads. Waiting spins for `spins` pauses, gives way again and again for `patience`, then sleeps in the
// kernel; whoever does not wait long makes no system call.
class Barrier {
 public:
  Barrier(int size, int spins, std::chrono::microseconds patience) : size_(size), spins_(spins), patience_(patience) {}
  void wait();
  // Counts `count` threads that will never come as arrived, once; for the phase under way.
  void excuse(int count) { arrived_.fetch_add(count, std::memory_order_acq_rel); }

 private:
  const int size_, spins_;
  const std::chrono::microseconds patience_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> sleepers_{0};
};

class ThreadTeam {
 public:
  // `cpus`: processor of each thread (the caller's own, index 0, is left to the system); empty: unpinned.
  // Throws std::invalid_argument for less than 1 or more than 1024 threads, std::system_error when the system grants
  // too few threads.
  ThreadTeam(int size, const std::vector<int>& cpus);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  // Runs work(thread) on all threads and returns when all are done. Several executors may share a team: callers from
  // different threads wait for each other.
  void run(const std::function<void(int)>& work);
  void barrier() { inner_.wait(); }

 private:
  void loop(int index);
  void dismiss();

  const int size_;
  std::mutex one_caller_;
  const std::function<void(int)>* work_ = nullptr;
  bool stop_ = false;
  Barrier begin_, inner_, end_;
  std::vector<std::thread> threads_;
};

}  // namespace forerun

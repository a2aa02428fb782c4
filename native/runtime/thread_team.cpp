#include "runtime/thread_team.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace forerun {
namespace {

// Inside a step: some microseconds are longer than most imbalances of a step that runs undisturbed. Beyond that
// somebody else has one of the processors, often the very thread that is waited for: giving way lets it run, while
// sleeping would queue this thread behind a whole time slice at every barrier.
constexpr int kSpins = 300;
constexpr std::chrono::milliseconds kPatience{100};
// Between steps: what the engine needs now and then; whoever prepares the next step goes first. By the clock: a thread
// that gives way among many others would seem to be at work for seconds, and the system would keep them off its
// processor.
constexpr int kIdleSpins = 300;
constexpr std::chrono::milliseconds kIdlePatience{2};

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

int checked_size(int size) {
  if (size < 1 || size > 1024) throw std::invalid_argument("threads must be within 1..1024");
  return size;
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(phase_);
    return;
  }
  for (int i = 0; i < spins_; ++i) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    pause_briefly();
  }
  const auto end = std::chrono::steady_clock::now() + patience_;
  do {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    sched_yield();
  } while (std::chrono::steady_clock::now() < end);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (phase_.load(std::memory_order_seq_cst) == phase) futex_wait(phase_, phase);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

ThreadTeam::ThreadTeam(int size, const std::vector<int>& cpus)
    : size_(checked_size(size)),
      begin_(size, kIdleSpins, kIdlePatience),
      inner_(size, kSpins, kPatience),
      end_(size, kSpins, kPatience) {
  try {
    threads_.reserve(size);
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { loop(i); });
  } catch (...) {  // the system grants no more threads: those that run are sent home
    begin_.excuse(size - 1 - static_cast<int>(threads_.size()));
    dismiss();
    throw;
  }
  for (int i = 1; i < size && static_cast<size_t>(i) < cpus.size(); ++i) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus[i], &set);
    pthread_setaffinity_np(threads_[i - 1].native_handle(), sizeof(set), &set);  // refused: the thread runs unpinned
  }
}

ThreadTeam::~ThreadTeam() { dismiss(); }

void ThreadTeam::dismiss() {
  stop_ = true;
  begin_.wait();
  for (auto& thread : threads_) thread.join();
}

void ThreadTeam::loop(int index) {
  for (;;) {
    begin_.wait();
    if (stop_) return;
    (*work_)(index);
    end_.wait();
  }
}

void ThreadTeam::run(const std::function<void(int)>& work) {
  const std::lock_guard<std::mutex> lock(one_caller_);
  work_ = &work;
  begin_.wait();
  work(0);
  end_.wait();
}

}  // namespace forerun

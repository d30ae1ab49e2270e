// Threads that go through the same phases of one call, and aligned memory for them.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace geomfast {

struct AlignedDelete {
  std::align_val_t alignment{64};
  void operator()(char* memory) const { ::operator delete(memory, alignment); }
};
using AlignedBytes = std::unique_ptr<char, AlignedDelete>;

// Memory aligned to 64 bytes. Much of it comes in large pages where there are any: faulting in
// small ones can take as long as filling them.
inline AlignedBytes aligned_bytes(std::size_t bytes) {
  constexpr std::size_t kLargePage = 2 << 20;
  const bool large = bytes >= kLargePage;
  if (large) bytes = (bytes + kLargePage - 1) / kLargePage * kLargePage;
  const std::align_val_t alignment{large ? kLargePage : 64};
  char* memory = static_cast<char*>(::operator new(bytes, alignment));
#if defined(__linux__)
  if (large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return AlignedBytes(memory, AlignedDelete{alignment});
}

class Workers {
 public:
  // Runs each(i) for i in [0, count), whoever is free taking the next one; returns when all are
  // done. Every worker calls it, with the same arguments.
  template <class Each>
  void share(long count, Each each) {
    for (long i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) each(i);
    wait();
  }

  // Runs body(workers, index) on up to `threads` threads, this one included.
  template <class Body>
  static void run(long threads, Body body) {
    Workers workers;
    std::vector<std::thread> others;
    {
      // Held until the number is known: the others start by asking for it.
      const std::lock_guard<std::mutex> gate(workers.mutex_);
      for (long i = 1; i < threads; ++i) {
        try {
          others.emplace_back([&workers, &body, i] {
            { const std::lock_guard<std::mutex> passed(workers.mutex_); }
            body(workers, i);
          });
        } catch (const std::system_error&) {
          break;  // no more threads to be had: those there are share the work
        }
      }
      workers.count_ = static_cast<long>(others.size()) + 1;
    }
    body(workers, 0L);
    for (std::thread& other : others) other.join();
  }

 private:
  void wait() {
    const long round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        round_.store(round + 1, std::memory_order_release);
      }
      all_here_.notify_all();
      return;
    }
    // Phases are short: falling asleep and waking up would cost more than most waits last.
    for (int spin = 0; spin < kSpins; ++spin) {
      if (round_.load(std::memory_order_acquire) != round) return;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    all_here_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != round; });
  }

  static constexpr int kSpins = 20000;
  long count_ = 1;
  std::atomic<long> next_{0}, arrived_{0}, round_{0};
  std::mutex mutex_;
  std::condition_variable all_here_;
};

}  // namespace geomfast

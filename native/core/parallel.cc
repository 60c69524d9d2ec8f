#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define AUXGRAD_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define AUXGRAD_PAUSE() asm volatile("yield")
#else
#define AUXGRAD_PAUSE() ((void)0)
#endif

namespace auxgrad {
namespace {

class Serial : public Parallel {
 public:
  int threads() const override { return 1; }
  void run(int64_t tasks, Task task, void* context) override {
    for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
  }
};

// Workers spin a little before they sleep: kernels of one step follow each other within microseconds.
constexpr int kSpins = 2000;

class Pool : public Parallel {
 public:
  ~Pool() override { stop(); }

  int threads() const override { return threads_.load(std::memory_order_relaxed); }

  void resize(int threads) {
    std::lock_guard<std::mutex> turn(turn_);
    stop();
    start(threads);
  }

  void run(int64_t tasks, Task task, void* context) override {
    if (tasks <= 0) return;
    if (tasks == 1 || threads() == 1) return inline_run(tasks, task, context);
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock() || workers_.empty()) return inline_run(tasks, task, context);

    task_ = task;
    context_ = context;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    drain(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; spins++) {
      if (spins < kSpins) AUXGRAD_PAUSE();
      else std::this_thread::yield();
    }
  }

 private:
  static void inline_run(int64_t tasks, Task task, void* context) {
    for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
  }

  void drain(int thread) {
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks_) return;
      task_(context_, i, thread);
    }
  }

  void start(int threads) {
    quit_ = false;
    const uint64_t epoch = epoch_.load();
    try {
      for (int i = 1; i < threads; i++) workers_.emplace_back([this, i, epoch] { work(i, epoch); });
    } catch (const std::system_error&) {
      // The system has no more threads to give: go on with those that started.
    }
    threads_.store(static_cast<int>(workers_.size()) + 1);
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      quit_ = true;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  void work(int thread, uint64_t seen) {
    for (;;) {
      for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen; spins++) {
        if (spins < kSpins) {
          AUXGRAD_PAUSE();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1, std::memory_order_acq_rel);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        sleeping_.fetch_sub(1, std::memory_order_acq_rel);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (quit_) return;
      drain(thread);
      busy_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::mutex turn_;  // one caller at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<int> threads_{1};
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<int> busy_{0};
  std::atomic<int64_t> next_{0};
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<bool> quit_{false};
};

// Never destroyed: at process exit a worker may still be asleep, and joining it then can hang.
Pool& pool() {
  static Pool* instance = [] {
    Pool* p = new Pool();
    p->resize(default_threads());
    return p;
  }();
  return *instance;
}

}  // namespace

int default_threads() {
  if (const char* text = std::getenv("AUXGRAD_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return n < 256 ? n : 256;
  }
  const unsigned n = std::thread::hardware_concurrency();
  return n < 1 ? 1 : n < 256 ? static_cast<int>(n) : 256;
}

Parallel& process_pool() { return pool(); }
void set_threads(int threads) { pool().resize(threads < 1 ? 1 : threads > 256 ? 256 : threads); }

Parallel& serial_pool() {
  static Serial serial;
  return serial;
}

}  // namespace auxgrad

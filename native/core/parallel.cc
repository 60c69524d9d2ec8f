#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "cores.h"

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
  void run_limited(int64_t tasks, Task task, void* context, int) override { run(tasks, task, context); }
  void run_short(int64_t tasks, Task task, void* context, int) override { run(tasks, task, context); }
};

// Workers spin a little before they sleep: kernels of one step follow each other within microseconds.
constexpr int kSpins = 2000;
// Short runs in a row that find threads asleep before these are woken: more are likely to follow.
constexpr int kShortRuns = 8;

class Pool : public Parallel {
 public:
  explicit Pool(int threads) : threads_(threads) {}
  ~Pool() override { stop(); }

  int threads() const override { return threads_.load(std::memory_order_relaxed); }

  // The threads start with the first work that is worth them: loading auxgrad starts none.
  void resize(int threads) {
    std::lock_guard<std::mutex> turn(turn_);
    stop();
    threads_.store(threads);
  }

  // Ends the threads; the next run starts them again.
  void rest() {
    std::lock_guard<std::mutex> turn(turn_);
    stop();
  }

  void run(int64_t tasks, Task task, void* context) override { run_limited(tasks, task, context, threads()); }

  void run_limited(int64_t tasks, Task task, void* context, int limit) override {
    if (tasks <= 0) return;
    if (tasks == 1 || limit <= 1 || threads() == 1) return inline_run(tasks, task, context);
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return inline_run(tasks, task, context);
    if (workers_.empty()) start();
    if (workers_.empty()) return inline_run(tasks, task, context);
    share(tasks, task, context, limit);
  }

  void run_short(int64_t tasks, Task task, void* context, int limit) override {
    if (tasks <= 1 || limit <= 1 || threads() == 1) return inline_run(tasks, task, context);
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return inline_run(tasks, task, context);
    if (!workers_.empty() && sleeping_.load(std::memory_order_acquire) == 0) {
      short_runs_ = 0;
      return share(tasks, task, context, limit);
    }
    inline_run(tasks, task, context);
    if (++short_runs_ < kShortRuns) return;
    short_runs_ = 0;
    if (workers_.empty()) start();
    else call_workers();
  }

 private:
  static void inline_run(int64_t tasks, Task task, void* context) {
    for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
  }

  // Runs the tasks here and in the workers that come while some are left. One that comes later, because it slept or the
  // system gave its core to somebody else, is not waited for.
  void share(int64_t tasks, Task task, void* context, int limit) {
    task_ = task;
    context_ = context;
    tasks_ = tasks;
    limit_ = limit;
    next_.store(0, std::memory_order_relaxed);
    inside_.store(0, std::memory_order_release);
    call_workers();
    drain(0);
    inside_.fetch_add(kClosed, std::memory_order_relaxed);
    for (int spins = 0; inside_.load(std::memory_order_acquire) != kClosed;) {
      if (spins < kSpins) {
        spins++;
        AUXGRAD_PAUSE();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void call_workers() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load(std::memory_order_acquire) > 0) wake_.notify_all();
  }

  // Whether a worker may read the fields of a run: until it leaves they stay as they are.
  bool enter() {
    int inside = inside_.load(std::memory_order_relaxed);
    while (inside >= 0)
      if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    return false;
  }
  void leave() { inside_.fetch_sub(1, std::memory_order_release); }

  void drain(int thread) {
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks_) return;
      task_(context_, i, thread);
    }
  }

  // Both under turn_.
  void start() {
    quit_.store(false);
    const uint64_t epoch = epoch_.load();
    const int wanted = threads();
    try {
      workers_.reserve(static_cast<size_t>(wanted));
      for (int i = 1; i < wanted; i++) workers_.emplace_back([this, i, epoch] { work(i, epoch); });
    } catch (const std::exception&) {
      // The system has no more threads to give: go on with those that started.
      threads_.store(static_cast<int>(workers_.size()) + 1);
    }
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      quit_.store(true);
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
        // Counted as asleep under the lock that an epoch is raised under: either the wait sees the new epoch, or
        // whoever raises it sees the sleeper.
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1, std::memory_order_acq_rel);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        sleeping_.fetch_sub(1, std::memory_order_acq_rel);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (quit_.load()) return;
      if (!enter()) continue;
      if (thread < limit_) drain(thread);
      leave();
    }
  }

  std::mutex turn_;  // one caller at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<int> threads_;
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleeping_{0};
  // Workers in the run; kClosed is added when nobody may enter it any more.
  static constexpr int kClosed = std::numeric_limits<int>::min();
  std::atomic<int> inside_{kClosed};
  std::atomic<int64_t> next_{0};
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  int limit_ = 0;
  int short_runs_ = 0;  // one after the other that found workers asleep
  std::atomic<bool> quit_{false};
};

// Never destroyed: a static destructor may run while another thread still computes (process.exit in mid-step).
Pool& pool() {
  static Pool* instance = new Pool(default_threads());
  return *instance;
}

}  // namespace

FixedThreads::FixedThreads(Parallel& pool, int threads) : pool_(pool), threads_(threads) {}

int FixedThreads::threads() const { return threads_; }

void FixedThreads::run(int64_t tasks, Task task, void* context) { pool_.run_limited(tasks, task, context, threads_); }

void FixedThreads::run_limited(int64_t tasks, Task task, void* context, int limit) {
  pool_.run_limited(tasks, task, context, limit < threads_ ? limit : threads_);
}

void FixedThreads::run_short(int64_t tasks, Task task, void* context, int limit) {
  pool_.run_short(tasks, task, context, limit < threads_ ? limit : threads_);
}

int default_threads() {
  if (const char* text = std::getenv("AUXGRAD_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return n < 256 ? n : 256;
  }
  const int n = available_cores();
  return n < 256 ? n : 256;
}

Parallel& process_pool() { return pool(); }
void rest_threads() { pool().rest(); }
void set_threads(int threads) { pool().resize(threads < 1 ? 1 : threads > 256 ? 256 : threads); }

Parallel& serial_pool() {
  static Serial serial;
  return serial;
}

}  // namespace auxgrad

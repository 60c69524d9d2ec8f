// Runs plans one after the other on a thread of its own, off the caller's event loop.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "plan.h"

namespace auxgrad {

class Executor {
 public:
  struct Job {
    std::shared_ptr<const Plan> plan;
    std::shared_ptr<Storage> arena;
    std::atomic<int32_t> abort{0};
    Failure failure;
    RunStats stats;
    // Called on the executor's thread when the run has ended, whatever its outcome; plan and arena are released by then.
    std::function<void()> done;
  };

  // Starts no thread until the first job.
  Executor() = default;
  // Aborts what can be aborted, waits for the rest, drops jobs that never started (their `done` is not called).
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // False, with the job's failure set, if the system gives no thread.
  bool submit(std::shared_ptr<Job> job);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> running_;
  std::thread thread_;
  bool quit_ = false;
};

}  // namespace auxgrad

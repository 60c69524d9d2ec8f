#include "executor.h"

#include <exception>

namespace auxgrad {

bool Executor::submit(std::shared_ptr<Job> job) {
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back(job);
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::exception&) {
      queue_.pop_back();
      return job->failure.set(ErrorCode::out_of_memory, "the system gives no thread to run the step on");
    }
  }
  wake_.notify_one();
  return true;
}

void Executor::work() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      running_ = nullptr;
      wake_.wait(lock, [&] { return quit_ || !queue_.empty(); });
      if (quit_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      running_ = job;
    }
    job->plan->run(*job->arena, process_pool(), &job->abort, &job->failure, &job->stats);
    // A handle of the job may live on until the garbage collector comes; the memory must not.
    job->plan.reset();
    job->arena.reset();
    job->done();
  }
}

Executor::~Executor() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    quit_ = true;
    if (running_) running_->abort.store(kStopNow);
    queue_.clear();
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

}  // namespace auxgrad

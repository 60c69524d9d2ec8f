#include "executor.h"

#include <system_error>

namespace auxgrad {

bool Executor::submit(std::shared_ptr<Job> job) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error&) {
      return job->failure.set(ErrorCode::out_of_memory, "the system gives no thread to run the step on");
    }
  }
  queue_.push_back(std::move(job));
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

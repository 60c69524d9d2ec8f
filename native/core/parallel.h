// A pool of worker threads that runs numbered tasks.
//
// Results must not depend on the number of threads: a kernel cuts its work into tasks by shape alone, each task
// writes its own outputs, and which thread runs which task is free.
#pragma once
#include <cstdint>

namespace auxgrad {

class Parallel {
 public:
  using Task = void (*)(void* context, int64_t task, int thread);

  virtual ~Parallel() = default;
  // Threads that may run tasks, the caller included.
  virtual int threads() const = 0;
  // Runs task(context, i, thread) for i in [0, tasks), thread in [0, threads()); returns when all are done.
  virtual void run(int64_t tasks, Task task, void* context) = 0;
  // The same with thread in [0, min(limit, threads())).
  virtual void run_limited(int64_t tasks, Task task, void* context, int limit) = 0;
  // The same for tasks of a few microseconds: threads that sleep are not waited for.
  virtual void run_short(int64_t tasks, Task task, void* context, int limit) = 0;
};

// Another pool with a fixed number of its threads. What a kernel call is given: its scratch was booked for that many,
// and set_threads() in another JavaScript thread must not change the number in mid-call.
class FixedThreads : public Parallel {
 public:
  FixedThreads(Parallel& pool, int threads);
  // Not inline: kernel objects see this header, and must not carry copies of shared functions (native/cpu/unit.h).
  int threads() const override;
  void run(int64_t tasks, Task task, void* context) override;
  void run_limited(int64_t tasks, Task task, void* context, int limit) override;
  void run_short(int64_t tasks, Task task, void* context, int limit) override;

 private:
  Parallel& pool_;
  const int threads_;
};

// The pool of this process. Callers from several threads take turns; one that finds it busy runs its tasks itself.
Parallel& process_pool();
// Threads used from the next call on, 1..256. Fewer are used if the system refuses to start more.
void set_threads(int threads);
int default_threads();
// Ends the threads of the process pool; they start again with the next work. For when nobody is left to use them.
void rest_threads();
// One thread, the caller: for tests and small calls.
Parallel& serial_pool();

}  // namespace auxgrad

// The thread pool and the executor under many hands at once. Short by default; AUXGRAD_STRESS=n does n times as much.
// Made for ThreadSanitizer (scripts/reliability.js builds it so), and run with every other build too.
#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "core/executor.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "harness.h"

namespace {

using auxgrad::Executor;
using auxgrad::Ledger;
using auxgrad::Plan;
using auxgrad::Storage;

int rounds(int n) {
  const char* text = std::getenv("AUXGRAD_STRESS");
  const int times = text ? std::atoi(text) : 1;
  return n * (times < 1 ? 1 : times);
}

constexpr double kF32 = static_cast<double>(auxgrad::DType::f32);

// The words of a plan, written by hand.
class Words {
 public:
  Words(double arena, double calls, double first_update)
      : words_{auxgrad::kPlanMagic, auxgrad::kPlanVersion, arena, calls, first_update} {}
  Words& call(double kernel, double ins, double outs, double scratch_offset, double scratch_bytes, double number) {
    for (double w : {kernel, ins, outs, scratch_offset, scratch_bytes, 1.0, number}) words_.push_back(w);
    return *this;
  }
  Words& matrix(double buffer, double byte_offset, double rows, double columns) {
    for (double w : {buffer, byte_offset, 0.0, kF32, 2.0, rows, columns, columns, 1.0}) words_.push_back(w);
    return *this;
  }
  std::unique_ptr<Plan> decode(const std::vector<std::string>& kernels, auxgrad::Failure* failure,
                               std::vector<std::shared_ptr<Storage>> buffers = {nullptr}) const {
    return Plan::decode(words_.data(), static_cast<int64_t>(words_.size()), kernels, std::move(buffers), failure);
  }

 private:
  std::vector<double> words_;
};

int64_t matmul_scratch(int64_t n, int threads) {
  test::Array a = test::Array::f32({n, n}), b = test::Array::f32({n, n}), c = test::Array::f32({n, n});
  const auxgrad::View in[] = {a.view(), b.view()}, out[] = {c.view()};
  const double number[] = {1.0};
  auxgrad::Call call;
  call.in = in;
  call.n_in = 2;
  call.out = out;
  call.n_out = 1;
  call.number = number;
  call.n_number = 1;
  return auxgrad::find_kernel("matmul")->scratch(call, threads);
}

// c = a b on n x n matrices of twos and threes: the kernel for the pool, its scratch just behind the matrices.
struct MatmulPlan {
  MatmulPlan(int64_t n, int threads) : size(n) {
    const double bytes = static_cast<double>(n * n * 4);
    scratch = matmul_scratch(n, threads);
    arena_bytes = 3 * n * n * 4 + scratch;
    auxgrad::Failure failure;
    const double d = static_cast<double>(n);
    Words words(static_cast<double>(arena_bytes), 3, 3);
    words.call(0, 0, 1, 0, 0, 2.0).matrix(0, 0, d, d);
    words.call(0, 0, 1, 0, 0, 3.0).matrix(0, bytes, d, d);
    words.call(1, 2, 1, 3 * bytes, static_cast<double>(scratch), 1.0);
    words.matrix(0, 0, d, d).matrix(0, bytes, d, d).matrix(0, 2 * bytes, d, d);
    plan = words.decode({"fill", "matmul"}, &failure);
    CHECK(plan != nullptr);
  }
  bool right(const Storage& arena) const {
    const float* c = reinterpret_cast<const float*>(arena.data()) + 2 * size * size;
    for (int64_t i = 0; i < size * size; i++)
      if (c[i] != 6.0f * static_cast<float>(size)) return false;
    return true;
  }
  int64_t size, scratch = 0, arena_bytes = 0;
  std::shared_ptr<const Plan> plan;
};

}  // namespace

TEST(stress_pool_runs_every_task_once_while_it_is_resized) {
  struct Count {
    std::vector<std::atomic<int>> seen;
    std::atomic<int> highest{0};
  };
  std::atomic<bool> stop{false};
  std::thread resizer([&] {
    for (int i = 0; !stop.load(); i++) {
      auxgrad::set_threads(1 + i % 5);
      if (i % 7 == 0) auxgrad::rest_threads();
      std::this_thread::yield();
    }
  });
  std::atomic<int> wrong{0};
  const auto caller = [&](uint32_t seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < rounds(2000); round++) {
      const int64_t tasks = static_cast<int64_t>(random() % 40);
      const int limit = 1 + static_cast<int>(random() % 4);
      Count count{std::vector<std::atomic<int>>(static_cast<size_t>(tasks)), {}};
      auxgrad::FixedThreads pool(auxgrad::process_pool(), limit);
      const auto task = [](void* context, int64_t i, int thread) {
        Count& c = *static_cast<Count*>(context);
        c.seen[static_cast<size_t>(i)]++;
        for (int now = c.highest.load(); thread > now && !c.highest.compare_exchange_weak(now, thread);) {
        }
      };
      if (round % 3 == 0) pool.run(tasks, task, &count);
      else pool.run_short(tasks, task, &count, limit);
      for (const auto& n : count.seen) wrong += n.load() != 1;
      wrong += count.highest.load() >= limit;
    }
  };
  std::thread other(caller, 1);
  caller(2);
  other.join();
  stop.store(true);
  resizer.join();
  auxgrad::set_threads(auxgrad::default_threads());
  CHECK(wrong.load() == 0);
}

TEST(stress_pool_wakes_sleeping_workers) {
  auxgrad::set_threads(4);
  for (int round = 0; round < rounds(20); round++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3));  // long enough to fall asleep, or not
    std::atomic<int> done{0};
    auxgrad::process_pool().run(
        16, [](void* context, int64_t, int) { (*static_cast<std::atomic<int>*>(context))++; }, &done);
    CHECK(done.load() == 16);
  }
  auxgrad::set_threads(auxgrad::default_threads());
}

#ifndef _WIN32
// A worker that is held up outside of a task, as where the system gives its core to others: a signal takes it.
TEST(stress_pool_runs_on_without_a_worker_that_is_held_up) {
  static std::atomic<bool> held, released;
  held = released = false;
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {
    held.store(true);
    while (!released.load()) std::this_thread::yield();
  };
  sigaction(SIGUSR1, &action, &before);
  auxgrad::set_threads(2);
  struct Worker {
    std::atomic<bool> known{false};
    pthread_t thread;
  } worker;
  auxgrad::process_pool().run(
      2,
      [](void* context, int64_t, int thread) {
        Worker& w = *static_cast<Worker*>(context);
        if (thread == 1) w.thread = pthread_self(), w.known.store(true);
        while (!w.known.load()) std::this_thread::yield();
      },
      &worker);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it sleeps
  pthread_kill(worker.thread, SIGUSR1);
  while (!held.load()) std::this_thread::yield();
  std::thread rescue([] {  // so that a pool that waits fails rather than hangs
    for (int i = 0; i < 500 && !released.load(); i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    released.store(true);
  });
  std::atomic<int> done{0};
  auxgrad::process_pool().run(
      16, [](void* context, int64_t, int) { (*static_cast<std::atomic<int>*>(context))++; }, &done);
  CHECK(done.load() == 16);
  CHECK(!released.load());
  released.store(true);
  rescue.join();
  auxgrad::set_threads(auxgrad::default_threads());
  sigaction(SIGUSR1, &before, nullptr);
}
#endif

// Every task once, whether threads are awake, asleep or ended, and in turns with long runs.
TEST(stress_short_runs_of_the_pool) {
  auxgrad::set_threads(3);
  std::atomic<int> done{0};
  const auto task = [](void* context, int64_t, int) { (*static_cast<std::atomic<int>*>(context))++; };
  int wanted = 0;
  for (int round = 0; round < rounds(200); round++) {
    if (round % 50 == 10) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (round % 50 == 20) auxgrad::rest_threads();
    for (int i = 0; i < 40; i++, wanted += 4) auxgrad::process_pool().run_short(4, task, &done, 3);
    if (round % 5 == 0) auxgrad::process_pool().run(4, task, &done), wanted += 4;
    CHECK(done.load() == wanted);
  }
  auxgrad::set_threads(auxgrad::default_threads());
}

TEST(plan_never_uses_more_threads_than_its_scratch_was_booked_for) {
  auxgrad::set_threads(2);
  const MatmulPlan planned(256, 2);
  auxgrad::set_threads(8);
  auto ledger = std::make_shared<Ledger>();
  auto arena = Storage::create(ledger, planned.arena_bytes + 4096, true);
  std::memset(arena->data() + planned.arena_bytes, 0xa5, 4096);
  auxgrad::Failure failure;
  auxgrad::RunStats stats;
  CHECK(planned.plan->run(*arena, auxgrad::process_pool(), nullptr, &failure, &stats));
  CHECK(planned.right(*arena));
  bool intact = true;
  for (int i = 0; i < 4096; i++) intact = intact && arena->data()[planned.arena_bytes + i] == 0xa5;
  CHECK(intact);
  auxgrad::set_threads(auxgrad::default_threads());
}

TEST(plan_refuses_scratch_that_is_too_small_and_what_is_misaligned) {
  auxgrad::Failure failure;
  Words small(1 << 20, 1, 1);
  small.call(0, 2, 1, 0, 64, 1.0).matrix(0, 0, 64, 64).matrix(0, 16384, 64, 64).matrix(0, 32768, 64, 64);
  CHECK(matmul_scratch(64, 1) <= 64 || small.decode({"matmul"}, &failure) == nullptr);
  CHECK(matmul_scratch(64, 1) <= 64 || std::strstr(failure.message, "less scratch") != nullptr);
  auxgrad::Failure second;
  CHECK(Words(4096, 1, 1).call(0, 0, 1, 0, 0, 1.0).matrix(0, 2, 4, 4).decode({"fill"}, &second) == nullptr);
  CHECK(std::strstr(second.message, "misaligned operand") != nullptr);
  auxgrad::Failure third;
  Words shifted(1 << 20, 1, 1);
  shifted.call(0, 2, 1, 49152 + 8, 900000, 1.0).matrix(0, 0, 64, 64).matrix(0, 16384, 64, 64).matrix(0, 32768, 64, 64);
  CHECK(shifted.decode({"matmul"}, &third) == nullptr);
  CHECK(std::strstr(third.message, "misaligned scratch") != nullptr);
}

TEST(plan_refuses_shapes_of_more_elements_than_can_be_counted) {
  const double much = 1ll << 40;
  for (double first : {0.0, 1.0}) {  // repeated, so that they lie inside the arena; and of none in all
    const double words[] = {auxgrad::kPlanMagic,
                            auxgrad::kPlanVersion,
                            4096,
                            1,
                            1,
                            0,
                            0,
                            1,
                            0,
                            0,
                            1,
                            1,
                            0,
                            0,
                            0,
                            kF32,
                            3,
                            first,
                            much,
                            much,
                            0,
                            0,
                            0};
    auxgrad::Failure failure;
    CHECK(Plan::decode(words, std::size(words), {"fill"}, {nullptr}, &failure) == nullptr);
    CHECK(failure.code == auxgrad::ErrorCode::bad_plan);
  }
}

TEST(plan_names_all_kernels_that_are_missing) {
  auxgrad::Failure failure;
  CHECK(Words(4096, 0, 0).decode({"none1", "fill", "none2"}, &failure) == nullptr);
  CHECK(failure.code == auxgrad::ErrorCode::no_kernel);
  CHECK(std::string(failure.message) == "no CPU kernel named \"none1\", \"none2\"");
}

TEST(stress_executor_submits_aborts_and_ends_while_running) {
  const MatmulPlan planned(96, auxgrad::process_pool().threads());
  auto ledger = std::make_shared<Ledger>();
  std::mt19937 random(3);
  for (int round = 0; round < rounds(60); round++) {
    const int jobs = 1 + static_cast<int>(random() % 12);
    std::atomic<int> done{0}, wrong{0};
    {
      Executor executor;
      std::vector<std::shared_ptr<Executor::Job>> submitted;
      for (int i = 0; i < jobs; i++) {
        auto job = std::make_shared<Executor::Job>();
        auto arena = Storage::create(ledger, planned.arena_bytes, false);
        job->plan = planned.plan;
        job->arena = arena;
        Executor::Job* raw = job.get();
        job->done = [&, raw, arena] {
          wrong += raw->failure.failed() ? raw->failure.code != auxgrad::ErrorCode::aborted : !planned.right(*arena);
          done++;
        };
        CHECK(executor.submit(job));
        submitted.push_back(std::move(job));
      }
      std::thread aborter([&submitted, seed = random()] {
        std::mt19937 choice(seed);
        for (const auto& job : submitted)
          if (choice() % 2) job->abort.store(auxgrad::kStopUnchanged);
      });
      if (round % 3 == 0) auxgrad::set_threads(1 + round % 4);
      if (round % 2) {
        while (done.load() < jobs) std::this_thread::yield();
        CHECK(done.load() == jobs);
      }
      aborter.join();
    }
    CHECK(done.load() <= jobs);
    CHECK(wrong.load() == 0);
    CHECK(ledger->live() == 0);  // dropped jobs let go of their arenas too
  }
  auxgrad::set_threads(auxgrad::default_threads());
}

TEST(stress_executors_share_the_pool) {
  const MatmulPlan planned(128, auxgrad::process_pool().threads());
  auto ledger = std::make_shared<Ledger>();
  std::vector<std::thread> environments;
  std::atomic<int> wrong{0};
  for (int e = 0; e < 4; e++)
    environments.emplace_back([&] {
      for (int round = 0; round < rounds(5); round++) {
        Executor executor;
        std::atomic<int> left{6};
        std::vector<std::shared_ptr<Storage>> arenas;
        for (int i = 0; i < 6; i++) {
          auto job = std::make_shared<Executor::Job>();
          job->plan = planned.plan;
          job->arena = Storage::create(ledger, planned.arena_bytes, false);
          arenas.push_back(job->arena);
          job->done = [&left] { left--; };
          executor.submit(std::move(job));
        }
        while (left.load() > 0) std::this_thread::yield();
        for (const auto& arena : arenas) wrong += !planned.right(*arena);
      }
    });
  for (auto& environment : environments) environment.join();
  CHECK(wrong.load() == 0);
  CHECK(ledger->live() == 0);
}

TEST(stress_ledger_balances_under_injected_faults) {
  auto ledger = std::make_shared<Ledger>();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < rounds(500); i++) {
        if (t == 0) auxgrad::set_allocation_fault(1 + i % 5, false);
        auto small = Storage::create(ledger, 1 + i, true), large = Storage::create(ledger, 2 << 20, i % 2);
      }
    });
  for (auto& thread : threads) thread.join();
  auxgrad::set_allocation_fault(0, false);
  CHECK(ledger->live() == 0);
  CHECK(ledger->blocks() == 0);
  CHECK(Storage::create(ledger, -1, false) == nullptr);
  CHECK(Storage::create(ledger, INT64_MAX, false) == nullptr);
}

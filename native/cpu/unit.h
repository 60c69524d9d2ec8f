// First include of every kernel source. The build compiles each file of kernels/ once per instruction set, with
// AUXGRAD_ISA naming it (scalar, avx2, avx512, neon) and AUXGRAD_FAMILY naming the file.
//
// All code of a unit sits in an anonymous namespace: an inline function shared between a baseline and an AVX-512
// object could be taken by the linker from the wrong one and crash older machines. So no std:: in kernels, and only
// headers whose functions are internal (a test reads the symbols of the objects).
#pragma once
#include "../core/arithmetic.h"
#include "../core/kernel.h"

// Ends a kernel source: AUXGRAD_KERNELS({"name", run}, {"name", run, scratch}, ...).
#define AUXGRAD_KERNELS(...) \
  AUXGRAD_KERNEL_TABLE(AUXGRAD_JOIN(kernels_, AUXGRAD_FAMILY, AUXGRAD_JOIN(_, AUXGRAD_ISA, )), __VA_ARGS__)

namespace auxgrad {
namespace {

template <class F>
inline void run_task(void* context, int64_t task, int thread) {
  (*static_cast<const F*>(context))(task, thread);
}

// Runs f(task, thread) for task in [0, tasks) on the pool of the call.
template <class F>
inline void parallel_tasks(const Call& call, int64_t tasks, const F& f) {
  call.pool->run(tasks, run_task<F>, const_cast<void*>(static_cast<const void*>(&f)));
}

// The same for tasks of a few microseconds.
template <class F>
inline void parallel_short_tasks(const Call& call, int64_t tasks, const F& f) {
  call.pool->run_short(tasks, run_task<F>, const_cast<void*>(static_cast<const void*>(&f)), call.pool->threads());
}

// Runs f(begin, end) over [0, n) in pieces of `grain`; one piece runs on the caller. The cut depends on n and grain only.
template <class F>
inline void parallel_ranges(const Call& call, int64_t n, int64_t grain, const F& f) {
  parallel_tasks(call, (n + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t begin = task * grain;
    f(begin, begin + grain < n ? begin + grain : n);
  });
}

// Bytes to leave free in scratch between what different threads write, and between that and what they share: processors
// and kernels fetch ahead of what they read, and a line that came to another core that way must be taken back before it
// is written again.
constexpr int64_t kThreadGap = 8192;

}  // namespace
}  // namespace auxgrad

// What the machine can do at most: the roof that kernels are measured against.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "bench.h"
#include "core/parallel.h"
#include "cpu/isa.h"

namespace bench {
namespace {

// Independent chains of multiply-adds, enough to hide their latency: `steps` of kChains each. The value returned
// depends on all of them, so that none can be dropped.
constexpr int kChains = 16;

#if defined(__x86_64__) || defined(_M_X64)
__attribute__((target("avx512f"))) float chains_avx512(int64_t steps) {
  __m512 sum[kChains];
  for (int i = 0; i < kChains; i++) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; i++) sum[i] = _mm512_fmadd_ps(sum[i], x, y);
  }
  float lanes[16], total = 0;
  for (int i = 0; i < kChains; i++) {
    _mm512_storeu_ps(lanes, sum[i]);
    total += lanes[0];
  }
  return total;
}

__attribute__((target("avx2,fma"))) float chains_avx2(int64_t steps) {
  constexpr int kRegisters = 12;  // with x and y they stay in the 16 registers
  __m256 sum[kRegisters];
  for (int i = 0; i < kRegisters; i++) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 16
    for (int i = 0; i < kRegisters; i++) sum[i] = _mm256_fmadd_ps(sum[i], x, y);
  }
  float lanes[8], total = 0;
  for (int i = 0; i < kRegisters; i++) {
    _mm256_storeu_ps(lanes, sum[i]);
    total += lanes[0];
  }
  return total;
}
#endif

#if defined(__aarch64__)
float chains_neon(int64_t steps) {
  float32x4_t sum[kChains];
  for (int i = 0; i < kChains; i++) sum[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; i++) sum[i] = vfmaq_f32(y, sum[i], x);
  }
  float total = 0;
  for (int i = 0; i < kChains; i++) total += vgetq_lane_f32(sum[i], 0);
  return total;
}
#endif

float chains_scalar(int64_t steps) {
  typedef float Four __attribute__((vector_size(16)));
  constexpr int kRegisters = 12;
  Four sum[kRegisters];
  for (int i = 0; i < kRegisters; i++) sum[i] = Four{1, 2, 3, 4} * static_cast<float>(i);
  const Four x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {0.001f, 0.001f, 0.001f, 0.001f};
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 16
    for (int i = 0; i < kRegisters; i++) sum[i] = sum[i] * x + y;
  }
  float total = 0;
  for (int i = 0; i < kRegisters; i++) total += sum[i][0];
  return total;
}

struct Chains {
  float (*run)(int64_t steps);
  double flops;  // of a step
};

Chains chains() {
  switch (auxgrad::current_isa()) {
#if defined(__x86_64__) || defined(_M_X64)
    case auxgrad::Isa::amx:  // its matrix unit sums no floats
    case auxgrad::Isa::avx512: return {chains_avx512, 2.0 * 16 * kChains};
    case auxgrad::Isa::avx2: return {chains_avx2, 2.0 * 8 * 12};
#endif
#if defined(__aarch64__)
    case auxgrad::Isa::neon: return {chains_neon, 2.0 * 4 * kChains};
#endif
    default: return {chains_scalar, 2.0 * 4 * 12};
  }
}

volatile float sink;

Array zeros(int64_t n) {
  Array a({n});
  std::memset(a.f32(), 0, static_cast<size_t>(a.bytes()));
  return a;
}

// Seconds that f(i) takes on `threads` tasks at once, best of several.
template <class F>
double seconds(int threads, int rounds, const F& f) {
  auxgrad::set_threads(threads);
  double best = 1e9;
  for (int r = 0; r < rounds; r++) {
    const auto start = std::chrono::steady_clock::now();
    auxgrad::process_pool().run(
        threads, [](void* context, int64_t i, int) { (*static_cast<const F*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&f)));
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

double fma_peak_gflops(int threads) {
  const Chains c = chains();
  constexpr int64_t kSteps = 1000000;
  std::vector<float> results(static_cast<size_t>(threads) * 16);
  const double time = seconds(threads, 60, [&](int64_t i) { results[static_cast<size_t>(i) * 16] = c.run(kSteps); });
  sink = results[0];
  return c.flops * kSteps * threads / time * 1e-9;
}

// The better of reading (sums of all words) and of the triad a = b + s c, over buffers that no cache holds
// or, where the last cache is larger than what is reasonable to allocate, over 768 MiB.
double bandwidth_gbs(int threads) {
  const int64_t n = int64_t{64} << 20;  // floats of one of three buffers
  Array a = zeros(n), b = zeros(n), c = zeros(n);
  const int64_t share = n / threads;
  std::vector<float> results(static_cast<size_t>(threads) * 16);
  const double read = seconds(threads, 6, [&](int64_t i) {
    typedef float Four __attribute__((vector_size(16)));  // what every compiler keeps in registers
    Four sum[8] = {};
    for (const Array* array : {&a, &b, &c}) {
      const Four* p = reinterpret_cast<const Four*>(array->f32() + i * share);
      for (int64_t k = 0; k + 8 <= share / 4; k += 8)
        for (int u = 0; u < 8; u++) sum[u] += p[k + u];
    }
    for (const Four& s : sum) results[static_cast<size_t>(i) * 16] += s[0];
  });
  const double triad = seconds(threads, 6, [&](int64_t i) {
    float* target = a.f32() + i * share;
    const float *x = b.f32() + i * share, *y = c.f32() + i * share;
    for (int64_t k = 0; k < share; k++) target[k] = x[k] + 2.0f * y[k];
  });
  sink = results[0] + a.f32()[n - 1];
  return 12.0 * static_cast<double>(share * threads) / std::min(read, triad) * 1e-9;
}

}  // namespace bench

// Arithmetic of kernels, compiled by the processor's compiler and by nvcc. Here and in the headers of this folder that
// kernels take functions from, all of them sit in an anonymous namespace (../cpu/unit.h says why).
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define AUXGRAD_HOST_DEVICE __host__ __device__
#else
#define AUXGRAD_HOST_DEVICE
#endif

// A loop of constant length, without the loop.
#if defined(__CUDACC__)
#define AUXGRAD_UNROLL _Pragma("unroll")
#elif defined(__clang__)
#define AUXGRAD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define AUXGRAD_UNROLL _Pragma("GCC unroll 16")
#endif

// AUXGRAD_FALLBACK: this unit is for machines without the instruction sets of the others. It is compiled for size, and
// takes nothing that its architecture always has (NEON), so that its results are the same on all of them.
#if defined(__ARM_NEON) && !defined(AUXGRAD_FALLBACK)
#define AUXGRAD_NEON
#endif
// Where a b + c can be rounded once.
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(AUXGRAD_NEON)
#define AUXGRAD_FMA
#endif

namespace auxgrad {
namespace {

AUXGRAD_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
AUXGRAD_HOST_DEVICE inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
AUXGRAD_HOST_DEVICE inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
AUXGRAD_HOST_DEVICE inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// Division by a number that is not known when compiled; on a device, in 32 bits where they are enough.
AUXGRAD_HOST_DEVICE inline int64_t quotient(int64_t a, int64_t b) {
#if defined(__CUDA_ARCH__)
  if (((a | b) >> 32) == 0) return static_cast<int64_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
#endif
  return a / b;
}

AUXGRAD_HOST_DEVICE inline uint32_t bits_of(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
AUXGRAD_HOST_DEVICE inline float float_of(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

AUXGRAD_HOST_DEVICE inline float infinity() { return float_of(0x7f800000u); }
AUXGRAD_HOST_DEVICE inline float not_a_number() { return float_of(0x7fc00000u); }

AUXGRAD_HOST_DEVICE inline float bf16_to_f32(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }
// Round to nearest, ties to even; NaN stays NaN.
AUXGRAD_HOST_DEVICE inline uint16_t f32_to_bf16(float f) {
  const uint32_t bits = bits_of(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// a b + c of floats or doubles, in one rounding where the machine has it.
template <class T>
AUXGRAD_HOST_DEVICE inline T mul_add(T a, T b, T c) {
#if defined(AUXGRAD_FMA)
  if constexpr (sizeof(T) == 4) return __builtin_fmaf(a, b, c);
  else return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace
}  // namespace auxgrad

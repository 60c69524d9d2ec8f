// Products on Hopper's tensor cores by warpgroups, 128 threads each: operands stay in shared memory, and the threads go on
// meanwhile. For machine code of compute capability 9.0a alone; elsewhere mma.cuh has all that is needed.
#pragma once
#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define AUXGRAD_WARPGROUPS
#endif

namespace auxgrad {
namespace {

#if defined(AUXGRAD_WARPGROUPS)

// What threads have written to shared memory is there for tensor cores; before the barrier.
__device__ inline void share_with_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void start_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ inline void keep(float (&c)[N][4]) {
#pragma unroll
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+f"(c[j][e])::"memory");
}
template <int N>
__device__ inline void wait_for_products(float (&c)[N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  keep(c);
}

// A warp of the group holds 16 rows, as of mma.cuh's multiply_add.
// c[64 x 128] = or += a[64 x 16] b[16 x 128].
template <bool LeftAlongK, bool RightAlongK>
__device__ inline void multiply_group(float (&c)[16][4], uint64_t left, uint64_t right, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, %67, %68;}"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]),
        "+f"(c[8][3]), "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]),
        "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]), "+f"(c[12][0]),
        "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
        "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]), "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]),
        "+f"(c[15][3])
      : "l"(left), "l"(right), "r"(add), "n"(LeftAlongK ? 0 : 1), "n"(RightAlongK ? 0 : 1));
}
// c[64 x 64] = or += a[64 x 16] b[16 x 64].
template <bool LeftAlongK, bool RightAlongK>
__device__ inline void multiply_group(float (&c)[8][4], uint64_t left, uint64_t right, int add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, %35, %36;}"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]),
        "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "l"(left), "l"(right), "r"(add), "n"(LeftAlongK ? 0 : 1), "n"(RightAlongK ? 0 : 1));
}

#endif

// What tensor cores are told of 16 steps of depth of a plane, from row (or column) `row` on, of a tile of 32 steps. Rows of 32 steps: groups of 8 rows, 64 bytes each; lines of 128 rows: blocks of 64, in groups of 8 steps.
template <bool AlongK, class T>
__device__ inline uint64_t describe(const T& tile, int plane, int row, int depth) {
  static_assert(AlongK ? T::kLength == 32 : T::kLines == 32 && T::kLength % 64 == 0, "the layouts described here");
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(tile.chunk[plane]));
  const uint32_t address = base + (AlongK ? row * 64 + depth * 2 : row / 64 * 4096 + depth * 128);
  const uint64_t across = AlongK ? 16 : 4096, along = AlongK ? 512 : 1024, swizzle = AlongK ? 2 : 1;  // 64, 128 bytes
  return (address & 0x3ffff) >> 4 | across >> 4 << 16 | along >> 4 << 32 | swizzle << 62;
}

#if defined(AUXGRAD_WARPGROUPS)
// sums = products of 64 rows from `row` on and all columns, over 32 steps: small parts first. They are there after
// wait_for_products(sums).
template <bool LeftAlongK, bool RightAlongK, int N, class A, class B>
__device__ inline void multiply_tiles_async(float (&sums)[N][4], const A& left, int row, const B& right) {
  constexpr int P = A::kPlanes, Q = B::kPlanes;
  keep(sums);
  start_products();
  bool add = false;
#pragma unroll
  for (int order = 2; order >= 0; order--)
#pragma unroll
    for (int p = 0; p <= order; p++)
      if (p < P && order - p < Q) {
#pragma unroll
        for (int k = 0; k < 32; k += 16) {
          multiply_group<LeftAlongK, RightAlongK>(sums, describe<LeftAlongK>(left, p, row, k),
                                                  describe<RightAlongK>(right, order - p, 0, k), add);
          add = true;
        }
      }
  commit_products();
}
#endif

}  // namespace
}  // namespace auxgrad

// Packed matrix product C[M,N] (+)= A[M,K] * B[K,N], in blocks that fit the caches (Goto & van de Geijn 2008).
//
// A and B are sources: anything with `pack(first row or column, count, first k, k count, tile, out)` that writes panels
// of `tile` rows (columns), k-major and zero-padded. A strided matrix is one source, a convolution's window another.
// The epilogue sees each finished tile of C once, after the last block of K.
#pragma once
#include "vector.h"

namespace auxgrad {
namespace {

constexpr int64_t kBlockK = 256;
constexpr int64_t kBlockM = kTileRows * (192 / kTileRows);
constexpr int64_t kBlockN = kTileColumns * (384 / kTileColumns);

// A matrix given by its two strides: element (i, k) at data[i * outer + k * inner]. For B, i counts columns.
struct Strided {
  const float* data;
  int64_t outer, inner;

  void pack(int64_t first, int64_t count, int64_t k0, int64_t kc, int tile, float* out) const {
    for (int64_t i = 0; i < count; i += tile) {
      const int rows = static_cast<int>(min64(tile, count - i));
      const float* from = data + (first + i) * outer + k0 * inner;
      if (outer == 1 && rows == tile) {
        for (int64_t k = 0; k < kc; k++) memcpy(out + k * tile, from + k * inner, sizeof(float) * tile);
      } else {
        for (int r = 0; r < rows; r++)
          for (int64_t k = 0; k < kc; k++) out[k * tile + r] = from[r * outer + k * inner];
        for (int r = rows; r < tile; r++)
          for (int64_t k = 0; k < kc; k++) out[k * tile + r] = 0;
      }
      out += tile * kc;
    }
  }
};

// One tile: accumulates kc steps of packed panels, then adds to or overwrites `rows` x `columns` of C.
inline void micro_kernel(int64_t kc, const float* a, const float* b, float* c, int64_t ldc, int rows, int columns,
                         bool add) {
  Vec sum[kTileRows][kTileVecs];
  for (int r = 0; r < kTileRows; r++)
    for (int v = 0; v < kTileVecs; v++) sum[r][v] = vec_set(0);
  for (int64_t k = 0; k < kc; k++) {
    Vec row[kTileVecs];
    for (int v = 0; v < kTileVecs; v++) row[v] = vec_load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; r++) {
      const Vec x = vec_set(a[r]);
      for (int v = 0; v < kTileVecs; v++) sum[r][v] = vec_fma(x, row[v], sum[r][v]);
    }
    a += kTileRows;
    b += kTileColumns;
  }
  if (rows == kTileRows && columns == kTileColumns && !add) {
    for (int r = 0; r < kTileRows; r++)
      for (int v = 0; v < kTileVecs; v++) vec_store(c + r * ldc + v * kLanes, sum[r][v]);
    return;
  }
  float tile[kTileRows * kTileColumns];
  for (int r = 0; r < kTileRows; r++)
    for (int v = 0; v < kTileVecs; v++) vec_store(tile + r * kTileColumns + v * kLanes, sum[r][v]);
  for (int r = 0; r < rows; r++)
    for (int j = 0; j < columns; j++)
      c[r * ldc + j] = add ? c[r * ldc + j] + tile[r * kTileColumns + j] : tile[r * kTileColumns + j];
}

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Floats of packing space that one thread needs.
inline int64_t pack_floats(int64_t m, int64_t n, int64_t k) {
  const int64_t kc = min64(k, kBlockK);
  return round_up(kc * (round_up(min64(m, kBlockM), kTileRows) + round_up(min64(n, kBlockN), kTileColumns)), 16);
}

// The block of C at (i0, j0), for k in [k0, k1). `add` keeps what is in C.
template <class A, class B>
inline void gemm_block(const A& a, const B& b, float* c, int64_t ldc, int64_t i0, int64_t mc, int64_t j0, int64_t nc,
                       int64_t k0, int64_t k1, bool add, float* space) {
  if (k0 == k1 && !add)
    for (int64_t i = 0; i < mc; i++) memset(c + (i0 + i) * ldc + j0, 0, static_cast<size_t>(nc) * sizeof(float));
  for (int64_t k = k0; k < k1; k += kBlockK) {
    const int64_t kc = min64(kBlockK, k1 - k);
    float* packed_a = space;
    float* packed_b = space + kc * round_up(mc, kTileRows);
    a.pack(i0, mc, k, kc, kTileRows, packed_a);
    b.pack(j0, nc, k, kc, kTileColumns, packed_b);
    for (int64_t j = 0; j < nc; j += kTileColumns)
      for (int64_t i = 0; i < mc; i += kTileRows)
        micro_kernel(kc, packed_a + i * kc, packed_b + j * kc, c + (i0 + i) * ldc + j0 + j, ldc,
                     static_cast<int>(min64(kTileRows, mc - i)), static_cast<int>(min64(kTileColumns, nc - j)),
                     add || k > k0);
  }
}

// Parts into which K is cut where C alone gives too little to do in parallel: by shape only, so that sums do not
// depend on the number of threads.
inline int64_t k_parts(int64_t m, int64_t n, int64_t k) {
  const int64_t tiles = ceil_div(m, kBlockM) * ceil_div(n, kBlockN);
  if (tiles >= 8 || k < 4096) return 1;
  return min64(8, k / 2048);
}

inline int64_t gemm_scratch(int64_t m, int64_t n, int64_t k, int threads) {
  const int64_t parts = k_parts(m, n, k);
  return sizeof(float) * (pack_floats(m, n, k) * threads + (parts > 1 ? parts * round_up(m * n, 16) : 0));
}

// epilogue(i0, mc, j0, nc): called once for each finished block of C.
template <class A, class B, class Epilogue>
inline void gemm(const Call& call, const A& a, const B& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                 bool add, const Epilogue& epilogue) {
  float* space = static_cast<float*>(call.scratch);
  const int64_t per_thread = pack_floats(m, n, k);
  const int64_t parts = k_parts(m, n, k);
  // Smaller blocks where a few large ones would leave threads idle.
  int64_t bm = kBlockM;
  while (bm > kTileRows * 4 && ceil_div(m, bm) * ceil_div(n, kBlockN) * parts < 8) bm = round_up(bm / 2, kTileRows);
  const int64_t across = ceil_div(n, kBlockN), down = ceil_div(m, bm), tiles = across * down;
  float* partial = space + per_thread * call.pool->threads();
  const int64_t partial_size = round_up(m * n, 16);
  parallel_tasks(call, tiles * parts, [&](int64_t task, int thread) {
    const int64_t part = task / tiles, tile = task % tiles;
    const int64_t i0 = tile % down * bm, j0 = tile / down * kBlockN;
    const int64_t mc = min64(bm, m - i0), nc = min64(kBlockN, n - j0);
    const int64_t step = round_up(ceil_div(k, parts), kBlockK);
    const int64_t k0 = min64(part * step, k), k1 = min64(k0 + step, k);
    float* mine = space + thread * per_thread;
    if (parts == 1) {
      gemm_block(a, b, c, ldc, i0, mc, j0, nc, int64_t{0}, k, add, mine);
      epilogue(i0, mc, j0, nc);
    } else {
      gemm_block(a, b, partial + part * partial_size, n, i0, mc, j0, nc, k0, k1, false, mine);
    }
  });
  if (parts == 1) return;
  parallel_ranges(call, m, max64(1, 16384 / max64(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t j = 0; j < n; j++) {
        float sum = add ? c[i * ldc + j] : 0;
        for (int64_t p = 0; p < parts; p++) sum += partial[p * partial_size + i * n + j];
        c[i * ldc + j] = sum;
      }
    epilogue(begin, end - begin, int64_t{0}, n);
  });
}

}  // namespace
}  // namespace auxgrad

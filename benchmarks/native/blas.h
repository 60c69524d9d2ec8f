// Matrix products of other libraries, where the machine has them: found by dlopen, never linked.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

struct Blas {
  std::string name;     // openblas, blis, onednn
  std::string version;  // as the library names itself, with the core it chose
  void (*set_threads)(int threads);
  // Row-major C[M,N] = op(A) op(B); ta: A is stored [K,M], tb: B is stored [N,K].
  void (*sgemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c);
};

// Those that were found and multiply correctly. An AUXGRAD_ISA of avx2 holds them to AVX2 too.
const std::vector<Blas>& blas_libraries();
// Why each of the others is missing, "name: reason".
const std::vector<std::string>& blas_missing();

}  // namespace bench

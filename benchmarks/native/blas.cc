#include "blas.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#ifndef _WIN32
#include <dlfcn.h>
#endif

#include "cpu/isa.h"

namespace bench {
namespace {

std::vector<std::string> missing;

#ifdef _WIN32
std::vector<Blas> load() {
  missing.push_back("openblas, blis, onednn: not looked for on Windows");
  return {};
}
#else

using Cblas = void (*)(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                       const float* b, int ldb, float beta, float* c, int ldc);
using Dnnl = int (*)(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                     const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
using SetThreads = void (*)(int);

Cblas openblas_sgemm, blis_sgemm;
Dnnl onednn_sgemm;
void (*blis_threads)(int64_t);
SetThreads omp_threads;

void call_cblas(Cblas f, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  constexpr int kRowMajor = 101, kNo = 111, kYes = 112;
  f(kRowMajor, ta ? kYes : kNo, tb ? kYes : kNo, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), 1.0f, a,
    static_cast<int>(ta ? m : k), b, static_cast<int>(tb ? k : n), 0.0f, c, static_cast<int>(n));
}

void* open(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  return nullptr;
}

template <class F>
bool find(void* library, const char* name, F& f) {
  f = reinterpret_cast<F>(dlsym(library, name));
  return f != nullptr;
}

// Right on a product with every transposition, or it is not believed.
bool multiplies(const Blas& blas) {
  constexpr int64_t m = 21, n = 35, k = 18;
  for (int t = 0; t < 4; t++) {
    float a[m * k], b[k * n], c[m * n];
    for (int64_t i = 0; i < m * k; i++) a[i] = static_cast<float>((i * 7 + 3) % 9 - 4);
    for (int64_t i = 0; i < k * n; i++) b[i] = static_cast<float>((i * 5 + 1) % 9 - 4);
    std::memset(c, 0xff, sizeof c);
    const bool ta = t & 1, tb = t & 2;
    blas.sgemm(ta, tb, m, n, k, a, b, c);
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        float sum = 0;
        for (int64_t q = 0; q < k; q++) sum += (ta ? a[q * m + i] : a[i * k + q]) * (tb ? b[j * k + q] : b[q * n + j]);
        if (!(c[i * n + j] == sum)) return false;
      }
  }
  return true;
}

void accept(std::vector<Blas>& found, Blas blas) {
  blas.set_threads(1);
  if (multiplies(blas)) found.push_back(std::move(blas));
  else missing.push_back(blas.name + ": wrong products");
}

std::vector<Blas> load() {
  // An OpenBLAS older than the processor may take it for one without AVX, and be ten times slower.
  if (auxgrad::current_isa() >= auxgrad::Isa::avx512) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  if (auxgrad::current_isa() == auxgrad::Isa::avx2) {  // the same rules for all
    setenv("OPENBLAS_CORETYPE", "Haswell", 1);
    setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
    setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);  // as newer versions call it
  }
  std::vector<Blas> found;

  const char* (*text)() = nullptr;
  SetThreads set = nullptr;
  void* library = open({"libopenblas.so.0", "libopenblas.so", "libopenblas.dylib"});
  if (!library) missing.push_back("openblas: not installed");
  else if (!find(library, "openblas_get_config", text) || !find(library, "openblas_set_num_threads", set) ||
           !find(library, "cblas_sgemm", openblas_sgemm))
    missing.push_back("openblas: the library of that name is not OpenBLAS");  // a reference BLAS under its name
  else {
    const std::string config = text();
    if (config.find("USE64BITINT") != std::string::npos) missing.push_back("openblas: built for 64-bit integers");
    else
      accept(found, {"openblas", config, set,
                     [](bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
                       call_cblas(openblas_sgemm, ta, tb, m, n, k, a, b, c);
                     }});
  }

  library = open({"libblis.so.4", "libblis.so.3", "libblis.so", "libblis.dylib"});
  int64_t (*int_size)() = nullptr;
  int (*arch)() = nullptr;
  void (*init)() = nullptr;
  const char* (*arch_name)(int) = nullptr;
  if (!library) missing.push_back("blis: not installed");
  else if (!find(library, "bli_info_get_version_str", text) || !find(library, "bli_init", init) ||
           !find(library, "cblas_sgemm", blis_sgemm) || !find(library, "bli_thread_set_num_threads", blis_threads) ||
           !find(library, "bli_info_get_blas_int_type_size", int_size) || !find(library, "bli_arch_query_id", arch) ||
           !find(library, "bli_arch_string", arch_name))
    missing.push_back("blis: built without CBLAS");
  else if (int_size() != 32) missing.push_back("blis: built for 64-bit integers");
  else {
    // BLIS knows few of the newer machines as AVX-512 machines: it is told, by number before version 1, else by name.
    const bool numbers = text()[0] == '0';
    if (auxgrad::current_isa() >= auxgrad::Isa::avx512) setenv("BLIS_ARCH_TYPE", numbers ? "0" : "skx", 0);
    if (auxgrad::current_isa() == auxgrad::Isa::avx2) setenv("BLIS_ARCH_TYPE", numbers ? "3" : "haswell", 1);
    init();
    accept(found,
           {"blis", std::string("BLIS ") + text() + " " + arch_name(arch()), [](int threads) { blis_threads(threads); },
            [](bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
              call_cblas(blis_sgemm, ta, tb, m, n, k, a, b, c);
            }});
  }

  struct Version {
    int major, minor, patch;
    const char* hash;
    unsigned cpu_runtime, gpu_runtime;
  };
  const Version* (*version)() = nullptr;
  library = open({"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so", "libdnnl.dylib"});
  if (!library) missing.push_back("onednn: not installed");
  else if (!find(library, "dnnl_sgemm", onednn_sgemm) || !find(library, "dnnl_version", version))
    missing.push_back("onednn: without dnnl_sgemm");
  else if (!find(RTLD_DEFAULT, "omp_set_num_threads", omp_threads) &&
           !find(library, "omp_set_num_threads", omp_threads))
    missing.push_back("onednn: not built on OpenMP, so its threads cannot be set");
  else {
    const Version* v = version();
    accept(found, {"onednn",
                   "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
                       std::to_string(v->patch) + (auxgrad::current_isa() == auxgrad::Isa::avx2 ? " held to AVX2" : ""),
                   [](int threads) { omp_threads(threads); },
                   [](bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
                     onednn_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1.0f, a, ta ? m : k, b, tb ? k : n, 0.0f, c,
                                  n);
                   }});
  }
  return found;
}
#endif

}  // namespace

const std::vector<Blas>& blas_libraries() {
  static const std::vector<Blas> all = load();
  return all;
}

const std::vector<std::string>& blas_missing() {
  blas_libraries();
  return missing;
}

}  // namespace bench

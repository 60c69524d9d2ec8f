// The one contract between kernels and everything else: a named function over views and numbers.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "parallel.h"
#include "view.h"

namespace auxgrad {

constexpr int kMaxOperands = 24;

enum class ErrorCode : int32_t {
  ok = 0,
  invalid_argument = 1,    // AUX_INVALID_ARGUMENT
  index_out_of_range = 2,  // AUX_INDEX_OUT_OF_RANGE
  out_of_memory = 3,       // AUX_OUT_OF_MEMORY
  aborted = 4,             // AUX_ABORTED
  bad_plan = 5,            // AUX_BAD_PLAN
  no_kernel = 6,           // AUX_NO_KERNEL
  bad_file = 7,            // AUX_BAD_FILE
};

// A value of a step that a kernel found wrong: an index, or a label. On a device in its memory, zeroed before each step.
struct Fault {
  int32_t raised;  // other kernels that look at values do nothing then
  int32_t who;     // which op (failure.cc)
  int64_t value, position, limit;
};

constexpr int32_t kFaultLabel = 6;  // Fault::who of the cross entropy; lower numbers are those of kernels by index

// First failure wins; may be set from any thread of the pool.
class Failure {
 public:
  AUXGRAD_INLINE bool failed() const { return code != ErrorCode::ok; }
  // printf-style; returns false so that a kernel can `return call.fail(...)`.
  bool set(ErrorCode code, const char* format, ...) __attribute__((format(printf, 3, 4)));
  bool set(const Fault& fault);

  ErrorCode code = ErrorCode::ok;
  char message[384] = {};
};

// Arguments of one kernel call. Shapes and dtypes were settled by the op that made the call; kernels check only what
// protects memory and what depends on values (indices).
struct Call {
  const View* in = nullptr;
  const View* out = nullptr;
  int n_in = 0;
  int n_out = 0;
  const double* number = nullptr;  // attributes, in the order the kernel's comment states
  int n_number = 0;
  void* scratch = nullptr;  // at least Kernel::scratch(call, threads) bytes, 64-byte aligned
  Parallel* pool = nullptr;
  Failure* failure = nullptr;
  // On a device, where pool is null and all other pointers lead to its memory: run() launches on the stream and returns
  // without waiting.
  void* stream = nullptr;
  Fault* fault = nullptr;

  AUXGRAD_INLINE int64_t integer(int i) const { return static_cast<int64_t>(number[i]); }
  AUXGRAD_INLINE float real(int i) const { return static_cast<float>(number[i]); }
};

struct Kernel {
  const char* name;
  bool (*run)(const Call& call);  // false: call.failure says why
  // Bytes of scratch for these operands (data pointers are not read, only whether they are null); null means none.
  int64_t (*scratch)(const Call& call, int threads) = nullptr;
};

struct KernelTable {
  const Kernel* rows;
  int count;
};

// Ends the source of a family, with its table: AUXGRAD_KERNEL_TABLE(name, {"name", run}, {"name", run, scratch}, ...).
#define AUXGRAD_KERNEL_TABLE(table, ...)                               \
  namespace auxgrad {                                                  \
  namespace {                                                          \
  constexpr Kernel kRows[] = {__VA_ARGS__};                            \
  }                                                                    \
  extern const KernelTable table;                                      \
  const KernelTable table = {kRows, sizeof(kRows) / sizeof(kRows[0])}; \
  }
// Rows of such a table that are written once for several.
#define AUXGRAD_ROWS(...) __VA_ARGS__
#define AUXGRAD_JOIN_(a, b, c) a##b##c
#define AUXGRAD_JOIN(a, b, c) AUXGRAD_JOIN_(a, b, c)

// Bytes of the last cache of a processor. Tests set it.
int64_t cache_bytes();
void set_cache_bytes(int64_t bytes);

// The kernel of that name for the instruction set in force, or null.
const Kernel* find_kernel(const char* name);

}  // namespace auxgrad

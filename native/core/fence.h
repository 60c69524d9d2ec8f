// What a kernel may touch, known to the address checks: memory that it was not given lies behind a fence. Nothing of this
// is in a build without them.
#pragma once
#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace auxgrad {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kFences = true;
inline void close_fence(const void* begin, int64_t bytes) {
  ASAN_POISON_MEMORY_REGION(begin, static_cast<size_t>(bytes));
}
inline void open_fence(const void* begin, int64_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(begin, static_cast<size_t>(bytes));
}
#else
constexpr bool kFences = false;
inline void close_fence(const void*, int64_t) {}
inline void open_fence(const void*, int64_t) {}
#endif

}  // namespace auxgrad

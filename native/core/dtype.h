// Element types. `u32` holds bit-packed data (signs and masks), 32 rows a word.
#pragma once
#include <cstdint>

// Kernel objects of several instruction sets see this header: a copy of one of these functions outside its callers
// could be taken by the linker from the wrong object. So they are always inlined.
#define AUXGRAD_INLINE __attribute__((always_inline)) inline

namespace auxgrad {

enum class DType : int32_t { f32 = 0, bf16 = 1, i32 = 2, u8 = 3, boolean = 4, u32 = 5 };
constexpr int kDTypeCount = 6;

AUXGRAD_INLINE int64_t dtype_size(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::bf16: return 2;
    case DType::u8:
    case DType::boolean: return 1;
  }
  return 0;
}

inline const char* dtype_name(DType t) {
  static const char* const names[kDTypeCount] = {"f32", "bf16", "i32", "u8", "bool", "u32"};
  return names[static_cast<int>(t)];
}

}  // namespace auxgrad

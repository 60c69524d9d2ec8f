#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "kernel.h"

namespace auxgrad {

bool Failure::set(ErrorCode error, const char* format, ...) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (failed()) return false;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  code = error;
  return false;
}

bool Failure::set(const Fault& fault) {
  static const char* const kByIndex[] = {"indexSelect", "embedding", "gather", "scatterAdd", "oneHot", "sort"};
  const bool label = fault.who == kFaultLabel;
  return set(ErrorCode::index_out_of_range, "%s: %s %lld at %s %lld is not in [0, %lld)",
             label ? "crossEntropy" : kByIndex[fault.who], label ? "label" : "index",
             static_cast<long long>(fault.value), label ? "row" : "position", static_cast<long long>(fault.position),
             static_cast<long long>(fault.limit));
}

}  // namespace auxgrad

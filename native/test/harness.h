// The test harness of the native tests: register, check, report. TEST(name) { ... CHECK(condition); }
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/kernel.h"
#include "cpu/isa.h"

namespace test {

struct Case {
  const char* name;
  void (*run)();
};
std::vector<Case>& cases();
struct Register {
  Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
// Counts a failed check of the running test and prints the first few.
void failed(const char* file, int line, const std::string& text);

#define TEST(name)                                           \
  static void test_##name();                                 \
  static test::Register register_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) test::failed(__FILE__, __LINE__, #condition); \
  } while (0)
// NaN fails.
#define CHECK_NEAR(a, b, tolerance)                                                                  \
  do {                                                                                               \
    const double a_ = (a), b_ = (b);                                                                 \
    if (!(std::fabs(a_ - b_) <= (tolerance)))                                                        \
      test::failed(__FILE__, __LINE__,                                                               \
                   #a " = " + std::to_string(a_) + ", expected " + std::to_string(b_) + " within " + \
                       std::to_string(static_cast<double>(tolerance)));                              \
  } while (0)

struct Free {
  void operator()(uint8_t* p) const;
  size_t mapped = 0;  // bytes of whole pages, if it is such
};

// A tensor in memory of its own, every element poisoned (NaN) until written, with guard bytes on both sides. Half of them
// begin at a multiple of 64 bytes, half end where the memory ends that can be read at all.
class Array {
 public:
  Array(auxgrad::DType dtype, std::vector<int64_t> shape, int64_t alignment = 1);
  Array(Array&&) = default;
  // A failed check, if something was written around it.
  ~Array();
  static Array f32(std::vector<int64_t> shape) { return Array(auxgrad::DType::f32, std::move(shape)); }
  static Array normal(std::vector<int64_t> shape, uint32_t seed, float scale = 1.0f);
  // Small integers in [-4, 4]: float sums of products stay exact up to 2^24.
  static Array integers(std::vector<int64_t> shape, uint32_t seed);

  int64_t count() const { return count_; }
  float* f32() { return reinterpret_cast<float*>(data()); }
  uint32_t* u32() { return reinterpret_cast<uint32_t*>(data()); }
  int32_t* i32() { return reinterpret_cast<int32_t*>(data()); }
  uint8_t* u8() { return data(); }
  uint8_t* data() { return data_; }
  float& operator[](int64_t i) { return f32()[i]; }
  auxgrad::View view();
  bool guards_intact() const;

 private:
  static constexpr int64_t kGuard = 64;
  std::unique_ptr<uint8_t, Free> block_;
  uint8_t* data_ = nullptr;
  std::vector<int64_t> shape_;
  int64_t count_ = 0, bytes_ = 0, behind_ = 0;  // bytes of guard behind it
  auxgrad::DType dtype_;
};

auxgrad::View absent();  // an optional operand that is not there
// Same data, axes in another order.
auxgrad::View permuted(const auxgrad::View& view, std::vector<int> order);

// Runs the kernel of the current instruction set on the process pool with exactly the scratch it asks for (poisoned
// and guarded); reports a missing kernel, a failure, or a broken scratch guard as a failed check. Returns the
// kernel's success; `failure`, if given, receives the error instead of it being a failed check. With --device, the
// kernel of the device, on guarded copies of the operands in its memory.
bool call(const char* kernel, std::vector<auxgrad::View> in, std::vector<auxgrad::View> out,
          std::vector<double> numbers = {}, auxgrad::Failure* failure = nullptr);

// That of --device; null without.
std::shared_ptr<auxgrad::Device> device();

// Runs body once per instruction set of this machine, each forced; once with --device.
void each_isa(void (*body)());

// max |a - b| / (1e-30 + max |b|); NaN counts as infinity.
double relative_error(const float* a, const double* b, int64_t n);

}  // namespace test

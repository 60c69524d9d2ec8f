// The native benchmark suite: one file a group, registered by GROUP, each case checked before it is timed.
//
//   GROUP(memory) {
//     group.add({"add 1M", /*flops*/ 0, /*bytes*/ 12e6, /*quick*/ true, [] {
//       auto call = std::make_shared<bench::KernelCall>("add", in, out);
//       bench::Prepared p;
//       p.contenders.push_back({"auxgrad", [call] { call->run(); }, [call] { return check(...); }});
//       return p;
//     }});
//   }
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/kernel.h"

namespace bench {

// One way to do the work of a case: the first contender is ours, the others are what it is compared with.
struct Contender {
  std::string name;
  std::function<void()> run;
  // After one run: empty if the result is right, else what is wrong. A wrong result of ours fails the suite; a wrong
  // peer is left out and said so.
  std::function<std::string()> check;
};

struct Prepared {
  std::vector<Contender> contenders;
  // Lasts as long as the case is measured; for buffers that the closures do not own.
  std::shared_ptr<void> keep;
};

struct Case {
  std::string name;
  double flops = 0;                   // of one run; 0 for a case that moves memory only
  double bytes = 0;                   // of one run, each operand counted once
  bool quick = false;                 // part of --quick too
  std::function<Prepared()> prepare;  // for all numbers of threads
  std::vector<int> threads = {1, 2};  // those the machine lacks are left out
  bool streams = false;  // operands come from memory, so that its bandwidth may end first even where flops are counted
  bool asks = false;     // another program does the same work, too: the one that --ask names
};

class Group {
 public:
  explicit Group(const char* name) : name(name) {}
  void add(Case c) { cases.push_back(std::move(c)); }
  const char* name;
  std::vector<Case> cases;
};

struct Registration {
  Registration(const char* name, void (*fill)(Group&));
};

#define GROUP(identifier, name)                                                        \
  static void fill_##identifier(bench::Group& group);                                  \
  static const bench::Registration registration_##identifier(name, fill_##identifier); \
  static void fill_##identifier(bench::Group& group)

// A tensor of its own memory, aligned, with every page touched. Element values: small integers in [-4, 4], so that
// sums of products are exact in float32 and the order of summation does not matter.
class Array {
 public:
  explicit Array(std::vector<int64_t> shape, auxgrad::DType dtype = auxgrad::DType::f32);
  static Array integers(std::vector<int64_t> shape, uint32_t seed);

  float* f32() const { return reinterpret_cast<float*>(data_.get()); }
  uint32_t* u32() const { return reinterpret_cast<uint32_t*>(data_.get()); }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * auxgrad::dtype_size(dtype_); }
  auxgrad::View view() const;
  auxgrad::View transposed() const;  // the last two axes exchanged

 private:
  std::shared_ptr<char> data_;
  std::vector<int64_t> shape_;
  int64_t count_;
  auxgrad::DType dtype_;
};

inline auxgrad::View absent() { return auxgrad::View(); }

// A kernel call with its scratch booked; arrays must outlive it. Exits with a message if the kernel does not exist.
class KernelCall {
 public:
  KernelCall(const char* kernel, std::vector<auxgrad::View> in, std::vector<auxgrad::View> out,
             std::vector<double> numbers = {});
  // Takes the threads of the process pool as they are; exits with the kernel's message if it fails.
  void run();
  int64_t scratch_bytes() const { return scratch_bytes_; }

 private:
  const auxgrad::Kernel* kernel_;
  std::vector<auxgrad::View> in_, out_;
  std::vector<double> numbers_;
  std::shared_ptr<char> scratch_;
  int64_t scratch_bytes_ = 0;
  int threads_ = 0;  // that the scratch is for
};

// Empty if a and b are equal bit for bit (zeros of either sign are equal), else the first difference.
std::string compare(const float* a, const float* b, int64_t n);
std::string compare(const uint32_t* a, const uint32_t* b, int64_t n);

// Arithmetic and memory speed of the machine for the instruction set in force.
double fma_peak_gflops(int threads);
double bandwidth_gbs(int threads);

}  // namespace bench

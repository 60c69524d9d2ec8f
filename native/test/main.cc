#include "harness.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "core/device.h"
#include "core/plan.h"

namespace test {
namespace {

int failures = 0;   // of the running test
uint32_t made = 0;  // arrays, by the running test
std::shared_ptr<auxgrad::Device> the_device;
constexpr int kShown = 5;

[[noreturn]] void out_of_memory() {
  std::fprintf(stderr, "out of memory\n");
  std::exit(1);
}

uint8_t* aligned(int64_t bytes) {
  void* p = nullptr;
#ifdef _WIN32
  p = _aligned_malloc(static_cast<size_t>(bytes), 64);
#else
  if (posix_memalign(&p, 64, static_cast<size_t>(bytes)) != 0) p = nullptr;
#endif
  if (!p) out_of_memory();
  return static_cast<uint8_t*>(p);
}

void poison(uint8_t* p, int64_t bytes) { std::memset(p, 0xff, static_cast<size_t>(bytes)); }  // NaN as f32

}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void failed(const char* file, int line, const std::string& text) {
  if (failures++ < kShown)
    std::printf("  %s:%d [%s] %s\n", file, line, the_device ? "cuda" : auxgrad::isa_name(auxgrad::current_isa()),
                text.c_str());
}

void Free::operator()(uint8_t* p) const {
#ifdef _WIN32
  _aligned_free(p);
#else
  if (mapped) munmap(p, mapped);
  else std::free(p);
#endif
}

Array::Array(auxgrad::DType dtype, std::vector<int64_t> shape, [[maybe_unused]] int64_t alignment)
    : shape_(std::move(shape)), dtype_(dtype) {
  count_ = 1;
  for (int64_t n : shape_) count_ *= n;
  bytes_ = count_ * auxgrad::dtype_size(dtype);
#ifndef _WIN32
  if (made++ * 2654435761u >> 31) {  // of half of them, mixed
    const int64_t page = sysconf(_SC_PAGESIZE), whole = (bytes_ + alignment - 1) / alignment * alignment;
    const int64_t readable = (kGuard + whole + page - 1) / page * page;
    const size_t mapped = static_cast<size_t>(readable + page);
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) out_of_memory();
    block_ = {static_cast<uint8_t*>(p), Free{mapped}};
    if (mprotect(block_.get() + readable, static_cast<size_t>(page), PROT_NONE) != 0) out_of_memory();
    data_ = block_.get() + readable - whole;
    behind_ = whole - bytes_;
  }
#endif
  if (!block_) {
    block_.reset(aligned(bytes_ + 2 * kGuard));
    data_ = block_.get() + kGuard;
    behind_ = kGuard;
  }
  std::memset(data_ - kGuard, 0xa5, static_cast<size_t>(kGuard + bytes_ + behind_));
  poison(data_, bytes_);
}

Array::~Array() {
  if (block_ && !guards_intact()) failed(__FILE__, __LINE__, "something was written outside of its array");
}

Array Array::normal(std::vector<int64_t> shape, uint32_t seed, float scale) {
  Array a = f32(std::move(shape));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  for (int64_t i = 0; i < a.count_; i++) a[i] = normal(random);
  return a;
}

Array Array::integers(std::vector<int64_t> shape, uint32_t seed) {
  Array a = f32(std::move(shape));
  std::mt19937 random(seed);
  for (int64_t i = 0; i < a.count_; i++) a[i] = static_cast<float>(static_cast<int>(random() % 9) - 4);
  return a;
}

auxgrad::View Array::view() {
  auxgrad::View v;
  v.data = data();
  v.dtype = dtype_;
  v.rank = static_cast<int32_t>(shape_.size());
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    v.shape[i] = shape_[static_cast<size_t>(i)];
    v.stride[i] = stride;
    stride *= v.shape[i];
  }
  return v;
}

bool Array::guards_intact() const {
  const auto untouched = [](uint8_t byte) { return byte == 0xa5; };
  const uint8_t* end = data_ + bytes_;
  return std::all_of(data_ - kGuard, data_, untouched) && std::all_of(end, end + behind_, untouched);
}

auxgrad::View absent() { return auxgrad::View(); }

auxgrad::View permuted(const auxgrad::View& view, std::vector<int> order) {
  auxgrad::View result = view;
  for (int i = 0; i < view.rank; i++) {
    result.shape[i] = view.shape[order[static_cast<size_t>(i)]];
    result.stride[i] = view.stride[order[static_cast<size_t>(i)]];
  }
  return result;
}

namespace {

// What operands of a call reach, copied to the device as one block for those that overlap, and back.
class Copies {
 public:
  static constexpr int64_t kGuard = 256;

  void add(const auxgrad::View& v) {
    if (!v.data) return;
    auxgrad::Operand o;
    o.view = v;
    uint8_t* from = static_cast<uint8_t*>(v.data);
    Block block{from, from + o.end_byte(), nullptr};
    for (size_t i = 0; i < blocks_.size();) {
      if (block.begin < blocks_[i].end && blocks_[i].begin < block.end) {
        block.begin = std::min(block.begin, blocks_[i].begin);
        block.end = std::max(block.end, blocks_[i].end);
        blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        i++;
      }
    }
    blocks_.push_back(block);
  }
  // The first byte on the device is as far from a multiple of 64 as here.
  void send(auxgrad::Failure* failure) {
    for (Block& b : blocks_) {
      const int64_t bytes = b.end - b.begin, shift = reinterpret_cast<intptr_t>(b.begin) % 64;
      b.base = static_cast<uint8_t*>(the_device->allocate(bytes + shift + 2 * kGuard));
      if (!b.base) {
        failure->set(auxgrad::ErrorCode::out_of_memory, "the device has no memory");
        return;
      }
      the_device->fill(b.base, 0xa5, bytes + shift + 2 * kGuard, failure);
      the_device->copy(b.base + kGuard + shift, b.begin, bytes, failure);
    }
  }
  auxgrad::View there(auxgrad::View v) const {
    for (const Block& b : blocks_)
      if (v.data && v.data >= b.begin && (v.data < b.end || v.data == b.begin)) {
        v.data = b.base + kGuard + reinterpret_cast<intptr_t>(b.begin) % 64 + (static_cast<uint8_t*>(v.data) - b.begin);
        return v;
      }
    return v;
  }
  // False if a guard was written to.
  bool fetch(auxgrad::Failure* failure) {
    bool intact = true;
    for (const Block& b : blocks_) {
      const int64_t bytes = b.end - b.begin, shift = reinterpret_cast<intptr_t>(b.begin) % 64;
      std::vector<uint8_t> all(static_cast<size_t>(bytes + shift + 2 * kGuard));
      the_device->copy(all.data(), b.base, static_cast<int64_t>(all.size()), failure);
      for (int64_t i = 0; i < kGuard + shift; i++) intact = intact && all[static_cast<size_t>(i)] == 0xa5;
      for (int64_t i = 0; i < kGuard; i++) intact = intact && all[all.size() - 1 - static_cast<size_t>(i)] == 0xa5;
      if (bytes) std::memcpy(b.begin, all.data() + kGuard + shift, static_cast<size_t>(bytes));
      the_device->release(b.base);
    }
    return intact;
  }

 private:
  struct Block {
    uint8_t *begin, *end, *base;
  };
  std::vector<Block> blocks_;
};

bool call_device(const char* name, std::vector<auxgrad::View> in, std::vector<auxgrad::View> out,
                 const std::vector<double>& numbers, auxgrad::Failure* failure) {
  const auxgrad::Kernel* kernel = the_device->find_kernel(name);
  if (!kernel) {
    failed(__FILE__, __LINE__, std::string("no kernel ") + name);
    return false;
  }
  const auxgrad::Holding holding(the_device.get());
  Copies copies;
  for (const auto& v : in) copies.add(v);
  for (const auto& v : out) copies.add(v);
  auxgrad::Failure own;
  copies.send(&own);
  for (auto& v : in) v = copies.there(v);
  for (auto& v : out) v = copies.there(v);
  auxgrad::Call c;
  c.in = in.data();
  c.out = out.data();
  c.n_in = static_cast<int>(in.size());
  c.n_out = static_cast<int>(out.size());
  c.number = numbers.data();
  c.n_number = static_cast<int>(numbers.size());
  c.failure = &own;
  c.stream = the_device->stream();
  c.fault = the_device->fault();
  Array scratch(auxgrad::DType::u8, {kernel->scratch ? kernel->scratch(c, 1) : 0}, auxgrad::kAlignment);
  Copies behind;
  behind.add(scratch.view());
  behind.send(&own);
  c.scratch = behind.there(scratch.view()).data;
  auxgrad::Fault fault = {};
  if (!own.failed() && the_device->fill(c.fault, 0, sizeof fault, &own) && kernel->run(c)) {
    the_device->copy(&fault, c.fault, sizeof fault, &own);
    if (the_device->wait(&own)) auxgrad::check_fault(fault, &own);
  }
  auxgrad::Failure ignored;
  if (!copies.fetch(&ignored)) failed(__FILE__, __LINE__, std::string(name) + " wrote outside its operands");
  if (!behind.fetch(&ignored)) failed(__FILE__, __LINE__, std::string(name) + " wrote outside its scratch");
  if (own.failed() && failure) failure->set(own.code, "%s", own.message);
  else if (own.failed()) failed(__FILE__, __LINE__, std::string(name) + ": " + own.message);
  return !own.failed();
}

}  // namespace

bool call(const char* name, std::vector<auxgrad::View> in, std::vector<auxgrad::View> out, std::vector<double> numbers,
          auxgrad::Failure* failure) {
  if (the_device) return call_device(name, std::move(in), std::move(out), numbers, failure);
  const auxgrad::Kernel* kernel = auxgrad::find_kernel(name);
  if (!kernel) {
    failed(__FILE__, __LINE__, std::string("no kernel ") + name);
    return false;
  }
  auxgrad::Failure own;
  auxgrad::Call c;
  c.in = in.data();
  c.out = out.data();
  c.n_in = static_cast<int>(in.size());
  c.n_out = static_cast<int>(out.size());
  c.number = numbers.data();
  c.n_number = static_cast<int>(numbers.size());
  c.pool = &auxgrad::process_pool();
  c.failure = failure ? failure : &own;
  const int64_t bytes = kernel->scratch ? kernel->scratch(c, c.pool->threads()) : 0;
  Array scratch(auxgrad::DType::u8, {bytes}, auxgrad::kAlignment);
  c.scratch = scratch.data();
  const bool ok = kernel->run(c);
  if (!ok && !failure) failed(__FILE__, __LINE__, std::string(name) + ": " + own.message);
  if (!scratch.guards_intact()) failed(__FILE__, __LINE__, std::string(name) + " wrote outside its scratch");
  return ok;
}

std::shared_ptr<auxgrad::Device> device() { return the_device; }

void each_isa(void (*body)()) {
  if (the_device) return body();
  const auxgrad::Isa before = auxgrad::current_isa();
  const char* held = std::getenv("AUXGRAD_ISA");  // to one of them
  for (int i = 0; i < auxgrad::kIsaCount; i++) {
    const char* name = auxgrad::isa_name(static_cast<auxgrad::Isa>(i));
    if (!auxgrad::isa_available(static_cast<auxgrad::Isa>(i)) || (held && std::strcmp(held, name) != 0)) continue;
    auxgrad::set_isa(name);
    body();
  }
  auxgrad::set_isa(auxgrad::isa_name(before));
}

double relative_error(const float* a, const double* b, int64_t n) {
  double worst = 0, scale = 1e-30;
  for (int64_t i = 0; i < n; i++) {
    const double difference = std::fabs(a[i] - b[i]);
    if (!(difference <= std::numeric_limits<double>::max())) return std::numeric_limits<double>::infinity();
    if (difference > worst) worst = difference;
    if (std::fabs(b[i]) > scale) scale = std::fabs(b[i]);
  }
  return worst / scale;
}

}  // namespace test

// Runs the tests whose name contains one of the arguments (all without one), with `--device cuda` on its kernels, with
// `--part 1/2` the first, third, ... of them; the last line counts them.
int main(int argc, char** argv) {
  int passed = 0, broken = 0, part = 1, parts = 1, index = 0;
  std::vector<const char*> names;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--part") == 0) {
      if (std::sscanf(++i < argc ? argv[i] : "", "%d/%d", &part, &parts) == 2 && part >= 1 && part <= parts) continue;
      std::printf("--part: expected for example 1/2, got %s\n", i < argc ? argv[i] : "nothing");
      return 1;
    }
    if (std::strcmp(argv[i], "--device") != 0) {
      names.push_back(argv[i]);
      continue;
    }
    auxgrad::Failure failure;
    test::the_device = auxgrad::open_device(++i < argc ? argv[i] : "", &failure);
    if (!test::the_device) {
      std::printf("%s\n", failure.message);
      return 1;
    }
    std::printf("%s\n", test::the_device->name());
  }
  for (const test::Case& c : test::cases()) {
    const auto named = [&](const char* part) { return std::strstr(c.name, part) != nullptr; };
    if (!names.empty() && std::none_of(names.begin(), names.end(), named)) continue;
    if (index++ % parts != part - 1) continue;
    test::failures = 0;
    test::made = 0;
    c.run();
    if (test::failures) std::printf("FAIL %s (%d checks)\n", c.name, test::failures);
    (test::failures ? broken : passed)++;
  }
  if (!index) {
    std::printf("no test is named so\n");
    broken++;
  }
  std::printf("%d passed, %d failed\n", passed, broken);
  test::the_device.reset();
  return broken ? 1 : 0;
}

// auxgrad_cuda_bench: seconds of the matrix kernels on a GPU, one JSON object a line; peers.py times cuBLAS and cuDNN on the
// same shapes and prints both. Usage: auxgrad_cuda_bench [PART OF A NAME]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/kernel.h"

using auxgrad::DType;
using auxgrad::View;

namespace {

std::shared_ptr<auxgrad::Device> device;
auxgrad::Failure failure;
const char* only = "";

void stop() {
  std::fprintf(stderr, "%s\n", failure.failed() ? failure.message : "out of memory on the device");
  std::exit(1);
}

// Device memory of one case, random numbers in it; given back with it.
class Memory {
 public:
  ~Memory() {
    for (void* p : blocks_) device->release(p);
  }
  View tensor(std::vector<int64_t> shape, DType dtype = DType::f32) {
    View v;
    v.dtype = dtype;
    v.rank = static_cast<int32_t>(shape.size());
    int64_t stride = 1;
    for (int i = v.rank - 1; i >= 0; i--) {
      v.shape[i] = shape[static_cast<size_t>(i)];
      v.stride[i] = stride;
      stride *= v.shape[i];
    }
    v.data = bytes(4 * stride, dtype);
    return v;
  }
  void* bytes(int64_t size, DType dtype) {
    void* p = device->allocate(std::max<int64_t>(size, 64));
    if (!p) stop();
    blocks_.push_back(p);
    static std::vector<float> numbers;
    static std::vector<uint32_t> words;
    if (numbers.empty()) {
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      for (int i = 0; i < 1 << 20; i++) numbers.push_back(normal(random)), words.push_back(random());
    }
    const void* from = dtype == DType::u32 ? static_cast<const void*>(words.data()) : numbers.data();
    for (int64_t at = 0; at < size; at += 4 << 20)
      if (!device->copy(static_cast<char*>(p) + at, from, std::min<int64_t>(4 << 20, size - at), &failure)) stop();
    return p;
  }

 private:
  std::vector<void*> blocks_;
};

// `work`: multiply-adds. The median of runs, after one that warms up.
void time_kernel(const std::string& name, const char* kernel_name, std::vector<View> in, std::vector<View> out,
                 std::vector<double> numbers, double work, Memory& memory) {
  const auxgrad::Kernel* kernel = device->find_kernel(kernel_name);
  if (!kernel) {
    std::printf("{\"name\": \"%s\", \"missing\": \"%s\"}\n", name.c_str(), kernel_name);
    return;
  }
  auxgrad::Call call;
  call.in = in.data(), call.n_in = static_cast<int>(in.size());
  call.out = out.data(), call.n_out = static_cast<int>(out.size());
  call.number = numbers.data(), call.n_number = static_cast<int>(numbers.size());
  call.failure = &failure;
  call.stream = device->stream();
  call.fault = device->fault();
  const int64_t scratch = kernel->scratch ? kernel->scratch(call, 1) : 0;
  call.scratch = memory.bytes(scratch, DType::u32);
  constexpr int kRuns = 12;
  for (int i = 0; i <= kRuns; i++)
    if (!device->mark(i, &failure) || (i < kRuns && !kernel->run(call))) stop();
  if (!device->wait(&failure)) stop();
  std::vector<double> seconds;
  for (int i = 2; i < kRuns; i++) seconds.push_back(device->seconds(i, i + 1));
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  std::printf("{\"name\": \"%s\", \"us\": %.1f, \"tflops\": %.1f, \"scratch\": %.1f}\n", name.c_str(), 1e6 * median,
              2e-12 * work / median, static_cast<double>(scratch) / 1048576);
  std::fflush(stdout);
}

bool wanted(const std::string& name) { return name.find(only) != std::string::npos; }

void time_matmul(int64_t m, int64_t n, int64_t k, bool ta, bool tb) {
  const std::string name = "matmul " + std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) + " " +
                           (ta ? "t" : "n") + (tb ? "t" : "n");
  if (!wanted(name)) return;
  Memory memory;
  View a = memory.tensor({m, k}), b = memory.tensor({k, n}), c = memory.tensor({m, n});
  if (ta) a.stride[0] = 1, a.stride[1] = m;
  if (tb) b.stride[0] = 1, b.stride[1] = k;
  time_kernel(name, "matmul", {a, b}, {c}, {1}, double(m) * double(n) * double(k), memory);
}

struct Layer {
  int64_t n, h, c, o, kernel, stride, pad;
};

void time_layer(const Layer& l) {
  const std::string shape = std::to_string(l.n) + " " + std::to_string(l.h) + " " + std::to_string(l.c) + " " +
                            std::to_string(l.o) + " " + std::to_string(l.kernel) + " " + std::to_string(l.stride) +
                            " " + std::to_string(l.pad);
  if (!wanted("conv " + shape)) return;
  const int64_t p = (l.h + 2 * l.pad - l.kernel) / l.stride + 1;
  Memory memory;
  const View x = memory.tensor({l.n, l.h, l.h, l.c}), w = memory.tensor({l.o, l.kernel, l.kernel, l.c}),
             y = memory.tensor({l.n, p, p, l.o}), dx = memory.tensor({l.n, l.h, l.h, l.c}),
             dw = memory.tensor({l.o, l.kernel, l.kernel, l.c}),
             signs = memory.tensor({(l.n * l.h * l.h + 31) / 32, l.c}, DType::u32),
             mask = memory.tensor({(l.n * p * p + 31) / 32, l.o}, DType::u32), mean = memory.tensor({l.o}),
             var = memory.tensor({l.o}), rstd = memory.tensor({l.o});
  const double d[] = {double(l.stride), double(l.pad)};
  const std::vector<double> base = {d[0], d[0], d[1], d[1], 1, 1, 1};
  const auto with = [&](std::vector<double> more) {
    std::vector<double> all = base;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const double work = double(l.n * p * p) * double(l.o) * double(l.kernel * l.kernel * l.c);
  time_kernel("conv " + shape + " forward", "conv2d", {x, w, View()}, {y, View(), View()}, with({0, 0, 0}), work,
              memory);
  time_kernel("conv " + shape + " fused", "conv2d", {x, w, View()}, {y, signs, mask, mean, var, rstd},
              with({0.01, 0, 0, 1e-5}), work, memory);
  time_kernel("conv " + shape + " input_grad", "conv2d_input_grad", {y, w}, {dx}, base, work, memory);
  time_kernel("conv " + shape + " weight_grad", "conv2d_weight_grad", {y, x}, {dw}, base, work, memory);
  time_kernel("conv " + shape + " sign_grad", "conv2d_sign_weight_grad", {y, signs}, {dw},
              with({double(l.h), double(l.h), 1, 0}), work, memory);
}

void time_signs(int64_t tokens, int64_t outputs, int64_t inputs) {
  const std::string name =
      "sign_grad " + std::to_string(outputs) + " " + std::to_string(inputs) + " " + std::to_string(tokens);
  if (!wanted(name)) return;
  Memory memory;
  time_kernel(name, "linear_sign_weight_grad",
              {memory.tensor({tokens, outputs}), memory.tensor({(tokens + 31) / 32, inputs}, DType::u32)},
              {memory.tensor({outputs, inputs})}, {1, 0}, double(tokens) * double(outputs) * double(inputs), memory);
}

void time_attention(int64_t b, int64_t h, int64_t t, int64_t d, bool causal) {
  const std::string name = "attention " + std::to_string(b) + " " + std::to_string(h) + " " + std::to_string(t) + " " +
                           std::to_string(d) + (causal ? " causal" : " full");
  if (!wanted(name)) return;
  Memory memory;
  const View q = memory.tensor({b, h, t, d}), k = memory.tensor({b, h, t, d}), v = memory.tensor({b, h, t, d}),
             y = memory.tensor({b, t, h, d}), lse = memory.tensor({b, h, t}), dy = memory.tensor({b, t, h, d}),
             dq = memory.tensor({b, t, h, d}), dk = memory.tensor({b, t, h, d}), dv = memory.tensor({b, t, h, d});
  const std::vector<double> numbers = {1 / std::sqrt(double(d)), causal ? 1.0 : 0.0, 0, 0};
  const double work = 2.0 * double(b * h) * double(t) * double(t) * double(d) * (causal ? 0.5 : 1);
  time_kernel(name + " forward", "attention", {q, k, v, View(), View()}, {y, lse}, numbers, work, memory);
  time_kernel(name + " backward", "attention_grad", {dy, q, k, v, View(), View(), y, lse}, {dq, dk, dv}, numbers,
              2.5 * work, memory);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) only = argv[1];
  device = auxgrad::open_device("cuda", &failure);
  if (!device) stop();
  std::fprintf(stderr, "%s\n", device->name());
  for (int t = 0; t < 4; t++) time_matmul(4096, 4096, 4096, t & 1, t & 2);
  time_matmul(8192, 1024, 1024, false, true);
  time_matmul(8192, 1024, 1024, false, false);
  time_matmul(1024, 1024, 8192, true, false);
  time_matmul(1024, 1024, 1024, false, true);
  time_matmul(3152, 576, 192, false, true);
  time_matmul(256, 1000, 2048, false, true);
  time_signs(4096, 4096, 4096);
  time_signs(8192, 1024, 1024);
  time_signs(3152, 576, 192);
  // ResNet-50, batch 32.
  for (const Layer& l : {Layer{32, 224, 3, 64, 7, 2, 3},
                         {32, 56, 64, 64, 1, 1, 0},
                         {32, 56, 64, 64, 3, 1, 1},
                         {32, 56, 64, 256, 1, 1, 0},
                         {32, 56, 256, 64, 1, 1, 0},
                         {32, 56, 128, 128, 3, 2, 1},
                         {32, 28, 128, 128, 3, 1, 1},
                         {32, 28, 128, 512, 1, 1, 0},
                         {32, 28, 512, 128, 1, 1, 0},
                         {32, 56, 256, 512, 1, 2, 0},
                         {32, 14, 256, 256, 3, 1, 1},
                         {32, 14, 256, 1024, 1, 1, 0},
                         {32, 14, 1024, 256, 1, 1, 0},
                         {32, 7, 512, 512, 3, 1, 1},
                         {32, 7, 512, 2048, 1, 1, 0},
                         {32, 7, 2048, 512, 1, 1, 0}})
    time_layer(l);
  time_attention(16, 3, 197, 64, false);
  time_attention(8, 8, 128, 64, true);
  time_attention(4, 16, 2048, 64, true);
  return 0;
}

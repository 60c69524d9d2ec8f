// Kernels that only move memory: bytes each second against the bandwidth of the machine.
#include <cmath>

#include "bench.h"

namespace {

// Larger than the caches that one core has of its own; `copies` sets take turns.
constexpr int64_t kElements = int64_t{16} << 20;

// kernel on one or two inputs of kElements, checked against f(x, y).
void add_elementwise(bench::Group& group, const char* kernel, int inputs, std::vector<double> numbers,
                     float (*expected)(float, float)) {
  bench::Case c;
  c.name = std::string(kernel) + " 16M";
  c.bytes = 4.0 * kElements * (inputs + 1);
  c.quick = true;
  c.prepare = [=](int) {
    bench::Array x = bench::Array::integers({kElements / 1024, 1024}, 1),
                 z = bench::Array::integers({kElements / 1024, 1024}, 2);
    bench::Array y({kElements / 1024, 1024});
    auto call = std::make_shared<bench::KernelCall>(
        kernel, inputs == 2 ? std::vector<auxgrad::View>{x.view(), z.view()} : std::vector<auxgrad::View>{x.view()},
        std::vector<auxgrad::View>{y.view()}, numbers);
    bench::Prepared p;
    p.contenders.push_back({"auxgrad",
                            [=] {
                              (void)x, (void)z;
                              call->run();
                            },
                            [=] {
                              for (int64_t i = 0; i < kElements; i++)
                                if (!(y.f32()[i] == expected(x.f32()[i], z.f32()[i])))
                                  return "element " + std::to_string(i) + " is wrong";
                              return std::string();
                            }});
    return p;
  };
  group.add(std::move(c));
}

}  // namespace

GROUP(memory, "memory") {
  add_elementwise(group, "add", 2, {}, [](float x, float y) { return x + y; });
  add_elementwise(group, "relu", 1, {}, [](float x, float) { return x > 0 ? x : 0; });
  add_elementwise(group, "add_sign", 1, {0.25, 0}, [](float x, float) { return x + (x > 0 ? 0.25f : -0.25f); });

  bench::Case pack;
  pack.name = "sign_pack 16M";
  pack.bytes = 4.0 * kElements + kElements / 8.0;
  pack.quick = true;
  pack.prepare = [](int) {
    bench::Array x = bench::Array::integers({kElements / 1024, 1024}, 1);
    bench::Array bits({kElements / 1024 / 32, 1024}, auxgrad::DType::u32);
    auto call = std::make_shared<bench::KernelCall>("sign_pack", std::vector<auxgrad::View>{x.view()},
                                                    std::vector<auxgrad::View>{bits.view()});
    bench::Prepared p;
    p.contenders.push_back({"auxgrad",
                            [=] {
                              (void)x;
                              call->run();
                            },
                            [=] {
                              for (int64_t i = 0; i < kElements; i++) {
                                const int64_t t = i / 1024, c = i % 1024;
                                if ((bits.u32()[t / 32 * 1024 + c] >> (t % 32) & 1) != (x.f32()[i] > 0))
                                  return "bit " + std::to_string(i) + " is wrong";
                              }
                              return std::string();
                            }});
    return p;
  };
  group.add(std::move(pack));
}

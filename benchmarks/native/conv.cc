// Convolutions: the layers of ResNet-50 (batch 8, 224 x 224), ResNet-18 on 32 x 32 images (batch 32) and the depthwise
// layers of MobileNetV2 (batch 8); forward, input gradient, weight gradient. Floating point operations are those of the
// direct sum. peers/conv_torch.py times the same layers, under the same names, in PyTorch.
#include <algorithm>
#include <cmath>

#include "bench.h"

namespace {

struct Layer {
  const char* name;
  int64_t batch, size, channels, outputs, kernel, stride;
  bool depthwise = false, quick = false;

  int64_t pad() const { return kernel / 2; }
  int64_t groups() const { return depthwise ? channels : 1; }
  int64_t out() const { return (size + 2 * pad() - kernel) / stride + 1; }
};

const Layer kLayers[] = {
    {"r50 stem 7x7/2", 8, 224, 3, 64, 7, 2},
    {"r50 56 1x1 64-64", 8, 56, 64, 64, 1, 1},
    {"r50 56 3x3 64", 8, 56, 64, 64, 3, 1, false, true},
    {"r50 56 1x1 64-256", 8, 56, 64, 256, 1, 1},
    {"r50 56 1x1 256-64", 8, 56, 256, 64, 1, 1},
    {"r50 56 1x1 256-128", 8, 56, 256, 128, 1, 1},
    {"r50 56 3x3/2 128", 8, 56, 128, 128, 3, 2},
    {"r50 28 1x1 128-512", 8, 28, 128, 512, 1, 1},
    {"r50 56 1x1/2 256-512", 8, 56, 256, 512, 1, 2},
    {"r50 28 1x1 512-128", 8, 28, 512, 128, 1, 1, false, true},
    {"r50 28 3x3 128", 8, 28, 128, 128, 3, 1},
    {"r50 28 1x1 512-256", 8, 28, 512, 256, 1, 1},
    {"r50 28 3x3/2 256", 8, 28, 256, 256, 3, 2, false, true},
    {"r50 14 1x1 256-1024", 8, 14, 256, 1024, 1, 1},
    {"r50 28 1x1/2 512-1024", 8, 28, 512, 1024, 1, 2},
    {"r50 14 1x1 1024-256", 8, 14, 1024, 256, 1, 1},
    {"r50 14 3x3 256", 8, 14, 256, 256, 3, 1},
    {"r50 14 1x1 1024-512", 8, 14, 1024, 512, 1, 1},
    {"r50 14 3x3/2 512", 8, 14, 512, 512, 3, 2},
    {"r50 7 1x1 512-2048", 8, 7, 512, 2048, 1, 1},
    {"r50 14 1x1/2 1024-2048", 8, 14, 1024, 2048, 1, 2},
    {"r50 7 1x1 2048-512", 8, 7, 2048, 512, 1, 1},
    {"r50 7 3x3 512", 8, 7, 512, 512, 3, 1},
    {"r18 stem 3x3", 32, 32, 3, 64, 3, 1},
    {"r18 32 3x3 64", 32, 32, 64, 64, 3, 1},
    {"r18 32 3x3/2 64-128", 32, 32, 64, 128, 3, 2},
    {"r18 32 1x1/2 64-128", 32, 32, 64, 128, 1, 2},
    {"r18 16 3x3 128", 32, 16, 128, 128, 3, 1, false, true},
    {"r18 16 3x3/2 128-256", 32, 16, 128, 256, 3, 2},
    {"r18 16 1x1/2 128-256", 32, 16, 128, 256, 1, 2},
    {"r18 8 3x3 256", 32, 8, 256, 256, 3, 1},
    {"r18 8 3x3/2 256-512", 32, 8, 256, 512, 3, 2},
    {"r18 8 1x1/2 256-512", 32, 8, 256, 512, 1, 2},
    {"r18 4 3x3 512", 32, 4, 512, 512, 3, 1},
    {"mb2 112 depthwise 32", 8, 112, 32, 32, 3, 1, true},
    {"mb2 112 depthwise/2 96", 8, 112, 96, 96, 3, 2, true},
    {"mb2 56 depthwise 144", 8, 56, 144, 144, 3, 1, true, true},
    {"mb2 56 depthwise/2 144", 8, 56, 144, 144, 3, 2, true},
    {"mb2 28 depthwise 192", 8, 28, 192, 192, 3, 1, true},
    {"mb2 28 depthwise/2 192", 8, 28, 192, 192, 3, 2, true},
    {"mb2 14 depthwise 384", 8, 14, 384, 384, 3, 1, true},
    {"mb2 14 depthwise 576", 8, 14, 576, 576, 3, 1, true},
    {"mb2 14 depthwise/2 576", 8, 14, 576, 576, 3, 2, true},
    {"mb2 7 depthwise 960", 8, 7, 960, 960, 3, 1, true},
};

enum Direction { kForward, kInput, kWeight };
const char* const kDirections[] = {"forward", "input grad", "weight grad"};
const char* const kKernels[] = {"conv2d", "conv2d_input_grad", "conv2d_weight_grad"};

struct Operands {
  Layer layer;
  bench::Array x, w, y;

  // f(x, w, y) with the offsets of every product of output element (n, p, q, o).
  template <class F>
  void products(int64_t n, int64_t p, int64_t q, int64_t o, const F& f) const {
    const Layer& l = layer;
    const int64_t depth = l.channels / l.groups(), from = o / (l.outputs / l.groups()) * depth;
    const int64_t out = ((n * l.out() + p) * l.out() + q) * l.outputs + o;
    for (int64_t a = 0; a < l.kernel; a++)
      for (int64_t b = 0; b < l.kernel; b++) {
        const int64_t i = p * l.stride + a - l.pad(), j = q * l.stride + b - l.pad();
        if (i < 0 || i >= l.size || j < 0 || j >= l.size) continue;
        for (int64_t c = 0; c < depth; c++)
          f(((n * l.size + i) * l.size + j) * l.channels + from + c, ((o * l.kernel + a) * l.kernel + b) * depth + c,
            out);
      }
  }
};

// Some elements of the result against exact sums: operands are small integers. Outputs (positions) are taken evenly;
// of gradients, all products that fall on the elements looked at.
std::string check(const Operands& s, Direction direction) {
  const Layer& l = s.layer;
  const bench::Array& result = direction == kForward ? s.y : direction == kInput ? s.x : s.w;
  constexpr int64_t kTaken = 8;
  const int64_t positions = l.batch * l.out() * l.out();
  for (int64_t k = 0; k < kTaken; k++) {
    double sum = 0;
    int64_t at = 0;
    if (direction == kForward) {
      const int64_t t = positions * k / kTaken + k % positions, o = (k * 37 + 5) % l.outputs;
      at = t % positions * l.outputs + o;
      s.products(t % positions / l.out() / l.out(), t % positions / l.out() % l.out(), t % l.out(), o,
                 [&](int64_t x, int64_t w, int64_t) { sum += double(s.x.f32()[x]) * s.w.f32()[w]; });
    } else if (direction == kWeight) {
      at = (k * 7919 + 3) % s.w.count();
      const int64_t o = at / (s.w.count() / l.outputs);
      for (int64_t t = 0; t < positions; t++)
        s.products(t / l.out() / l.out(), t / l.out() % l.out(), t % l.out(), o, [&](int64_t x, int64_t w, int64_t y) {
          if (w == at) sum += double(s.x.f32()[x]) * s.y.f32()[y];
        });
    } else {
      at = s.x.count() / kTaken * k + k;
      const int64_t n = at / l.channels / l.size / l.size, i = at / l.channels / l.size % l.size,
                    j = at / l.channels % l.size;
      for (int64_t p = std::max<int64_t>(0, (i + l.pad() - l.kernel) / l.stride);
           p < l.out() && p * l.stride - l.pad() <= i; p++)
        for (int64_t q = std::max<int64_t>(0, (j + l.pad() - l.kernel) / l.stride);
             q < l.out() && q * l.stride - l.pad() <= j; q++)
          for (int64_t o = 0; o < l.outputs; o++)
            s.products(n, p, q, o, [&](int64_t x, int64_t w, int64_t y) {
              if (x == at) sum += double(s.y.f32()[y]) * s.w.f32()[w];
            });
    }
    const double got = result.f32()[at];
    if (!(got == static_cast<float>(sum) || std::fabs(got - sum) <= 1e-6 * std::fabs(sum)))
      return "element " + std::to_string(at) + " is " + std::to_string(got) + ", expected " + std::to_string(sum);
  }
  return "";
}

void add(bench::Group& group, const Layer& l, Direction direction) {
  bench::Case c;
  c.name = std::string(l.name) + " " + kDirections[direction];
  const double outputs = static_cast<double>(l.batch * l.out() * l.out() * l.outputs);
  const double inputs = static_cast<double>(l.batch * l.size * l.size * l.channels);
  const double weights = static_cast<double>(l.outputs * l.kernel * l.kernel * l.channels / l.groups());
  c.flops = 2 * outputs * weights / static_cast<double>(l.outputs);
  c.bytes = 4 * (outputs + inputs + weights);
  c.quick = l.quick;
  c.streams = l.depthwise;
  c.asks = true;
  c.prepare = [=] {
    auto s = std::make_shared<Operands>(
        Operands{l, bench::Array::integers({l.batch, l.size, l.size, l.channels}, 1),
                 bench::Array::integers({l.outputs, l.kernel, l.kernel, l.channels / l.groups()}, 2),
                 bench::Array::integers({l.batch, l.out(), l.out(), l.outputs}, 3)});
    const double k = static_cast<double>(l.stride), p = static_cast<double>(l.pad());
    std::vector<double> numbers = {k, k, p, p, 1, 1, static_cast<double>(l.groups())};
    std::vector<auxgrad::View> in, out;
    if (direction == kForward) {
      in = {s->x.view(), s->w.view(), bench::absent()};
      out = {s->y.view(), bench::absent(), bench::absent()};
      numbers.insert(numbers.end(), {0, 0, 0});
    } else if (direction == kInput) {
      in = {s->y.view(), s->w.view()};
      out = {s->x.view()};
    } else {
      in = {s->y.view(), s->x.view()};
      out = {s->w.view()};
    }
    auto call = std::make_shared<bench::KernelCall>(kKernels[direction], in, out, numbers);
    bench::Prepared prepared;
    prepared.keep = s;
    prepared.contenders.push_back({"auxgrad", [=] { call->run(); }, [=] { return check(*s, direction); }});
    return prepared;
  };
  group.add(std::move(c));
}

}  // namespace

GROUP(conv, "conv") {
  for (Direction direction : {kForward, kInput, kWeight})
    for (const Layer& layer : kLayers) add(group, layer, direction);
}

// Aux-only weight gradients of convolutions, against our dense kernel and against the libraries' dense product of the same
// size, its gathered input (im2col) given to them for nothing.
#include "gradient.h"

namespace {

struct Layer {
  const char* name;
  int64_t images, side, channels, outputs, kernel, stride;
  bool quick;
  int64_t pad() const { return kernel / 2; }
  int64_t out_side() const { return (side + 2 * pad() - kernel) / stride + 1; }
  int64_t tokens() const { return images * out_side() * out_side(); }
  int64_t columns() const { return kernel * kernel * channels; }
};

bench::Prepared prepare(Layer l, bool signs) {
  const int64_t out = l.out_side(), positions = l.images * l.side * l.side;
  bench::Array delta = bench::Array::integers({l.images, out, out, l.outputs}, 1);
  bench::Array x = bench::Array::integers({l.images, l.side, l.side, l.channels}, 2);
  for (int64_t i = 0; i < x.count(); i++) {
    const int64_t k = static_cast<int64_t>(x.f32()[i]) + 4, first = i % (x.count() / l.images);
    x.f32()[i] = static_cast<float>(signs ? k % 2 * 2 - 1 : first < 2 ? first * 3 - 1 : k % 4 - 1);
  }
  bench::Array columns({l.tokens(), l.columns()});
  for (int64_t t = 0; t < l.tokens(); t++)
    for (int64_t tap = 0; tap < l.kernel * l.kernel; tap++) {
      const int64_t h = t / out % out * l.stride - l.pad() + tap / l.kernel,
                    w = t % out * l.stride - l.pad() + tap % l.kernel;
      const bool inside = h >= 0 && h < l.side && w >= 0 && w < l.side;
      for (int64_t c = 0; c < l.channels; c++)
        columns.f32()[t * l.columns() + tap * l.channels + c] =
            inside ? x.f32()[((t / (out * out) * l.side + h) * l.side + w) * l.channels + c] : 0.0f;
    }
  bench::Array words({(positions * (signs ? 1 : 2) + 31) / 32, l.channels}, auxgrad::DType::u32), ranges({l.images, 2});
  bench::Array dw({l.outputs, l.kernel, l.kernel, l.channels}), dense({l.outputs, l.kernel, l.kernel, l.channels});
  std::vector<auxgrad::View> packed = {words.view()}, in = {delta.view(), words.view()};
  if (!signs) packed.push_back(ranges.view()), in.push_back(ranges.view());
  bench::KernelCall(signs ? "sign_pack" : "code2_pack", {x.view()}, packed).run();
  const auto number = [](int64_t i) { return static_cast<double>(i); };
  const std::vector<double> window = {number(l.stride), number(l.stride), number(l.pad()), number(l.pad()), 1, 1, 1};
  std::vector<double> numbers = window;
  numbers.insert(numbers.end(), {number(l.side), number(l.side), 1});
  if (signs) numbers.push_back(0);
  auto call = std::make_shared<bench::KernelCall>(signs ? "conv2d_sign_weight_grad" : "conv2d_code2_weight_grad", in,
                                                  std::vector<auxgrad::View>{dw.view()}, numbers);
  auto plain =
      std::make_shared<bench::KernelCall>("conv2d_weight_grad", std::vector<auxgrad::View>{delta.view(), x.view()},
                                          std::vector<auxgrad::View>{dense.view()}, window);
  const auto check = [=](const bench::Array& result) {
    return bench::check_gradient(result.f32(), delta.f32(), columns.f32(), l.tokens(), l.outputs, l.columns());
  };
  bench::Prepared prepared;
  prepared.keep =
      std::make_shared<std::vector<bench::Array>>(std::vector<bench::Array>{delta, x, words, ranges, dw, dense});
  prepared.contenders.push_back({"auxgrad", [call] { call->run(); }, [=] { return check(dw); }});
  prepared.contenders.push_back({"dense", [plain] { plain->run(); }, [=] { return check(dense); }});
  bench::add_dense_products(prepared, delta, columns, l.tokens(), l.outputs, l.columns());
  return prepared;
}

}  // namespace

GROUP(conv_sign_gradient, "conv-sign-gradient") {
  const Layer layers[] = {{"cifar 64 3x3 at 32", 32, 32, 64, 64, 3, 1, true},
                          {"cifar 128 3x3 at 16", 32, 16, 128, 128, 3, 1, true},
                          {"cifar 256 3x3 at 8", 32, 8, 256, 256, 3, 1, true},
                          {"cifar 512 3x3 at 4", 32, 4, 512, 512, 3, 1, true},
                          {"cifar 64-128 3x3/2", 32, 32, 64, 128, 3, 2, false},
                          {"resnet50 64 1x1 at 56", 8, 56, 64, 64, 1, 1, false},
                          {"resnet50 64-256 1x1", 8, 56, 64, 256, 1, 1, true},
                          {"resnet50 128 3x3 at 28", 8, 28, 128, 128, 3, 1, false},
                          {"resnet50 256-1024 1x1", 8, 14, 256, 1024, 1, 1, false},
                          {"resnet50 512 3x3 at 7", 8, 7, 512, 512, 3, 1, false},
                          {"resnet50 128 3x3/2", 8, 56, 128, 128, 3, 2, false}};
  for (const bool signs : {true, false})
    for (const Layer& l : layers) {
      bench::Case c;
      c.name = std::string(signs ? "signs " : "code2 ") + l.name;
      c.flops = 2.0 * static_cast<double>(l.tokens() * l.outputs * l.columns());
      c.bytes = 4.0 * static_cast<double>(l.tokens() * l.outputs + l.outputs * l.columns()) +
                static_cast<double>(l.images * l.side * l.side * l.channels) / (signs ? 8 : 4);
      c.quick = l.quick && signs;
      c.asks = true;
      c.prepare = [=] { return prepare(l, signs); };
      group.add(std::move(c));
    }
}

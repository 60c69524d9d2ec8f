// Aux-only weight gradients of linear layers, from signs and from two-bit codes, against the dense product of the same
// shape; and packing.
#include <cmath>

#include "gradient.h"

namespace {

struct Shape {
  int64_t tokens, outputs, inputs;
  bool quick;
};

std::string name_of(const Shape& s) {
  return std::to_string(s.tokens) + "x" + std::to_string(s.outputs) + "x" + std::to_string(s.inputs);
}

// Packs v, a matrix of -1 and 1 (signs) or of -1 ... 2 (codes of range -1, 3), and sums from the packed words.
bench::Prepared prepare(Shape s, bool signs) {
  bench::Array delta = bench::Array::integers({s.tokens, s.outputs}, 1),
               v = bench::Array::integers({s.tokens, s.inputs}, 2);
  for (int64_t i = 0; i < v.count(); i++) {
    const int64_t k = static_cast<int64_t>(v.f32()[i]) + 4;
    v.f32()[i] = static_cast<float>(signs ? k % 2 * 2 - 1 : i % s.inputs < 2 ? i % s.inputs * 3 - 1 : k % 4 - 1);
  }
  const int64_t rows = (s.tokens * (signs ? 1 : 2) + 31) / 32;
  bench::Array words({rows, s.inputs}, auxgrad::DType::u32), ranges({s.tokens, 2}), dw({s.outputs, s.inputs});
  std::vector<auxgrad::View> packed = {words.view()}, in = {delta.view(), words.view()};
  if (!signs) packed.push_back(ranges.view()), in.push_back(ranges.view());
  bench::KernelCall(signs ? "sign_pack" : "code2_pack", {v.view()}, packed).run();
  std::vector<double> numbers = {1};
  if (signs) numbers.push_back(0);
  auto call = std::make_shared<bench::KernelCall>(signs ? "linear_sign_weight_grad" : "linear_code2_weight_grad", in,
                                                  std::vector<auxgrad::View>{dw.view()}, numbers);
  bench::Prepared prepared;
  prepared.keep = std::make_shared<std::vector<bench::Array>>(std::vector<bench::Array>{delta, v, words, ranges, dw});
  prepared.contenders.push_back(
      {"auxgrad", [call] { call->run(); },
       [=] { return bench::check_gradient(dw.f32(), delta.f32(), v.f32(), s.tokens, s.outputs, s.inputs); }});
  bench::add_dense_products(prepared, delta, v, s.tokens, s.outputs, s.inputs);
  return prepared;
}

bench::Prepared prepare_pack(int64_t tokens, int64_t channels, bool signs) {
  bench::Array x = bench::Array::integers({tokens, channels}, 1), ranges({tokens, 2});
  bench::Array words({(tokens * (signs ? 1 : 2) + 31) / 32, channels}, auxgrad::DType::u32);
  std::vector<auxgrad::View> out = {words.view()};
  if (!signs) out.push_back(ranges.view());
  auto call = std::make_shared<bench::KernelCall>(signs ? "sign_pack" : "code2_pack",
                                                  std::vector<auxgrad::View>{x.view()}, out);
  bench::Prepared prepared;
  prepared.keep = std::make_shared<std::vector<bench::Array>>(std::vector<bench::Array>{x, words, ranges});
  prepared.contenders.push_back(
      {"auxgrad", [call] { call->run(); },
       [=]() -> std::string {
         for (int64_t t = 0; t < tokens; t++) {
           float low = 0, high = 0;
           for (int64_t c = 0; c < channels; c++) {
             const float v = x.f32()[t * channels + c];
             if (c == 0 || v < low) low = v;
             if (c == 0 || v > high) high = v;
           }
           for (int64_t c = 0; c < channels; c++) {
             const float v = x.f32()[t * channels + c];
             if (signs ? (words.u32()[t / 32 * channels + c] >> (t % 32) & 1) != (v > 0 ? 1u : 0u)
                       : std::fabs(static_cast<float>(words.u32()[t / 16 * channels + c] >> (t % 16 * 2) & 3) *
                                       (high - low) / 3 +
                                   low - v) > (high - low) / 6 * 1.00001f)
               return "token " + std::to_string(t) + ", channel " + std::to_string(c) + " is wrong";
           }
         }
         return "";
       }});
  return prepared;
}

}  // namespace

GROUP(sign_gradient, "sign-gradient") {
  const Shape shapes[] = {{4096, 768, 768, true}, {4096, 3072, 768, true}, {4096, 768, 3072, true},
                          {2048, 512, 512, true}, {1024, 256, 256, true},  {8192, 1024, 1024, false}};
  for (const bool signs : {true, false}) {
    for (const Shape& s : shapes) {
      bench::Case c;
      c.name = std::string(signs ? "signs " : "code2 ") + name_of(s);
      c.flops = 2.0 * static_cast<double>(s.tokens * s.outputs * s.inputs);
      c.bytes = 4.0 * static_cast<double>(s.tokens * s.outputs + s.outputs * s.inputs) +
                static_cast<double>(s.tokens * s.inputs) / (signs ? 8 : 4);
      c.quick = s.quick;
      c.prepare = [=] { return prepare(s, signs); };
      group.add(std::move(c));
    }
    bench::Case c;
    c.name = std::string(signs ? "sign_pack" : "code2_pack") + " 8192x3072";
    c.bytes = 8192.0 * 3072 * (4 + (signs ? 0.125 : 0.25));
    c.quick = true;
    c.prepare = [=] { return prepare_pack(8192, 3072, signs); };
    group.add(std::move(c));
  }
}

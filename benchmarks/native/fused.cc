// A linear layer with all that a training step asks of it in one call (auxiliary signs, sign packing, bias, relu, mask)
// against the bare product and against one kernel for each.
#include "bench.h"

namespace {

constexpr double kEpsilon = 0.25;  // keeps sums of integers exact

struct Layer {
  int64_t tokens, in, out;
  bench::Array x, w, bias, h, y;
  bench::Array signs, mask;

  Layer(int64_t tokens, int64_t in, int64_t out)
      : tokens(tokens),
        in(in),
        out(out),
        x(bench::Array::integers({tokens, in}, 1)),
        w(bench::Array::integers({out, in}, 2)),
        bias(bench::Array::integers({out}, 3)),
        h({tokens, in}),
        y({tokens, out}),
        signs({(tokens + 31) / 32, in}, auxgrad::DType::u32),
        mask({(tokens + 31) / 32, out}, auxgrad::DType::u32) {}

  // Every bit, and the outputs of every 16th token, summed in double.
  std::string check(bool fused) const {
    const auto bit = [](const bench::Array& words, int64_t t, int64_t c, int64_t channels) {
      return (words.u32()[t / 32 * channels + c] >> (t % 32) & 1) != 0;
    };
    for (int64_t t = 5; t < tokens; t += 16)
      for (int64_t o = 0; o < out; o++) {
        double sum = fused ? bias.f32()[o] : 0;
        for (int64_t k = 0; k < in; k++) {
          const double v = x.f32()[t * in + k];
          sum += (fused ? v + (v > 0 ? kEpsilon : -kEpsilon) : v) * w.f32()[o * in + k];
        }
        if (fused && sum < 0) sum = 0;
        if (!(y.f32()[t * out + o] == sum))
          return "token " + std::to_string(t) + ", output " + std::to_string(o) + " is wrong";
      }
    if (!fused) return "";
    for (int64_t t = 0; t < tokens; t++) {
      for (int64_t k = 0; k < in; k++)
        if (bit(signs, t, k, in) != (x.f32()[t * in + k] > 0))
          return "sign of token " + std::to_string(t) + " is wrong";
      for (int64_t o = 0; o < out; o++)
        if (bit(mask, t, o, out) != (y.f32()[t * out + o] > 0))
          return "mask of token " + std::to_string(t) + " is wrong";
    }
    return "";
  }
};

bench::Prepared prepare(int64_t tokens, int64_t out, int64_t in) {
  using Views = std::vector<auxgrad::View>;
  bench::Prepared p;
  {
    auto l = std::make_shared<Layer>(tokens, in, out);
    auto call = std::make_shared<bench::KernelCall>("linear", Views{l->x.view(), l->w.view(), l->bias.view()},
                                                    Views{l->y.view(), l->signs.view(), l->mask.view()},
                                                    std::vector<double>{kEpsilon, 0, 1});
    p.contenders.push_back({"auxgrad", [=] { call->run(); }, [=] { return l->check(true); }});
  }
  {
    auto l = std::make_shared<Layer>(tokens, in, out);
    auto call = std::make_shared<bench::KernelCall>("linear", Views{l->x.view(), l->w.view(), bench::absent()},
                                                    Views{l->y.view()});
    p.contenders.push_back({"bare", [=] { call->run(); }, [=] { return l->check(false); }});
  }
  {
    auto l = std::make_shared<Layer>(tokens, in, out);
    auto calls = std::make_shared<std::vector<bench::KernelCall>>();
    calls->emplace_back("sign_pack", Views{l->x.view()}, Views{l->signs.view()});
    calls->emplace_back("add_sign", Views{l->x.view()}, Views{l->h.view()}, std::vector<double>{kEpsilon, 0});
    calls->emplace_back("linear", Views{l->h.view(), l->w.view(), l->bias.view()}, Views{l->y.view()});
    calls->emplace_back("relu", Views{l->y.view()}, Views{l->y.view()});
    calls->emplace_back("sign_pack", Views{l->y.view()}, Views{l->mask.view()});
    p.contenders.push_back({"unfused",
                            [=] {
                              for (bench::KernelCall& call : *calls) call.run();
                            },
                            [=] { return l->check(true); }});
  }
  return p;
}

}  // namespace

GROUP(fused, "fused") {
  const int64_t shapes[][3] = {{512, 3072, 768}, {1024, 1024, 1024}, {4096, 256, 256}};
  for (const auto& s : shapes) {
    bench::Case c;
    const int64_t tokens = s[0], out = s[1], in = s[2];
    c.name = "linear " + std::to_string(tokens) + "x" + std::to_string(out) + "x" + std::to_string(in);
    c.flops = 2.0 * static_cast<double>(tokens * out * in);
    c.bytes = 4.0 * static_cast<double>(tokens * in + out * in + tokens * out);
    c.quick = true;
    c.prepare = [=](int) { return prepare(tokens, out, in); };
    group.add(std::move(c));
  }
}

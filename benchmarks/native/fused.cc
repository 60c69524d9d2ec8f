// Layers with what training asks of them in one call, against the bare product and against one kernel for each: a linear
// one with all (auxiliary signs, sign packing, bias, relu, mask), convolutions also with the usual parts of it, and with
// the statistics of a batch norm that follows.
#include <cmath>

#include "bench.h"

namespace {

using Views = std::vector<auxgrad::View>;

constexpr double kEpsilon = 0.25;  // keeps sums of integers exact
constexpr double kEps = 1e-5;      // of batch normalisation

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

struct Conv {
  const char* name;
  int64_t images, side, channels, outputs, kernel;  // stride 1, as many outputs as inputs
  int64_t pad() const { return kernel / 2; }
  int64_t tokens() const { return images * side * side; }
};
struct Parts {
  const char* name;
  bool relu, signs;  // bias, relu and its mask; the operand plus epsilon times its signs, and those packed
  bool statistics;   // mean, variance and 1 / deviation of the channels of y
  bool quick;
};

struct ConvLayer {
  Conv c;
  Parts parts;
  bench::Array x, w, bias, h, y, signs, mask, mean, var, rstd;

  ConvLayer(const Conv& c, const Parts& parts)
      : c(c),
        parts(parts),
        x(bench::Array::integers({c.images, c.side, c.side, c.channels}, 1)),
        w(bench::Array::integers({c.outputs, c.kernel, c.kernel, c.channels}, 2)),
        bias(bench::Array::integers({c.outputs}, 3)),
        h({c.images, c.side, c.side, c.channels}),
        y({c.images, c.side, c.side, c.outputs}),
        signs({(c.tokens() + 31) / 32, c.channels}, auxgrad::DType::u32),
        mask({(c.tokens() + 31) / 32, c.outputs}, auxgrad::DType::u32),
        mean({c.outputs}),
        var({c.outputs}),
        rstd({c.outputs}) {}

  // All in one call, or one kernel for each.
  std::vector<bench::KernelCall> calls(bool fused) const {
    const auxgrad::View none = bench::absent();
    const double pad = static_cast<double>(c.pad());
    std::vector<double> numbers = {1, 1, pad, pad, 1, 1, 1, 0, 0, 0};
    std::vector<bench::KernelCall> list;
    if (fused && parts.statistics) {
      numbers.push_back(kEps);
      list.emplace_back("conv2d", Views{x.view(), w.view(), none},
                        Views{y.view(), none, none, mean.view(), var.view(), rstd.view()}, numbers);
      return list;
    }
    if (fused) {
      numbers[7] = parts.signs ? kEpsilon : 0;
      numbers[9] = parts.relu ? 1 : 0;
      list.emplace_back("conv2d", Views{x.view(), w.view(), parts.relu ? bias.view() : none},
                        Views{y.view(), parts.signs ? signs.view() : none, parts.relu ? mask.view() : none}, numbers);
      return list;
    }
    if (parts.signs) {
      list.emplace_back("sign_pack", Views{x.view()}, Views{signs.view()});
      list.emplace_back("add_sign", Views{x.view()}, Views{h.view()}, std::vector<double>{kEpsilon, 0});
    }
    list.emplace_back("conv2d", Views{parts.signs ? h.view() : x.view(), w.view(), parts.relu ? bias.view() : none},
                      Views{y.view(), none, none}, numbers);
    if (parts.statistics)
      list.emplace_back("batch_norm_stats", Views{y.view()}, Views{mean.view(), var.view(), rstd.view()},
                        std::vector<double>{kEps});
    if (parts.relu) {
      list.emplace_back("relu", Views{y.view()}, Views{y.view()});
      list.emplace_back("sign_pack", Views{y.view()}, Views{mask.view()});
    }
    return list;
  }

  // Every bit, and some outputs, summed in double.
  std::string check() const {
    const auto bit = [](const bench::Array& words, int64_t t, int64_t i, int64_t channels) {
      return (words.u32()[t / 32 * channels + i] >> (t % 32) & 1) != 0;
    };
    for (int64_t k = 0; k < 500; k++) {
      const int64_t t = (k * 7919 + 3) % c.tokens(), o = (k * 37 + 5) % c.outputs;
      const int64_t n = t / c.side / c.side, i = t / c.side % c.side, j = t % c.side;
      double sum = parts.relu ? bias.f32()[o] : 0;
      for (int64_t tap = 0; tap < c.kernel * c.kernel; tap++) {
        const int64_t row = i + tap / c.kernel - c.pad(), column = j + tap % c.kernel - c.pad();
        if (row < 0 || row >= c.side || column < 0 || column >= c.side) continue;
        for (int64_t l = 0; l < c.channels; l++) {
          const double v = x.f32()[((n * c.side + row) * c.side + column) * c.channels + l];
          const double weight = w.f32()[(o * c.kernel * c.kernel + tap) * c.channels + l];
          sum += (parts.signs ? v + (v > 0 ? kEpsilon : -kEpsilon) : v) * weight;
        }
      }
      if (parts.relu && sum < 0) sum = 0;
      if (!(y.f32()[t * c.outputs + o] == sum))
        return "token " + std::to_string(t) + ", output " + std::to_string(o) + " is wrong";
    }
    for (int64_t o = 0; parts.statistics && o < c.outputs; o++) {
      double m = 0, v = 0;
      for (int64_t t = 0; t < c.tokens(); t++) m += y.f32()[t * c.outputs + o];
      m /= static_cast<double>(c.tokens());
      for (int64_t t = 0; t < c.tokens(); t++) v += std::pow(y.f32()[t * c.outputs + o] - m, 2);
      v /= static_cast<double>(c.tokens());
      if (!(std::fabs(mean.f32()[o] - m) <= 1e-6 * std::sqrt(v)) || !(std::fabs(var.f32()[o] - v) <= 3e-6 * v) ||
          !(std::fabs(rstd.f32()[o] * std::sqrt(v + kEps) - 1) <= 3e-6))
        return "statistics of output " + std::to_string(o) + " are wrong";
    }
    for (int64_t t = 0; t < c.tokens(); t++) {
      for (int64_t i = 0; parts.signs && i < c.channels; i++)
        if (bit(signs, t, i, c.channels) != (x.f32()[t * c.channels + i] > 0))
          return "sign of token " + std::to_string(t) + " is wrong";
      for (int64_t o = 0; parts.relu && o < c.outputs; o++)
        if (bit(mask, t, o, c.outputs) != (y.f32()[t * c.outputs + o] > 0))
          return "mask of token " + std::to_string(t) + " is wrong";
    }
    return "";
  }
};

bench::Prepared prepare(const Conv& c, const Parts& parts) {
  bench::Prepared p;
  const auto add = [&](const char* name, const Parts& own, bool fused) {
    auto l = std::make_shared<ConvLayer>(c, own);
    auto calls = std::make_shared<std::vector<bench::KernelCall>>(l->calls(fused));
    p.contenders.push_back({name,
                            [=] {
                              for (bench::KernelCall& call : *calls) call.run();
                            },
                            [=] { return l->check(); }});
  };
  add("auxgrad", parts, true);
  add("bare", {"", false, false, false, false}, true);
  add("unfused", parts, false);
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
    c.prepare = [=] { return prepare(tokens, out, in); };
    group.add(std::move(c));
  }
  const Conv convolutions[] = {{"3x3 64 at 32", 32, 32, 64, 64, 3},
                               {"3x3 256 at 14", 8, 14, 256, 256, 3},
                               {"1x1 64-256 at 56", 8, 56, 64, 256, 1},
                               {"1x1 512-128 at 28", 8, 28, 512, 128, 1}};
  const Parts parts[] = {{"relu, mask", true, false, false, false},
                         {"aux, signs", false, true, false, false},
                         {"all", true, true, false, true},
                         {"statistics", false, false, true, true}};
  for (const Conv& conv : convolutions)
    for (const Parts& asked : parts) {
      bench::Case c;
      c.name = std::string("conv ") + conv.name + ": " + asked.name;
      c.flops = 2.0 * static_cast<double>(conv.tokens() * conv.outputs * conv.kernel * conv.kernel * conv.channels);
      c.bytes = 4.0 * static_cast<double>(conv.tokens() * (conv.channels + conv.outputs) +
                                          conv.outputs * conv.kernel * conv.kernel * conv.channels);
      c.quick = asked.quick && conv.side == 32;
      c.prepare = [=] { return prepare(conv, asked); };
      group.add(std::move(c));
    }
}

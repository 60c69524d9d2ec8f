// Attention as transformers call it: queries, keys and values are parts of one matrix [B, T, 3 H D], so their rows are
// apart. Counted are the products: two forward, five for the gradients; with a causal mask only what it lets through.
#include <cmath>

#include "bench.h"

namespace {

using bench::Array;

struct Shape {
  const char* name;
  int64_t batch, heads, tokens, depth;
  bool causal;
};

struct Attention {
  Shape s;
  double scale;
  Array qkv, dy, y, lse, dq, dk, dv;

  explicit Attention(const Shape& shape)
      : s(shape),
        scale(1 / std::sqrt(static_cast<double>(shape.depth))),
        qkv(Array::integers({s.batch, s.tokens, 3, s.heads, s.depth}, 1)),
        dy(Array::integers({s.batch, s.tokens, s.heads, s.depth}, 2)),
        y({s.batch, s.tokens, s.heads, s.depth}),
        lse({s.batch, s.heads, s.tokens}),
        dq({s.batch, s.tokens, s.heads, s.depth}),
        dk({s.batch, s.tokens, s.heads, s.depth}),
        dv({s.batch, s.tokens, s.heads, s.depth}) {
    for (int64_t i = 0; i < qkv.count(); i++) qkv.f32()[i] *= 0.25f;
  }

  int64_t step() const { return s.heads * s.depth; }
  // q, k or v as [B, H, T, D].
  auxgrad::View part(int64_t which) const {
    auxgrad::View v;
    v.data = qkv.f32() + which * step();
    v.rank = 4;
    const int64_t shape[] = {s.batch, s.heads, s.tokens, s.depth};
    const int64_t stride[] = {3 * step() * s.tokens, s.depth, 3 * step(), 1};
    for (int axis = 0; axis < 4; axis++) {
      v.shape[axis] = shape[axis];
      v.stride[axis] = stride[axis];
    }
    return v;
  }
  double products() const {
    const double pairs = static_cast<double>(s.causal ? s.tokens * (s.tokens + 1) / 2 : s.tokens * s.tokens);
    return 2.0 * static_cast<double>(s.batch * s.heads * s.depth) * pairs;
  }
  bench::KernelCall forward() const {
    return bench::KernelCall("attention", {part(0), part(1), part(2), bench::absent(), bench::absent()},
                             {y.view(), lse.view()}, {scale, s.causal ? 1.0 : 0.0, 0, 0});
  }
  bench::KernelCall gradient() const {
    return bench::KernelCall(
        "attention_grad",
        {dy.view(), part(0), part(1), part(2), bench::absent(), bench::absent(), y.view(), lse.view()},
        {dq.view(), dk.view(), dv.view()}, {scale, s.causal ? 1.0 : 0.0, 0, 0});
  }

  // Rows of the last head of the last sample.
  const float* row(const Array& a, int64_t t) const {
    return a.f32() + ((s.batch - 1) * s.tokens + t) * step() + (s.heads - 1) * s.depth;
  }
  const float* row(int64_t which, int64_t t) const {
    return qkv.f32() + (((s.batch - 1) * s.tokens + t) * 3 + which) * step() + (s.heads - 1) * s.depth;
  }
  double dot(const float* a, const float* b) const {
    double sum = 0;
    for (int64_t d = 0; d < s.depth; d++) sum += double{a[d]} * b[d];
    return sum;
  }
  bool sees(int64_t t, int64_t j) const { return !s.causal || j <= t; }
  // The weights of row t, in double.
  std::vector<double> weights(int64_t t) const {
    std::vector<double> p(static_cast<size_t>(s.tokens));
    double sum = 0;
    for (int64_t j = 0; j < s.tokens; j++)
      if (sees(t, j)) sum += p[static_cast<size_t>(j)] = std::exp(scale * dot(row(0, t), row(1, j)));
    for (double& w : p) w /= sum;
    return p;
  }

  std::string check(bool gradients) const {
    const auto at = [](int64_t i) { return static_cast<size_t>(i); };
    std::vector<double> expected_y(at(s.tokens * s.depth)), q = expected_y, k = expected_y, v = expected_y;
    for (int64_t t = 0; t < s.tokens; t++) {
      const std::vector<double> p = weights(t);
      double delta = 0;
      for (int64_t j = 0; j < s.tokens; j++) delta += p[at(j)] * dot(row(dy, t), row(2, j));
      for (int64_t j = 0; j < s.tokens; j++) {
        const double ds = p[at(j)] * (dot(row(dy, t), row(2, j)) - delta) * scale;
        for (int64_t d = 0; d < s.depth; d++) {
          expected_y[at(t * s.depth + d)] += p[at(j)] * row(2, j)[d];
          q[at(t * s.depth + d)] += ds * row(1, j)[d];
          k[at(j * s.depth + d)] += ds * row(0, t)[d];
          v[at(j * s.depth + d)] += p[at(j)] * row(dy, t)[d];
        }
      }
    }
    const auto wrong = [&](const Array& a, const std::vector<double>& expected) {
      for (int64_t t = 0; t < s.tokens; t++)
        for (int64_t d = 0; d < s.depth; d++)
          if (!(std::abs(row(a, t)[d] - expected[at(t * s.depth + d)]) < 1e-4)) return true;
      return false;
    };
    if (!gradients) return wrong(y, expected_y) ? "the result is wrong" : "";
    if (wrong(dq, q)) return "the gradient of the queries is wrong";
    if (wrong(dk, k)) return "the gradient of the keys is wrong";
    return wrong(dv, v) ? "the gradient of the values is wrong" : "";
  }
};

}  // namespace

GROUP(attention, "attention") {
  // A small vision transformer, and a small language model.
  const Shape shapes[] = {{"16x3x197x64", 16, 3, 197, 64, false}, {"8x8x128x64 causal", 8, 8, 128, 64, true}};
  for (const Shape& s : shapes)
    for (const bool gradient : {false, true}) {
      bench::Case c;
      c.name = std::string(gradient ? "gradient " : "forward ") + s.name;
      c.flops = Attention(s).products() * (gradient ? 5 : 2);
      c.bytes = 4.0 * static_cast<double>(s.batch * s.heads * s.tokens * s.depth) * (gradient ? 8 : 4);
      c.quick = true;
      c.prepare = [=] {
        const auto a = std::make_shared<Attention>(s);
        a->forward().run();
        const auto call = std::make_shared<bench::KernelCall>(gradient ? a->gradient() : a->forward());
        bench::Prepared p;
        p.contenders.push_back({"auxgrad", [=] { call->run(); }, [=] { return a->check(gradient); }});
        return p;
      };
      group.add(std::move(c));
    }
}

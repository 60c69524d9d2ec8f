#include "harness.h"

using test::Array;

namespace {

struct Shape {
  int64_t batch, heads, rows, keys, depth, width;
  bool causal;
};

// Attention and its gradients by definition, in double, for one head.
struct Reference {
  const Shape& s;
  const float *q, *k, *v, *dy;
  std::vector<double> p, y, dq, dk, dv, lse;

  Reference(const Shape& shape, const float* q_, const float* k_, const float* v_, const float* dy_, double scale)
      : s(shape), q(q_), k(k_), v(v_), dy(dy_) {
    const auto at = [](int64_t n) { return std::vector<double>(static_cast<size_t>(n)); };
    p = at(s.rows * s.keys), y = at(s.rows * s.width), dq = at(s.rows * s.depth), dk = at(s.keys * s.depth),
    dv = at(s.keys * s.width), lse = at(s.rows);
    for (int64_t t = 0; t < s.rows; t++) {
      const int64_t seen = s.causal ? std::min(s.keys, t + 1) : s.keys;
      std::vector<double> score(static_cast<size_t>(seen));
      double top = -INFINITY, sum = 0, delta = 0;
      for (int64_t j = 0; j < seen; j++) {
        double dot = 0;
        for (int64_t d = 0; d < s.depth; d++) dot += static_cast<double>(q[t * s.depth + d]) * k[j * s.depth + d];
        score[static_cast<size_t>(j)] = dot * scale;
        top = std::max(top, dot * scale);
      }
      for (double x : score) sum += std::exp(x - top);
      lse[static_cast<size_t>(t)] = top + std::log(sum);
      std::vector<double> dp(static_cast<size_t>(seen));
      for (int64_t j = 0; j < seen; j++) {
        const double weight = std::exp(score[static_cast<size_t>(j)] - top) / sum;
        p[static_cast<size_t>(t * s.keys + j)] = weight;
        for (int64_t e = 0; e < s.width; e++) {
          y[static_cast<size_t>(t * s.width + e)] += weight * v[j * s.width + e];
          dv[static_cast<size_t>(j * s.width + e)] += weight * dy[t * s.width + e];
          dp[static_cast<size_t>(j)] += static_cast<double>(dy[t * s.width + e]) * v[j * s.width + e];
        }
        delta += weight * dp[static_cast<size_t>(j)];
      }
      for (int64_t j = 0; j < seen; j++) {
        const double ds = p[static_cast<size_t>(t * s.keys + j)] * (dp[static_cast<size_t>(j)] - delta) * scale;
        for (int64_t d = 0; d < s.depth; d++) {
          dq[static_cast<size_t>(t * s.depth + d)] += ds * k[j * s.depth + d];
          dk[static_cast<size_t>(j * s.depth + d)] += ds * q[t * s.depth + d];
        }
      }
    }
  }
};

// Rows of one head out of [B, T, H, D].
double head_error(Array& a, const std::vector<double>& expected, int64_t b, int64_t h, int64_t heads, int64_t rows,
                  int64_t width) {
  std::vector<float> head;
  for (int64_t t = 0; t < rows; t++)
    for (int64_t d = 0; d < width; d++) head.push_back(a[((b * rows + t) * heads + h) * width + d]);
  return test::relative_error(head.data(), expected.data(), rows * width);
}

}  // namespace

TEST(attention_and_its_gradients_match_the_definition) {
  test::each_isa([] {
    for (const Shape& s : {Shape{1, 1, 1, 1, 1, 1, false},
                           {2, 3, 61, 131, 17, 9, false},
                           {1, 2, 200, 200, 32, 32, true},
                           {1, 2, 65, 10, 8, 8, true},
                           {1, 1, 10, 150, 64, 64, true}}) {
      Array q = Array::normal({s.batch, s.heads, s.rows, s.depth}, 1),
            k = Array::normal({s.batch, s.heads, s.keys, s.depth}, 2);
      Array v = Array::normal({s.batch, s.heads, s.keys, s.width}, 3),
            dy = Array::normal({s.batch, s.heads, s.rows, s.width}, 4);
      Array y = Array::f32({s.batch, s.rows, s.heads, s.width}), lse = Array::f32({s.batch, s.heads, s.rows});
      Array dq = Array::f32({s.batch, s.rows, s.heads, s.depth}), dk = Array::f32({s.batch, s.keys, s.heads, s.depth}),
            dv = Array::f32({s.batch, s.keys, s.heads, s.width});
      const double scale = 0.3;
      const std::vector<double> numbers = {scale, s.causal ? 1.0 : 0.0, 0, 0};
      test::call("attention", {q.view(), k.view(), v.view(), test::absent(), test::absent()}, {y.view(), lse.view()},
                 numbers);
      test::call("attention_grad",
                 {test::permuted(dy.view(), {0, 2, 1, 3}), q.view(), k.view(), v.view(), test::absent(), test::absent(),
                  y.view(), lse.view()},
                 {dq.view(), dk.view(), dv.view()}, numbers);
      for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
          const int64_t i = b * s.heads + h;
          const Reference r(s, &q[i * s.rows * s.depth], &k[i * s.keys * s.depth], &v[i * s.keys * s.width],
                            &dy[i * s.rows * s.width], scale);
          CHECK(head_error(y, r.y, b, h, s.heads, s.rows, s.width) < 2e-6);
          CHECK(test::relative_error(&lse[i * s.rows], r.lse.data(), s.rows) < 1e-6);
          CHECK(head_error(dq, r.dq, b, h, s.heads, s.rows, s.depth) < 4e-6 || s.keys == 1);
          CHECK(head_error(dk, r.dk, b, h, s.heads, s.keys, s.depth) < 4e-6 || s.keys == 1);
          CHECK(head_error(dv, r.dv, b, h, s.heads, s.keys, s.width) < 4e-6);
        }
      CHECK(y.guards_intact() && lse.guards_intact() && dq.guards_intact() && dk.guards_intact() && dv.guards_intact());
    }
  });
}

TEST(attention_scratch_does_not_grow_with_the_sequence) {
  const auxgrad::Kernel* kernel = auxgrad::find_kernel("attention");
  const auto scratch = [&](int64_t length) {
    auxgrad::View x;
    x.rank = 4;
    const int64_t shape[4] = {1, 1, length, 64};
    for (int a = 0; a < 4; a++) x.shape[a] = shape[a];
    const auxgrad::View in[5] = {x, x, x, {}, {}};
    const double numbers[4] = {1, 0, 0, 0};
    auxgrad::Call c;
    c.in = in;
    c.n_in = 5;
    c.number = numbers;
    c.n_number = 4;
    return kernel->scratch(c, 2);
  };
  CHECK(scratch(1 << 14) == scratch(1 << 8));
}

#include "core/philox.h"
#include "harness.h"

using test::Array;

namespace {

struct Shape {
  int64_t batch, heads, rows, keys, depth, width;
  bool causal;
};

// Attention and its gradients by definition, in double, for one head. added(t, s) goes to a score, kept(t, s) is what
// dropout makes of a weight.
double nothing(int64_t, int64_t) { return 0; }
double all(int64_t, int64_t) { return 1; }
struct Reference {
  const Shape& s;
  const float *q, *k, *v, *dy;
  std::vector<double> p, y, dq, dk, dv, lse;

  template <class Added = decltype(nothing), class Kept = decltype(all)>
  Reference(const Shape& shape, const float* q_, const float* k_, const float* v_, const float* dy_, double scale,
            const Added& added = nothing, const Kept& kept = all)
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
        score[static_cast<size_t>(j)] = dot * scale + added(t, j);
        top = std::max(top, score[static_cast<size_t>(j)]);
      }
      if (top == -INFINITY) {  // no key takes part
        lse[static_cast<size_t>(t)] = -INFINITY;
        continue;
      }
      for (double x : score) sum += std::exp(x - top);
      lse[static_cast<size_t>(t)] = top + std::log(sum);
      std::vector<double> dp(static_cast<size_t>(seen));
      for (int64_t j = 0; j < seen; j++) {
        const double weight = std::exp(score[static_cast<size_t>(j)] - top) / sum, factor = kept(t, j);
        p[static_cast<size_t>(t * s.keys + j)] = weight;
        for (int64_t e = 0; e < s.width; e++) {
          y[static_cast<size_t>(t * s.width + e)] += weight * factor * v[j * s.width + e];
          dv[static_cast<size_t>(j * s.width + e)] += weight * factor * dy[t * s.width + e];
          dp[static_cast<size_t>(j)] += factor * dy[t * s.width + e] * v[j * s.width + e];
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
                           {1, 1, 10, 150, 64, 64, true},
                           // Around tiles of 8 rows or keys; heads whose successors are fetched meanwhile.
                           {1, 2, 7, 9, 16, 3, true},
                           {2, 2, 17, 15, 33, 20, true},
                           {1, 3, 33, 49, 3, 80, true},
                           {1, 5, 128, 128, 64, 64, true},
                           // Several blocks of keys, of query rows, and tasks a head.
                           {1, 2, 241, 523, 12, 7, false},
                           {2, 1, 523, 523, 16, 33, true},
                           {1, 1, 541, 290, 5, 16, true},
                           {1, 1, 290, 601, 8, 8, true},
                           // Few queries: of one block of keys, of several.
                           {1, 2, 1, 64, 32, 16, false},
                           {2, 3, 1, 333, 64, 64, false},
                           {1, 1, 5, 130, 45, 33, false},
                           {1, 2, 8, 257, 33, 48, false}}) {
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
    }
  });
}

// Masks of both kinds, one row of which leaves no key; dropout; heads wider than a tile of any kernel.
TEST(attention_with_masks_and_dropout) {
  test::each_isa([] {
    for (const Shape& s : {Shape{2, 2, 37, 70, 20, 12, false},
                           {1, 3, 70, 70, 80, 150, true},
                           {1, 1, 130, 301, 16, 11, true},
                           {2, 2, 7, 201, 36, 64, false}})
      for (const int kind : {0, 1, 2}) {  // of the mask: none, bool, f32
        Array q = Array::normal({s.batch, s.heads, s.rows, s.depth}, 1),
              k = Array::normal({s.batch, s.heads, s.keys, s.depth}, 2);
        Array v = Array::normal({s.batch, s.heads, s.keys, s.width}, 3),
              dy = Array::normal({s.batch, s.heads, s.rows, s.width}, 4);
        // One mask for all heads.
        Array number = Array::normal({s.batch, s.rows, s.keys}, 5), key(auxgrad::DType::i32, {4});
        Array truth(auxgrad::DType::boolean, {s.batch, s.rows, s.keys});
        for (int64_t i = 0; i < number.count(); i++) {
          truth.u8()[i] = number[i] > -1 && i / s.keys % s.rows != 5;
          if (i / s.keys % s.rows == 5 || number[i] < -1) number[i] = -INFINITY;
        }
        for (int i = 0; i < 4; i++) key.i32()[i] = 77 * i + 5;
        auxgrad::View mask = kind == 1 ? truth.view() : kind == 2 ? number.view() : test::absent();
        if (kind) {
          mask.rank = 4;
          mask.shape[1] = s.heads, mask.shape[2] = s.rows, mask.shape[3] = s.keys;
          mask.stride[1] = 0, mask.stride[2] = s.keys, mask.stride[3] = 1;
        }
        Array y = Array::f32({s.batch, s.rows, s.heads, s.width}), lse = Array::f32({s.batch, s.heads, s.rows});
        Array dq = Array::f32({s.batch, s.rows, s.heads, s.depth}),
              dk = Array::f32({s.batch, s.keys, s.heads, s.depth}),
              dv = Array::f32({s.batch, s.keys, s.heads, s.width});
        const double scale = 0.2, dropout = kind == 1 ? 0 : 0.25;
        const std::vector<double> numbers = {scale, s.causal ? 1.0 : 0.0, dropout, 3};
        const auxgrad::View keys = dropout > 0 ? key.view() : test::absent();
        test::call("attention", {q.view(), k.view(), v.view(), mask, keys}, {y.view(), lse.view()}, numbers);
        test::call(
            "attention_grad",
            {test::permuted(dy.view(), {0, 2, 1, 3}), q.view(), k.view(), v.view(), mask, keys, y.view(), lse.view()},
            {dq.view(), dk.view(), dv.view()}, numbers);
        for (int64_t b = 0; b < s.batch; b++)
          for (int64_t h = 0; h < s.heads; h++) {
            const int64_t i = b * s.heads + h;
            const auto added = [&](int64_t t, int64_t j) {
              const int64_t at = (b * s.rows + t) * s.keys + j;
              return kind == 1 ? (truth.u8()[at] ? 0 : -INFINITY) : kind == 2 ? double(number[at]) : 0;
            };
            const auto kept = [&](int64_t t, int64_t j) {
              if (dropout == 0) return 1.0;
              const int64_t at = (i * s.rows + t) * s.keys + j;
              const auto word = [&](int n) { return static_cast<uint32_t>(key.i32()[n]); };
              const uint32_t counter[4] = {static_cast<uint32_t>(at / 4), 3, word(2), word(3)};
              uint32_t words[4];
              auxgrad::Philox{{word(0), word(1)}, auxgrad::kNoiseRounds}(counter, words);
              return auxgrad::uniform_from_bits(words[at % 4]) >= dropout ? 1 / (1 - dropout) : 0;
            };
            const Reference r(s, &q[i * s.rows * s.depth], &k[i * s.keys * s.depth], &v[i * s.keys * s.width],
                              &dy[i * s.rows * s.width], scale, added, kept);
            CHECK(head_error(y, r.y, b, h, s.heads, s.rows, s.width) < 2e-6);
            CHECK(head_error(dq, r.dq, b, h, s.heads, s.rows, s.depth) < 4e-6);
            CHECK(head_error(dk, r.dk, b, h, s.heads, s.keys, s.depth) < 4e-6);
            CHECK(head_error(dv, r.dv, b, h, s.heads, s.keys, s.width) < 4e-6);
            for (int64_t t = 0; t < s.rows; t++) {
              const float got = lse[i * s.rows + t];
              const double expected = r.lse[static_cast<size_t>(t)];
              if (expected == -INFINITY) CHECK(got == -INFINITY);
              else CHECK_NEAR(got, expected, 1e-6 * std::fabs(expected) + 1e-6);
            }
          }
      }
  });
}

TEST(attention_without_rows_or_keys) {
  if (test::device()) return;
  test::each_isa([] {
    for (const bool causal : {false, true})
      for (const Shape& s : {Shape{1, 2, 3, 0, 4, 5, causal}, {1, 2, 0, 3, 4, 5, causal}}) {
        Array q = Array::normal({1, 2, s.rows, 4}, 1), k = Array::normal({1, 2, s.keys, 4}, 2);
        Array v = Array::normal({1, 2, s.keys, 5}, 3), dy = Array::normal({1, s.rows, 2, 5}, 4);
        Array y = Array::f32({1, s.rows, 2, 5}), lse = Array::f32({1, 2, s.rows});
        Array dq = Array::f32({1, s.rows, 2, 4}), dk = Array::f32({1, s.keys, 2, 4}),
              dv = Array::f32({1, s.keys, 2, 5});
        const std::vector<double> numbers = {0.5, causal ? 1.0 : 0.0, 0, 0};
        test::call("attention", {q.view(), k.view(), v.view(), test::absent(), test::absent()}, {y.view(), lse.view()},
                   numbers);
        test::call("attention_grad",
                   {dy.view(), q.view(), k.view(), v.view(), test::absent(), test::absent(), y.view(), lse.view()},
                   {dq.view(), dk.view(), dv.view()}, numbers);
        for (Array* a : {&y, &dq, &dk, &dv})
          for (int64_t i = 0; i < a->count(); i++) CHECK((*a)[i] == 0);
        for (int64_t i = 0; i < lse.count(); i++) CHECK(lse[i] == -INFINITY);
      }
  });
}

TEST(attention_gives_the_same_bits_for_any_number_of_threads) {
  if (test::device()) return;
  test::each_isa([] {
    for (int part = 0; part < 4; part++) {
      const bool causal = part & 1;
      const int64_t rows = part & 2 ? 300 : 4;
      Array q = Array::normal({1, 1, rows, 40}, 1), k = Array::normal({1, 1, 400, 40}, 2);
      Array v = Array::normal({1, 1, 400, 24}, 3), dy = Array::normal({1, rows, 1, 24}, 4);
      std::vector<float> first;
      for (const int threads : {1, 2, 7}) {
        auxgrad::set_threads(threads);
        Array y = Array::f32({1, rows, 1, 24}), lse = Array::f32({1, 1, rows});
        Array dq = Array::f32({1, rows, 1, 40}), dk = Array::f32({1, 400, 1, 40}), dv = Array::f32({1, 400, 1, 24});
        const std::vector<double> numbers = {0.5, causal ? 1.0 : 0.0, 0, 0};
        test::call("attention", {q.view(), k.view(), v.view(), test::absent(), test::absent()}, {y.view(), lse.view()},
                   numbers);
        test::call("attention_grad",
                   {dy.view(), q.view(), k.view(), v.view(), test::absent(), test::absent(), y.view(), lse.view()},
                   {dq.view(), dk.view(), dv.view()}, numbers);
        std::vector<float> all;
        for (Array* a : {&y, &lse, &dq, &dk, &dv}) all.insert(all.end(), a->f32(), a->f32() + a->count());
        if (first.empty()) first = all;
        CHECK(std::memcmp(first.data(), all.data(), all.size() * sizeof(float)) == 0);
      }
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

// Keys and values of heads side by side, as they are kept while a text is generated; most of them not there yet.
TEST(attention_of_a_query_to_positions_seen) {
  test::each_isa([] {
    const int64_t heads = 3, keys = 200, depth = 48, seen = 70;
    const Shape s = {1, heads, 1, keys, depth, depth, false};
    Array q = Array::normal({1, heads, 1, depth}, 1), k = Array::normal({1, keys, heads, depth}, 2);
    Array v = Array::normal({1, keys, heads, depth}, 3), dy = Array::normal({1, 1, heads, depth}, 4);
    Array mask = Array::f32({keys}), y = Array::f32({1, 1, heads, depth}), lse = Array::f32({1, heads, 1});
    for (int64_t j = 0; j < keys; j++) mask[j] = j < seen ? 0 : -INFINITY;
    auxgrad::View there = mask.view();
    there.rank = 4;
    for (int axis = 0; axis < 4; axis++) there.shape[axis] = 1, there.stride[axis] = 0;
    there.shape[1] = heads, there.shape[3] = keys, there.stride[3] = 1;
    test::call("attention",
               {q.view(), test::permuted(k.view(), {0, 2, 1, 3}), test::permuted(v.view(), {0, 2, 1, 3}), there,
                test::absent()},
               {y.view(), lse.view()}, {0.3, 0, 0, 0});
    for (int64_t h = 0; h < heads; h++) {
      std::vector<float> own_k, own_v;
      for (int64_t j = 0; j < keys; j++)
        for (int64_t d = 0; d < depth; d++) {
          own_k.push_back(k[(j * heads + h) * depth + d]);
          own_v.push_back(v[(j * heads + h) * depth + d]);
        }
      const Reference r(s, &q[h * depth], own_k.data(), own_v.data(), &dy[h * depth], 0.3,
                        [&](int64_t, int64_t j) { return j < seen ? 0 : -INFINITY; });
      CHECK(head_error(y, r.y, 0, h, heads, 1, depth) < 2e-6);
      CHECK_NEAR(lse[h], r.lse[0], 1e-6 * std::fabs(r.lse[0]) + 1e-6);
    }
    q[depth] = NAN;
    test::call("attention",
               {q.view(), test::permuted(k.view(), {0, 2, 1, 3}), test::permuted(v.view(), {0, 2, 1, 3}), there,
                test::absent()},
               {y.view(), lse.view()}, {0.3, 0, 0, 0});
    for (int64_t i = 0; i < heads * depth; i++) CHECK(std::isnan(y[i]) == (i / depth == 1));
    CHECK(std::isnan(lse[1]) && !std::isnan(lse[0]));
  });
}

TEST(attention_scratch_does_not_grow_with_the_sequence) {
  const auto scratch = [&](bool gradient, int64_t length) {
    auxgrad::View x;
    x.rank = 4;
    const int64_t shape[4] = {1, 1, length, 64};
    for (int a = 0; a < 4; a++) x.shape[a] = shape[a];
    const auxgrad::View in[6] = {x, x, x, gradient ? x : auxgrad::View{}, {}, {}};
    const double numbers[4] = {1, 0, 0, 0};
    auxgrad::Call c;
    c.in = in;
    c.n_in = gradient ? 6 : 5;
    c.number = numbers;
    c.n_number = 4;
    return auxgrad::find_kernel(gradient ? "attention_grad" : "attention")->scratch(c, 2);
  };
  for (const bool gradient : {false, true}) CHECK(scratch(gradient, 1 << 14) == scratch(gradient, 1 << 8));
}

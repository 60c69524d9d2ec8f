// Connectionist temporal classification against its recursion in float64, and its gradient against differences.
#include <algorithm>
#include <array>
#include <random>

#include "harness.h"

namespace {

struct Sample {
  std::vector<double> x;  // [frames, classes]
  std::vector<int32_t> labels;
  int64_t frames, classes, blank;
};

// The published recursion, by probabilities scaled at each frame.
double loss_of(const Sample& s) {
  const size_t n = 2 * s.labels.size() + 1;
  const auto label = [&](size_t k) { return k % 2 ? s.labels[k / 2] : s.blank; };
  std::vector<double> a(n), b(n);
  double log_scale = 0;
  if (s.frames == 0) return s.labels.empty() ? 0 : INFINITY;
  for (int64_t t = 0; t < s.frames; t++) {
    double sum = 0;
    for (size_t k = 0; k < n; k++) {
      double p = t == 0 ? double(k < 2) : a[k];
      if (t > 0 && k > 0) p += a[k - 1];
      if (t > 0 && k > 1 && k % 2 && label(k) != label(k - 2)) p += a[k - 2];
      b[k] = p * std::exp(s.x[size_t(t * s.classes + label(k))]);
      sum += b[k];
    }
    if (sum == 0) return INFINITY;
    for (double& p : b) p /= sum;
    log_scale += std::log(sum);
    std::swap(a, b);
  }
  return -std::log(a[n - 1] + (n > 1 ? a[n - 2] : 0)) - log_scale;
}

}  // namespace

// Not among the CUDA kernels yet.
TEST(ctc_and_gradient) {
  if (test::device()) return;
  test::each_isa([] {
    std::mt19937 random(7);
    for (auto [rows, frames, classes, length] : {std::array<int64_t, 4>{0, 3, 4, 1},
                                                 {3, 0, 2, 1},
                                                 {4, 5, 3, 0},
                                                 {2, 1, 2, 1},
                                                 {5, 7, 4, 3},
                                                 {3, 40, 29, 11},
                                                 {2, 64, 7, 33},
                                                 {1, 300, 11, 64}})
      for (int variant = 0; variant < 4; variant++) {
        const bool given = variant & 1, zero = variant & 2;
        test::Array x = test::Array::normal({rows, frames, classes}, 1, 3), up = test::Array::normal({rows}, 2),
                    loss = test::Array::f32({rows}), grad = test::Array::f32({rows, frames, classes});
        test::Array labels(auxgrad::DType::i32, {rows, length}), inputs(auxgrad::DType::i32, {rows}),
            targets(auxgrad::DType::i32, {rows});
        const int64_t blank = classes - 1;
        for (int64_t i = 0; i < rows * length; i++) labels.i32()[i] = int32_t(random() % uint32_t(classes - 1));
        std::vector<Sample> samples;
        for (int64_t i = 0; i < rows; i++) {
          inputs.i32()[i] = int32_t(frames - (i % 3 == 1 && frames > 2 ? 2 : 0));
          targets.i32()[i] = int32_t(i % 2 ? length / 2 : length);
          const int64_t t = given ? inputs.i32()[i] : frames, n = given ? targets.i32()[i] : length;
          const float* from = x.f32() + i * frames * classes;
          const int32_t* text = labels.i32() + i * length;
          samples.push_back({{from, from + t * classes}, {text, text + n}, t, classes, blank});
        }
        const std::vector<auxgrad::View> in = {x.view(), labels.view(), given ? inputs.view() : test::absent(),
                                               given ? targets.view() : test::absent()};
        test::call("ctc", in, {loss.view()}, {double(blank), double(zero)});
        std::vector<auxgrad::View> back = {up.view()};
        back.insert(back.end(), in.begin(), in.end());
        test::call("ctc_grad", back, {grad.view()}, {double(blank), double(zero)});
        for (int64_t i = 0; i < rows; i++) {
          Sample& s = samples[size_t(i)];
          const double expected = loss_of(s);
          const float* g = grad.f32() + i * frames * classes;
          if (expected == INFINITY) {
            CHECK(zero ? loss[i] == 0 : loss[i] == INFINITY);
            for (int64_t k = 0; k < frames * classes; k++)
              CHECK(!zero && k < s.frames * classes ? std::isnan(g[k]) : g[k] == 0);
            continue;
          }
          CHECK_NEAR(loss[i], expected, 1e-5 + 1e-6 * std::fabs(expected));
          for (int64_t t = 0; t < frames; t++) {
            double sum = 0;  // each frame says one thing
            for (int64_t c = 0; c < classes; c++) sum += g[t * classes + c];
            CHECK_NEAR(sum, t < s.frames ? -double(up[i]) : 0, 2e-4 * std::fabs(up[i]));
          }
          for (int k = 0; k < 20 && s.frames > 0; k++) {
            const size_t at = random() % s.x.size();
            const double h = 1e-4, v = s.x[at];
            s.x[at] = v + h;
            const double high = loss_of(s);
            s.x[at] = v - h;
            const double slope = (high - loss_of(s)) / (2 * h);
            s.x[at] = v;
            CHECK_NEAR(g[at], up[i] * slope, 1e-4 * (1 + std::fabs(up[i])));
          }
        }
      }
  });
}

TEST(ctc_of_zero_probabilities_and_nan) {
  if (test::device()) return;
  test::each_isa([] {
    test::Array x = test::Array::f32({2, 3, 3}), labels(auxgrad::DType::i32, {2, 1}), loss = test::Array::f32({2});
    for (int64_t i = 0; i < 18; i++) x[i] = std::log(1.0f / 3);
    labels.i32()[0] = labels.i32()[1] = 1;
    for (int64_t t = 0; t < 3; t++) x[t * 3] = -INFINITY;  // never a blank: the label at every frame
    x[9 + 4] = std::nanf("");
    test::call("ctc", {x.view(), labels.view(), test::absent(), test::absent()}, {loss.view()}, {0, 0});
    CHECK_NEAR(loss[0], 3 * std::log(3.0), 1e-6);
    CHECK(std::isnan(loss[1]));
    x[1] = -INFINITY;
    test::call("ctc", {x.view(), labels.view(), test::absent(), test::absent()}, {loss.view()}, {0, 0});
    CHECK(loss[0] == INFINITY);
  });
}

TEST(ctc_refuses_what_lies_outside) {
  if (test::device()) return;
  test::Array x = test::Array::normal({2, 3, 4}, 1), labels(auxgrad::DType::i32, {2, 2}), loss = test::Array::f32({2});
  test::Array lengths(auxgrad::DType::i32, {2});
  const auto message = [&](bool inputs, bool targets) {
    auxgrad::Failure failure;
    test::call(
        "ctc",
        {x.view(), labels.view(), inputs ? lengths.view() : test::absent(), targets ? lengths.view() : test::absent()},
        {loss.view()}, {0, 0}, &failure);
    return std::string(failure.message);
  };
  for (int i = 0; i < 4; i++) labels.i32()[i] = i;
  lengths.i32()[0] = 2;
  lengths.i32()[1] = 4;
  CHECK(message(true, false) == "ctc: input length 4 of row 1 is not in [0, 4)");
  CHECK(message(false, true) == "ctc: target length 4 of row 1 is not in [0, 3)");
  labels.i32()[3] = 4;
  CHECK(message(false, false) == "ctc: label 4 of row 1 is not in [0, 4)");
  labels.i32()[3] = -1;
  CHECK(message(false, false) == "ctc: label -1 of row 1 is not in [0, 4)");
}

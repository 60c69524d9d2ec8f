#include "convolution.h"
#include "harness.h"

namespace {

test::Array packed(test::Array& x, int64_t tokens, int64_t channels) {
  test::Array signs(auxgrad::DType::u32, {(tokens + 31) / 32, channels});
  test::call("sign_pack", {x.view()}, {signs.view()});
  return signs;
}

float sign_of(float x, int alphabet) { return x > 0 ? 1.0f : alphabet ? 0.0f : -1.0f; }

void check_linear(int64_t tokens, int64_t outputs, int64_t inputs, int alphabet) {
  test::Array x = test::Array::integers({tokens, inputs}, 1), delta = test::Array::normal({tokens, outputs}, 2);
  test::Array signs = packed(x, tokens, inputs), dw = test::Array::f32({outputs, inputs});
  test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()},
             {0.5, static_cast<double>(alphabet)});
  std::vector<double> expected;
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t i = 0; i < inputs; i++) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; t++)
        sum += 0.5 * delta[t * outputs + o] * static_cast<double>(sign_of(x[t * inputs + i], alphabet));
      expected.push_back(sum);
    }
  CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) <= 1e-6);
}

void check_conv(const test::SquareConvolution& layer, int alphabet) {
  const test::Convolution s = layer;
  test::Array x = test::Array::integers(s.x(), 1), dy = test::Array::integers(s.y(), 2);
  test::Array signs = packed(x, s.n * s.h * s.w, s.c), dw = test::Array::f32(s.weight());
  std::vector<double> numbers = s.numbers();
  numbers.insert(numbers.end(), {double(s.h), double(s.w), 1.0, double(alphabet)});
  test::call("conv2d_sign_weight_grad", {dy.view(), signs.view()}, {dw.view()}, numbers);
  std::vector<float> expected(static_cast<size_t>(dw.count()));  // exact: small integers
  test::each_product(
      s, [&](int64_t o, int64_t i, int64_t k) { expected[static_cast<size_t>(k)] += dy[o] * sign_of(x[i], alphabet); });
  for (int64_t k = 0; k < dw.count(); k++) CHECK(dw[k] == expected[static_cast<size_t>(k)]);
}

}  // namespace

TEST(linear_sign_weight_grad_equals_dense_signs) {
  test::each_isa([] {
    for (int alphabet : {0, 1}) {
      check_linear(1, 1, 1, alphabet);
      check_linear(131, 13, 37, alphabet);
      check_linear(96, 8, 16, alphabet);
      check_linear(0, 3, 5, alphabet);
      check_linear(3000, 9, 50, alphabet);
      check_linear(10000, 150, 20, alphabet);  // runs of tokens that take several turns
      check_linear(70, 66, 1100, alphabet);
    }
  });
}

// Few columns and many, in blocks of 16 that are summed one, two or four at a time; tokens that end anywhere in a word.
TEST(linear_sign_weight_grad_of_any_size) {
  test::each_isa([] {
    const int64_t tokens[] = {16, 31, 33, 64, 95, 127, 129, 385, 520}, outputs[] = {1, 4, 16, 17, 31, 40};
    int turn = 0;
    for (int64_t blocks = 1; blocks <= 13; blocks++)
      for (int64_t inputs : {blocks * 16, blocks * 16 - 5}) {
        check_linear(tokens[turn % 9], outputs[turn % 6], inputs, turn % 2);
        turn++;
      }
  });
}

TEST(conv2d_sign_weight_grad_equals_dense_signs) {
  test::each_isa([] {
    for (int alphabet : {0, 1}) {
      check_conv({2, 7, 7, 3, 5, 3, 1, 1, 1, 1}, alphabet);
      check_conv({2, 9, 8, 17, 10, 3, 2, 1, 1, 1}, alphabet);
      check_conv({2, 8, 9, 4, 6, 1, 1, 0, 1, 2}, alphabet);
      check_conv({2, 11, 11, 1, 70, 7, 2, 3, 1, 1}, alphabet);
      check_conv({1, 10, 35, 32, 20, 3, 1, 2, 2, 1}, alphabet);
      check_conv({3, 9, 7, 8, 4, 2, 3, 0, 1, 1}, alphabet);
      check_conv({2, 3, 3, 5, 2, 5, 1, 3, 1, 1}, alphabet);      // taps that see nothing but padding
      check_conv({2, 6, 6, 24, 48, 3, 1, 1, 1, 3}, alphabet);    // groups that share a vector of outputs
      check_conv({5, 10, 9, 70, 70, 3, 1, 1, 1, 70}, alphabet);  // depthwise
      check_conv({1, 14, 9, 6, 6, 5, 2, 2, 1, 6}, alphabet);
      check_conv({2, 5, 5, 6, 12, 3, 1, 1, 1, 6}, alphabet);
      check_conv({1, 6, 6, 130, 3, 3, 1, 1, 1, 1}, alphabet);    // more columns than are in place at a time
      check_conv({2, 21, 20, 18, 21, 3, 1, 1, 1, 1}, alphabet);  // several steps, each with padding
      check_conv({2, 33, 30, 5, 17, 3, 2, 1, 1, 1}, alphabet);
    }
  });
}

TEST(signs_of_zero_and_nan_are_not_set) {
  test::each_isa([] {
    test::Array x = test::Array::f32({4, 1});
    x[0] = 0.0f, x[1] = -0.0f, x[2] = NAN, x[3] = 1.0f;
    test::Array signs = packed(x, 4, 1);
    CHECK(signs.u32()[0] == 8u);
  });
}

// Rows are read one by one or some together, as their length says.
TEST(sign_pack_of_any_shape) {
  test::each_isa([] {
    const int64_t shapes[][2] = {{1, 1}, {0, 5}, {33, 17}, {100, 64}, {31, 131}, {64, 2048}, {43, 2053}, {7, 3001}};
    for (const auto& [tokens, channels] : shapes) {
      test::Array x = test::Array::integers({tokens, channels}, 1);
      test::Array signs = packed(x, tokens, channels);
      bool right = true;
      for (int64_t i = 0; i < signs.count(); i++)
        for (int64_t bit = 0; bit < 32; bit++) {
          const int64_t t = i / channels * 32 + bit;
          right &= (signs.u32()[i] >> bit & 1) == (t < tokens && x[t * channels + i % channels] > 0);
        }
      CHECK(right);
    }
  });
}

// Each bit adds the delta of its own token, in whichever number of a table it is looked up.
TEST(each_sign_adds_its_own_delta) {
  test::each_isa([] {
    const int64_t tokens = 151, outputs = 18;
    for (int64_t inputs : {33, 64, 151})
      for (int alphabet : {0, 1}) {
        test::Array x = test::Array::f32({tokens, inputs}), delta = test::Array::f32({tokens, outputs});
        std::vector<float> all(static_cast<size_t>(outputs));
        for (int64_t t = 0; t < tokens; t++) {
          for (int64_t i = 0; i < inputs; i++) x[t * inputs + i] = t % inputs == i ? 1.0f : -1.0f;
          for (int64_t o = 0; o < outputs; o++)
            all[static_cast<size_t>(o)] += delta[t * outputs + o] = static_cast<float>(t * t + 3 * o);
        }
        test::Array signs = packed(x, tokens, inputs), dw = test::Array::f32({outputs, inputs});
        test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()},
                   {1, static_cast<double>(alphabet)});
        for (int64_t o = 0; o < outputs; o++)
          for (int64_t i = 0; i < inputs; i++) {
            float sum = 0;  // exact: integers
            for (int64_t t = i; t < tokens; t += inputs) sum += delta[t * outputs + o];
            CHECK(dw[o * inputs + i] == (alphabet == 1 ? sum : 2 * sum - all[static_cast<size_t>(o)]));
          }
      }
  });
}

// Deltas all alike or of very different sizes are no worse than others.
TEST(linear_sign_weight_grad_is_accurate) {
  test::each_isa([] {
    for (int kind = 0; kind < 5; kind++) {
      const int64_t T = 2100, O = 20, I = 33;
      test::Array x = test::Array::normal({T, I}, 1), delta = test::Array::normal({T, O}, 2);
      for (int64_t i = 0; i < delta.count(); i++) {
        if (kind == 0) delta[i] = 0.1f + 0.01f * static_cast<float>(i % 7);
        if (kind == 1) delta[i] *= std::exp2(static_cast<float>(i % 41 - 20));
        if (kind == 2) delta[i] *= 1e-36f;
        if (kind == 3) delta[i] = i / O % 300 == 0 ? 1.0f : delta[i] * 1e-3f;  // few are all that counts
        if (kind == 4) delta[i] = std::copysign(0x1.fffffep0f, delta[i]);      // no room to round up
      }
      test::Array signs = packed(x, T, I), dw = test::Array::f32({O, I});
      test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()}, {1, 0});
      std::vector<double> expected;
      for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++) {
          double sum = 0;
          for (int64_t t = 0; t < T; t++)
            sum += static_cast<double>(delta[t * O + o]) * static_cast<double>(sign_of(x[t * I + i], 0));
          expected.push_back(sum);
        }
      CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) <= 1e-6);
    }
  });
}

// What is not finite in the deltas of an output channel shows in its gradient, and nowhere else.
TEST(linear_sign_weight_grad_passes_on_what_is_not_finite) {
  test::each_isa([] {
    for (float bad : {INFINITY, -INFINITY, NAN}) {
      test::Array x = test::Array::integers({40, 17}, 1), delta = test::Array::integers({40, 3}, 2);
      delta[7 * 3 + 1] = bad;
      test::Array signs = packed(x, 40, 17), dw = test::Array::f32({3, 17});
      test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()}, {1, 0});
      for (int i = 0; i < 17; i++)
        CHECK(std::isfinite(dw[i]) && !std::isfinite(dw[17 + i]) && std::isfinite(dw[34 + i]));
    }
  });
}

// A channel that is nowhere above zero has no gradient at all: what rounding would leave, an optimizer could make much of.
TEST(linear_sign_weight_grad_of_no_set_bit_is_zero) {
  test::each_isa([] {
    for (int64_t inputs : {5, 40, 150}) {
      const int64_t tokens = 1000, outputs = 19;
      test::Array x = test::Array::normal({tokens, inputs}, 1), delta = test::Array::normal({tokens, outputs}, 2);
      for (int64_t t = 0; t < tokens; t++) x[t * inputs + 3] = -1.0f;
      test::Array signs = packed(x, tokens, inputs), dw = test::Array::f32({outputs, inputs});
      test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()}, {1, 1});
      for (int64_t o = 0; o < outputs; o++) CHECK(dw[o * inputs + 3] == 0 && dw[o * inputs + 4] != 0);
    }
  });
}

// One block of columns and several, tokens in runs and in passes; codes in a place of each thread, and shared.
TEST(linear_sign_weight_grad_does_not_depend_on_threads) {
  test::each_isa([] {
    const int64_t shapes[][3] = {{9000, 40, 70}, {2500, 72, 530}, {700, 20, 1100}};
    for (const auto& [tokens, outputs, inputs] : shapes) {
      test::Array x = test::Array::normal({tokens, inputs}, 1), delta = test::Array::normal({tokens, outputs}, 2);
      test::Array signs = packed(x, tokens, inputs), first = test::Array::f32({outputs, inputs});
      for (int threads : {1, 2, 4, 5}) {
        auxgrad::set_threads(threads);
        test::Array dw = test::Array::f32({outputs, inputs});
        test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {threads == 1 ? first.view() : dw.view()},
                   {1, 0});
        if (threads > 1) CHECK(std::memcmp(first.data(), dw.data(), static_cast<size_t>(dw.count()) * 4) == 0);
      }
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

TEST(sign_weight_grads_do_not_depend_on_threads) {
  test::each_isa([] {
    test::Array x = test::Array::normal({2, 20, 20, 40}, 1), dy = test::Array::normal({2, 20, 20, 72}, 2);
    test::Array signs = packed(x, 800, 40), first = test::Array::f32({72, 3, 3, 40});
    for (int threads : {1, 2, 5}) {
      auxgrad::set_threads(threads);
      test::Array dw = test::Array::f32({72, 3, 3, 40});
      test::call("conv2d_sign_weight_grad", {dy.view(), signs.view()}, {threads == 1 ? first.view() : dw.view()},
                 {1, 1, 1, 1, 1, 1, 1, 20, 20, 1, 0});
      if (threads > 1) CHECK(std::memcmp(first.data(), dw.data(), static_cast<size_t>(dw.count()) * 4) == 0);
    }
    auxgrad::set_threads(auxgrad::default_threads());
  });
}

TEST(sign_weight_grad_refuses_words_that_do_not_fit) {
  test::Array delta = test::Array::integers({40, 3}, 1), dw = test::Array::f32({3, 5});
  test::Array signs(auxgrad::DType::u32, {1, 5});
  auxgrad::Failure failure;
  CHECK(!test::call("linear_sign_weight_grad", {delta.view(), signs.view()}, {dw.view()}, {1, 0}, &failure));
  CHECK(failure.code == auxgrad::ErrorCode::invalid_argument);
}

// Convolution against its definition in float64.
#include "convolution.h"
#include "core/parallel.h"
#include "harness.h"

namespace {

using test::each_product;
using Shape = test::Convolution;

int64_t words(int64_t tokens) { return (tokens + 31) / 32; }

// Checks bits of value(t, c) > 0, and that the bits beyond the last token are 0.
template <class F>
void check_bits(test::Array& bits, int64_t tokens, int64_t channels, const F& value) {
  for (int64_t t = 0; t < words(tokens) * 32; t++)
    for (int64_t c = 0; c < channels; c++) {
      const bool bit = bits.u32()[t / 32 * channels + c] >> (t % 32) & 1;
      CHECK(bit == (t < tokens && value(t * channels + c) > 0));
    }
}

// All three kernels on small integers: sums are exact, so every summation order gives the same bits.
void check_exact(const Shape& s, uint32_t seed) {
  test::Array x = test::Array::integers(s.x(), seed), w = test::Array::integers(s.weight(), seed + 1);
  test::Array bias = test::Array::integers({s.o}, seed + 2), dy = test::Array::integers(s.y(), seed + 3);
  test::Array y = test::Array::f32(s.y()), dx = test::Array::f32(s.x()), dw = test::Array::f32(s.weight());
  std::vector<double> y_(size_t(y.count())), dx_(size_t(dx.count())), dw_(size_t(dw.count()));
  each_product(s, [&](int64_t o, int64_t i, int64_t k) {
    y_[size_t(o)] += double(x[i]) * w[k];
    dx_[size_t(i)] += double(dy[o]) * w[k];
    dw_[size_t(k)] += double(dy[o]) * x[i];
  });
  std::vector<double> numbers = s.numbers(), forward = numbers;
  forward.insert(forward.end(), {0, 0, 0});
  test::call("conv2d", {x.view(), w.view(), bias.view()}, {y.view(), test::absent(), test::absent()}, forward);
  for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == y_[size_t(i)] + bias[i % s.o]);
  test::call("conv2d_input_grad", {dy.view(), w.view()}, {dx.view()}, numbers);
  for (int64_t i = 0; i < dx.count(); i++) CHECK(dx[i] == dx_[size_t(i)]);
  test::call("conv2d_weight_grad", {dy.view(), x.view()}, {dw.view()}, numbers);
  for (int64_t i = 0; i < dw.count(); i++) CHECK(dw[i] == dw_[size_t(i)]);
}

// The auxiliary, signs, relu and mask; epsilon a power of two keeps sums exact.
void check_auxiliary(const Shape& s, bool pm1, uint32_t seed) {
  test::Array x = test::Array::integers(s.x(), seed), w = test::Array::integers(s.weight(), seed + 1);
  for (int64_t i = 0; i < x.count(); i++)
    if (x[i] == 1) x[i] = -0.0f;
  test::Array y = test::Array::f32(s.y());
  test::Array signs(auxgrad::DType::u32, {words(s.n * s.h * s.w), s.c});
  test::Array mask(auxgrad::DType::u32, {words(s.n * s.p() * s.q()), s.o});
  std::vector<double> y_(size_t(y.count())), numbers = s.numbers();
  each_product(s, [&](int64_t o, int64_t i, int64_t k) {
    y_[size_t(o)] += (x[i] + 0.25 * (x[i] > 0 ? 1 : pm1 ? -1 : 0)) * w[k];
  });
  numbers.insert(numbers.end(), {0.25, pm1 ? 0.0 : 1.0, 1});
  test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), signs.view(), mask.view()}, numbers);
  for (int64_t i = 0; i < y.count(); i++) CHECK(y[i] == (y_[size_t(i)] > 0 ? y_[size_t(i)] : 0));
  check_bits(signs, s.n * s.h * s.w, s.c, [&](int64_t i) { return x[i]; });
  check_bits(mask, s.n * s.p() * s.q(), s.o, [&](int64_t i) { return y[i]; });
}

const Shape kShapes[] = {
    // n h w c o kh kw sh sw top left bottom right dh dw groups
    {2, 7, 7, 5, 9, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},       // pointwise, odd channels
    {3, 9, 11, 70, 33, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},    // pointwise, stride 2: phases without taps
    {2, 5, 5, 300, 70, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},    // several slices of channels
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},       //
    {2, 13, 17, 1, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // first layer of MNIST
    {1, 37, 41, 3, 20, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},    // stem
    {2, 14, 14, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   //
    {9, 4, 4, 96, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},     // several images a block
    {1, 33, 29, 17, 19, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},   //
    {2, 12, 10, 6, 8, 2, 3, 3, 2, 0, 1, 1, 2, 1, 1, 1},     // uneven everything
    {1, 15, 16, 7, 11, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2, 1},    // dilation
    {1, 17, 16, 4, 5, 3, 2, 2, 3, 3, 2, 2, 3, 3, 2, 1},     // dilation and stride
    {1, 3, 600, 40, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // columns in several blocks
    {2, 9, 9, 24, 36, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4},     // groups
    {2, 8, 8, 12, 12, 5, 5, 2, 2, 2, 2, 2, 2, 1, 1, 3},     //
    {2, 6, 7, 5, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 5},      // depth multiplier 2
    {2, 9, 13, 37, 37, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 37},   // depthwise
    {1, 15, 15, 16, 16, 5, 5, 2, 2, 2, 2, 2, 2, 1, 1, 16},  //
    // Depthwise, weight gradients in slabs of channels: neighbouring taps, any taps.
    {5, 7, 7, 445, 445, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 445},
    {2, 9, 8, 230, 230, 3, 4, 2, 1, 2, 3, 1, 0, 2, 2, 230},
    {3, 8, 9, 19, 19, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 19},    // pointwise
    {2, 11, 12, 21, 21, 3, 4, 2, 1, 2, 3, 1, 0, 2, 2, 21},  //
    {1, 2, 2, 3, 4, 3, 3, 1, 1, 2, 2, 2, 2, 1, 1, 1},       // more padding than image
    {1, 1, 1, 33, 65, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},     //
    {1, 5, 5, 2, 3, 1, 1, 1, 1, 1, 2, 0, 1, 1, 1, 1},       // padded pointwise
    {3, 7, 9, 2, 72, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},      // sums of two steps
    {3, 7, 9, 3, 72, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},      // three
    {3, 7, 9, 4, 72, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},      // four
    {1, 9, 9, 2, 200, 5, 1, 1, 4, 2, 0, 2, 0, 1, 1, 1},     //
    {2, 19, 23, 3, 24, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},    // input gradient to few channels
    {1, 9, 14, 1, 40, 5, 3, 3, 1, 2, 5, 1, 4, 2, 1, 1},     // the same, rows dilated, more padding than kernel
    {2, 9, 21, 2, 9, 2, 11, 1, 4, 0, 2, 1, 0, 1, 1, 1},     // the same, a wide kernel
    {0, 5, 5, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},       // no images: dw is zero
    {3, 5, 7, 1024, 40, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // positions 4 KiB apart
    {2, 17, 19, 32, 72, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // whole vectors of channels: packed tile by tile
    {1, 23, 13, 80, 33, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // the same, a ragged last panel
    {1, 5, 13, 256, 40, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // the same or not: rows of a tile fill the first cache
    {2, 9, 7, 512, 1024, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},  // the same, strided
    {2, 5, 1100, 5, 9, 1, 1, 3, 2, 0, 0, 0, 0, 1, 1, 1},    // a strided tap, columns in several blocks
    {2, 10, 9, 36, 40, 1, 1, 2, 3, 0, 0, 0, 0, 1, 1, 2},    // the same, groups
    {3, 6, 9, 24, 300, 1, 1, 1, 2, 0, 0, 2, 1, 1, 1, 1},    // the same, one axis, more positions than are read
    {2, 13, 37, 48, 40, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // pointwise, in several blocks of whole words
    {1, 21, 33, 272, 24, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},  // the same, fewer positions each
    {3, 11, 11, 128, 48, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 2},  // the same, groups
    // Enough channels for the matrix unit.
    {2, 17, 15, 48, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // channels no multiple of 32, lines no multiple of 16
    {2, 15, 16, 64, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   //
    {1, 33, 17, 40, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   //
    {1, 19, 18, 64, 48, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2, 1},   // dilation
    {2, 13, 14, 64, 32, 3, 3, 1, 1, 0, 2, 1, 0, 1, 1, 1},   // uneven padding
    {2, 20, 22, 64, 64, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1},   // stride 3
    {2, 33, 31, 64, 48, 3, 3, 2, 2, 3, 3, 3, 3, 3, 3, 1},   // dilation and stride
    {2, 16, 21, 64, 48, 3, 2, 1, 2, 1, 0, 1, 1, 1, 1, 1},   // one axis strided
    {2, 9, 24, 64, 48, 1, 7, 1, 1, 0, 3, 0, 3, 1, 1, 1},    // one row of taps
    {2, 24, 9, 64, 48, 5, 1, 2, 1, 2, 0, 2, 0, 1, 1, 1},    // one column of taps
    {2, 12, 13, 64, 96, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},   // groups
    {1, 3, 1030, 64, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  // columns in several blocks
    {3, 9, 9, 96, 80, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},     // one row of positions
    {2, 15, 15, 96, 64, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},   // pointwise, stride 2
    {33, 4, 4, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // many images a block
    {9, 7, 7, 64, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},     //
    {2, 7, 7, 256, 160, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // weights packed in several passes
    {2, 7, 7, 1056, 640, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},  //
    // Windows of few channels, unfolded for the matrix unit.
    {2, 33, 31, 3, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  // all rows of a window in one position
    {1, 37, 45, 3, 64, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},  // one row of a window in each
    {2, 21, 30, 4, 65, 4, 4, 2, 3, 2, 1, 1, 2, 1, 1, 1},  // two rows
    {1, 19, 40, 3, 48, 3, 3, 1, 1, 3, 4, 3, 4, 2, 1, 1},  // rows dilated, more padding than kernel
    {1, 26, 9, 2, 64, 6, 5, 3, 1, 4, 6, 4, 6, 2, 1, 1},   // wider than the image
    {1, 1, 200, 6, 64, 1, 5, 1, 1, 0, 2, 0, 2, 1, 1, 1},  // one row
};

// Sizes up to those given, of any stride, padding and dilation; of no outputs sometimes: see has_outputs().
Shape random_shape(std::mt19937& random, int64_t n, int64_t h, int64_t w, int64_t c, int64_t o) {
  const auto in = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
  Shape s;
  s.groups = in(0, 3) == 0 ? in(1, 4) : 1;
  s.n = in(1, n), s.h = in(1, h), s.w = in(1, w), s.c = s.groups * in(1, c), s.o = s.groups * in(1, o);
  s.kh = in(1, 4), s.kw = in(1, 4), s.sh = in(1, 3), s.sw = in(1, 3), s.dh = in(1, 2), s.dw = in(1, 2);
  s.top = in(0, 2), s.left = in(0, 2), s.bottom = in(0, 2), s.right = in(0, 2);
  return s;
}
bool has_outputs(const Shape& s) {
  return s.h + s.top + s.bottom >= s.dh * (s.kh - 1) + 1 && s.w + s.left + s.right >= s.dw * (s.kw - 1) + 1;
}

std::vector<uint8_t> bytes_of(test::Array& a) { return {a.data(), a.data() + a.count() * 4}; }

}  // namespace

TEST(conv2d_exact_on_integers) {
  test::each_isa([] {
    uint32_t seed = 1;
    for (const Shape& s : kShapes) check_exact(s, seed += 10);
  });
}

TEST(conv2d_exact_on_random_shapes) {
  test::each_isa([] {
    std::mt19937 random(7);
    for (int i = 0; i < 60; i++) {
      Shape s = random_shape(random, 3, 20, 20, 40, 70);
      if (i % 4 == 0) s.kh = s.kw = 1, s.top = s.left = 0;
      if (!has_outputs(s)) continue;
      check_exact(s, uint32_t(1000 + i));
      check_auxiliary(s, i % 2 == 0, uint32_t(2000 + i));
    }
  });
}

// Minimal filtering at stride 1 and 2: odd and even sizes, so that patches lack outputs, and several blocks and slices.
TEST(conv2d_of_random_patches) {
  test::each_isa([] {
    std::mt19937 random(17);
    const auto in = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
    for (int i = 0; i < 24; i++) {
      Shape s;
      s.groups = s.dh = s.dw = 1;
      s.kh = s.kw = 3;
      s.sh = s.sw = in(1, 2);
      s.top = in(0, 2), s.left = in(0, 2), s.bottom = in(0, 2), s.right = in(0, 2);
      s.h = in(9, 34), s.w = in(9, 34), s.c = in(32, 150), s.o = in(32, 70);
      s.n = 1 + 400 / (s.p() * s.q());
      check_exact(s, uint32_t(8000 + i));
      check_auxiliary(s, i % 2 == 0, uint32_t(8100 + i));
      if (i % 4) continue;
      test::Array x = test::Array::normal(s.x(), uint32_t(i)), w = test::Array::normal(s.weight(), uint32_t(i + 1));
      test::Array y = test::Array::f32(s.y());
      std::vector<double> y_(size_t(y.count())), numbers = s.numbers();
      each_product(s, [&](int64_t o, int64_t i, int64_t k) { y_[size_t(o)] += double(x[i]) * w[k]; });
      numbers.insert(numbers.end(), {0, 0, 0});
      test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), test::absent()}, numbers);
      CHECK(test::relative_error(y.f32(), y_.data(), y.count()) < 1e-6);
    }
  });
}

// Input gradients at stride 2 with odd padding, all phases by minimal filtering: patches that lack outputs, channels in
// several slices and ragged panels.
TEST(conv2d_input_grad_of_random_patches) {
  test::each_isa([] {
    std::mt19937 random(19);
    const auto in = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
    for (int i = 0; i < 16; i++) {
      Shape s;
      s.groups = s.dh = s.dw = 1;
      s.kh = s.kw = 3;
      s.sh = s.sw = 2;
      s.top = 1 + 2 * (i % 5 == 0), s.left = 1 + 2 * (i % 7 == 0), s.bottom = in(0, 3), s.right = in(0, 3);
      s.h = in(7, 34), s.w = in(7, 34), s.c = in(32, 70), s.o = in(32, 150);
      s.n = 1 + 200 / (s.p() * s.q());
      const bool exact = i % 4 != 0;
      test::Array dy = exact ? test::Array::integers(s.y(), uint32_t(i)) : test::Array::normal(s.y(), uint32_t(i));
      test::Array w = exact ? test::Array::integers(s.weight(), 90) : test::Array::normal(s.weight(), 90);
      test::Array dx = test::Array::f32(s.x());
      std::vector<double> dx_(size_t(dx.count()));
      each_product(s, [&](int64_t o, int64_t i, int64_t k) { dx_[size_t(i)] += double(dy[o]) * w[k]; });
      test::call("conv2d_input_grad", {dy.view(), w.view()}, {dx.view()}, s.numbers());
      if (exact)
        for (int64_t k = 0; k < dx.count(); k++) CHECK(dx[k] == dx_[size_t(k)]);
      else CHECK(test::relative_error(dx.f32(), dx_.data(), dx.count()) < 1e-6);
    }
  });
}

TEST(conv2d_exact_on_random_depthwise_shapes) {
  test::each_isa([] {
    std::mt19937 random(13);
    const auto in = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
    for (int i = 0; i < 80; i++) {
      Shape s;
      s.groups = s.c = s.o = in(2, 70);
      s.n = in(1, 3), s.h = in(1, 20), s.w = in(1, 40);
      s.kh = in(1, 5), s.kw = in(1, 5), s.sh = in(1, 3), s.sw = in(1, 3), s.dh = in(1, 2), s.dw = in(1, 2);
      s.top = in(0, 3), s.left = in(0, 3), s.bottom = in(0, 3), s.right = in(0, 3);
      if (i % 2 == 0) s.kh = s.kw = i % 4 == 0 ? 3 : 5, s.dw = 1, s.sw = in(1, 2);  // those of networks
      if (i % 8 == 7) s.kh = s.kw = s.sh = s.sw = 1, s.top = s.left = s.bottom = s.right = 0;
      if (!has_outputs(s)) continue;
      check_exact(s, uint32_t(5000 + i));
      check_auxiliary(s, i % 3 == 0, uint32_t(6000 + i));
    }
  });
}

// Channels enough for the matrix unit.
TEST(conv2d_exact_on_random_wide_shapes) {
  test::each_isa([] {
    std::mt19937 random(11);
    const auto in = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
    for (int i = 0; i < 16; i++) {
      Shape s;
      s.groups = in(0, 3) == 0 ? 2 : 1;
      s.n = in(1, 5), s.h = in(5, 24), s.w = in(5, 40), s.c = s.groups * in(24, 70), s.o = s.groups * in(16, 70);
      s.kh = in(1, 3), s.kw = in(1, 4), s.sh = in(1, 3), s.sw = in(1, 3), s.dh = in(1, 2), s.dw = in(1, 2);
      s.top = in(0, 2), s.left = in(0, 2), s.bottom = in(0, 2), s.right = in(0, 2);
      if (!has_outputs(s)) continue;
      check_exact(s, uint32_t(3000 + i));
      check_auxiliary(s, i % 2 == 0, uint32_t(4000 + i));
    }
  });
}

TEST(conv2d_auxiliary_signs_and_mask) {
  test::each_isa([] {
    uint32_t seed = 500;
    for (const Shape& s : kShapes) {
      seed += 10;
      check_auxiliary(s, seed % 20 == 0, seed);
    }
  });
}

// Rounding: sums of n products of normal numbers stay within 2^-24 * sqrt(n) * 4 of the largest.
TEST(conv2d_accuracy) {
  test::each_isa([] {
    const Shape s = {2, 9, 9, 130, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    test::Array x = test::Array::normal(s.x(), 1), w = test::Array::normal(s.weight(), 2);
    test::Array dy = test::Array::normal(s.y(), 3);
    test::Array y = test::Array::f32(s.y()), dx = test::Array::f32(s.x()), dw = test::Array::f32(s.weight());
    std::vector<double> y_(size_t(y.count())), dx_(size_t(dx.count())), dw_(size_t(dw.count())), numbers = s.numbers();
    each_product(s, [&](int64_t o, int64_t i, int64_t k) {
      y_[size_t(o)] += double(x[i]) * w[k];
      dx_[size_t(i)] += double(dy[o]) * w[k];
      dw_[size_t(k)] += double(dy[o]) * x[i];
    });
    test::call("conv2d_input_grad", {dy.view(), w.view()}, {dx.view()}, numbers);
    test::call("conv2d_weight_grad", {dy.view(), x.view()}, {dw.view()}, numbers);
    numbers.insert(numbers.end(), {0, 0, 0});
    test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), test::absent()}, numbers);
    CHECK(test::relative_error(y.f32(), y_.data(), y.count()) < 1e-6);
    CHECK(test::relative_error(dx.f32(), dx_.data(), dx.count()) < 1e-6);
    CHECK(test::relative_error(dw.f32(), dw_.data(), dw.count()) < 1e-6);
  });
}

TEST(conv2d_same_bits_for_any_threads) {
  test::each_isa([] {
    for (const Shape& s : {Shape{5, 19, 23, 40, 70, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                           Shape{5, 19, 23, 70, 40, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},
                           Shape{3, 20, 22, 64, 96, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
                           Shape{40, 4, 4, 96, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                           Shape{9, 12, 12, 160, 96, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
                           Shape{7, 24, 20, 3, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                           Shape{3, 19, 23, 40, 40, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 40}}) {
      test::Array x = test::Array::normal(s.x(), 1), w = test::Array::normal(s.weight(), 2);
      test::Array dy = test::Array::normal(s.y(), 3);
      std::vector<double> numbers = s.numbers(), forward = numbers;
      forward.insert(forward.end(), {0.01, 0, 1, 1e-5});
      std::vector<uint8_t> first[7];
      for (int threads : {1, 2, 5}) {
        auxgrad::set_threads(threads);
        test::Array y = test::Array::f32(s.y()), dx = test::Array::f32(s.x()), dw = test::Array::f32(s.weight());
        test::Array mask(auxgrad::DType::u32, {words(s.n * s.p() * s.q()), s.o});
        test::Array mean = test::Array::f32({s.o}), var = test::Array::f32({s.o}), rstd = test::Array::f32({s.o});
        test::call("conv2d", {x.view(), w.view(), test::absent()},
                   {y.view(), test::absent(), mask.view(), mean.view(), var.view(), rstd.view()}, forward);
        test::call("conv2d_input_grad", {dy.view(), w.view()}, {dx.view()}, numbers);
        test::call("conv2d_weight_grad", {dy.view(), x.view()}, {dw.view()}, numbers);
        const std::vector<uint8_t> now[7] = {bytes_of(y),    bytes_of(mask), bytes_of(dx),  bytes_of(dw),
                                             bytes_of(mean), bytes_of(var),  bytes_of(rstd)};
        for (int i = 0; i < 7; i++) {
          if (threads == 1) first[i] = now[i];
          CHECK(first[i] == now[i]);
        }
      }
      auxgrad::set_threads(auxgrad::default_threads());
    }
  });
}

TEST(conv2d_spreads_nan_only_where_it_is_read) {
  test::each_isa([] {
    const Shape s = {1, 5, 5, 3, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    test::Array x = test::Array::integers(s.x(), 1), w = test::Array::integers(s.weight(), 2),
                y = test::Array::f32(s.y());
    x[(0 * 5 + 0) * 3] = NAN;
    std::vector<double> numbers = s.numbers();
    numbers.insert(numbers.end(), {0, 0, 1});
    test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), test::absent()}, numbers);
    for (int64_t p = 0; p < 5; p++)
      for (int64_t q = 0; q < 5; q++)
        for (int64_t o = 0; o < 4; o++) CHECK(std::isnan(y[(p * 5 + q) * 4 + o]) == (p < 2 && q < 2));
  });
}

// Shapes large enough for the matrix unit, where there is one: around its tiles of 16 outputs, 16 channels and 32
// positions; pictures by rows and in one run, several or half an image, phases of strides, single taps.
const Shape kLargeShapes[] = {
    {2, 32, 33, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   //
    {3, 31, 31, 33, 47, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // one more than a tile, one less
    {1, 40, 64, 48, 80, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // one image in strips
    {32, 4, 4, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // rows of several images a step
    {9, 7, 7, 96, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},     // an odd number of images
    {8, 14, 14, 64, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},   // phases
    {5, 17, 19, 31, 65, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},   //
    {2, 29, 34, 40, 33, 5, 4, 3, 2, 0, 3, 2, 1, 1, 1, 1},   // uneven everything
    {2, 24, 30, 32, 48, 3, 3, 1, 1, 4, 2, 3, 5, 2, 3, 1},   // dilation, more padding than it needs
    {1, 41, 37, 64, 32, 3, 3, 2, 3, 3, 2, 2, 3, 3, 2, 1},   // dilation and stride
    {4, 15, 15, 64, 96, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},   // groups
    {3, 18, 20, 70, 64, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // single taps: pointwise
    {2, 33, 31, 64, 70, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},   // strided
    {3, 17, 22, 38, 45, 1, 1, 3, 2, 0, 0, 0, 0, 1, 1, 1},   //
    {5, 11, 13, 51, 66, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 3},   // in groups
    {6, 10, 11, 5, 37, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},    // fewer channels than a tile has rows, several blocks
    {2, 23, 41, 271, 29, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},  // slices of them
    {3, 43, 45, 20, 150, 1, 1, 2, 2, 0, 0, 0, 0, 1, 1, 1},  // strided, several blocks
    {2, 21, 22, 64, 64, 1, 1, 1, 1, 2, 1, 0, 3, 1, 1, 1},   // padded
    {1, 6, 5, 600, 520, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},   // several parts, few positions
    {2, 5, 6, 260, 300, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   //
    {2, 32, 32, 32, 64, 4, 4, 4, 4, 0, 0, 0, 0, 1, 1, 1},   // patches: each tap a phase
    {1, 3, 400, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // a strip
    {8, 32, 32, 3, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // stems, of several blocks
    {2, 80, 80, 3, 64, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 1},    //
};

// More for minimal filtering: odd edges, patches in the padding, parts, blocks and chunks.
const Shape kFilteredShapes[] = {
    {3, 11, 13, 37, 53, 3, 3, 1, 1, 0, 2, 1, 0, 1, 1, 1},    // odd everything
    {2, 12, 13, 64, 33, 3, 3, 1, 1, 4, 2, 3, 5, 1, 1, 1},    // patches of nothing but padding
    {1, 14, 15, 131, 150, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  // several parts on both sides
    {4, 32, 32, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    // long sums
    {1, 4, 3, 16, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},      // few patches of few channels
    {9, 7, 5, 33, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},  // a last row and a last column of one output, in small images
    {1, 33, 70, 40, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   // and in blocks of rows
    {1, 9, 300, 16, 20, 3, 3, 2, 2, 1, 0, 0, 1, 1, 1, 1},   // stride 2: a strip
    {3, 21, 28, 37, 130, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},  // odd everything
    {13, 8, 8, 70, 64, 3, 3, 2, 2, 0, 2, 3, 1, 1, 1, 1},    // several images a block, uneven padding
    {2, 40, 44, 32, 36, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},   // several chunks
};

TEST(conv2d_weight_grad_of_large_shapes) {
  test::each_isa([] {
    uint32_t seed = 3000;
    std::vector<Shape> shapes(std::begin(kLargeShapes), std::end(kLargeShapes));
    shapes.insert(shapes.end(), std::begin(kFilteredShapes), std::end(kFilteredShapes));
    for (const Shape& s : shapes) {
      seed += 10;
      // Integers: exact, whatever the order. Normal numbers: within a few roundings of float64.
      for (const bool exact : {true, false}) {
        test::Array x = exact ? test::Array::integers(s.x(), seed) : test::Array::normal(s.x(), seed);
        test::Array dy = exact ? test::Array::integers(s.y(), seed + 1) : test::Array::normal(s.y(), seed + 1);
        test::Array dw = test::Array::f32(s.weight()), again = test::Array::f32(s.weight());
        std::vector<double> expected(size_t(dw.count()));
        each_product(s, [&](int64_t o, int64_t i, int64_t k) { expected[size_t(k)] += double(dy[o]) * x[i]; });
        auxgrad::set_threads(1);
        test::call("conv2d_weight_grad", {dy.view(), x.view()}, {dw.view()}, s.numbers());
        auxgrad::set_threads(3);
        test::call("conv2d_weight_grad", {dy.view(), x.view()}, {again.view()}, s.numbers());
        auxgrad::set_threads(auxgrad::default_threads());
        if (exact)
          for (int64_t i = 0; i < dw.count(); i++) CHECK(dw[i] == expected[size_t(i)]);
        else CHECK(test::relative_error(dw.f32(), expected.data(), dw.count()) < 1e-6);
        CHECK(bytes_of(dw) == bytes_of(again));
      }
    }
  });
}

// NaN and infinities reach the weights whose products hold them, and only those; by minimal filtering all taps of their
// channel (conv/winograd_grad.h). Outputs whose taps all see the image carry them: what a product of padding and infinity
// is, is left open.
TEST(conv2d_weight_grad_spreads_nan_and_infinities) {
  test::each_isa([] {
    for (const Shape& s : {Shape{2, 32, 33, 32, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                           Shape{2, 33, 32, 32, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
                           Shape{2, 32, 33, 32, 64, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}})
      for (const float odd : {float(NAN), float(INFINITY), -float(INFINITY), 3e38f})
        for (const bool in_x : {true, false}) {
          test::Array x = test::Array::normal(s.x(), 1), dy = test::Array::normal(s.y(), 2);
          if (in_x) x[(5 * s.w + 7) * s.c + 3] = odd;
          else dy[(5 * s.q() + 7) * s.o + 9] = odd;
          test::Array dw = test::Array::f32(s.weight());
          std::vector<double> expected(size_t(dw.count()));
          each_product(s, [&](int64_t o, int64_t i, int64_t k) { expected[size_t(k)] += double(dy[o]) * x[i]; });
          test::call("conv2d_weight_grad", {dy.view(), x.view()}, {dw.view()}, s.numbers());
          const bool filtered = s.kh == 3 && auxgrad::current_isa() != auxgrad::Isa::amx;
          for (int64_t i = 0; i < dw.count(); i++) {
            const float to = static_cast<float>(expected[size_t(i)]);
            if (filtered && (in_x ? i % s.c == 3 : i / (9 * s.c) == 9))
              CHECK(std::isfinite(to) || !std::isfinite(dw[i]));
            else if (std::isfinite(to)) CHECK_NEAR(dw[i], to, 1e-3 + 1e-5 * std::fabs(to));
            else CHECK(std::isnan(to) ? std::isnan(dw[i]) : dw[i] == to);
          }
        }
  });
}

// Infinities and NaN of image and weights reach the outputs that see them, as IEEE sums would have it, and no other. The
// weights' are at the tap in the middle: it never meets the padding.
TEST(conv2d_exceptional_numbers_as_in_sums) {
  test::each_isa([] {
    for (const Shape& s : {Shape{2, 9, 17, 40, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                           Shape{2, 9, 17, 40, 48, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2, 1},
                           Shape{2, 18, 21, 64, 48, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
                           Shape{2, 12, 13, 64, 48, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1}})
      for (const bool weights : {false, true}) {
        // Minimal filtering spreads them over its patches (conv/winograd.h).
        if (s.kh == 3 && s.dh == 1 && auxgrad::current_isa() != auxgrad::Isa::amx) continue;
        test::Array x = test::Array::integers(s.x(), 1), w = test::Array::integers(s.weight(), 2);
        test::Array dy = test::Array::integers(s.y(), 3), y = test::Array::f32(s.y()), dx = test::Array::f32(s.x());
        if (weights) {
          const int64_t depth = s.c, middle = (s.kh / 2 * s.kw + s.kw / 2) * depth;
          w[5 * s.kh * s.kw * depth + middle + 7] = INFINITY;
          w[33 * s.kh * s.kw * depth + middle + 3] = NAN;
        } else {
          x[0] = NAN;
          x[(s.w + 4) * s.c + 2] = INFINITY;
          x[(s.w + 6) * s.c + 9] = -INFINITY;
          x[x.count() - 1] = -INFINITY;
          dy[3] = INFINITY;
          dy[dy.count() / 2] = NAN;
          dy[dy.count() - 5] = -INFINITY;
        }
        std::vector<double> y_(size_t(y.count())), dx_(size_t(dx.count())), numbers = s.numbers();
        each_product(s, [&](int64_t o, int64_t i, int64_t k) {
          y_[size_t(o)] += double(x[i]) * w[k];
          dx_[size_t(i)] += double(dy[o]) * w[k];
        });
        const auto same = [](float got, double expected) {
          return std::isnan(expected) ? std::isnan(got) : got == static_cast<float>(expected);
        };
        test::call("conv2d_input_grad", {dy.view(), w.view()}, {dx.view()}, numbers);
        for (int64_t i = 0; i < dx.count(); i++) CHECK(same(dx[i], dx_[size_t(i)]));
        numbers.insert(numbers.end(), {0, 0, 0});
        test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), test::absent()}, numbers);
        for (int64_t i = 0; i < y.count(); i++) CHECK(same(y[i], y_[size_t(i)]));
      }
  });
}

// Statistics of y, as batch_norm_stats makes them of the same numbers; its tolerances (norm.cc).
void check_statistics(const Shape& s, float mean_of_x, bool relu, uint32_t seed) {
  test::Array x = test::Array::normal(s.x(), seed), w = test::Array::normal(s.weight(), seed + 1, 0.1f);
  test::Array bias = test::Array::normal({s.o}, seed + 2);
  for (int64_t i = 0; i < x.count(); i++) x[i] += mean_of_x;
  test::Array y = test::Array::f32(s.y()), bare = test::Array::f32(s.y()), mean = test::Array::f32({s.o}),
              var = test::Array::f32({s.o}), rstd = test::Array::f32({s.o});
  std::vector<double> numbers = s.numbers();
  numbers.insert(numbers.end(), {0, 0, double(relu), 1e-5});
  test::call("conv2d", {x.view(), w.view(), bias.view()},
             {y.view(), test::absent(), test::absent(), mean.view(), var.view(), rstd.view()}, numbers);
  test::call("conv2d", {x.view(), w.view(), bias.view()}, {bare.view(), test::absent(), test::absent()}, numbers);
  CHECK(bytes_of(y) == bytes_of(bare));
  const int64_t rows = s.n * s.p() * s.q();
  for (int64_t c = 0; c < s.o; c++) {
    double m = 0, v = 0;
    for (int64_t r = 0; r < rows; r++) m += y[r * s.o + c];
    m /= double(rows > 0 ? rows : 1);
    for (int64_t r = 0; r < rows; r++) v += (y[r * s.o + c] - m) * (y[r * s.o + c] - m);
    v /= double(rows > 0 ? rows : 1);
    // Where ReLU leaves mostly zeros, equal terms round alike.
    CHECK_NEAR(mean[c], m, 1.2e-7 * std::fabs(m) + (relu ? 2e-7 : 1e-7) * std::sqrt(v));
    CHECK_NEAR(var[c], v, (relu ? 4e-6 : 3e-6) * v);
    CHECK_NEAR(rstd[c], 1 / std::sqrt(v + 1e-5), 3e-6 / std::sqrt(v + 1e-5));
  }
}

TEST(conv2d_statistics_of_any_mean) {
  test::each_isa([] {
    uint32_t seed = 6000;
    for (const Shape& s : kShapes) check_statistics(s, 0, false, seed += 10);
    for (const Shape& s : kLargeShapes)
      for (const float mean : {0.0f, 100.0f}) check_statistics(s, mean, mean == 0, seed += 10);
    std::mt19937 random(13);
    for (int i = 0; i < 60; i++) {
      const Shape s = random_shape(random, 5, 24, 30, 60, 70);
      if (!has_outputs(s)) continue;
      check_statistics(s, i % 3 == 0 ? 30.0f : 0.0f, i % 2 == 0, uint32_t(7000 + 10 * i));
    }
  });
}

// Outputs of mean 1000 and deviation 1 in every channel: x is that, and weights pick single channels of it.
TEST(conv2d_statistics_keep_digits_of_a_large_mean) {
  test::each_isa([] {
    for (const Shape& s : {Shape{8, 28, 28, 64, 48, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
                           Shape{8, 30, 30, 40, 40, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1},
                           Shape{4, 30, 30, 160, 40, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1},  // two slices
                           Shape{8, 30, 30, 40, 40, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 40},
                           Shape{8, 28, 28, 8, 40, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1}}) {
      test::Array x = test::Array::normal(s.x(), 1), w = test::Array::f32(s.weight());
      const int64_t depth = s.c / s.groups, middle = s.kh / 2 * s.kw + s.kw / 2;
      for (int64_t i = 0; i < x.count(); i++) x[i] += 1000;
      for (int64_t i = 0; i < w.count(); i++) w[i] = 0;
      for (int64_t o = 0; o < s.o; o++) w[(o * s.kh * s.kw + middle) * depth + o % depth] = 1;
      test::Array y = test::Array::f32(s.y()), mean = test::Array::f32({s.o}), var = test::Array::f32({s.o}),
                  rstd = test::Array::f32({s.o});
      std::vector<double> numbers = s.numbers();
      numbers.insert(numbers.end(), {0, 0, 0, 1e-5});
      test::call("conv2d", {x.view(), w.view(), test::absent()},
                 {y.view(), test::absent(), test::absent(), mean.view(), var.view(), rstd.view()}, numbers);
      const int64_t rows = s.n * s.p() * s.q();
      for (int64_t c = 0; c < s.o; c++) {
        double m = 0, v = 0;
        for (int64_t r = 0; r < rows; r++) m += y[r * s.o + c];
        m /= double(rows);
        for (int64_t r = 0; r < rows; r++) v += (y[r * s.o + c] - m) * (y[r * s.o + c] - m);
        v /= double(rows);
        CHECK(v > 0.8 && v < 1.2);
        CHECK_NEAR(mean[c], m, 1.2e-7 * m);
        CHECK_NEAR(var[c], v, 3e-6 * v);
        CHECK_NEAR(rstd[c], 1 / std::sqrt(v + 1e-5), 3e-6);
      }
    }
  });
}

// NaN and infinities as batch_norm_stats gives them, of their channels only; together with signs, relu and mask.
TEST(conv2d_statistics_of_exceptional_numbers) {
  test::each_isa([] {
    for (const Shape& s : {Shape{2, 20, 20, 64, 48, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1},
                           Shape{2, 9, 17, 40, 48, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1},
                           Shape{2, 12, 12, 40, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 40}}) {
      test::Array x = test::Array::normal(s.x(), 1), w = test::Array::normal(s.weight(), 2);
      test::Array bias = test::Array::normal({s.o}, 3);
      bias[3] = NAN, bias[17] = INFINITY, bias[18] = -INFINITY, bias[31] = 3e36f;
      const int64_t taps = w.count() / s.o;
      for (int64_t i = 31 * taps; i < 32 * taps; i++) w[i] *= 1e30f;  // squares overflow
      test::Array y = test::Array::f32(s.y());
      test::Array signs(auxgrad::DType::u32, {words(s.n * s.h * s.w), s.c});
      test::Array mask(auxgrad::DType::u32, {words(s.n * s.p() * s.q()), s.o});
      for (const double relu : {0, 1}) {
        test::Array got[3] = {test::Array::f32({s.o}), test::Array::f32({s.o}), test::Array::f32({s.o})};
        test::Array expected[3] = {test::Array::f32({s.o}), test::Array::f32({s.o}), test::Array::f32({s.o})};
        std::vector<double> numbers = s.numbers();
        numbers.insert(numbers.end(), {0.25, 0, relu, 1e-3});
        test::call("conv2d", {x.view(), w.view(), bias.view()},
                   {y.view(), signs.view(), mask.view(), got[0].view(), got[1].view(), got[2].view()}, numbers);
        test::call("batch_norm_stats", {y.view()}, {expected[0].view(), expected[1].view(), expected[2].view()},
                   {1e-3});
        for (int i = 0; i < 3; i++)
          for (int64_t c = 0; c < s.o; c++) {
            const float a = got[i][c], b = expected[i][c];
            if (std::isfinite(b)) CHECK_NEAR(a, b, 1e-6 + 3e-6 * std::fabs(b));
            else CHECK(std::isnan(b) ? std::isnan(a) : a == b);
          }
        CHECK(std::isnan(got[0][3]) && std::isnan(got[1][3]) && std::isinf(got[0][17]));
        check_bits(mask, s.n * s.p() * s.q(), s.o, [&](int64_t i) { return y[i]; });
        check_bits(signs, s.n * s.h * s.w, s.c, [&](int64_t i) { return x[i]; });
      }
    }
  });
}

TEST(conv2d_refuses_operands_that_do_not_fit) {
  test::Array x = test::Array::f32({1, 4, 4, 3}), w = test::Array::f32({5, 3, 3, 2}),
              y = test::Array::f32({1, 2, 2, 5});
  auxgrad::Failure failure;
  const std::vector<double> numbers = {1, 1, 0, 0, 1, 1, 1, 0, 0, 0};
  CHECK(!test::call("conv2d", {x.view(), w.view(), test::absent()}, {y.view(), test::absent(), test::absent()}, numbers,
                    &failure));
  CHECK(std::string(failure.message).find("C = 3, w of 2 inputs, O = 5, groups = 1") != std::string::npos);
}

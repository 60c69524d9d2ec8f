// The geometry of a convolution and the products it is made of: the reference of its kernels, which knows nothing of
// blocks, stripes or tiles.
#pragma once
#include <cstdint>
#include <vector>

namespace test {

struct Convolution {
  int64_t n, h, w, c, o, kh, kw, sh, sw, top, left, bottom, right, dh, dw, groups;

  int64_t p() const { return (h + top + bottom - dh * (kh - 1) - 1) / sh + 1; }
  int64_t q() const { return (w + left + right - dw * (kw - 1) - 1) / sw + 1; }
  std::vector<double> numbers() const {
    return {double(sh), double(sw), double(top), double(left), double(dh), double(dw), double(groups)};
  }
  std::vector<int64_t> x() const { return {n, h, w, c}; }
  std::vector<int64_t> weight() const { return {o, kh, kw, c / groups}; }
  std::vector<int64_t> y() const { return {n, p(), q(), o}; }
};

// One that is the same along both axes of the image.
struct SquareConvolution {
  int64_t n, h, w, c, o, k, stride, pad, dilation, groups;

  operator Convolution() const {
    return {n, h, w, c, o, k, k, stride, stride, pad, pad, pad, pad, dilation, dilation, groups};
  }
};

// Calls f(output, input, weight) with the element offsets of every product of the convolution.
template <class F>
void each_product(const Convolution& s, const F& f) {
  const int64_t depth = s.c / s.groups, width = s.o / s.groups;
  for (int64_t n = 0; n < s.n; n++)
    for (int64_t p = 0; p < s.p(); p++)
      for (int64_t q = 0; q < s.q(); q++)
        for (int64_t a = 0; a < s.kh; a++)
          for (int64_t b = 0; b < s.kw; b++) {
            const int64_t i = p * s.sh + a * s.dh - s.top, j = q * s.sw + b * s.dw - s.left;
            if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
            for (int64_t o = 0; o < s.o; o++)
              for (int64_t k = 0; k < depth; k++)
                f(((n * s.p() + p) * s.q() + q) * s.o + o, ((n * s.h + i) * s.w + j) * s.c + o / width * depth + k,
                  ((o * s.kh + a) * s.kw + b) * depth + k);
          }
}

}  // namespace test

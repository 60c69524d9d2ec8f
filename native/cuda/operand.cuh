// Where the operands of a product come from (product.cuh). An operand has lines of neighbours: line(origin, i) finds one,
// load() reads eight of its neighbours from a multiple of 8 on, at() reads one; what lies beyond the operand is 0. The
// origin is that of a product of a batch, or of a group of channels. No kernel writes what it reads here.
#pragma once
#include "mma.cuh"

namespace auxgrad {
namespace {

// Division of numbers below 2^31 by multiplication (Granlund & Montgomery 1994).
struct Divisor {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(static_cast<uint32_t>(max64(1, d))) {
    while ((uint64_t{1} << shift) < divisor) shift++;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) - divisor) * (uint64_t{1} << 32) / divisor + 1);
  }
  __device__ int quotient(int n) const {
    return static_cast<int>((__umulhi(multiplier, static_cast<uint32_t>(n)) + static_cast<uint32_t>(n)) >> shift);
  }
  // n becomes the remainder.
  __device__ int split(int& n) const {
    const int q = quotient(n);
    n -= q * static_cast<int>(divisor);
    return q;
  }
};

__device__ inline void load8(const float* from, float (&v)[8]) {
  const float4 a = __ldg(reinterpret_cast<const float4*>(from)), b = __ldg(reinterpret_cast<const float4*>(from + 4));
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// x, or with `positive` and `negative` not both zero x + epsilon * s(x).
struct Auxiliary {
  float positive = 0, negative = 0;

  static Auxiliary of(float epsilon, bool zero_one) { return {epsilon, zero_one ? 0.0f : -epsilon}; }
  __device__ float operator()(float x) const { return x + (x > 0 ? positive : negative); }
};

// Matrices of any strides: neighbour i of line l of product z at data[offset(z) + l * line_step + i * step].
struct Strided {
  static constexpr int kPlanes = 3;
  const float* data = nullptr;
  int64_t line_step = 0, step = 1;
  int lines = 0, length = 0;
  bool vectors = false;
  Auxiliary auxiliary;
  int axes = 0;  // of the batch
  int shape[kMaxRank];
  int64_t stride[kMaxRank];

  // Whether eight neighbours may be read at once; when all else is set.
  void settle() {
    vectors = (step == 1 || length <= 1) && aligned(data) && (line_step % 4 == 0 || lines <= 1);
    for (int i = 0; i < axes; i++) vectors = vectors && (stride[i] % 4 == 0 || shape[i] <= 1);
  }

  typedef const float* Origin;
  typedef const float* Line;
  __device__ Origin origin(int z) const {
    const float* p = data;
    for (int i = axes - 1; i >= 0; i--) {
      p += z % shape[i] * stride[i];
      z /= shape[i];
    }
    return p;
  }
  __device__ Line line(Origin origin, int i) const { return i < lines ? origin + i * line_step : nullptr; }
  __device__ float at(Origin, Line line, int i) const {
    return line && i < length ? auxiliary(__ldg(line + i * step)) : 0.0f;
  }
  __device__ void load(Origin origin, Line line, int first, float (&v)[8]) const {
    if (vectors && line && first + 8 <= length) {
      load8(line + first, v);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = auxiliary(v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = at(origin, line, first + i);
    }
  }
};

// What the positions of an image hold: element(image, token, channel), and eight channels at once where `vectors`.
struct Floats {
  static constexpr int kPlanes = 3;
  const float* data = nullptr;
  int64_t channels = 0;
  Auxiliary auxiliary;

  bool allows_vectors() const { return aligned(data) && channels % 4 == 0; }
  __device__ float at(int, int token, int c) const { return auxiliary(__ldg(data + token * channels + c)); }
  __device__ void load(int, int token, int c, float (&v)[8]) const {
    load8(data + token * channels + c, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = auxiliary(v[i]);
  }
};

// Values of codes packed along tokens: word [t * Bits / 32][c] holds that of token t, channel c, from bit t * Bits % 32.
template <int Bits>
struct Codes {
  static constexpr int kPlanes = Bits == 1 ? 1 : 3;
  const uint32_t* words = nullptr;
  int64_t channels = 0;
  float off = -1;                 // one bit: 1 where it is set, this where it is not
  const float* ranges = nullptr;  // two bits: m and r of each image, code q is q r / 3 + m

  bool allows_vectors() const { return aligned(words) && channels % 4 == 0; }
  __device__ float value(uint32_t word, int image, int token) const {
    const uint32_t code = word >> (static_cast<uint32_t>(token) % (32 / Bits) * Bits) & ((1u << Bits) - 1);
    if (Bits == 1) return code ? 1.0f : off;
    return static_cast<float>(code) * __ldg(ranges + 2 * image + 1) / 3.0f + __ldg(ranges + 2 * image);
  }
  __device__ float at(int image, int token, int c) const {
    return value(__ldg(words + token / (32 / Bits) * channels + c), image, token);
  }
  __device__ void load(int image, int token, int c, float (&v)[8]) const {
    const uint4* p = reinterpret_cast<const uint4*>(words + token / (32 / Bits) * channels + c);
    const uint4 a = __ldg(p), b = __ldg(p + 1);
    const uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = value(w[i], image, token);
  }
};

// Along an axis, output i sees input i * step + start + tap * tap_step. The outputs are output_start, output_start +
// output_step, ...; the taps kernel positions kernel_start, kernel_start + kernel_step, ...
struct Axis {
  int step = 1, start = 0, tap_step = 1, taps = 1;
  int outputs = 0, output_start = 0, output_step = 1;
  int kernel_start = 0, kernel_step = 1;
};

// A line for each position of the output, n * P * Q of them; its neighbours are what the taps see, channels innermost.
template <class Source>
struct Patches {
  static constexpr int kPlanes = Source::kPlanes;
  Source source;
  int rows = 0, columns = 0;  // of the image
  int depth = 0;              // channels of a group
  Axis vertical, horizontal;
  int lines = 0, length = 0;
  bool vectors = false;
  Divisor across, down, taps_across, by_depth;

  void settle(int64_t images) {
    lines = static_cast<int>(images * vertical.outputs * horizontal.outputs);
    length = vertical.taps * horizontal.taps * depth;
    across = Divisor(horizontal.outputs);
    down = Divisor(vertical.outputs);
    taps_across = Divisor(horizontal.taps);
    by_depth = Divisor(depth);
    vectors = depth % 8 == 0 && source.allows_vectors();
  }

  typedef int Origin;  // the first channel
  struct Line {
    int image, row, column;
  };
  __device__ Origin origin(int z) const { return z * depth; }
  __device__ Line line(Origin, int i) const {
    Line l;
    l.column = i;
    l.row = across.split(l.column);
    l.image = down.split(l.row);
    l.row = i < lines ? l.row * vertical.step + vertical.start : -(1 << 30);  // of no image
    l.column = l.column * horizontal.step + horizontal.start;
    return l;
  }
  // The token that neighbour i belongs to, i becomes its channel; -1: padding, or beyond.
  __device__ int token(const Line& l, int& i) const {
    if (i >= length) return -1;
    int tap = by_depth.split(i);
    const int row = l.row + taps_across.split(tap) * vertical.tap_step, column = l.column + tap * horizontal.tap_step;
    if (row < 0 || row >= rows || column < 0 || column >= columns) return -1;
    return (l.image * rows + row) * columns + column;
  }
  __device__ float at(Origin origin, const Line& l, int i) const {
    const int t = token(l, i);
    return t < 0 ? 0.0f : source.at(l.image, t, origin + i);
  }
  __device__ void load(Origin origin, const Line& l, int first, float (&v)[8]) const {
    if (vectors) {
      const int t = token(l, first);
      if (t >= 0) return source.load(l.image, t, origin + first, v);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = 0;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = at(origin, l, first + i);
    }
  }
};

}  // namespace
}  // namespace auxgrad

// Kernels that only move memory: the bytes they must move each second, against a stream of the same bytes that computes
// nothing, measured in turn with them: the bandwidth of a machine with other guests may double within minutes. Sizes are
// larger than the caches that one core has of its own. Bytes count each operand once, twice where sums over all of it come
// before the first result (batch norm).
#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "bench.h"
#include "core/parallel.h"

namespace {

using auxgrad::DType;
using bench::Array;

constexpr int64_t kRows = 16384, kColumns = 1024, kElements = kRows * kColumns;

// Floats spread over [-2, 2).
Array reals(std::vector<int64_t> shape, uint32_t seed) {
  Array a(std::move(shape));
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < a.count(); i++) {
    state = state * 1664525u + 1013904223u;
    a.f32()[i] = static_cast<float>(state >> 8) * 0x1p-22f - 2.0f;
  }
  return a;
}
Array constant(std::vector<int64_t> shape, float value) {
  Array a(std::move(shape));
  for (int64_t i = 0; i < a.count(); i++) a.f32()[i] = value;
  return a;
}
Array matrix(uint32_t seed) { return reals({kRows, kColumns}, seed); }

int32_t* i32(const Array& a) { return reinterpret_cast<int32_t*>(a.f32()); }

// The operands of a call; a kernel that works in place finds what it changes among the outputs.
struct Operands {
  std::vector<Array> in, out;
  std::vector<double> numbers = {};
  enum {
    plain,
    across,
    in_place,
    heads
  } how = plain;  // across: the first input is read so; heads: keys and values are

  const float* x(int i = 0) const { return in[static_cast<size_t>(i)].f32(); }
  const float* y(int i = 0) const { return out[static_cast<size_t>(i)].f32(); }
};

// Reads the inputs and writes the outputs of a call, side by side and in order: what its kernel can hardly beat.
class Stream {
 public:
  // What `bytes` counts beyond the operands are inputs that are read once more, before the rest.
  Stream(std::shared_ptr<const Operands> operands, double bytes) : operands_(std::move(operands)), again_(bytes) {
    for (const Array& a : operands_->in) again_ -= static_cast<double>(a.bytes());
    for (const Array& a : operands_->out) again_ -= static_cast<double>(a.bytes()) * (in_place() ? 2 : 1);
  }

  void run() const {
    for (double rest = again_; rest > 0.01 * kElements;)
      for (const Array& a : operands_->in) {
        if (rest > 0) each_piece([&](int64_t piece) { read(a, piece); });
        rest -= static_cast<double>(a.bytes());
      }
    each_piece([&](int64_t piece) {
      Part value = {};
      for (const Array& a : operands_->in) value ^= read(a, piece);
      for (const Array& a : operands_->out) in_place() ? change(a, piece) : write(a, piece, value);
    });
  }

 private:
  typedef uint32_t Part __attribute__((vector_size(16), may_alias));
  static constexpr int64_t kTasks = 1024, kPieces = 64;  // a piece of a matrix: 16 lines
  static constexpr int kLine = 4;

  bool in_place() const { return operands_->how == Operands::in_place; }

  template <class F>
  static void each_piece(const F& f) {
    const auto task = [](void* context, int64_t i, int) {
      for (int64_t k = 0; k < kPieces; k++) (*static_cast<const F*>(context))(i * kPieces + k);
#if defined(__x86_64__) || defined(_M_X64)
      _mm_sfence();
#endif
    };
    auxgrad::process_pool().run(kTasks, task, const_cast<void*>(static_cast<const void*>(&f)));
  }

  template <class F>
  static void each_line(const Array& a, int64_t piece, const F& f) {
    const int64_t lines = a.bytes() / 64, all = kTasks * kPieces;
    Part* p = reinterpret_cast<Part*>(a.f32());
    for (int64_t i = lines * piece / all, end = lines * (piece + 1) / all; i < end; i++) f(p + kLine * i);
  }

  static Part read(const Array& a, int64_t piece) {
    Part sum[kLine] = {};
    each_line(a, piece, [&](const Part* line) {
      for (int k = 0; k < kLine; k++) sum[k] ^= line[k];
    });
    Part value = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    __asm__ volatile("" : "+m"(value));  // for all that the compiler knows it is looked at
    return value;
  }

  static void change(const Array& a, int64_t piece) {
    Part zero = {};
    __asm__ volatile("" : "+m"(zero));
    each_line(a, piece, [&](Part* line) {
      for (int k = 0; k < kLine; k++) line[k] ^= zero;
    });
  }

  // Past the caches what takes half of the last one or more, as kernels do.
  static void write(const Array& a, int64_t piece, Part value) {
#if defined(__x86_64__) || defined(_M_X64)
    if (a.bytes() >= auxgrad::cache_bytes() / 2)
      return each_line(a, piece, [&](Part* line) {
        for (int k = 0; k < kLine; k++) _mm_stream_si128(reinterpret_cast<__m128i*>(line + k), (__m128i)value);
      });
#endif
    each_line(a, piece, [&](Part* line) {
      for (int k = 0; k < kLine; k++) line[k] = value;
    });
  }

  std::shared_ptr<const Operands> operands_;
  double again_;
};

bool near(double value, double expected, double tolerance) {
  return std::abs(value - expected) <= tolerance * (1 + std::abs(expected));
}

// `expected(operands, i)`: whether element i of the results is right; `every` says which are looked at.
void add(bench::Group& group, const std::string& name, const char* kernel, double bytes, Operands (*make)(),
         bool (*right)(const Operands&, int64_t), int64_t every = 1009, int64_t elements = kElements) {
  bench::Case c;
  c.name = name;
  c.bytes = bytes;
  c.quick = true;
  c.prepare = [=] {
    const auto o = std::make_shared<Operands>(make());
    std::vector<auxgrad::View> in, out;
    for (const Array& a : o->in) in.push_back(a.count() > 0 ? a.view() : bench::absent());
    for (const Array& a : o->out) out.push_back(a.count() > 0 ? a.view() : bench::absent());
    if (o->how == Operands::across) in[0] = o->in[0].transposed();
    if (o->how == Operands::heads)
      for (auxgrad::View* v : {&in[1], &in[2]}) {
        std::swap(v->shape[1], v->shape[2]);
        std::swap(v->stride[1], v->stride[2]);
      }
    const auto call = std::make_shared<bench::KernelCall>(kernel, in, out, o->numbers);
    bench::Prepared p;
    p.contenders.push_back({"auxgrad",
                            [=] {
                              (void)o;
                              call->run();
                            },
                            [=] {
                              for (int64_t i = 0; i < elements; i += every)
                                if (!right(*o, i)) return "element " + std::to_string(i) + " is wrong";
                              return std::string();
                            }});
    p.contenders.push_back({"stream", [stream = Stream(o, bytes)] { stream.run(); }, {}});
    return p;
  };
  group.add(std::move(c));
}

template <double (*F)(double)>
void add_function(bench::Group& group, const char* kernel) {
  add(
      group, kernel, kernel, 8.0 * kElements,
      [] {
        return Operands{{matrix(1)}, {matrix(2)}};
      },
      [](const Operands& o, int64_t i) { return near(o.y()[i], F(o.x()[i]), 1e-6); });
}

// The gradient of a function: dy and x (or y, as the kernel takes it) -> dy times F of it.
template <double (*F)(double)>
void add_gradient(bench::Group& group, const char* name, const char* kernel) {
  add(
      group, name, kernel, 12.0 * kElements,
      [] {
        return Operands{{matrix(1), matrix(2)}, {matrix(3)}};
      },
      [](const Operands& o, int64_t i) { return near(o.y()[i], o.x()[i] * F(o.x(1)[i]), 1e-6); });
}

double relu(double x) { return x > 0 ? x : 0; }
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double gelu_slope(double x) {
  return 0.5 * (1 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
double tanh_slope(double y) { return 1 - y * y; }

// Sums over the row of element i.
template <class F>
double row_sum(int64_t i, const F& term) {
  double sum = 0;
  for (int64_t j = i / kColumns * kColumns, end = j + kColumns; j < end; j++) sum += term(j);
  return sum;
}
double softmax_of(const Operands& o, int input, int64_t i) {
  return std::exp(o.x(input)[i]) / row_sum(i, [&](int64_t j) { return std::exp(o.x(input)[j]); });
}

// Of as many elements in short rows: what a classifier or a window of attention has.
template <int columns>
void add_short_softmax(bench::Group& group, const char* name) {
  constexpr int64_t rows = kElements / columns, elements = rows * columns;
  add(
      group, name, "softmax", 8.0 * elements,
      [] {
        return Operands{{reals({rows, columns}, 1)}, {reals({rows, columns}, 2)}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0;
        for (int64_t j = i / columns * columns, end = j + columns; j < end; j++) sum += std::exp(double{o.x()[j]});
        return near(o.y()[i], std::exp(double{o.x()[i]}) / sum, 1e-6);
      },
      1009, elements);
}

// Some rows by the weights of a layer, as where text is generated.
template <int rows>
void add_product(bench::Group& group, const char* name) {
  add(
      group, name, "linear", 4.0 * kElements,
      [] {
        return Operands{{reals({rows, kColumns}, 1), matrix(2), Array({0})}, {Array({rows, kRows})}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0;
        for (int64_t k = 0; k < kColumns; k++)
          sum += double{o.x()[i / kRows * kColumns + k]} * o.x(1)[i % kRows * kColumns + k];
        return std::abs(o.y()[i] - sum) < 1e-3;
      },
      101, rows * kRows);
}

bool bit(const Array& words, int64_t i) {
  return (words.u32()[i / kColumns / 32 * kColumns + i % kColumns] >> (i / kColumns % 32) & 1) != 0;
}

Array labels() {
  Array a({kRows}, DType::i32);
  for (int64_t i = 0; i < kRows; i++) i32(a)[i] = static_cast<int32_t>(i * 7 % kColumns);
  return a;
}
// A row for each place, far from the one before.
Array places() {
  Array a({kRows}, DType::i32);
  for (int64_t i = 0; i < kRows; i++) i32(a)[i] = static_cast<int32_t>(i * 4099 % kRows);
  return a;
}
double bf16(const Array& a, int64_t i) {
  const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(a.f32())[i]) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
Array key() {
  Array a({4}, DType::i32);
  for (int i = 0; i < 4; i++) i32(a)[i] = i + 1;
  return a;
}

// Groups of 256 elements in a few bits each, with a word of their minimum and range in bfloat16.
constexpr int64_t kGroups = kElements / 256;
double half_word(uint32_t word) {
  word &= 0xffff0000u;
  float f;
  std::memcpy(&f, &word, 4);
  return static_cast<double>(f);
}
template <int bits>
double code(const Array& codes, int64_t i) {
  const int64_t words = 8 * bits, j = i % 256;
  return static_cast<double>(codes.u32()[i / 256 * words + j % words] >> (j / words * bits) & ((1 << bits) - 1));
}
template <int bits>
constexpr double kCodeBytes = kElements*(bits / 8.0 + 1.0 / 64);

template <int bits, bool random>
void add_quantize(bench::Group& group, const char* name) {
  add(
      group, name, "quantize", 4.0 * kElements + kCodeBytes<bits>,
      [] {
        return Operands{{matrix(1), random ? key() : Array({0})},
                        {Array({kGroups, 8 * bits}, DType::u32), Array({kGroups}, DType::u32)},
                        {bits, 0}};
      },
      [](const Operands& o, int64_t i) {
        const double low = half_word(o.out[1].u32()[i / 256]), range = half_word(o.out[1].u32()[i / 256] << 16);
        const double step = range / ((1 << bits) - 1);
        return std::abs(code<bits>(o.out[0], i) * step + low - o.x()[i]) <= step * (random ? 1.001 : 0.501);
      });
}
template <int bits>
void add_dequantize(bench::Group& group, const char* name) {
  add(
      group, name, "dequantize", 4.0 * kElements + kCodeBytes<bits>,
      [] {
        Operands o = {{Array({kGroups, 8 * bits}, DType::u32), Array({kGroups}, DType::u32)}, {matrix(1)}, {bits}};
        for (int64_t i = 0; i < o.in[0].count(); i++) o.in[0].u32()[i] = static_cast<uint32_t>(i) * 2654435761u;
        for (int64_t i = 0; i < kGroups; i++) o.in[1].u32()[i] = 0x3f803f80u;  // from 1 to 2
        return o;
      },
      [](const Operands& o, int64_t i) {
        return near(o.y()[i], 1 + code<bits>(o.in[0], i) / ((1 << bits) - 1), 1e-6);
      });
}

}  // namespace

GROUP(memory, "memory") {
  constexpr double one = 4.0 * kElements;  // bytes of a matrix

  add(
      group, "add", "add", 3 * one,
      [] {
        return Operands{{matrix(1), matrix(2)}, {matrix(3)}};
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == o.x()[i] + o.x(1)[i]; });
  add_function<relu>(group, "relu");
  add_function<std::exp>(group, "exp");
  add_function<std::tanh>(group, "tanh");
  add_function<sigmoid>(group, "sigmoid");
  add_function<gelu>(group, "gelu");
  add_function<silu>(group, "silu");
  add_gradient<tanh_slope>(group, "tanh gradient", "tanh_grad");
  add_gradient<gelu_slope>(group, "gelu gradient", "gelu_grad");
  add_gradient<silu_slope>(group, "silu gradient", "silu_grad");
  add(
      group, "cast to bf16", "cast", 1.5 * one,
      [] {
        return Operands{{matrix(1)}, {Array({kRows, kColumns}, DType::bf16)}};
      },
      [](const Operands& o, int64_t i) { return std::abs(bf16(o.out[0], i) - o.x()[i]) <= std::abs(o.x()[i]) / 256; });
  add(
      group, "cast to f32", "cast", 1.5 * one,
      [] {
        Operands o = {{Array({kRows, kColumns}, DType::bf16)}, {matrix(1)}};
        uint16_t* x = reinterpret_cast<uint16_t*>(o.in[0].f32());
        for (int64_t i = 0; i < kElements; i++) x[i] = static_cast<uint16_t>(0x3f80 + i * 7 % 128);
        return o;
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == bf16(o.in[0], i); });
  add(
      group, "embedding", "take", 2 * one,
      [] {
        return Operands{{matrix(1), places()}, {matrix(2)}, {0, 1}};
      },
      [](const Operands& o, int64_t i) {
        return o.y()[i] == o.x()[int64_t{i32(o.in[1])[i / kColumns]} * kColumns + i % kColumns];
      });
  add(
      group, "embedding gradient", "take_grad", 2 * one,
      [] {
        return Operands{{matrix(1), places()}, {matrix(2)}, {0, 1, -1}};
      },
      [](const Operands& o, int64_t i) {
        return o.y()[int64_t{i32(o.in[1])[i / kColumns]} * kColumns + i % kColumns] == o.x()[i];
      });
  add(
      group, "transpose", "contiguous", 2 * one,
      [] {
        return Operands{{reals({kColumns, kRows}, 1)}, {matrix(2)}, {}, Operands::across};
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == o.x()[i % kColumns * kRows + i / kColumns]; });
  add(
      group, "sum of columns", "sum", one,
      [] {
        return Operands{{matrix(1)}, {Array({kColumns})}, {0}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0;
        for (int64_t r = 0; r < kRows; r++) sum += o.x()[r * kColumns + i];
        return std::abs(o.y()[i] - sum) < 1e-2;  // of 16,384 terms up to 2
      },
      101, kColumns);
  constexpr int64_t tokens = 256;
  add(
      group, "sum of tokens", "sum", one,
      [] {
        return Operands{{reals({kRows / tokens, tokens, kColumns}, 1)}, {Array({kRows / tokens, kColumns})}, {1}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; t++) sum += o.x()[(i / kColumns * tokens + t) * kColumns + i % kColumns];
        return std::abs(o.y()[i] - sum) < 1e-4;
      },
      101, kRows / tokens * kColumns);
  add(
      group, "variance of columns", "var", 2 * one,
      [] {
        return Operands{{matrix(1)}, {Array({kColumns})}, {0, 0}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0, square = 0;
        for (int64_t r = 0; r < kRows; r++) sum += o.x()[r * kColumns + i];
        for (int64_t r = 0; r < kRows; r++) square += std::pow(o.x()[r * kColumns + i] - sum / kRows, 2);
        return near(o.y()[i], square / kRows, 1e-6);
      },
      101, kColumns);
  add(
      group, "argmax of rows", "argmax", one,
      [] {
        return Operands{{matrix(1)}, {Array({kRows}, DType::i32)}, {1}};
      },
      [](const Operands& o, int64_t r) {
        int32_t best = 0;
        for (int32_t c = 1; c < kColumns; c++)
          if (o.x()[r * kColumns + c] > o.x()[r * kColumns + best]) best = c;
        return i32(o.out[0])[r] == best;
      },
      101, kRows);

  add(
      group, "softmax", "softmax", 2 * one,
      [] {
        return Operands{{matrix(1)}, {matrix(2)}};
      },
      [](const Operands& o, int64_t i) { return near(o.y()[i], softmax_of(o, 0, i), 1e-6); }, 100003);
  add_short_softmax<10>(group, "softmax of 10 columns");
  add_short_softmax<49>(group, "softmax of 49 columns");
  add(
      group, "softmax gradient", "softmax_grad", 3 * one,
      [] {
        return Operands{{matrix(1), matrix(2)}, {matrix(3)}};
      },
      [](const Operands& o, int64_t i) {
        const double dot = row_sum(i, [&](int64_t j) { return double{o.x()[j]} * o.x(1)[j]; });
        return near(o.y()[i], o.x(1)[i] * (o.x()[i] - dot), 1e-4);
      },
      100003);
  add(
      group, "cross entropy", "cross_entropy", one,
      [] {
        return Operands{{matrix(1), labels()}, {Array({kRows}), Array({kRows})}, {0, -100}};
      },
      [](const Operands& o, int64_t r) {
        const int64_t label = r * kColumns + i32(o.in[1])[r];
        return near(o.y()[r], -std::log(softmax_of(o, 0, label)), 1e-5);
      },
      101, kRows);
  add(
      group, "cross entropy gradient", "cross_entropy_grad", 2 * one,
      [] {
        Operands o = {{constant({kRows}, 1), matrix(1), labels(), Array({kRows})}, {matrix(2)}, {0, -100}};
        for (int64_t r = 0; r < kRows; r++) {
          const float *row = o.x(1) + r * kColumns, top = *std::max_element(row, row + kColumns);
          o.in[3].f32()[r] = static_cast<float>(
              std::log(row_sum(r * kColumns, [&](int64_t j) { return std::exp(double{o.x(1)[j]} - top); })));
        }
        return o;
      },
      [](const Operands& o, int64_t i) {
        const double hit = i32(o.in[2])[i / kColumns] == i % kColumns;
        return near(o.y()[i], softmax_of(o, 1, i) - hit, 1e-6);
      },
      100003);

  add(
      group, "layer norm", "layer_norm", 2 * one,
      [] {
        return Operands{{matrix(1), reals({kColumns}, 2), reals({kColumns}, 3)},
                        {matrix(4), Array({kRows}), Array({kRows})},
                        {1e-5}};
      },
      [](const Operands& o, int64_t i) {
        const double mean = row_sum(i, [&](int64_t j) { return o.x()[j]; }) / kColumns;
        const double var = row_sum(i, [&](int64_t j) { return (o.x()[j] - mean) * (o.x()[j] - mean); }) / kColumns;
        const double z = (o.x()[i] - mean) / std::sqrt(var + 1e-5);
        return near(o.y()[i], z * o.x(1)[i % kColumns] + o.x(2)[i % kColumns], 1e-5);
      },
      100003);
  add(
      group, "layer norm gradient", "layer_norm_grad", 3 * one,
      [] {
        return Operands{{matrix(1), matrix(2), constant({kRows}, 0), constant({kRows}, 1), reals({kColumns}, 3)},
                        {matrix(4), Array({kColumns}), Array({kColumns})}};
      },
      [](const Operands& o, int64_t i) {
        const auto g = [&](int64_t j) { return double{o.x()[j]} * o.x(4)[j % kColumns]; };
        const double a = row_sum(i, g) / kColumns,
                     b = row_sum(i, [&](int64_t j) { return g(j) * o.x(1)[j]; }) / kColumns;
        return near(o.y()[i], g(i) - a - o.x(1)[i] * b, 1e-4);
      },
      100003);
  add(
      group, "batch norm statistics", "batch_norm_stats", one,
      [] {
        return Operands{{matrix(1)}, {Array({kColumns}), Array({kColumns}), Array({kColumns})}, {1e-5}};
      },
      [](const Operands& o, int64_t c) {
        double sum = 0, square = 0;
        for (int64_t r = 0; r < kRows; r++) sum += o.x()[r * kColumns + c];
        for (int64_t r = 0; r < kRows; r++) square += std::pow(o.x()[r * kColumns + c] - sum / kRows, 2);
        return near(o.y()[c], sum / kRows, 1e-6) && near(o.y(1)[c], square / kRows, 1e-5);
      },
      101, kColumns);
  add(
      group, "batch norm", "batch_norm_apply", 2 * one,
      [] {
        return Operands{
            {matrix(1), reals({kColumns}, 2), reals({kColumns}, 3), reals({kColumns}, 4), reals({kColumns}, 5)},
            {matrix(6)},
            {1}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t c = i % kColumns;
        return near(o.y()[i], relu((o.x()[i] - double{o.x(1)[c]}) * o.x(2)[c] * o.x(3)[c] + o.x(4)[c]), 1e-5);
      });
  add(
      group, "batch norm gradient", "batch_norm_grad", 5 * one,
      [] {
        return Operands{{matrix(1), matrix(2), constant({kColumns}, 0), constant({kColumns}, 1), reals({kColumns}, 3)},
                        {matrix(4), Array({kColumns}), Array({kColumns})},
                        {1}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t c = i % kColumns;
        double a = 0, b = 0;
        for (int64_t r = 0; r < kRows; r++) {
          a += o.x()[r * kColumns + c];
          b += double{o.x()[r * kColumns + c]} * o.x(1)[r * kColumns + c];
        }
        return near(o.y()[i], o.x(4)[c] * (o.x()[i] - a / kRows - o.x(1)[i] * b / kRows), 1e-4);
      },
      1000003);
  // Images of 32 x 32 with 256 channels in 32 groups.
  constexpr int64_t area = 32 * 32, maps = 256, width = maps / 32, samples = kElements / (area * maps);
  add(
      group, "group norm", "group_norm", 2 * one,
      [] {
        return Operands{{reals({samples, 32, 32, maps}, 1), reals({maps}, 2), reals({maps}, 3)},
                        {matrix(4), Array({samples, 32}), Array({samples, 32})},
                        {32, 1e-5}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t start = i / (area * maps) * area * maps + i % maps / width * width;
        double sum = 0, squares = 0;
        for (int64_t r = 0; r < area; r++)
          for (int64_t c = 0; c < width; c++) sum += o.x()[start + r * maps + c];
        const double mean = sum / (area * width);
        for (int64_t r = 0; r < area; r++)
          for (int64_t c = 0; c < width; c++) squares += std::pow(o.x()[start + r * maps + c] - mean, 2);
        const double z = (o.x()[i] - mean) / std::sqrt(squares / (area * width) + 1e-5);
        return near(o.y()[i], z * o.x(1)[i % maps] + o.x(2)[i % maps], 1e-5);
      },
      100003);
  add(
      group, "group norm gradient", "group_norm_grad", 3 * one,
      [] {
        return Operands{{reals({samples, 32, 32, maps}, 1), reals({samples, 32, 32, maps}, 2),
                         constant({samples, 32}, 0), constant({samples, 32}, 1), reals({maps}, 3)},
                        {matrix(4), Array({maps}), Array({maps})},
                        {32}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t start = i / (area * maps) * area * maps + i % maps / width * width;
        const auto g = [&](int64_t j) { return double{o.x()[j]} * o.x(4)[j % maps]; };
        double a = 0, b = 0;
        for (int64_t r = 0; r < area; r++)
          for (int64_t c = 0; c < width; c++) {
            const int64_t j = start + r * maps + c;
            a += g(j) / (area * width);
            b += g(j) * o.x(1)[j] / (area * width);
          }
        return near(o.y()[i], g(i) - a - o.x(1)[i] * b, 1e-4);
      },
      100003);
  add(
      group, "rms norm", "rms_norm", 2 * one,
      [] {
        return Operands{{matrix(1), reals({kColumns}, 2)}, {matrix(4), Array({kRows})}, {1e-5}};
      },
      [](const Operands& o, int64_t i) {
        const double mean = row_sum(i, [&](int64_t j) { return double{o.x()[j]} * o.x()[j]; }) / kColumns;
        return near(o.y()[i], o.x()[i] / std::sqrt(mean + 1e-5) * o.x(1)[i % kColumns], 1e-5);
      },
      100003);
  add(
      group, "rms norm gradient", "rms_norm_grad", 3 * one,
      [] {
        return Operands{{matrix(1), matrix(2), constant({kRows}, 1), reals({kColumns}, 3)},
                        {matrix(4), Array({kColumns})}};
      },
      [](const Operands& o, int64_t i) {
        const auto g = [&](int64_t j) { return double{o.x()[j]} * o.x(3)[j % kColumns]; };
        const double b = row_sum(i, [&](int64_t j) { return g(j) * o.x(1)[j]; }) / kColumns;
        return near(o.y()[i], g(i) - o.x(1)[i] * b, 1e-4);
      },
      100003);
  add(
      group, "global average pool", "adaptive_avg_pool2d", one,
      [] {
        return Operands{{reals({samples, 32, 32, maps}, 1)}, {Array({samples, 1, 1, maps})}};
      },
      [](const Operands& o, int64_t i) {
        double sum = 0;
        for (int64_t r = 0; r < area; r++) sum += o.x()[(i / maps * area + r) * maps + i % maps];
        return near(o.y()[i], sum / area, 1e-6);
      },
      101, samples * maps);
  add(
      group, "dropout", "dropout", 2 * one,
      [] {
        return Operands{{matrix(1), key()}, {matrix(2)}, {3, 0.5}};
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == 0 || o.y()[i] == 2 * o.x()[i]; });

  add_product<1>(group, "product of 1 row");
  add_product<4>(group, "product of 4 rows");
  add_product<8>(group, "product of 8 rows");
  // One query of 8 heads over keys and values kept as [positions, features].
  constexpr int64_t positions = kRows, heads = 8, depth = kColumns / heads / 2;
  add(
      group, "attention of 1 query", "attention", one,
      [] {
        return Operands{{reals({1, heads, 1, depth}, 1), reals({1, positions, heads, depth}, 2),
                         reals({1, positions, heads, depth}, 3), Array({0}), Array({0})},
                        {Array({1, 1, heads, depth}), Array({1, heads, 1})},
                        {0.125, 0, 0, 0},
                        Operands::heads};
      },
      [](const Operands& o, int64_t i) {
        const int64_t step = heads * depth, head = i / depth * depth;
        double weights = 0, sum = 0;
        for (int64_t t = 0; t < positions; t++) {
          double score = 0;
          for (int64_t d = 0; d < depth; d++) score += double{o.x()[head + d]} * o.x(1)[t * step + head + d];
          weights += std::exp(score * 0.125);
          sum += std::exp(score * 0.125) * o.x(2)[t * step + i];
        }
        return std::abs(o.y()[i] - sum / weights) < 1e-5;
      },
      101, heads * depth);

  constexpr int64_t side = 64, images = kElements / (side * side * 64);
  add(
      group, "max pool 2x2", "max_pool2d", one + one / 4 + kElements / 4.0,
      [] {
        return Operands{{reals({images, side, side, 64}, 1)},
                        {Array({images, side / 2, side / 2, 64}), Array({images, side / 2, side / 2, 64}, DType::u8)},
                        {2, 2, 2, 2, 0, 0, 1, 1}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t c = i % 64, q = i / 64 % 32, p = i / 64 / 32;  // rows of all images in one
        float best = -1e9f;
        for (int64_t k = 0; k < 4; k++) best = std::max(best, o.x()[((2 * p + k / 2) * side + 2 * q + k % 2) * 64 + c]);
        return o.y()[i] == best;
      },
      1009, kElements / 4);
  add(
      group, "max pool 2x2 gradient", "max_pool2d_grad", one + one / 4 + kElements / 4.0,
      [] {
        Operands o = {{reals({images, side / 2, side / 2, 64}, 1), Array({images, side / 2, side / 2, 64}, DType::u8)},
                      {reals({images, side, side, 64}, 2)},
                      {2, 2, 2, 2, 0, 0, 1, 1}};
        uint8_t* index = reinterpret_cast<uint8_t*>(o.in[1].f32());
        for (int64_t i = 0; i < kElements / 4; i++) index[i] = static_cast<uint8_t>(i * 7 % 4);
        return o;
      },
      [](const Operands& o, int64_t i) {
        const int64_t c = i % 64, column = i / 64 % side, row = i / 64 / side;
        const int64_t at = (row / 2 * (side / 2) + column / 2) * 64 + c;
        return o.y()[i] == (at * 7 % 4 == row % 2 * 2 + column % 2 ? o.x()[at] : 0);
      });

  add(
      group, "sgd", "sgd_update", 5 * one,
      [] {
        return Operands{{constant({kRows, kColumns}, 0), constant({}, 0.1f)},
                        {matrix(2), matrix(3)},
                        {0.9, 0, 0},
                        Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]); });
  add(
      group, "adam", "adam_update", 7 * one,
      [] {
        return Operands{{matrix(1), constant({}, 1e-3f), constant({}, 5), Array({0})},
                        {matrix(2), constant({kRows, kColumns}, 0.5f), constant({kRows, kColumns}, 0.5f)},
                        {0.9, 0.999, 1e-8, 0.01, 1},
                        Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]) && o.y(2)[i] >= 0; });
  add(
      group, "adam, 8 bits", "adam8_update", 4 * one,
      [] {
        return Operands{{matrix(1), constant({}, 1e-3f), constant({}, 5), Array({0})},
                        {matrix(2), Array({kRows, kColumns}, DType::u8), Array({kRows, kColumns}, DType::u8),
                         constant({2, kElements / 256}, 0.5f)},
                        {0.9, 0.999, 1e-8, 0.01, 1},
                        Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]); });
  add(
      group, "lion", "lion_update", 5 * one,
      [] {
        return Operands{
            {matrix(1), constant({}, 1e-4f)}, {matrix(2), matrix(3)}, {0.9, 0.99, 0.01}, Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]); });
  // The gradient is read three times: the mean squares, the size of the update and the update wait for each other.
  add(
      group, "adafactor", "adafactor_update", 6 * one,
      [] {
        return Operands{{matrix(1), constant({}, 1e-2f), constant({}, 5)},
                        {matrix(2), constant({kRows}, 1), constant({kColumns}, 1)},
                        {1e-30, 1e-3, 1, 0, 0.8},
                        Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]); });
  add(
      group, "sm3", "sm3_update", 3 * one,
      [] {
        return Operands{{matrix(1), constant({}, 1e-2f)},
                        {matrix(2), constant({kRows}, 1), constant({kColumns}, 1), Array({0})},
                        {0, 0},
                        Operands::in_place};
      },
      [](const Operands& o, int64_t i) { return std::isfinite(o.y()[i]); });

  add(
      group, "add sign", "add_sign", 2 * one,
      [] {
        return Operands{{matrix(1)}, {matrix(2)}, {0.25, 0}};
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == o.x()[i] + (o.x()[i] > 0 ? 0.25f : -0.25f); });
  add(
      group, "sign pack", "sign_pack", one + kElements / 8.0,
      [] {
        return Operands{{matrix(1)}, {Array({kRows / 32, kColumns}, DType::u32)}};
      },
      [](const Operands& o, int64_t i) { return bit(o.out[0], i) == (o.x()[i] > 0); });
  add(
      group, "mask apply", "mask_apply", 2 * one + kElements / 8.0,
      [] {
        Operands o = {{matrix(1), Array({kRows / 32, kColumns}, DType::u32)}, {matrix(2)}};
        for (int64_t i = 0; i < o.in[1].count(); i++) o.in[1].u32()[i] = static_cast<uint32_t>(i) * 2654435761u;
        return o;
      },
      [](const Operands& o, int64_t i) { return o.y()[i] == (bit(o.in[1], i) ? o.x()[i] : 0); });
  add(
      group, "2-bit pack", "code2_pack", one + kElements / 4.0,
      [] {
        return Operands{{matrix(1)}, {Array({kRows / 16, kColumns}, DType::u32), Array({kRows, 2})}};
      },
      [](const Operands& o, int64_t i) {
        const int64_t r = i / kColumns, c = i % kColumns;
        const uint32_t code = o.out[0].u32()[r / 16 * kColumns + c] >> (r % 16 * 2) & 3;
        const double low = o.y(1)[2 * r], width = o.y(1)[2 * r + 1];
        return std::abs(code * width / 3 + low - o.x()[i]) <= width / 6 + 1e-5;
      });
  add(
      group, "2-bit unpack", "code2_unpack", one + kElements / 4.0,
      [] {
        Operands o = {{Array({kRows / 16, kColumns}, DType::u32), constant({kRows, 2}, 3)}, {matrix(1)}};
        for (int64_t i = 0; i < o.in[0].count(); i++) o.in[0].u32()[i] = static_cast<uint32_t>(i) * 2654435761u;
        return o;
      },
      [](const Operands& o, int64_t i) {
        const int64_t r = i / kColumns, c = i % kColumns;
        return near(o.y()[i], 3 + static_cast<double>(o.in[0].u32()[r / 16 * kColumns + c] >> (r % 16 * 2) & 3), 1e-6);
      });
  add_quantize<8, true>(group, "8-bit quantize");
  add_quantize<8, false>(group, "8-bit quantize, nearest");
  add_quantize<4, true>(group, "4-bit quantize");
  add_quantize<2, true>(group, "2-bit quantize");
  add_dequantize<8>(group, "8-bit dequantize");
  add_dequantize<2>(group, "2-bit dequantize");
}

// Pooling of channels-last images: x [N, H, W, C], y [N, P, Q, C]. Gradients gather: every input sums the outputs
// whose window holds it, in a fixed order.
#include "../../core/pool.h"
#include "../bypass.h"
#include "../vector.h"

namespace auxgrad {
namespace {

// Runs f(n, row) for the rows of all images, as many at a time as make a task worth it.
template <class F>
inline void each_row(const Call& call, int64_t images, int64_t rows, int64_t work, const F& f) {
  parallel_ranges(call, images * rows, max64(1, 32768 / max64(1, work)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) f(i / rows, i % rows);
    end_bypass();
  });
}

template <class Lanes>
inline IntVec load_bytes(const uint8_t* p, Lanes lanes) {
  if (lanes.count() == kLanes) return load_bytes(p);
  uint8_t whole[kLanes] = {};
  memcpy(whole, p, static_cast<size_t>(lanes.count()));
  return load_bytes(whole);
}
template <class Lanes>
inline void store_bytes(uint8_t* p, IntVec v, Lanes lanes) {
  if (lanes.count() == kLanes) return store_bytes(p, v);
  uint8_t whole[kLanes];
  store_bytes(whole, v);
  memcpy(p, whole, static_cast<size_t>(lanes.count()));
}

inline void bypass_bytes(uint8_t* p, IntVec v) {
#if defined(__AVX512F__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#else
  store_bytes(p, v);
#endif
}

// Windows of two columns, none of which reaches over an edge, of what comes from memory and goes there, in whole lines of y:
// the rows of a window are read one after the other, each from end to end for a run of outputs, whose maxima so far are
// kept aside. Rows side by side are more than processors fetch ahead of well.
constexpr int64_t kKept = 4096;  // elements

inline bool all_inside(const Windows& w) {
  return w.pad == 0 && (w.outputs - 1) * w.stride + (w.kernel - 1) * w.dilation < w.inputs;
}

inline void max_of_pairs(const Call& call, const Windows& v, const Windows& h, int64_t channels) {
  const int64_t run = kKept / channels, second = h.dilation * channels, line = h.inputs * channels;
  each_row(
      call, call.out[0].shape[0], v.outputs, h.outputs * channels * v.kernel * h.kernel, [&](int64_t n, int64_t p) {
        alignas(64) float kept[kKept];
        alignas(64) uint8_t noted[kKept];
        for (int64_t begin = 0; begin < h.outputs; begin += run) {
          const int64_t end = min64(begin + run, h.outputs), out = ((n * v.outputs + p) * h.outputs + begin) * channels;
          float* y = call.out[0].f32() + out;
          uint8_t* index = call.out[1].u8() + out;
          for (int64_t i = 0; i < v.kernel; i++) {
            const float* row = call.in[0].f32() + (n * v.inputs + v.start(p) + i * v.dilation) * line;
            const int32_t tap = static_cast<int32_t>(2 * i);
            const bool last = i == v.kernel - 1;
            for (int64_t q = begin, to = 0; q < end; q++)
              for (const float *x = row + h.start(q) * channels, *stop = x + channels; x < stop;
                   x += kLanes, to += kLanes) {
                Vec best = load(x);
                IntVec at = {};
                if (i > 0) {
                  const Vec value = best;
                  best = load(kept + to), at = load_bytes(noted + to);
                  take_larger(value, tap, &best, &at);
                }
                take_larger(load(x + second), tap + 1, &best, &at);
                if (last) {
                  bypass(y + to, best);
                  bypass_bytes(index + to, at);
                } else {
                  store(kept + to, best);
                  store_bytes(noted + to, at);
                }
              }
          }
        }
      });
}

// max_pool2d: x -> y, index u8 [N, P, Q, C]: the position kh * KW + kw of the first maximum; NaN counts as larger.
// Numbers: KH, KW, strideH, strideW, padTop, padLeft, dilationH, dilationW. A window outside the image gives -inf, 0.
bool max_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0], &index = call.out[1];
  if (!check_max_pool(call, x, y)) return false;
  const int64_t rows = x.shape[1], columns = x.shape[2], channels = x.shape[3];
  const Windows v = max_windows(call, 0, rows, y.shape[1]), h = max_windows(call, 1, columns, y.shape[2]);
  const bool past = too_large(y, channels);
  if (past && channels <= kKept && h.kernel == 2 && all_inside(v) && all_inside(h) && lines_apart(index.data, 0)) {
    max_of_pairs(call, v, h, channels);
    return true;
  }
  each_row(call, y.shape[0], v.outputs, h.outputs * channels * v.kernel * h.kernel, [&](int64_t n, int64_t p) {
    const Range a = v.taps(p);
    const float* image = x.f32() + n * rows * columns * channels;
    // Where the taps of a window lie from its corner; most windows of a row have all.
    int64_t offset[256];
    int32_t tap[256];
    int count = 0;
    Range known = {0, 0};
    for (int64_t q = 0; q < h.outputs; q++) {
      const Range b = h.taps(q);
      if (b.begin != known.begin || b.end != known.end) {
        count = 0;
        for (int64_t i = a.begin; i < a.end; i++)
          for (int64_t j = b.begin; j < b.end; j++) {
            offset[count] = (i * v.dilation * columns + j * h.dilation) * channels;
            tap[count++] = static_cast<int32_t>(i * h.kernel + j);
            __asm__ volatile("");  // vectors of so few would be kilobytes of code
          }
        known = b;
      }
      const int64_t out = ((n * v.outputs + p) * h.outputs + q) * channels;
      const int64_t corner = (v.start(p) * columns + h.start(q)) * channels;
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        Vec best = broadcast(-__builtin_inff());
        IntVec at = {};
        const float* from = image + corner + c;
        if (count > 0) best = lanes.load(from + offset[0]), at += tap[0];
        for (int k = 1; k < count; k++) take_larger(lanes.load(from + offset[k]), tap[k], &best, &at);
        put(past, lanes, y.f32() + out + c, best);
        store_bytes(index.u8() + out + c, at, lanes);
      });
    }
  });
  return true;
}

// Windows side by side, all of them inside: an input has one reader, and each output is read once for all its inputs.
inline bool are_apart(const Windows& w) {
  return w.pad == 0 && w.dilation == 1 && w.stride == w.kernel && w.outputs > 0 && w.outputs * w.kernel <= w.inputs;
}

inline void spread_maxima(const Call& call, const Windows& v, const Windows& h, int64_t channels) {
  const View &dy = call.in[0], &index = call.in[1], &dx = call.out[0];
  const bool past = too_large(dx, channels);
  const int64_t line = h.inputs * channels, covered = h.outputs * h.kernel * channels;
  each_row(call, dx.shape[0], v.outputs, v.kernel * line, [&](int64_t n, int64_t p) {
    float* rows = dx.f32() + (n * v.inputs + p * v.kernel) * line;
    const int64_t from = (n * v.outputs + p) * h.outputs * channels;
    const float* d = dy.f32() + from;
    const uint8_t* noted = index.u8() + from;
    for (int64_t q = 0; q < h.outputs; q++, d += channels, noted += channels)
      each_vector(0, channels, [&](int64_t c, auto lanes) {
        const IntVec at = load_bytes(noted + c, lanes);
        const Vec value = lanes.load(d + c);
        float* to = rows + q * h.kernel * channels + c;
        int32_t tap = 0;
        for (int64_t i = 0; i < v.kernel; i++)
          for (int64_t j = 0; j < h.kernel; j++)
            put(past, lanes, to + i * line + j * channels, at == tap++ ? value : Vec{});
      });
    // Inputs that no window holds.
    for (int64_t i = 0; i < v.kernel; i++) set_zero(rows + i * line + covered, line - covered);
    if (p == v.outputs - 1) set_zero(rows + v.kernel * line, (v.inputs - v.outputs * v.kernel) * line);
  });
}

// max_pool2d_grad: dy, index -> dx; numbers as max_pool2d
bool max_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &index = call.in[1], &dx = call.out[0];
  if (!check_max_pool(call, dx, dy)) return false;
  const int64_t rows = dx.shape[1], columns = dx.shape[2], channels = dx.shape[3];
  const Windows v = max_windows(call, 0, rows, dy.shape[1]), h = max_windows(call, 1, columns, dy.shape[2]);
  if (are_apart(v) && are_apart(h)) {
    spread_maxima(call, v, h, channels);
    return true;
  }
  // An output that may have taken an input: where it lies, and the position it must have noted.
  struct Reader {
    int64_t from;
    int32_t tap;
  };
  constexpr int kReaders = 16;
  each_row(call, dx.shape[0], rows, columns * channels * 4, [&](int64_t n, int64_t i) {
    const Range a = v.readers(i);
    for (int64_t j = 0; j < columns; j++) {
      const Range b = h.readers(j);
      float* out = dx.f32() + ((n * rows + i) * columns + j) * channels;
      Reader readers[kReaders];
      int count = 0;
      bool first = true;
      const auto add = [&] {
        each_vector(0, channels, [&](int64_t c, auto lanes) {
          Vec sum = first ? Vec{} : lanes.load(out + c);
          for (int r = 0; r < count; r++) {
            const IntVec mine = load_bytes(index.u8() + readers[r].from + c, lanes) == readers[r].tap;
            sum += mine ? lanes.load(dy.f32() + readers[r].from + c) : Vec{};
          }
          lanes.store(out + c, sum);
        });
        count = 0;
        first = false;
      };
      for (int64_t p = a.begin; p < a.end; p++) {
        const int64_t kh = v.tap(p, i);
        for (int64_t q = b.begin; kh >= 0 && q < b.end; q++) {
          const int64_t kw = h.tap(q, j);
          if (kw < 0) continue;
          if (count == kReaders) add();
          readers[count++] = {((n * v.outputs + p) * h.outputs + q) * channels,
                              static_cast<int32_t>(kh * h.kernel + kw)};
        }
      }
      if (first || count > 0) add();
    }
  });
  return true;
}

void average(const Call& call, const Windows& v, const Windows& h, bool padding_counts) {
  const View &x = call.in[0], &y = call.out[0];
  const int64_t channels = x.shape[3];
  // Few outputs with large windows (global pooling): cut the channels too.
  constexpr int64_t cut = 256;
  const int64_t cuts = ceil_div(channels, cut);
  const int64_t window = max64(1, v.inputs / max64(1, v.outputs)) * max64(1, h.inputs / max64(1, h.outputs));
  each_row(call, y.shape[0] * v.outputs, cuts, h.outputs * min64(channels, cut) * window,
           [&](int64_t row, int64_t part) {
             const int64_t n = row / v.outputs, p = row % v.outputs;
             const Range a = v.taps(p);
             for (int64_t q = 0; q < h.outputs; q++) {
               const Range b = h.taps(q);
               const Vec scale = broadcast(share(v, h, a, b, padding_counts));
               const float* corner = x.f32() + ((n * v.inputs + v.start(p)) * h.inputs + h.start(q)) * channels;
               float* out = y.f32() + (row * h.outputs + q) * channels;
               const int64_t end = min64(channels, part * cut + cut);
               int64_t c = part * cut;
               // Memory is read in long runs: several vectors side by side, as many as registers hold; of a large window
               // all, to sums in the cache.
               if (kLanes < 16 && !kFallback && b.end - b.begin >= 4) {
                 float sums[cut] = {};
                 for (int64_t i = a.begin; i < a.end; i++)
                   for (int64_t j = b.begin; j < b.end; j++) {
                     const float* from = corner + (i * h.inputs + j) * channels + c;
                     each_vector(0, end - c, [&](int64_t k, auto lanes) {
                       lanes.store(sums + k, lanes.load(sums + k) + lanes.load(from + k));
                     });
                   }
                 each_vector(0, end - c,
                             [&](int64_t k, auto lanes) { lanes.store(out + c + k, lanes.load(sums + k) * scale); });
                 continue;
               }
               constexpr int kSide = kLanes == 16 ? 16 : 8;
               for (; c + kSide * kLanes <= end; c += kSide * kLanes) {
                 Vec sums[kSide] = {};
                 for (int64_t i = a.begin; i < a.end; i++)
                   for (int64_t j = b.begin; j < b.end; j++) {
                     const float* from = corner + (i * h.inputs + j) * channels + c;
                     AUXGRAD_UNROLL
                     for (int k = 0; k < kSide; k++) sums[k] += load(from + k * kLanes);
                   }
                 for (int k = 0; k < kSide; k++) store(out + c + k * kLanes, sums[k] * scale);
               }
               each_vector(c, end, [&](int64_t c1, auto lanes) {
                 Vec sum = {};
                 for (int64_t i = a.begin; i < a.end; i++)
                   for (int64_t j = b.begin; j < b.end; j++)
                     sum += lanes.load(corner + (i * h.inputs + j) * channels + c1);
                 lanes.store(out + c1, sum * scale);
               });
             }
           });
}

void average_grad(const Call& call, const Windows& v, const Windows& h, bool padding_counts) {
  const View &dy = call.in[0], &dx = call.out[0];
  const int64_t channels = dx.shape[3];
  each_row(call, dx.shape[0], v.inputs, h.inputs * channels * 4, [&](int64_t n, int64_t i) {
    const Range a = v.readers(i);
    for (int64_t j = 0; j < h.inputs; j++) {
      const Range b = h.readers(j);
      float* out = dx.f32() + ((n * v.inputs + i) * h.inputs + j) * channels;
      set_zero(out, channels);
      for (int64_t p = a.begin; p < a.end; p++)
        for (int64_t q = b.begin; q < b.end; q++) {
          const Vec scale = broadcast(share(v, h, v.taps(p), h.taps(q), padding_counts));
          const float* from = dy.f32() + ((n * v.outputs + p) * h.outputs + q) * channels;
          each_vector(0, channels, [&](int64_t c, auto lanes) {
            lanes.store(out + c, lanes.load(out + c) + lanes.load(from + c) * scale);
          });
        }
    }
  });
}

// avg_pool2d: x -> y. Numbers: KH, KW, strideH, strideW, padTop, padLeft, countIncludePad.
bool avg_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  if (!check_average(call, x, y)) return false;
  average(call, average_windows(call, 0, x.shape[1], y.shape[1]), average_windows(call, 1, x.shape[2], y.shape[2]),
          call.integer(6) != 0);
  return true;
}

// avg_pool2d_grad: dy -> dx; numbers as avg_pool2d
bool avg_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &dx = call.out[0];
  if (!check_average(call, dx, dy)) return false;
  average_grad(call, average_windows(call, 0, dx.shape[1], dy.shape[1]),
               average_windows(call, 1, dx.shape[2], dy.shape[2]), call.integer(6) != 0);
  return true;
}

// adaptive_avg_pool2d: x -> y
bool adaptive_avg_pool2d(const Call& call) {
  const View &x = call.in[0], &y = call.out[0];
  if (!check_pool(call, x, y)) return false;
  average(call, adaptive_windows(x.shape[1], y.shape[1]), adaptive_windows(x.shape[2], y.shape[2]), false);
  return true;
}

// adaptive_avg_pool2d_grad: dy -> dx
bool adaptive_avg_pool2d_grad(const Call& call) {
  const View &dy = call.in[0], &dx = call.out[0];
  if (!check_pool(call, dx, dy)) return false;
  average_grad(call, adaptive_windows(dx.shape[1], dy.shape[1]), adaptive_windows(dx.shape[2], dy.shape[2]), false);
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"max_pool2d", max_pool2d}, {"max_pool2d_grad", max_pool2d_grad}, {"avg_pool2d", avg_pool2d},
                {"avg_pool2d_grad", avg_pool2d_grad}, {"adaptive_avg_pool2d", adaptive_avg_pool2d},
                {"adaptive_avg_pool2d_grad", adaptive_avg_pool2d_grad})

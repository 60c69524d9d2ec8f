// The gradient of a normalisation along rows: of layer norm, and of the root-mean-square norm, which has no mean.
#pragma once
#include "bypass.h"
#include "channels.h"
#include "rows.h"

namespace auxgrad {
namespace {

// Of each thread four rows of floats, and room to place them.
constexpr int64_t kPageFloats = 1024;
inline int64_t row_gradient_floats(int64_t channels) { return 4 * channels + 5 * kPageFloats; }
inline int64_t row_gradient_scratch(const View& x, int threads) {
  return channel_scratch(x) + threads * row_gradient_floats(x.shape[x.rank - 1]) * static_cast<int64_t>(sizeof(float));
}

// The first place from p on that is `floats` behind x in its page, to a line: a load waits for a store before it that goes
// to the same place in another page, so what is written as a row is read stays away from where that is read.
inline float* placed(float* p, const float* x, int64_t floats) {
  const uintptr_t line = 64, page = kPageFloats * sizeof(float);
  const uintptr_t place = reinterpret_cast<uintptr_t>(x) + static_cast<uintptr_t>(floats) * sizeof(float);
  const uintptr_t wanted = (place & -line) - reinterpret_cast<uintptr_t>(p);
  return p + wanted % page / sizeof(float);
}

// Rows of so many channels are kept: with the sums they leave room in a first cache of 32 KiB for what is read.
constexpr int64_t kKeptChannels = kPageFloats;

// in: dy, x; out: dx, which may take the place of dy or x. The scratch begins with two sums over all rows for each channel:
// of dy, if kMean, and of dy times normalised x. Each row comes from memory once. Of short ones dx is written while the next
// row is read, from what was kept of it: to read the row itself again would disturb what the processor fetches ahead.
template <bool kMean>
inline void row_gradient(const Call& call, const float* mean, const float* rstd, const float* gamma) {
  const int64_t channels = call.in[1].shape[call.in[1].rank - 1], rows = call.in[1].count(0, call.in[1].rank - 1);
  const float *dy = call.in[0].f32(), *x = call.in[1].f32();
  float* dx = call.out[0].f32();
  float* room = reinterpret_cast<float*>(static_cast<char*>(call.scratch) + channel_scratch(call.in[1]));
  const double n = static_cast<double>(channels);
  const bool past = too_large(call.out[0], channels), keep = !kFallback && channels <= kKeptChannels;
  channel_sums(
      call, rows, channels,
      [=](int64_t begin, int64_t end, int thread, double* sums) {
        float* const a = placed(room + thread * row_gradient_floats(channels), x, kPageFloats / 2);
        float* const b = placed(a + channels, x, kPageFloats / 2);
        float* const given = placed(b + channels, x, kPageFloats / 4);
        float* const normal = placed(given + channels, x, 3 * kPageFloats / 4);
        Vec scale = {}, less = {}, along = {};  // of the row whose dx is made
        const auto gradient = [=](Vec u, Vec z, Vec by, Vec all, Vec part) {
          return by * ((kMean ? u - all : u) - z * part);
        };
        const auto add = [=](int64_t c, auto lanes, Vec d, Vec z) {
          if (kMean) lanes.store(a + c, lanes.load(a + c) + d);
          lanes.store(b + c, lanes.load(b + c) + d * z);
        };
        if (keep) {
          set_zero(given, channels);
          set_zero(normal, channels);
        }
        constexpr int64_t kRows = 256;
        for (int64_t first = begin; first < end; first += kRows) {
          set_zero(a, channels);
          set_zero(b, channels);
          for (int64_t r = first; r < min64(end, first + kRows); r++) {
            const float *g = dy + r * channels, *row = x + r * channels;
            const Vec middle = kMean ? broadcast(mean[r]) : Vec{}, own = broadcast(rstd[r]);
            const auto normalised = [=](int64_t c, auto lanes) {
              const Vec in = lanes.load(row + c);
              return (kMean ? in - middle : in) * own;
            };
            double grads, products;
            // There is none before the first row: its dx is written twice.
            float* to = dx + max64(begin, r - 1) * channels;
            if (keep)
              sum_pairs(
                  channels,
                  [=](int64_t c, auto lanes, Vec& u, Vec& v) {
                    const Vec d = lanes.load(g + c), z = normalised(c, lanes);
                    if (!past) fetch_next(to + c, channels);
                    put(past, lanes, to + c,
                        gradient(lanes.load(given + c), lanes.load(normal + c), scale, less, along));
                    u = d * lanes.load(gamma + c);
                    v = u * z;
                    lanes.store(given + c, u);
                    lanes.store(normal + c, z);
                    add(c, lanes, d, z);
                  },
                  &grads, &products);
            else
              sum_pairs(
                  channels,
                  [=](int64_t c, auto lanes, Vec& u, Vec& v) {
                    u = lanes.load(g + c) * lanes.load(gamma + c);
                    v = u * normalised(c, lanes);
                  },
                  &grads, &products);
            scale = own;
            less = broadcast(static_cast<float>(grads / n));
            along = broadcast(static_cast<float>(products / n));
            if (keep) continue;
            each_vector(0, channels, [=](int64_t c, auto lanes) {
              fetch_next(g + c, channels);
              fetch_next(row + c, channels);
              if (!past) fetch_next(dx + r * channels + c, channels);
              const Vec d = lanes.load(g + c), z = normalised(c, lanes);
              put(past, lanes, dx + r * channels + c, gradient(d * lanes.load(gamma + c), z, scale, less, along));
              add(c, lanes, d, z);
            });
          }
          if (kMean) add_floats(a, channels, sums);
          add_floats(b, channels, sums + channels);
        }
        if (keep && begin < end)
          each_vector(0, channels, [=](int64_t c, auto lanes) {
            put(past, lanes, dx + (end - 1) * channels + c,
                gradient(lanes.load(given + c), lanes.load(normal + c), scale, less, along));
          });
        if (past) end_bypass();
      },
      static_cast<double*>(call.scratch));
}

}  // namespace
}  // namespace auxgrad

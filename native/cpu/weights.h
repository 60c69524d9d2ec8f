// The parameter of an update in place. In bf16 it is read as f32, piece by piece, and rounded on its way back down or up so
// that the mean is the number (Gupta et al. 2015, "Deep learning with limited numerical precision"; Zamirai et al. 2020,
// "Revisiting BFloat16 training"): rounded to the nearest, most updates would be lost.
#pragma once
#include "../core/optim.h"
#include "stream.h"
#include "vector.h"

namespace auxgrad {
namespace {

class Weights {
 public:
  // out[0]: the parameter. In bf16 the last operand is the key of the random numbers and the last number their stream.
  __attribute__((noinline)) explicit Weights(const Call& call)
      : data_(call.out[0].data), bf16_(call.out[0].dtype == DType::bf16) {
    if (bf16_) stream_ = stream_of(call.in[call.n_in - 1], call.number[call.n_number - 1], kNoiseRounds);
  }

  // Elements [at, at + n): where they lie, or in the buffer.
  float* read(int64_t at, int64_t n, float* buffer) const {
    if (!bf16_) return static_cast<float*>(data_) + at;
    expand(at, n, buffer);
    return buffer;
  }
  // What has become of them; nothing is done where they lie themselves.
  void write(int64_t at, int64_t n, const float* from) const {
    if (bf16_) round(at, n, from);
  }

  // f(w, at, n) for pieces of [begin, end), w those of element `at` on.
  template <class F>
  void change(int64_t begin, int64_t end, const F& f) const {
    each_piece(begin, end, f, true);
  }
  template <class F>
  void look(int64_t begin, int64_t end, const F& f) const {
    each_piece(begin, end, f, false);
  }

 private:
  static constexpr int64_t kPiece = 1024, kDraws = 2 * kGroup;

  template <class F>
  inline __attribute__((always_inline)) void each_piece(int64_t begin, int64_t end, const F& f, bool changed) const {
    alignas(64) float buffer[kPiece];
    const int64_t most = bf16_ ? kPiece : end - begin;
    for (int64_t at = begin; at < end; at += most) {
      const int64_t n = min64(most, end - at);
      float* w = read(at, n, buffer);
      f(w, at, n);
      if (changed) write(at, n, w);
    }
  }

  __attribute__((noinline)) void expand(int64_t at, int64_t n, float* to) const {
    const uint16_t* from = static_cast<const uint16_t*>(data_) + at;
    for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(from[i]);
  }
  // The draw of element i is half i % 8 of Philox block i / 8, wherever a piece begins.
  __attribute__((noinline)) void round(int64_t at, int64_t n, const float* from) const {
    uint16_t draws[kDraws];
    uint16_t* to = static_cast<uint16_t*>(data_) + at;
    for (int64_t i = 0; i < n;) {
      const int64_t skip = (at + i) % 8, count = min64(kDraws - skip, n - i);
      stream_.halves(at + i - skip, draws);
      for (int64_t k = 0; k < count; k++) to[i + k] = rounded_by(draws[skip + k], from[i + k]);
      i += count;
    }
  }

  void* data_;
  bool bf16_;
  Stream stream_;
};

}  // namespace
}  // namespace auxgrad

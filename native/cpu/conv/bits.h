// Bits of "is positive", packed along tokens: bit t % 32 of word [t / 32][c] is element (t, c).
#pragma once
#include "vec.h"

namespace auxgrad {
namespace {

typedef uint32_t BitWords __attribute__((vector_size(4 * kLanes)));

// Words [first, last) of columns [from, to) of x [tokens, channels]; bits beyond the last token are 0.
inline void pack_positive(const float* x, int64_t tokens, int64_t channels, uint32_t* words, int64_t first,
                          int64_t last, int64_t from, int64_t to) {
  for (int64_t w = first; w < last; w++) {
    const float* rows = x + w * 32 * channels;
    const int64_t n = min64(32, tokens - w * 32);
    uint32_t* out = words + w * channels;
    int64_t c = from;
    for (; c + kLanes <= to; c += kLanes) {
      BitWords word = {};
      for (int64_t t = n - 1; t >= 0; t--) word = word + word - (BitWords)(load(rows + t * channels + c) > Vec{});
      memcpy(out + c, &word, sizeof(word));
    }
    for (; c < to; c++) {
      uint32_t word = 0;
      for (int64_t t = 0; t < n; t++) word |= static_cast<uint32_t>(rows[t * channels + c] > 0) << t;
      out[c] = word;
    }
  }
}

}  // namespace
}  // namespace auxgrad

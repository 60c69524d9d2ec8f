// Bits of "is positive", packed along tokens: bit t % 32 of word [t / 32][c] is element (t, c).
#pragma once
#include "../vector.h"

namespace auxgrad {
namespace {

// One word of V vectors of columns.
template <int V>
inline void pack_word(const float* rows, int64_t n, int64_t channels, uint32_t* out) {
  BitWords words[V] = {}, bit = BitWords{} + 1;
  for (int64_t t = 0; t < n; t++, rows += channels, bit += bit) {
    AUXGRAD_UNROLL
    for (int v = 0; v < V; v++) words[v] = mark_positive(words[v], load(rows + v * kLanes), bit);
  }
  memcpy(out, words, sizeof(words));
}

// Words [first, last) of columns [from, to) of x [tokens, channels]; bits beyond the last token are 0.
__attribute__((noinline)) inline void pack_positive(const float* x, int64_t tokens, int64_t channels, uint32_t* words,
                                                    int64_t first, int64_t last, int64_t from, int64_t to) {
  for (int64_t w = first; w < last; w++) {
    const float* rows = x + w * 32 * channels;
    const int64_t n = min64(32, tokens - w * 32);
    uint32_t* out = words + w * channels;
    int64_t c = from;
    for (; c + 8 * kLanes <= to; c += 8 * kLanes) pack_word<8>(rows + c, n, channels, out + c);
    for (; c + kLanes <= to; c += kLanes) pack_word<1>(rows + c, n, channels, out + c);
    for (; c < to; c++) {
      uint32_t word = 0;
      for (int64_t t = 0; t < n; t++) word |= static_cast<uint32_t>(rows[t * channels + c] > 0) << t;
      out[c] = word;
    }
  }
}

}  // namespace
}  // namespace auxgrad

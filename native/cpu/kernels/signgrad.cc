// Weight gradients from one-bit inputs: dW = scale * delta^T s, without multiplying.
//
// The signs of four consecutive tokens of a channel are a number of four bits. For an output channel, the sixteen
// signed sums of its four deltas are one register; an in-register permute by sixteen channels' numbers, and one add,
// do the work of four multiply-adds for sixteen channels. The permute reads only the low four bits of each index, so a
// shift by four is all the decoding. Tables are built once per block of tokens and shared by all input channels.
#include "../unit.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace auxgrad {
namespace {

constexpr int kWords = 4;  // 128 tokens a block: their tables (16 KiB) stay in the first-level cache
constexpr int kTokens = 32 * kWords;
constexpr int kOutputs = 8;  // accumulators in registers

// The gradient of one block of tokens for kOutputs output channels and all input channels:
// dw[o][c] += sum over tokens of delta[t][o] * s[t][c]. Absent tokens have delta 0.
#if defined(__AVX512F__)
void block_gradient(const float (*delta)[kOutputs], const uint32_t* words, int64_t channels, int64_t word_stride,
                    int alphabet, float* dw, int64_t dw_stride, int outputs) {
  alignas(64) float table[kTokens / 4][kOutputs][16];
  const float low = alphabet ? 0.0f : -1.0f;
  __m512 pattern[4];
  for (int bit = 0; bit < 4; bit++) {
    alignas(64) float p[16];
    for (int i = 0; i < 16; i++) p[i] = i >> bit & 1 ? 1.0f : low;
    pattern[bit] = _mm512_load_ps(p);
  }
  for (int g = 0; g < kTokens / 4; g++)
    for (int o = 0; o < kOutputs; o++) {
      __m512 t = _mm512_mul_ps(pattern[0], _mm512_set1_ps(delta[4 * g][o]));
      for (int j = 1; j < 4; j++) t = _mm512_fmadd_ps(pattern[j], _mm512_set1_ps(delta[4 * g + j][o]), t);
      _mm512_store_ps(table[g][o], t);
    }
  for (int64_t c = 0; c < channels; c += 16) {
    const __mmask16 lanes = channels - c >= 16 ? 0xffff : static_cast<__mmask16>((1u << (channels - c)) - 1);
    __m512 sum[kOutputs];
    for (int o = 0; o < kOutputs; o++) sum[o] = _mm512_setzero_ps();
    for (int w = 0; w < kWords; w++) {
      __m512i index = _mm512_maskz_loadu_epi32(lanes, words + w * word_stride + c);
#pragma GCC unroll 8
      for (int g = 0; g < 8; g++) {
#pragma GCC unroll 8
        for (int o = 0; o < kOutputs; o++)
          sum[o] = _mm512_add_ps(sum[o], _mm512_permutexvar_ps(index, _mm512_load_ps(table[w * 8 + g][o])));
        index = _mm512_srli_epi32(index, 4);
      }
    }
    for (int o = 0; o < outputs; o++) {
      float* p = dw + o * dw_stride + c;
      _mm512_mask_storeu_ps(p, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, p), sum[o]));
    }
  }
}
#else
void block_gradient(const float (*delta)[kOutputs], const uint32_t* words, int64_t channels, int64_t word_stride,
                    int alphabet, float* dw, int64_t dw_stride, int outputs) {
  constexpr int64_t kLanes = 16;
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t n = min64(kLanes, channels - c);
    for (int o = 0; o < outputs; o++) {
      float sum[kLanes] = {};
      for (int w = 0; w < kWords; w++) {
        uint32_t bits[kLanes] = {};
        memcpy(bits, words + w * word_stride + c, static_cast<size_t>(n) * 4);
        for (int t = 0; t < 32; t++) {
          const float on = delta[w * 32 + t][o], off = alphabet ? 0.0f : -on;
          for (int64_t i = 0; i < kLanes; i++) sum[i] += bits[i] >> t & 1 ? on : off;
        }
      }
      for (int64_t i = 0; i < n; i++) dw[o * dw_stride + c + i] += sum[i];
    }
  }
}
#endif

// linear_sign_weight_grad: delta [T, O], signs [ceil(T/32), I] -> dw [O, I]; numbers: scale, alphabet
bool linear_sign_weight_grad(const Call& call) {
  const View &d = call.in[0], &s = call.in[1], &dw = call.out[0];
  const int64_t tokens = d.shape[0], outputs = d.shape[1], channels = s.shape[1], rows = s.shape[0];
  const float scale = call.real(0);
  const int alphabet = static_cast<int>(call.integer(1));
  uint32_t* spare = static_cast<uint32_t*>(call.scratch);  // the last, short block of words, a share for each thread
  parallel_tasks(call, ceil_div(outputs, kOutputs), [&](int64_t task, int thread) {
    const int64_t o0 = task * kOutputs;
    const int count = static_cast<int>(min64(kOutputs, outputs - o0));
    float* target = dw.f32() + o0 * channels;
    memset(target, 0, static_cast<size_t>(count * channels) * sizeof(float));
    float delta[kTokens][kOutputs];
    for (int64_t t0 = 0; t0 < tokens; t0 += kTokens) {
      for (int t = 0; t < kTokens; t++)
        for (int o = 0; o < kOutputs; o++)
          delta[t][o] = t0 + t < tokens && o < count ? d.f32()[(t0 + t) * outputs + o0 + o] * scale : 0.0f;
      const int64_t w0 = t0 / 32;
      const uint32_t* words = s.u32() + w0 * channels;
      if (rows - w0 < kWords) {
        uint32_t* mine = spare + thread * kWords * channels;
        memset(mine, 0, static_cast<size_t>(kWords * channels) * 4);
        memcpy(mine, words, static_cast<size_t>((rows - w0) * channels) * 4);
        words = mine;
      }
      block_gradient(delta, words, channels, channels, alphabet, target, channels, count);
    }
  });
  return true;
}

int64_t linear_scratch(const Call& call, int threads) { return threads * kWords * call.in[1].shape[1] * 4; }

// conv2d_sign_weight_grad: dy [N, P, Q, O], signs of x [N, H, W, C] -> dw [O, KH, KW, C / groups]
// numbers: stride h, w, pad top, left, dilation h, w, groups, H, W, scale, alphabet. Padding contributes 0.
constexpr int64_t kConvOutputs = 64;  // output channels that share one gathering of bits

bool conv2d_sign_weight_grad(const Call& call) {
  const View &d = call.in[0], &s = call.in[1], &dw = call.out[0];
  const int64_t P = d.shape[1], Q = d.shape[2], outputs = d.shape[3], tokens = d.count(0, 3);
  const int64_t KW = dw.shape[2], taps = dw.shape[1] * KW, depth = dw.shape[3], all = s.shape[1];
  const int64_t sh = call.integer(0), sw = call.integer(1), top = call.integer(2), left = call.integer(3);
  const int64_t dh = call.integer(4), dilation_w = call.integer(5), groups = call.integer(6);
  const int64_t H = call.integer(7), W = call.integer(8), per_group = outputs / groups;
  const float scale = call.real(9);
  const int alphabet = static_cast<int>(call.integer(10));
  const int64_t chunks = ceil_div(per_group, kConvOutputs);
  uint32_t* spare = static_cast<uint32_t*>(call.scratch);
  parallel_tasks(call, taps * groups * chunks, [&](int64_t task, int thread) {
    const int64_t tap = task % taps, group = task / taps % groups, chunk = task / (taps * groups);
    const int64_t kh = tap / KW, kw = tap % KW, first = group * per_group + chunk * kConvOutputs;
    const int64_t last = min64(first + kConvOutputs, (group + 1) * per_group);
    uint32_t* words = spare + thread * kWords * depth;
    for (int64_t o = first; o < last; o++)
      memset(dw.f32() + (o * taps + tap) * depth, 0, static_cast<size_t>(depth) * sizeof(float));
    float delta[kTokens][kOutputs];
    bool inside[kTokens];
    for (int64_t t0 = 0; t0 < tokens; t0 += kTokens) {
      memset(words, 0, static_cast<size_t>(kWords * depth) * 4);
      for (int t = 0; t < kTokens; t++) {
        const int64_t token = t0 + t;
        const int64_t h = token / Q % P * sh - top + kh * dh, w = token % Q * sw - left + kw * dilation_w;
        inside[t] = token < tokens && h >= 0 && h < H && w >= 0 && w < W;
        if (!inside[t]) continue;
        const int64_t source = (token / (P * Q) * H + h) * W + w;
        const uint32_t* from = s.u32() + source / 32 * all + group * depth;
        const int shift = static_cast<int>(source % 32);
        uint32_t* to = words + t / 32 * depth;
        for (int64_t c = 0; c < depth; c++) to[c] |= (from[c] >> shift & 1u) << (t % 32);
      }
      for (int64_t o0 = first; o0 < last; o0 += kOutputs) {
        const int count = static_cast<int>(min64(kOutputs, last - o0));
        for (int t = 0; t < kTokens; t++)
          for (int o = 0; o < kOutputs; o++)
            delta[t][o] = inside[t] && o < count ? d.f32()[(t0 + t) * outputs + o0 + o] * scale : 0.0f;
        block_gradient(delta, words, depth, depth, alphabet, dw.f32() + (o0 * taps + tap) * depth, taps * depth, count);
      }
    }
  });
  return true;
}

int64_t conv_scratch(const Call& call, int threads) { return threads * kWords * call.out[0].shape[3] * 4; }

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"linear_sign_weight_grad", linear_sign_weight_grad, linear_scratch},
                {"conv2d_sign_weight_grad", conv2d_sign_weight_grad, conv_scratch})

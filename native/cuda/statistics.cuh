// What mean and variance are made of (columns.cuh makes them).
#pragma once
#include "operand.cuh"

namespace auxgrad {
namespace {

// Mean and variance of the channels of rows: of each piece of kPiece rows its mean and the sum of squares around that, made
// by what writes the rows where it can, [pieces][2][channels].
constexpr int kPiece = 64;
inline int64_t statistics_scratch(int64_t rows, int64_t channels) { return ceil_div(rows, kPiece) * 2 * channels * 4; }

// at(r) of n rows, to piece[0] and piece[channels].
template <class At>
__device__ inline void piece_statistics(const At& at, int n, float* piece, int64_t channels) {
  double sum = 0;
#pragma unroll 4
  for (int r = 0; r < n; r++) sum += at(r);
  const float mean = static_cast<float>(sum / n);
  float squares = 0;
#pragma unroll 4
  for (int r = 0; r < n; r++) squares += (at(r) - mean) * (at(r) - mean);
  piece[0] = mean;
  piece[channels] = squares;
}

}  // namespace
}  // namespace auxgrad

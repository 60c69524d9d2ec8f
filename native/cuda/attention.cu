// Scaled dot-product attention in tiles with an online softmax; ../cpu/kernels/attention.cc says what the kernels do.
//
// A block has 64 rows of its own and passes along the others 64 at a time: four warps make 64 x 64 products on tensor cores
// (mma.cuh). Scores are made over all of D; what is written, in chunks of 64 columns, each by a block of its own that
// makes the scores again: up to 64 channels a head there is one chunk.
#include "operand.cuh"
#include "stream.cuh"

namespace auxgrad {
namespace {

constexpr int kSide = 64, kThreads = kSide / 16 * 32;
using Square = Tile<kSide, kSide, 3>;
using Sums = float[1][kSide / 8][4];  // a warp's 16 rows of a square

struct Attention {
  Strided q, k, v, dy;  // lines are rows of a head; z is batch * heads + head
  const uint8_t* truth = nullptr;
  const float* added = nullptr;
  int64_t mask_stride[4] = {};
  int heads, rows, keys, depth, width;
  float scale, dropout;
  bool causal, drops;
  Stream stream;

  explicit Attention(const Call& call, int first = 0)
      : q(matrices(call.in[first], 1)), k(matrices(call.in[first + 1], 1)), v(matrices(call.in[first + 2], 1)) {
    const View &mask = call.in[first + 3], &key = call.in[first + 4];
    if (first > 0) dy = matrices(call.in[0], 2);
    if (mask && mask.dtype == DType::boolean) truth = mask.u8();
    else if (mask) added = mask.f32();
    for (int i = 0; mask && i < 4; i++) mask_stride[i] = mask.stride[i];
    heads = q.shape[1], rows = q.lines, keys = k.lines, depth = q.length, width = v.length;
    scale = call.real(0);
    causal = call.integer(1) != 0;
    dropout = call.real(2);
    drops = static_cast<bool>(key);
    if (drops) stream = Stream(key, call.number[3], kNoiseRounds);
  }

  static Strided matrices(const View& x, int head_axis) {
    Strided s;
    s.data = x.f32();
    s.lines = static_cast<int>(x.shape[3 - head_axis]);
    s.length = static_cast<int>(x.shape[3]);
    s.line_step = x.stride[3 - head_axis];
    s.step = x.stride[3];
    s.axes = 2;
    s.shape[0] = static_cast<int>(x.shape[0]), s.stride[0] = x.stride[0];
    s.shape[1] = static_cast<int>(x.shape[head_axis]), s.stride[1] = x.stride[head_axis];
    s.settle();
    return s;
  }
  int64_t batches() const { return int64_t{1} * q.shape[0] * heads; }

  // The score of a raw product; -inf where the key takes no part.
  __device__ float score(float product, int z, int t, int s) const {
    if (t >= rows || s >= keys || (causal && s > t)) return -INFINITY;
    const int64_t at =
        z / heads * mask_stride[0] + z % heads * mask_stride[1] + t * mask_stride[2] + s * mask_stride[3];
    if (truth && !truth[at]) return -INFINITY;
    return added ? product * scale + added[at] : product * scale;
  }
  // 0 where dropout takes the weight, 1 / (1 - p) elsewhere.
  __device__ float kept(int z, int t, int s) const {
    const int64_t i = (static_cast<int64_t>(z) * rows + t) * keys + s;
    uint32_t words[4];
    stream.words(i / 4, words);
    const uint32_t word = i % 4 < 2 ? (i % 4 == 0 ? words[0] : words[1]) : (i % 4 == 2 ? words[2] : words[3]);
    return uniform_from_bits(word) >= dropout ? (dropout < 1 ? 1.0f / (1.0f - dropout) : 0.0f) : 0.0f;
  }
};

// Rows [row, row + 64) and columns [column, column + 64) of matrix z.
__device__ inline void fill(Square& to, const Strided& from, int z, int row, int column) {
  const auto origin = from.origin(z);
  constexpr int kShare = kSide * Square::kChunks / kThreads;
  const auto line = [&](int i) { return (static_cast<int>(threadIdx.x) + i * kThreads) / Square::kChunks; };
  const auto chunk = [&](int i) { return (static_cast<int>(threadIdx.x) + i * kThreads) % Square::kChunks; };
  float v[kShare][8];
#pragma unroll
  for (int i = 0; i < kShare; i++) from.load(origin, from.line(origin, row + line(i)), column + 8 * chunk(i), v[i]);
#pragma unroll
  for (int i = 0; i < kShare; i++) to.store(line(i), chunk(i), v[i]);
}

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_row() { return static_cast<int>(threadIdx.x) / 32 * 16; }
// Row (of the block) and column of element (j, e) of a warp's sums.
__device__ inline int row_of(int e) { return warp_row() + lane() / 4 + e / 2 * 8; }
__device__ inline int column_of(int j, int e) { return 8 * j + lane() % 4 * 2 + e % 2; }

// sums = own[row..] other[other_row..]^T over all their columns. Where one square holds those, `own_tile` is filled already.
__device__ inline void multiply_rows(Sums& sums, const Strided& own, Square& own_tile, int row, const Strided& other,
                                     Square& other_tile, int other_row, int z) {
#pragma unroll
  for (int j = 0; j < kSide / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[0][j][e] = 0;
  for (int column = 0; column < own.length; column += kSide) {
    __syncthreads();
    if (own.length > kSide) fill(own_tile, own, z, row, column);
    fill(other_tile, other, z, other_row, column);
    __syncthreads();
    multiply_tiles<true, true>(sums, own_tile, warp_row(), other_tile, 0,
                               min(kSide, (own.length - column + 15) / 16 * 16));
  }
}

// sums += left times columns from `column` on of the rows that `tile` is for.
__device__ inline void multiply_columns(Sums& sums, const Sums& left, const Strided& other, Square& tile, int row,
                                        int column, bool filled, int z) {
  if (!filled) {
    __syncthreads();
    fill(tile, other, z, row, column);
    __syncthreads();
  }
  multiply_sums<false>(sums[0], left[0], tile);
}

template <class F>
__device__ inline float over_row(float x, const F& f) {  // the four lanes that share a row
  x = f(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return f(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Columns [column, column + 64) of rows [row, row + 64) of head z of [B, rows, H, columns].
__device__ inline void write(const Sums& sums, float* to, const Attention& a, int z, int row, int rows, int column,
                             int columns) {
#pragma unroll
  for (int j = 0; j < kSide / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int r = row + row_of(e), c = column + column_of(j, e);
      if (r < rows && c < columns)
        to[((static_cast<int64_t>(z / a.heads) * rows + r) * a.heads + z % a.heads) * columns + c] = sums[0][j][e];
    }
}

__global__ void __launch_bounds__(kThreads)
    attention_kernel(const __grid_constant__ Attention a, float* y, float* lse, int tiles, int chunks) {
  extern __shared__ uint4 shared[];
  Square* const tile = reinterpret_cast<Square*>(shared);
  Square &queries = tile[0], &others = tile[1];
  int index = static_cast<int>(blockIdx.x);
  const int column = index % chunks * kSide, row = index / chunks % tiles * kSide, z = index / chunks / tiles;
  float top[2] = {-INFINITY, -INFINITY}, weight[2] = {};  // of two rows: running maximum, sum of exponentials
  Sums sums = {};
  if (a.depth <= kSide) fill(queries, a.q, z, row, 0);
  const int seen = a.causal ? min(a.keys, row + kSide) : a.keys;
  for (int key = 0; key < seen; key += kSide) {
    Sums p;
    multiply_rows(p, a.q, queries, row, a.k, others, key, z);
#pragma unroll
    for (int j = 0; j < kSide / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) p[0][j][e] = a.score(p[0][j][e], z, row + row_of(e), key + column_of(j, e));
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float high = top[h], total = 0;
#pragma unroll
      for (int j = 0; j < kSide / 8; j++) high = fmaxf(high, fmaxf(p[0][j][2 * h], p[0][j][2 * h + 1]));
      high = over_row(high, [](float x, float y) { return fmaxf(x, y); });
      const float base = high == -INFINITY ? 0.0f : high;  // a row that sees no key yet
      const float shrink = expf(top[h] - base);
      top[h] = high;
#pragma unroll
      for (int j = 0; j < kSide / 8; j++)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) {
          p[0][j][e] = expf(p[0][j][e] - base);
          total += p[0][j][e];
          sums[0][j][e] *= shrink;
        }
      weight[h] = weight[h] * shrink + over_row(total, Add());
    }
    if (a.drops)
#pragma unroll
      for (int j = 0; j < kSide / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) p[0][j][e] *= a.kept(z, row + row_of(e), key + column_of(j, e));
    multiply_columns(sums, p, a.v, others, key, column, false, z);
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float share = weight[h] == 0 ? 0.0f : 1.0f / weight[h];  // no key: zeros
#pragma unroll
    for (int j = 0; j < kSide / 8; j++)
#pragma unroll
      for (int e = 2 * h; e < 2 * h + 2; e++) sums[0][j][e] *= share;
    const int r = row + row_of(2 * h);
    if (column == 0 && lane() % 4 == 0 && r < a.rows)
      lse[static_cast<int64_t>(z) * a.rows + r] = weight[h] == 0 ? -INFINITY : top[h] + logf(weight[h]);
  }
  write(sums, y, a, z, row, a.rows, column, a.width);
}

inline int64_t squares(int64_t n) { return ceil_div(n, kSide); }

// attention: q, k, v, mask, key -> y, lse; numbers: scale, causal, dropout p, stream
bool attention(const Call& call) {
  const Attention a(call);
  const int64_t tiles = squares(a.rows), chunks = max64(1, squares(a.width));
  return launch(call, attention_kernel, dim3(static_cast<unsigned>(a.batches() * tiles * chunks)), dim3(kThreads),
                2 * sizeof(Square), a, call.out[0].f32(), call.out[1].f32(), static_cast<int>(tiles),
                static_cast<int>(chunks));
}

// delta[z, t]: dy times y, summed along a row; a warp a row.
__global__ void attention_delta_kernel(const __grid_constant__ Strided dy, const __grid_constant__ Strided y,
                                       float* delta, int64_t rows) {
  for (int64_t i = first_item() / 32; i < rows; i += item_step() / 32) {
    const int z = static_cast<int>(i / dy.lines), t = static_cast<int>(i % dy.lines);
    const auto from_dy = dy.origin(z), from_y = y.origin(z);
    float sum = 0;
    for (int e = lane(); e < dy.length; e += 32)
      sum = fmaf(dy.at(from_dy, dy.line(from_dy, t), e), y.at(from_y, y.line(from_y, t), e), sum);
    sum = warp_reduce(sum, Add());
    if (lane() == 0) delta[i] = sum;
  }
}

// The gradients of 64 queries, or of 64 keys: then the products are those of the transposes, rows are keys.
template <bool Keys>
__global__ void __launch_bounds__(kThreads)
    attention_gradient_kernel(const __grid_constant__ Attention a, const float* lse, const float* delta, float* dq,
                              float* dk, float* dv, int tiles, int chunks) {
  extern __shared__ uint4 shared[];
  Square* const tile = reinterpret_cast<Square*>(shared);
  const Strided &own = Keys ? a.k : a.q, &own_value = Keys ? a.v : a.dy;
  const Strided &other = Keys ? a.q : a.k, &other_value = Keys ? a.dy : a.v;
  const int index = static_cast<int>(blockIdx.x);
  const int column = index % chunks * kSide, row = index / chunks % tiles * kSide, z = index / chunks / tiles;
  Sums sums = {}, value_sums = {};
  if (a.depth <= kSide) fill(tile[0], own, z, row, 0);
  if (a.width <= kSide) fill(tile[1], own_value, z, row, 0);
  const int first = Keys && a.causal ? row : 0;
  const int end = Keys ? a.rows : a.causal ? min(a.keys, row + kSide) : a.keys;
  for (int at = first; at < end; at += kSide) {
    Sums p, d;
    multiply_rows(p, own, tile[0], row, other, tile[2], at, z);
    multiply_rows(d, own_value, tile[1], row, other_value, tile[3], at, z);
#pragma unroll
    for (int j = 0; j < kSide / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = row + row_of(e), c = at + column_of(j, e), t = Keys ? c : r, s = Keys ? r : c;
        const float score = a.score(p[0][j][e], z, t, s);
        float weight = 0, slope = 0;
        if (score != -INFINITY) {
          const int64_t i = static_cast<int64_t>(z) * a.rows + t;
          weight = expf(score - lse[i]);
          const float factor = a.drops ? a.kept(z, t, s) : 1.0f;
          slope = weight * (d[0][j][e] * factor - delta[i]) * a.scale;
          weight *= factor;
        }
        p[0][j][e] = weight;
        d[0][j][e] = slope;
      }
    if (Keys) multiply_columns(value_sums, p, other_value, tile[3], at, column, a.width <= kSide, z);
    multiply_columns(sums, d, other, tile[2], at, column, a.depth <= kSide, z);
  }
  write(sums, Keys ? dk : dq, a, z, row, Keys ? a.keys : a.rows, column, a.depth);
  if (Keys) write(value_sums, dv, a, z, row, a.keys, column, a.width);
}

// attention_grad: dy [B, T, H, E], q, k, v, mask, key, y, lse -> dq [B, T, H, D], dk [B, S, H, D], dv [B, S, H, E]
bool attention_grad(const Call& call) {
  const Attention a(call, 1);
  const Strided y = Attention::matrices(call.in[6], 2);
  const float* const lse = call.in[7].f32();
  float* const delta = static_cast<float*>(call.scratch);
  float *const dq = call.out[0].f32(), *const dk = call.out[1].f32(), *const dv = call.out[2].f32();
  const int64_t rows = a.batches() * a.rows, query_chunks = squares(a.depth),
                key_chunks = max64(query_chunks, squares(a.width));
  const auto blocks = [&](int64_t tiles, int64_t chunks) {
    return dim3(static_cast<unsigned>(a.batches() * tiles * chunks));
  };
  return launch_items(call, 32 * rows, attention_delta_kernel, a.dy, y, delta, rows) &&
         launch(call, attention_gradient_kernel<false>, blocks(squares(a.rows), query_chunks), dim3(kThreads),
                4 * sizeof(Square), a, lse, delta, dq, dk, dv, static_cast<int>(squares(a.rows)),
                static_cast<int>(query_chunks)) &&
         launch(call, attention_gradient_kernel<true>, blocks(squares(a.keys), key_chunks), dim3(kThreads),
                4 * sizeof(Square), a, lse, delta, dq, dk, dv, static_cast<int>(squares(a.keys)),
                static_cast<int>(key_chunks));
}
int64_t attention_grad_scratch(const Call& call, int) {
  const View& q = call.in[1];
  return 4 * q.shape[0] * q.shape[1] * q.shape[2];
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"attention", attention}, {"attention_grad", attention_grad, attention_grad_scratch})

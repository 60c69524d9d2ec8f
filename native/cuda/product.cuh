// Products C[M, N] = A[M, K] B[K, N] of operands that loaders bring (operand.cuh): of matrices, of the patches of images,
// of codes; and what follows a sum.
//
// A block makes a tile of C. While tensor cores work on a step of K, its threads split the next one of both operands into
// parts in shared memory (mma.cuh), and read the one after that into registers. Few tiles and a long sum: K is cut into parts, whose sums
// go to scratch and are added up in order. The cut depends on sizes alone.
#pragma once
#include "statistics.cuh"
#include "warpgroup.cuh"

namespace auxgrad {
namespace {

// What becomes of a sum: alpha * sum + bias, then relu (NaN stays), then the bit of > 0; and where it goes.
struct Output {
  float* data = nullptr;
  int64_t z_step = 0;    // from a product to the next
  int64_t row_step = 0;  // rows are one after another, or
  bool positions = false;
  Divisor across, down;  // positions (image, i, j)
  int64_t image_step = 0, down_step = 0, across_step = 0;
  int channels = 0;  // of all groups; N of a product where there are no groups
  int z_channels = 0;
  float alpha = 1;
  const float* bias = nullptr;  // [channels]
  bool relu = false;
  uint32_t* mask = nullptr;  // [ceil(M / 32), channels]
  float* pieces = nullptr;   // statistics of what is written (statistics.cuh)
  bool vectors = false;

  void settle(int64_t n) {
    vectors = aligned(data) && n % 4 == 0 && z_step % 4 == 0 && row_step % 4 == 0 && image_step % 4 == 0 &&
              down_step % 4 == 0 && across_step % 4 == 0;
  }
  __device__ float* row(int z, int r) const {
    if (!positions) return data + z * z_step + r * row_step;
    const int i = across.split(r), image = down.quotient(i);
    return data + z * z_step + image * image_step + (i - image * static_cast<int>(down.divisor)) * down_step +
           r * across_step;
  }
  __device__ float finish(float sum, int z, int column) const {
    sum *= alpha;
    if (bias) sum += bias[z * z_channels + column];
    return relu && sum < 0 ? 0.0f : sum;
  }
  __device__ uint32_t* words(int z, int row) const {
    return mask + static_cast<int64_t>(row / 32) * channels + z * z_channels;
  }
};

struct Sizes {
  int m, n, k, batches;
  int depth, parts;  // of K, a multiple of the step
  int down, across;  // tiles
  bool rows_first;   // neighbouring blocks share columns rather than rows
};

// A block of M x N, of which a warp makes WarpM x WarpN. As whole products on an H100 suggest: nanoseconds that a tile adds
// to a step of a processor, and how many tiles' time passes at least, since one alone waits for what it reads.
template <int M, int N, int WarpM, int WarpN, int StepNanoseconds, int LeastTenths>
struct BlockShape {
  static constexpr int kM = M, kN = N, kWarpM = WarpM, kWarpN = WarpN;
  static constexpr int kThreads = M / WarpM * (N / WarpN) * 32;
  static constexpr double kStepTime = 1e-3 * StepNanoseconds, kLeast = 0.1 * LeastTenths;
};
using Large = BlockShape<128, 128, 64, 32, 1100, 10>;
using Small = BlockShape<64, 64, 32, 32, 420, 25>;

constexpr int kStep = 32;                            // of K
constexpr int kProcessors = 132;                     // that the cut is made for
constexpr int kLeastDepth = 8 * kStep;               // of a part of K
constexpr int64_t kMostScratch = int64_t{32} << 20;  // for the sums of parts
constexpr float kLeastSum = 0x1p-85f;

template <class Shape, bool AlongK, int Planes, bool Left>
using OperandTile =
    Tile<AlongK ? (Left ? Shape::kM : Shape::kN) : kStep, AlongK ? kStep : (Left ? Shape::kM : Shape::kN), Planes>;

template <class Shape, int LeftPlanes, int RightPlanes>
constexpr size_t shared_bytes() {
  const size_t operands = 2 * 2 * kStep * (Shape::kM * LeftPlanes + Shape::kN * RightPlanes);
  const size_t sums = sizeof(float) * Shape::kM * (Shape::kN + 8);
  return operands > sums ? operands : sums;
}

// A sum in float64, of one element and the depth [from, to).
template <bool LeftAlongK, bool RightAlongK, class A, class B>
__device__ __noinline__ float sum_anew(const A& a, const B& b, int z, int row, int column, int from, int to) {
  const auto origin_a = a.origin(z);
  const auto origin_b = b.origin(z);
  double sum = 0;
  for (int k = from; k < to; k++) {
    const float x = LeftAlongK ? a.at(origin_a, a.line(origin_a, row), k) : a.at(origin_a, a.line(origin_a, k), row);
    const float y =
        RightAlongK ? b.at(origin_b, b.line(origin_b, column), k) : b.at(origin_b, b.line(origin_b, k), column);
    sum += static_cast<double>(x) * static_cast<double>(y);
  }
  return static_cast<float>(sum);
}

// The share of a thread in one step of an operand.
template <class Shape, bool AlongK, bool Left, class Operand>
struct Reader {
  using To = OperandTile<Shape, AlongK, Operand::kPlanes, Left>;
  static constexpr int kCount = To::kLines * To::kChunks / Shape::kThreads;
  const Operand& operand;
  typename Operand::Origin origin;
  typename Operand::Line lines[AlongK ? kCount : 1];
  int first;
  float v[kCount][8];

  __device__ static int line_of(int i) { return (static_cast<int>(threadIdx.x) + i * Shape::kThreads) / To::kChunks; }
  __device__ static int chunk_of(int i) { return (static_cast<int>(threadIdx.x) + i * Shape::kThreads) % To::kChunks; }

  __device__ Reader(const Operand& o, int z, int from) : operand(o), origin(o.origin(z)), first(from) {
    if constexpr (AlongK) {
#pragma unroll
      for (int i = 0; i < kCount; i++) lines[i] = operand.line(origin, first + line_of(i));
    }
  }
  __device__ void read(int k) {
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      if constexpr (AlongK) operand.load(origin, lines[i], k + 8 * chunk_of(i), v[i]);
      else operand.load(origin, operand.line(origin, k + line_of(i)), first + 8 * chunk_of(i), v[i]);
    }
  }
  __device__ void store(To& to) const {
#pragma unroll
    for (int i = 0; i < kCount; i++) to.store(line_of(i), chunk_of(i), v[i]);
  }
};

template <class Shape, bool LeftAlongK, bool RightAlongK, class A, class B>
__global__ void __launch_bounds__(Shape::kThreads)
    product_kernel(const __grid_constant__ A a, const __grid_constant__ B b, const __grid_constant__ Output out,
                   const __grid_constant__ Sizes s, float* partial) {
  using Left = OperandTile<Shape, LeftAlongK, A::kPlanes, true>;
  using Right = OperandTile<Shape, RightAlongK, B::kPlanes, false>;
  extern __shared__ __align__(1024) uint4 shared[];
  Left* const left = reinterpret_cast<Left*>(shared);
  Right* const right = reinterpret_cast<Right*>(left + 2);

  int index = static_cast<int>(blockIdx.x);
  const int inner = s.rows_first ? s.down : s.across, outer = s.rows_first ? s.across : s.down;
  const int i = index % inner, j = index / inner % outer;
  index = index / inner / outer;
  const int part = index % s.parts, z = index / s.parts;
  const int row = (s.rows_first ? i : j) * Shape::kM, column = (s.rows_first ? j : i) * Shape::kN;
  const int from = part * s.depth, to = min(s.k, from + s.depth);

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#if defined(AUXGRAD_WARPGROUPS)
  constexpr bool kGroups = true;  // each makes 64 rows
  static_assert(Shape::kThreads == 2 * Shape::kM, "a group for 64 rows");
#else
  constexpr bool kGroups = false;
#endif
  constexpr int kWarpM = kGroups ? 16 : Shape::kWarpM, kWarpN = kGroups ? Shape::kN : Shape::kWarpN;
  constexpr int kWarpsDown = Shape::kM / kWarpM;
  const int warp_row = warp % kWarpsDown * kWarpM, warp_column = warp / kWarpsDown * kWarpN;
  float sums[kWarpM / 16][kWarpN / 8][4] = {};
  if (from < to) {
    Reader<Shape, LeftAlongK, true, A> read_left(a, z, row);
    Reader<Shape, RightAlongK, false, B> read_right(b, z, column);
    const auto read = [&](int k) {
      read_left.read(k);
      read_right.read(k);
    };
    const auto store = [&](int stage) {
      read_left.store(left[stage]);
      read_right.store(right[stage]);
#if defined(AUXGRAD_WARPGROUPS)
      if constexpr (kGroups) share_with_tensor_cores();
#endif
    };
    read(from);
    store(0);
    if (from + kStep < to) read(from + kStep);
    __syncthreads();
    int stage = 0;
    for (int k = from; k < to; k += kStep, stage ^= 1) {
      // The next step goes to shared memory, and the one after it is read while this one, and the next, are multiplied.
      const auto prepare = [&] {
        if (k + kStep < to) store(stage ^ 1);
        if (k + 2 * kStep < to) read(k + 2 * kStep);
      };
      if constexpr (kGroups) {
#if defined(AUXGRAD_WARPGROUPS)
        float t[kWarpN / 8][4];
        multiply_tiles_async<LeftAlongK, RightAlongK>(t, left[stage], warp / 4 * 64, right[stage]);
        prepare();
        wait_for_products(t);
#pragma unroll
        for (int j = 0; j < kWarpN / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[0][j][e] += t[j][e];
#endif
      } else {
        multiply_tiles<LeftAlongK, RightAlongK>(sums, left[stage], warp_row, right[stage], warp_column, kStep);
        prepare();
      }
      __syncthreads();
    }
  }

  // The sums to shared memory, then in order of rows to where they belong.
  constexpr int kPitch = Shape::kN + 8;
  float* const tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int m = 0; m < kWarpM / 16; m++)
#pragma unroll
    for (int n = 0; n < kWarpN / 8; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float* p = tile + (warp_row + 16 * m + 8 * h + lane / 4) * kPitch + warp_column + 8 * n + lane % 4 * 2;
        *reinterpret_cast<float2*>(p) = make_float2(sums[m][n][2 * h], sums[m][n][2 * h + 1]);
      }
  __syncthreads();
  constexpr int kQuads = Shape::kN / 4;
  for (int q = static_cast<int>(threadIdx.x); q < Shape::kM * kQuads; q += Shape::kThreads) {
    const int r = q / kQuads, c = q % kQuads * 4;
    if (row + r >= s.m || column + c >= s.n) continue;
    float v[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
      v[e] = tile[r * kPitch + c + e];
      if (!(fabsf(v[e]) >= kLeastSum) && v[e] != 0 && column + c + e < s.n)
        v[e] = sum_anew<LeftAlongK, RightAlongK>(a, b, z, row + r, column + c + e, from, to);
      if (!partial && column + c + e < s.n) v[e] = out.finish(v[e], z, column + c + e);
      if (out.mask || out.pieces) tile[r * kPitch + c + e] = v[e];
    }
    float* const p =
        column + c +
        (partial ? partial + (static_cast<int64_t>(z * s.parts + part) * s.m + row + r) * s.n : out.row(z, row + r));
    if (partial ? s.n % 4 == 0 : out.vectors) *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    else
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (column + c + e < s.n) p[e] = v[e];
  }
  if (!(out.mask || out.pieces) || partial) return;
  __syncthreads();
  for (int q = static_cast<int>(threadIdx.x); out.pieces && q < Shape::kM / kPiece * Shape::kN; q += Shape::kThreads) {
    const int r = q / Shape::kN * kPiece, c = q % Shape::kN;
    if (row + r >= s.m || column + c >= s.n) continue;
    const float* const p = tile + r * kPitch + c;
    piece_statistics(
        [&](int i) { return p[i * kPitch]; }, min(kPiece, s.m - row - r),
        out.pieces + static_cast<int64_t>((row + r) / kPiece * 2) * out.channels + z * out.z_channels + column + c,
        out.channels);
  }
  for (int q = static_cast<int>(threadIdx.x); out.mask && q < Shape::kM / 32 * Shape::kN; q += Shape::kThreads) {
    const int r = q / Shape::kN * 32, c = q % Shape::kN;
    if (row + r >= s.m || column + c >= s.n) continue;
    uint32_t word = 0;
    for (int e = 0; e < 32 && row + r + e < s.m; e++)
      word |= static_cast<uint32_t>(tile[(r + e) * kPitch + c] > 0) << e;
    out.words(z, row + r)[column + c] = word;
  }
}

// Adds up the parts of K, for 32 rows of a column where there is a mask to make.
__global__ void finish_kernel(const float* partial, const Output out, const Sizes s, int rows_each, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t line = quotient(item, s.n);
    const int column = static_cast<int>(item - line * s.n), lines = (s.m + rows_each - 1) / rows_each;
    const int z = static_cast<int>(line / lines), first = static_cast<int>(line % lines) * rows_each;
    uint32_t word = 0;
    for (int e = 0; e < rows_each && first + e < s.m; e++) {
      const int64_t step = static_cast<int64_t>(s.m) * s.n;
      const float* p = partial + z * s.parts * step + static_cast<int64_t>(first + e) * s.n + column;
      float sum = p[0];
      for (int part = 1; part < s.parts; part++) sum += p[part * step];
      sum = out.finish(sum, z, column);
      out.row(z, first + e)[column] = sum;
      word |= static_cast<uint32_t>(sum > 0) << e;
    }
    if (out.mask) out.words(z, first)[column] = word;
  }
}

// K in so many parts.
template <class Shape>
inline Sizes cut(int64_t m, int64_t n, int64_t k, int64_t batches, int64_t parts) {
  Sizes s = {};
  s.m = static_cast<int>(m), s.n = static_cast<int>(n), s.k = static_cast<int>(k);
  s.batches = static_cast<int>(batches);
  s.down = static_cast<int>(ceil_div(m, Shape::kM));
  s.across = static_cast<int>(ceil_div(n, Shape::kN));
  s.depth = static_cast<int>(max64(kStep, round_up(ceil_div(k, parts), kStep)));
  s.parts = static_cast<int>(max64(1, ceil_div(k, s.depth)));
  s.rows_first = m < n;
  return s;
}

struct Plan {
  bool large;
  Sizes sizes;
  int64_t scratch() const { return sizes.parts > 1 ? int64_t{4} * sizes.parts * sizes.batches * sizes.m * sizes.n : 0; }
};

// Microseconds of a product, about: of the processor with the most tiles, and of the parts on their way through memory.
template <class Shape>
inline double time_of(const Plan& plan) {
  const Sizes& s = plan.sizes;
  const int64_t tiles = int64_t{1} * s.down * s.across * s.batches * s.parts;
  const double most = static_cast<double>(ceil_div(tiles, kProcessors));
  return Shape::kStepTime * (most > Shape::kLeast ? most : Shape::kLeast) * (s.depth / kStep + 4) +
         (s.parts > 1 ? 2 + static_cast<double>(plan.scratch()) / 1e6 : 0);
}

template <class Shape>
inline void consider(int64_t m, int64_t n, int64_t k, int64_t batches, Plan& best, double& time) {
  for (int64_t parts = 1; parts <= 128 && (parts == 1 || k / parts >= kLeastDepth);
       parts += parts < 8 ? 1 : parts / 4) {
    const Plan plan = {Shape::kM == Large::kM, cut<Shape>(m, n, k, batches, parts)};
    if (plan.scratch() > kMostScratch) break;
    const double t = time_of<Shape>(plan);
    if (time < 0 || t < time) best = plan, time = t;
  }
}
inline Plan plan_product(int64_t m, int64_t n, int64_t k, int64_t batches) {
  Plan best;
  double time = -1;
  consider<Large>(m, n, k, batches, best, time);
  consider<Small>(m, n, k, batches, best, time);
  return best;
}

template <class Shape, bool LeftAlongK, bool RightAlongK, class A, class B>
inline bool run_product(const Call& call, const A& a, const B& b, const Output& out, const Sizes& s, float* partial) {
  const int64_t blocks = int64_t{1} * s.down * s.across * s.parts * s.batches;
  return launch(call, product_kernel<Shape, LeftAlongK, RightAlongK, A, B>, dim3(static_cast<unsigned>(blocks)),
                dim3(Shape::kThreads), shared_bytes<Shape, A::kPlanes, B::kPlanes>(), a, b, out, s, partial);
}

// Lines of A are rows, or with LeftAlongK false steps of K; those of B columns, or with RightAlongK false steps of K.
template <bool LeftAlongK, bool RightAlongK, class A, class B>
inline bool run_product(const Call& call, const A& a, const B& b, Output out, int64_t m, int64_t n, int64_t k,
                        int64_t batches, void* scratch) {
  if (m > INT32_MAX || n > INT32_MAX || k > INT32_MAX || batches > INT32_MAX)
    return call.failure->set(ErrorCode::invalid_argument, "CUDA: a product of more than 2^31 rows, columns or terms");
  const Plan plan = plan_product(m, n, k, batches);
  const Sizes& s = plan.sizes;
  out.settle(n);
  float* const partial = s.parts > 1 ? static_cast<float*>(scratch) : nullptr;
  if (!(plan.large ? run_product<Large, LeftAlongK, RightAlongK>(call, a, b, out, s, partial)
                   : run_product<Small, LeftAlongK, RightAlongK>(call, a, b, out, s, partial)))
    return false;
  if (!partial) return true;
  const int rows_each = out.mask ? 32 : 1;
  const int64_t items = batches * ceil_div(m, rows_each) * n;
  return launch_items(call, items, finish_kernel, partial, out, s, rows_each, items);
}

// Signs of what a product reads: bit t % 32 of word [t / 32][c] is that of token t.
__global__ void pack_signs_kernel(const float* x, int64_t row_step, int64_t step, int64_t tokens, int64_t channels,
                                  uint32_t* words, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t w = quotient(item, channels), c = item - w * channels;
    const float* p = x + 32 * w * row_step + c * step;
    uint32_t word = 0;
    const int n = static_cast<int>(min64(32, tokens - 32 * w));
#pragma unroll 16
    for (int t = 0; t < n; t++) word |= static_cast<uint32_t>(p[t * row_step] > 0) << t;
    words[item] = word;
  }
}
inline bool pack_signs(const Call& call, const float* x, int64_t row_step, int64_t step, int64_t tokens,
                       int64_t channels, uint32_t* words) {
  const int64_t items = ceil_div(tokens, 32) * channels;
  return launch_items(call, items, pack_signs_kernel, x, row_step, step, tokens, channels, words, items);
}

}  // namespace
}  // namespace auxgrad

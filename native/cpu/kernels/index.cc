// Look-ups by index and their gradients. Every element has one writer and sums run in the order of the source, so results
// do not depend on threads.
#include "../bypass.h"
#include "../weights.h"

namespace auxgrad {
namespace {

// All of the indices (contiguous i32) in [0, size); number[which] says for whom.
bool check_indices(const Call& call, const View& indices, int64_t size, int which) {
  const int64_t n = indices.count();
  for (int64_t i = 0; i < n; i++)
    if (indices.i32()[i] < 0 || indices.i32()[i] >= size)
      return call.failure->set(Fault{1, static_cast<int32_t>(call.integer(which)), indices.i32()[i], i, size});
  return true;
}

// Rows by index lie anywhere. Asked for early: the line where a row begins, so that its address is known in time, and of the
// next row the head, from where on processors fetch ahead themselves: of a long row a line with every two of this one, as
// in bursts they would hold up what is under way.
constexpr int64_t kEarly = 3, kHead = 2048;  // rows, bytes

void copy_row(void* row, const void* source, const void* next, int64_t bytes, bool past) {
  char* to = static_cast<char*>(row);
  const char *from = static_cast<const char*>(source), *head = static_cast<const char*>(next);
  const int64_t pace = bytes > kHead ? 128 : 64, together = min64(bytes, pace / 64 * kHead);
  for (int64_t i = 0; i < together; i += pace) {
    __builtin_prefetch(head + i / pace * 64);
    if (past) bypass_copy(to + i, from + i, min64(pace, bytes - i));
  }
  if (!past) memcpy(to, from, static_cast<size_t>(bytes));
  else bypass_copy(to + together, from + together, bytes - together);
}

// take: x [..., n, ...], indices i32 of any shape -> y with the axis replaced by the indices' axes
// numbers: axis, caller
bool take(const Call& call) {
  const View &x = call.in[0], &indices = call.in[1];
  const int axis = static_cast<int>(call.integer(0));
  const int64_t n = x.shape[axis], m = indices.count(), outer = x.count(0, axis);
  const int64_t bytes = x.count(axis + 1, x.rank) * dtype_size(x.dtype);
  if (!check_indices(call, indices, n, 1)) return false;
  const bool past = too_large(call.out[0]) && lines_apart(call.out[0].data, bytes);
  parallel_ranges(call, outer * m, max64(1, 131072 / max64(bytes, 1)), [&](int64_t begin, int64_t end) {
    const auto source = [&](int64_t r) { return x.u8() + (r / m * n + indices.i32()[r % m]) * bytes; };
    for (int64_t r = begin; r < end; r++) {
      __builtin_prefetch(source(min64(r + kEarly, outer * m - 1)));
      copy_row(call.out[0].u8() + r * bytes, source(r), source(min64(r + 1, outer * m - 1)), bytes, past);
    }
    if (past) end_bypass();
  });
  return true;
}

// take_grad: dy, indices -> dx, each row the sum of the rows of dy that were taken from it
// numbers: axis, caller, an index that gets no gradient (-1: none)
int64_t take_grad_scratch(const Call& call, int) {
  const int64_t n = call.out[0].shape[call.integer(0)];
  return (n + 1 + call.in[1].count()) * static_cast<int64_t>(sizeof(int32_t));
}

bool take_grad(const Call& call) {
  const View &dy = call.in[0], &indices = call.in[1], &dx = call.out[0];
  const int axis = static_cast<int>(call.integer(0));
  const int64_t n = dx.shape[axis], m = indices.count(), outer = dx.count(0, axis), inner = dx.count(axis + 1, dx.rank);
  const int64_t padding = call.integer(2);
  if (!check_indices(call, indices, n, 1)) return false;
  // Positions by index, in their order: a counting sort.
  int32_t *first = static_cast<int32_t*>(call.scratch), *position = first + n + 1;
  memset(first, 0, static_cast<size_t>(n + 1) * sizeof(int32_t));
  for (int64_t i = 0; i < m; i++) first[indices.i32()[i] + 1]++;
  for (int64_t r = 0; r < n; r++) first[r + 1] += first[r];
  for (int64_t i = 0; i < m; i++) position[first[indices.i32()[i]]++] = static_cast<int32_t>(i);
  // Now first[r] is where row r ends. Of a few positions each vector is summed at once, of many each row is read whole.
  constexpr int64_t kFew = 4;
  const bool past = too_large(dx, inner);
  parallel_ranges(call, outer * n, max64(1, 32768 / max64(inner, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t o = row / n, r = row % n;
      const int64_t from = r ? first[r - 1] : 0, to = r == padding ? from : first[r];
      const auto given = [&](int64_t p) { return dy.f32() + (o * m + position[p]) * inner; };
      float* sum = dx.f32() + row * inner;
      if (to - from > kFew) {
        set_zero(sum, inner);
        for (int64_t p = from; p < to; p++)
          for (int64_t i = 0; i < inner; i++) sum[i] += given(p)[i];
        continue;
      }
      const float* next = first[r] < m ? given(first[r]) : nullptr;  // what the next row begins with
      if (next) __builtin_prefetch(given(min64(first[r] + kEarly - 1, m - 1)));
      if (to - from == 1) {
        copy_row(sum, given(from), next ? next : sum, inner * 4, past);
        continue;
      }
      const float* rows[kFew];
      for (int64_t p = from; p < to; p++) rows[p - from] = given(p);
      each_vector(0, inner, [&](int64_t i, auto lanes) {
        if (next && i < kHead / 8) __builtin_prefetch(next + i);
        Vec all = to > from ? lanes.load(rows[0] + i) : Vec{};
        for (int64_t p = 1; p < to - from; p++) all += lanes.load(rows[p] + i);
        put(past, lanes, sum + i, all);
      });
    }
    if (past) end_bypass();
  });
  return true;
}

// distinct: indices i32 -> rows i32 [m], each of them once, as they come, the rest being the first again; where in rows each
// is, i32. numbers: size, caller, an index that rows begins with (-1: none)
int64_t buckets(int64_t n) {
  int64_t count = 16;
  while (count < 2 * n) count *= 2;
  return count;
}

int64_t distinct_scratch(const Call& call, int) {
  return buckets(call.out[0].count()) * static_cast<int64_t>(sizeof(int32_t));
}

bool distinct(const Call& call) {
  const View& indices = call.in[0];
  int32_t *rows = call.out[0].i32(), *places = call.out[1].i32(), *bucket = static_cast<int32_t*>(call.scratch);
  const int64_t m = call.out[0].count(), n = indices.count(), size = buckets(m);
  if (!check_indices(call, indices, call.integer(0), 1)) return false;
  memset(bucket, 0xff, static_cast<size_t>(size) * sizeof(int32_t));
  int32_t met = 0;
  const auto place = [&](int32_t row) {
    int64_t at = static_cast<uint32_t>(row) * 2654435769u & (size - 1);
    for (; bucket[at] >= 0; at = (at + 1) & (size - 1))
      if (rows[bucket[at]] == row) return bucket[at];
    rows[met] = row;
    return bucket[at] = met++;
  };
  if (call.integer(2) >= 0) place(static_cast<int32_t>(call.integer(2)));
  for (int64_t i = 0; i < n; i++) places[i] = place(indices.i32()[i]);
  for (int64_t i = met; i < m; i++) rows[i] = rows[0];
  return true;
}

// put_rows: rows i32 [m] as distinct gives them, x [m, ...], key or absent -> y [n, ...] in place, where these rows become
// those of x; of f32 in bf16 rounded stochastically (../weights.h). numbers: caller, stream
bool put_rows(const Call& call) {
  const View &rows = call.in[0], &x = call.in[1], &y = call.out[0];
  const int64_t m = rows.count(), columns = x.count(1, x.rank), bytes = columns * dtype_size(x.dtype);
  if (!check_indices(call, rows, y.shape[0], 0)) return false;
  const auto put = [&](const auto& row) {
    parallel_ranges(call, m, max64(1, 131072 / max64(bytes, 1)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end && !(r > 0 && rows.i32()[r] == rows.i32()[0]); r++) row(r, rows.i32()[r]);
    });
  };
  if (x.dtype == y.dtype) {
    put([&](int64_t r, int64_t to) { memcpy(y.u8() + to * bytes, x.u8() + r * bytes, static_cast<size_t>(bytes)); });
  } else {
    const Weights table(call);
    put([&](int64_t r, int64_t to) { table.write(to * columns, columns, x.f32() + r * columns); });
  }
  return true;
}

// gather: x (any strides), index i32 of x's rank -> y of index's shape, y[.., j, ..] = x[.., index[.., j, ..], ..]
// numbers: axis, caller
template <class E>
void gather_elements(const Call& call, int axis) {
  const View &x = call.in[0], &index = call.in[1];
  const int last = index.rank - 1;
  const int64_t inner = index.shape[last], step = last == axis ? 0 : x.stride[last];
  if (inner == 0) return;
  parallel_ranges(call, index.count() / inner, max64(1, 16384 / inner), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      int64_t offset = 0, rest = row;
      for (int a = last - 1; a >= 0; a--) {
        if (a != axis) offset += rest % index.shape[a] * x.stride[a];
        rest /= index.shape[a];
      }
      const E* from = static_cast<const E*>(x.data) + offset;
      for (int64_t i = 0; i < inner; i++)
        static_cast<E*>(call.out[0].data)[row * inner + i] =
            from[index.i32()[row * inner + i] * x.stride[axis] + i * step];
    }
  });
}

bool gather(const Call& call) {
  const int axis = static_cast<int>(call.integer(0));
  if (!check_indices(call, call.in[1], call.in[0].shape[axis], 1)) return false;
  switch (dtype_size(call.in[0].dtype)) {
    case 1: gather_elements<uint8_t>(call, axis); break;
    case 2: gather_elements<uint16_t>(call, axis); break;
    default: gather_elements<uint32_t>(call, axis);
  }
  return true;
}

// scatter_add: x or absent (zeros), index i32, source of index's shape -> y = x, plus source at the indexed places
// numbers: axis, caller
bool scatter_add(const Call& call) {
  const View &x = call.in[0], &index = call.in[1], &source = call.in[2], &y = call.out[0];
  const int axis = static_cast<int>(call.integer(0));
  if (!check_indices(call, index, y.shape[axis], 1)) return false;
  if (x) memcpy(y.data, x.data, static_cast<size_t>(y.count()) * sizeof(float));
  else memset(y.data, 0, static_cast<size_t>(y.count()) * sizeof(float));
  if (index.count() == 0) return true;
  // A lane is a line of the index along the axis; lanes write to different places.
  const int64_t n = index.shape[axis], lanes = index.count() / n;
  parallel_ranges(call, lanes, max64(1, 8192 / n), [&](int64_t begin, int64_t end) {
    for (int64_t lane = begin; lane < end; lane++) {
      int64_t from = 0, to = 0, rest = lane;
      for (int a = index.rank - 1; a >= 0; a--) {
        if (a == axis) continue;
        from += rest % index.shape[a] * index.stride[a];
        to += rest % index.shape[a] * y.stride[a];
        rest /= index.shape[a];
      }
      for (int64_t i = 0; i < n; i++) {
        const int64_t at = from + i * index.stride[axis];
        y.f32()[to + index.i32()[at] * y.stride[axis]] += source.f32()[at];
      }
    }
  });
  return true;
}

// one_hot: labels i32 -> y f32 [..., classes]; numbers: caller
bool one_hot(const Call& call) {
  const View& y = call.out[0];
  const int64_t classes = y.shape[y.rank - 1];
  if (!check_indices(call, call.in[0], classes, 0)) return false;
  parallel_ranges(call, call.in[0].count(), max64(1, 16384 / max64(classes, 1)), [&](int64_t begin, int64_t end) {
    memset(y.f32() + begin * classes, 0, static_cast<size_t>((end - begin) * classes) * sizeof(float));
    for (int64_t r = begin; r < end; r++) y.f32()[r * classes + call.in[0].i32()[r]] = 1.0f;
  });
  return true;
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"take", take}, {"take_grad", take_grad, take_grad_scratch}, {"distinct", distinct, distinct_scratch},
                {"put_rows", put_rows}, {"gather", gather}, {"scatter_add", scatter_add}, {"one_hot", one_hot})

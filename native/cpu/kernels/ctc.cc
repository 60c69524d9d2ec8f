// Connectionist temporal classification (Graves et al. 2006): how probable a text is over all its alignments with frames,
// each of which emits a label or a blank. States are the labels with blanks before, between and behind them.
#include "../elementwise.h"

namespace auxgrad {
#if defined(__AVX512F__)
// 15 % faster than with AVX2, for 6 KB: those of AVX2 serve.
extern const KernelTable kernels_ctc_avx512;
const KernelTable kernels_ctc_avx512 = {nullptr, 0};
}  // namespace auxgrad
#else
namespace {

constexpr float kNever = -1e30f;  // log(0) with which sums stay finite
constexpr int64_t kBlock = 16;    // rows of states are so many, or a multiple: what is left over never happens

struct Text {
  const float* frame;  // log probabilities, [frames, classes]
  int64_t frames, classes;
  const int32_t* labels;
  int64_t states, blank;

  int64_t label(int64_t state) const { return state & 1 ? labels[state / 2] : blank; }
};

// ctc: log probabilities [N, frames, classes], labels i32 [N, labels], frames and labels of each i32 [N], each or absent
// numbers: blank, whether impossible texts lose nothing. `first` is the operand of the log probabilities.
bool text_of(const Call& call, int first, int64_t row, Text* text) {
  const View &x = call.in[first], &y = call.in[first + 1];
  int64_t count[2] = {x.shape[1], y.shape[1]};
  const auto outside = [&](const char* what, int64_t value, int64_t end) {
    return call.failure->set(ErrorCode::index_out_of_range, "ctc: %s %lld of row %lld is not in [0, %lld)", what,
                             static_cast<long long>(value), static_cast<long long>(row), static_cast<long long>(end));
  };
  for (int i = 0; i < 2; i++)
    if (const View& given = call.in[first + 2 + i]) {
      const int64_t n = given.i32()[row];
      if (n < 0 || n > count[i]) return outside(i ? "target length" : "input length", n, count[i] + 1);
      count[i] = n;
    }
  *text = {x.f32() + row * x.shape[1] * x.shape[2],
           count[0],
           x.shape[2],
           y.i32() + row * y.shape[1],
           2 * count[1] + 1,
           call.integer(0)};
  for (int64_t i = 0; i < count[1]; i++)
    if (text->labels[i] < 0 || text->labels[i] >= text->classes)
      return outside("label", text->labels[i], text->classes);
  return true;
}

// log(exp(a) + exp(b) + exp(c)).
inline float log_sum(float a, float b, float c) {
  const float high = a > b ? a : b, low = a > b ? b : a, top = high > c ? high : c, middle = high > c ? c : high;
  return top + log_f32(1.0f + exp_f32(low - top) + exp_f32(middle - top));
}

// Log probability of the text, -inf if no alignment is possible. rows[t step + s] becomes that of all ways to state s before
// frame t emits it, less before[t]; from behind: of all ways from it, states and frames counted from the end. `space` has
// room for four rows and a block.
__attribute__((noinline)) double sweep(const Text& x, bool behind, float* rows, int64_t step, double* before,
                                       float* space) {
  const int64_t n = x.states, m = (n + kBlock - 1) & -kBlock;
  float *now = space + kBlock, *emit = now + m, *jump = emit + m;
  int32_t* label = reinterpret_cast<int32_t*>(jump + m);
  for (int64_t s = 0; s < m; s++) {
    now[s] = jump[s] = kNever;
    label[s] = static_cast<int32_t>(x.blank);
  }
  now[-2] = kNever;
  for (int64_t s = 1; s < n; s += 2) {
    label[s] = x.labels[(behind ? n - 1 - s : s) / 2];
    if (s == 1 || label[s] != label[s - 2]) jump[s] = 0;
  }
  now[-1] = 0;  // where all begin: one step before the blank, a jump before the first label
  double total = 0;
  for (int64_t t = 0; t < x.frames; t++) {
    float *row = rows + t * step, top = kNever;
    const float* frame = x.frame + (behind ? x.frames - 1 - t : t) * x.classes;
    for (int64_t s = 0; s < m; s++) emit[s] = frame[label[s]];
    before[t] = total;
    AUXGRAD_INDEPENDENT
    for (int64_t s = 0; s < m; s++) row[s] = log_sum(now[s], now[s - 1], now[s - 2] + jump[s]);
    now[-1] = kNever;
    for (int64_t s = 0; s < n; s++) {
      const float p = row[s] + emit[s];
      top = p > top || p != p ? p : top;
    }
    if (top == kNever) return -static_cast<double>(infinity());
    AUXGRAD_INDEPENDENT
    for (int64_t s = 0; s < m; s++) {
      const float p = row[s] + emit[s] - top;
      now[s] = p < kNever ? kNever : p;
    }
    total += static_cast<double>(top);
  }
  const float last = log_sum(now[n - 1], now[n - 2], kNever);
  return last < 0.5f * kNever ? -static_cast<double>(infinity()) : total + static_cast<double>(last);
}

// What a thread needs: an offset a frame, a row of states for all frames or for each, and the space of a sweep.
struct Room {
  int64_t states, frames, floats;

  Room(const Call& call, int first, bool all)
      : states((2 * call.in[first + 1].shape[1] + kBlock) & -kBlock),
        frames(call.in[first].shape[1]),
        floats((all ? frames : 1) * states) {}
  int64_t bytes() const { return frames * 8 + floats * 4; }
  int64_t space() const { return (4 * states + kBlock) * 4; }
};

// ctc -> loss [N]
bool ctc(const Call& call) {
  const Room room(call, 0, false);
  parallel_tasks(call, call.out[0].count(), [&](int64_t i, int thread) {
    Text x;
    if (!text_of(call, 0, i, &x)) return;
    double* before = static_cast<double*>(call.scratch) + thread * ((room.bytes() + room.space()) / 8);
    float* row = reinterpret_cast<float*>(before + room.frames);
    const float loss = static_cast<float>(-sweep(x, false, row, 0, before, row + room.floats));
    call.out[0].f32()[i] = call.integer(1) && loss == infinity() ? 0.0f : loss;
  });
  return !call.failure->failed();
}
int64_t ctc_scratch(const Call& call, int threads) {
  const Room room(call, 0, false);
  return threads * (room.bytes() + room.space());
}

// ctc_grad: upstream [N], operands of ctc -> gradient of the log probabilities: less how probable each label is at each
// frame, given the text
bool ctc_grad(const Call& call) {
  const Room room(call, 1, true);
  parallel_tasks(call, call.in[0].count(), [&](int64_t i, int thread) {
    Text x;
    if (!text_of(call, 1, i, &x)) return;
    double* before = static_cast<double*>(call.scratch) + thread * ((2 * room.bytes() + room.space()) / 8);
    double* after = before + room.frames;
    float *from = reinterpret_cast<float*>(after + room.frames), *to = from + room.floats;
    const double total = sweep(x, false, from, room.states, before, to + room.floats);
    const bool possible = total != -static_cast<double>(infinity());
    if (possible) sweep(x, true, to, room.states, after, to + room.floats);
    const float upstream = call.in[0].f32()[i];
    float* grad = call.out[0].f32() + i * room.frames * x.classes;
    memset(grad, 0, static_cast<size_t>(room.frames * x.classes) * 4);
    if (!possible && !call.integer(1))  // bytes of a NaN
      memset(grad, 0xff, static_cast<size_t>(x.frames * x.classes) * 4);
    for (int64_t t = 0; possible && t < x.frames; t++, grad += x.classes) {
      const int64_t back = x.frames - 1 - t;
      const float *frame = x.frame + t * x.classes, *here = from + t * room.states, *there = to + back * room.states;
      const float shift = static_cast<float>(before[t] + after[back] - total);
      for (int64_t s = 0; s < x.states; s++) {
        const int64_t label = x.label(s);
        const float p = here[s] + there[x.states - 1 - s] + frame[label] + shift;
        if (!(p < -60.0f)) grad[label] -= upstream * exp_f32(p);  // of sums that are 1
      }
    }
  });
  return !call.failure->failed();
}
int64_t ctc_grad_scratch(const Call& call, int threads) {
  const Room room(call, 1, true);
  return threads * (2 * room.bytes() + room.space());
}

}  // namespace
}  // namespace auxgrad

AUXGRAD_KERNELS({"ctc", ctc, ctc_scratch}, {"ctc_grad", ctc_grad, ctc_grad_scratch})
#endif

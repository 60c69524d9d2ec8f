import * as aux from '../../src/index'
import type { ErrorCode, Tensor } from '../../src/index'
import { convWeightGradient } from '../../src/ops/conv'
import * as ref from '../support/reference'
import { type Arr, get, lines, make, map, mean, permute, reduce, reshape, sum, zip } from '../support/reference'

/** Values of one input: uniform in [low, high) (f32, -2 to 2 by default), whole numbers for other dtypes, or given. */
export interface Sample {
  shape: number[]
  low?: number
  high?: number
  dtype?: 'f32' | 'i32' | 'bool' | 'u8'
  values?: number[]
}

/**
 * One op and everything that is tested of it. The generic tests run over all rows: forward against the reference, the
 * gradient against central differences of the reference, layouts, compiled runs, instruction sets and threads.
 */
export interface Row {
  name: string
  f: (...x: Tensor[]) => Tensor
  reference: (...x: Arr[]) => Arr
  samples: Sample[][]
  /** Inputs with a gradient; all f32 ones by default. */
  wanted?: number[]
  /** Largest |difference| is atol + rtol |expected|; 1e-6 each by default. */
  rtol?: number
  atol?: number
  /** Largest difference of gradients, relative to the largest (or 1); 1e-5 by default. */
  gtol?: number
  /** Elementwise: NaN, infinities and 0 give what the reference gives. */
  special?: boolean
  /** Multiplies and adds in one rounding where the instruction set can: equal bits for threads only. */
  fused?: boolean
  /** Contiguous and strided inputs take different paths, equally exact. */
  twoPaths?: boolean
  bad?: { what: string; run: () => unknown; code: ErrorCode; message?: RegExp }[]
}

const { tensor } = aux
const s = (...shape: number[]): Sample => ({ shape })
const within = (low: number, high: number, ...shape: number[]): Sample => ({ shape, low, high })
const indices = (size: number, ...shape: number[]): Sample => ({ shape, low: 0, high: size, dtype: 'i32' })
const bools = (...shape: number[]): Sample => ({ shape, low: 0, high: 2, dtype: 'bool' })
const ints = (...shape: number[]): Sample => ({ shape, low: -9, high: 9, dtype: 'i32' })

const rows: Row[] = []
const add = (row: Row): void => void rows.push(row)

// --- elementwise, one operand ---

function unary(
  name: string,
  f: (x: Tensor) => Tensor,
  g: (v: number) => number,
  o: Partial<Row> & { low?: number; high?: number } = {},
): void {
  const { low = -3, high = 3, ...rest } = o
  add({
    name,
    f,
    reference: (x) => map(x, g),
    special: true,
    samples: [
      [within(low, high, 2, 3, 5)],
      [within(low, high, 1)],
      [within(low, high)],
      [within(low, high, 0, 3)],
      [within(low, high, 40, 41)],
    ],
    ...rest,
  })
}
const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v))
const cdf = (v: number): number => ref.erfc(-v / Math.SQRT2) / 2
/** As a sigmoid, which keeps its precision below 0. */
const geluTanh = (v: number): number => v * sigmoid(2 * Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))
const signOf = (v: number): number => (v > 0 ? 1 : v < 0 ? -1 : v)
/** exp and what is made of it: its polynomial is rounded where and how the machine can. */
const fused = { fused: true } as const
const roundEven = (v: number): number => {
  const low = Math.floor(v)
  if (v - low !== 0.5) return Math.round(v)
  return low % 2 === 0 ? low : low + 1
}
const wrongKind = (op: (t: Tensor) => unknown) => [
  { what: 'i32', run: () => op(tensor(Int32Array.of(1))), code: 'AUX_DTYPE_MISMATCH' as const },
]

unary(
  'neg',
  (x) => x.neg(),
  (v) => -v,
  { bad: wrongKind((t) => t.neg()) },
)
unary('abs', (x) => x.abs(), Math.abs)
unary('exp', (x) => x.exp(), Math.exp, { low: -80, high: 80, gtol: 1e-4, wanted: [], ...fused })
unary('exp, gradient', (x) => x.exp(), Math.exp, fused)
unary('log', (x) => x.log(), Math.log, { low: 1e-3, high: 50 })
unary('sqrt', (x) => x.sqrt(), Math.sqrt, { low: 0.1, high: 9 })
unary(
  'rsqrt',
  (x) => x.rsqrt(),
  (v) => 1 / Math.sqrt(v),
  { low: 0.1, high: 9 },
)
unary(
  'square',
  (x) => x.square(),
  (v) => v * v,
)
unary(
  'reciprocal',
  (x) => x.reciprocal(),
  (v) => 1 / v,
  { low: 0.3, high: 4 },
)
unary('tanh', (x) => x.tanh(), Math.tanh, fused)
unary('sigmoid', (x) => x.sigmoid(), sigmoid, fused)
unary('erf', (x) => x.erf(), ref.erf, { rtol: 3e-7, atol: 0, ...fused })
unary(
  'gelu',
  (x) => x.gelu(),
  (v) => v * cdf(v),
  { low: -6, high: 6, rtol: 3e-6, atol: 1e-9, ...fused },
)
unary('gelu by tanh', (x) => x.gelu({ approximate: 'tanh' }), geluTanh, {
  low: -6,
  high: 6,
  rtol: 3e-6,
  atol: 1e-9,
  ...fused,
})
unary(
  'silu',
  (x) => x.silu(),
  (v) => v * sigmoid(v),
  { low: -6, high: 6, ...fused },
)
unary(
  'relu',
  (x) => x.relu(),
  (v) => (v < 0 ? 0 : v),
)
unary('sign', (x) => x.sign(), signOf)
unary('floor', (x) => x.floor(), Math.floor)
unary('ceil', (x) => x.ceil(), Math.ceil)
unary('round', (x) => x.round(), roundEven)
add({
  name: 'round, ties and large numbers',
  f: (x) => x.round(),
  reference: (x) => map(x, roundEven),
  samples: [[{ shape: [9], values: [0.5, 1.5, 2.5, -0.5, -1.5, 4194303.5, 4194305, 8388609, -3e9] }]],
  rtol: 0,
  atol: 0,
  wanted: [],
})
unary('sin', (x) => x.sin(), Math.sin, { low: -1000, high: 1000, gtol: 1e-4, ...fused })
unary('cos', (x) => x.cos(), Math.cos, { ...fused, low: -1000, high: 1000, gtol: 1e-4 })
unary('expm1', (x) => x.expm1(), Math.expm1, { rtol: 5e-7, atol: 0, ...fused })
unary('log1p', (x) => x.log1p(), Math.log1p, { low: -0.9, high: 5, rtol: 5e-7, atol: 0 })
add({
  name: 'expm1 and log1p near 0',
  f: (x) => x.expm1().add(x.log1p()),
  reference: (x) => map(x, (v) => Math.expm1(v) + Math.log1p(v)),
  samples: [[{ shape: [5], values: [1e-9, -1e-7, 3e-5, -1e-3, 0] }]],
  rtol: 1e-6,
  atol: 0,
})
unary(
  'leakyRelu',
  (x) => x.leakyRelu(0.1),
  (v) => (v < 0 ? v * Math.fround(0.1) : v),
)
unary(
  'elu',
  (x) => x.elu(1.5),
  (v) => (v > 0 ? v : 1.5 * Math.expm1(v)),
  fused,
)
unary(
  'softplus',
  (x) => x.softplus(2),
  (v) => (Math.max(2 * v, 0) + Math.log1p(Math.exp(-Math.abs(2 * v)))) / 2,
  {
    low: -30,
    high: 30,
    ...fused,
    bad: [{ what: 'beta 0', run: () => tensor([1]).softplus(0), code: 'AUX_INVALID_ARGUMENT' }],
  },
)
const clamp = (low: number, high: number) => (v: number) => (v < low ? low : v > high ? high : v)
unary('clamp', (x) => x.clamp(-1, 0.5), clamp(-1, 0.5))
unary('hardtanh', (x) => x.hardtanh(), clamp(-1, 1))
unary('tan', (x) => x.tan(), Math.tan, { low: -1.2, high: 1.2, special: false, ...fused })
unary('asin', (x) => x.asin(), Math.asin, { low: -0.97, high: 0.97 })
unary('acos', (x) => x.acos(), Math.acos, { low: -0.97, high: 0.97 })
unary('atan', (x) => x.atan(), Math.atan, { low: -50, high: 50 })
unary('sinh', (x) => x.sinh(), Math.sinh, fused)
unary('cosh', (x) => x.cosh(), Math.cosh, fused)
unary('acosh', (x) => x.acosh(), Math.acosh, { low: 1.1, high: 20, ...fused })
unary('atanh', (x) => x.atanh(), Math.atanh, { low: -0.95, high: 0.95, ...fused })
unary('relu6', (x) => x.relu6(), clamp(0, 6), { high: 9 })
unary(
  'add a number',
  (x) => x.add(2.5),
  (v) => v + 2.5,
)
unary(
  'mul by a number',
  (x) => x.mul(-0.5),
  (v) => v * -0.5,
)
unary(
  'isNaN',
  (x) => x.isNaN(),
  (v) => Number(Number.isNaN(v)),
  { wanted: [] },
)
unary(
  'isFinite',
  (x) => x.isFinite(),
  (v) => Number(Number.isFinite(v)),
  { wanted: [] },
)
unary(
  'cast',
  (x) => x.cast('i32').cast('f32'),
  (v) => Math.trunc(v),
  { special: false, wanted: [] },
)
add({
  name: 'logicalNot',
  f: (x) => x.logicalNot(),
  reference: (x) => map(x, (v) => Number(!v)),
  samples: [[bools(3, 4)]],
  bad: [{ what: 'f32', run: () => tensor([1]).logicalNot(), code: 'AUX_DTYPE_MISMATCH' }],
})

// --- elementwise, two operands ---

const pairs: Sample[][] = [
  [s(2, 3, 4), s(2, 3, 4)],
  [s(2, 3, 4), s(4)],
  [s(3, 1), s(1, 4)],
  [s(), s(2, 2)],
  [s(5, 1), s(5, 7)],
  [s(0, 3), s(3)],
  [s(1), s(1)],
  [s(30, 31), s(30, 31)],
]
function binary(
  name: string,
  f: (a: Tensor, b: Tensor) => Tensor,
  g: (a: number, b: number) => number,
  o: Partial<Row> = {},
): void {
  add({
    name,
    f,
    reference: (a, b) => zip(a, b, g),
    samples: pairs,
    special: true,
    bad: [
      { what: 'shapes', run: () => f(tensor([1, 2, 3]), tensor([1, 2])), code: 'AUX_SHAPE_MISMATCH' },
      { what: 'dtypes', run: () => f(tensor([1, 2]), tensor(Int32Array.of(1, 2))), code: 'AUX_DTYPE_MISMATCH' },
    ],
    ...o,
  })
}
const positive = pairs.map((list) => list.map((x) => ({ ...x, low: 0.4, high: 3 })))
binary(
  'add',
  (a, b) => a.add(b),
  (a, b) => a + b,
)
binary(
  'sub',
  (a, b) => a.sub(b),
  (a, b) => a - b,
)
binary(
  'mul',
  (a, b) => a.mul(b),
  (a, b) => a * b,
)
binary(
  'div',
  (a, b) => a.div(b),
  (a, b) => a / b,
  { samples: positive },
)
binary('pow', (a, b) => a.pow(b), Math.pow, { samples: positive, special: false, rtol: 4e-6, ...fused })
binary('atan2', (a, b) => aux.atan2(a, b), Math.atan2)
binary(
  'remainder',
  (a, b) => a.remainder(b),
  (a, b) => ((a % b) + b) % b,
  { samples: positive, special: false },
)
binary('maximum', (a, b) => a.maximum(b), Math.max)
binary('minimum', (a, b) => a.minimum(b), Math.min)
for (const [name, g] of Object.entries(ref.comparisons))
  binary(
    name,
    (a, b) => a[name as 'eq'](b),
    (a, b) => Number(g(a, b)),
    { wanted: [] },
  )
const boolPairs = [
  [bools(3, 4), bools(4)],
  [bools(2), bools(2)],
]
const logicalBad = [
  { what: 'f32', run: () => tensor([1]).logicalAnd(tensor([1])), code: 'AUX_DTYPE_MISMATCH' as const },
]
binary(
  'logicalAnd',
  (a, b) => a.logicalAnd(b),
  (a, b) => Number(a && b),
  { samples: boolPairs, special: false, bad: logicalBad },
)
binary(
  'logicalOr',
  (a, b) => a.logicalOr(b),
  (a, b) => Number(a || b),
  { samples: boolPairs, special: false, bad: logicalBad },
)
binary(
  'logicalXor',
  (a, b) => a.logicalXor(b),
  (a, b) => Number(a !== b),
  { samples: boolPairs, special: false, bad: logicalBad },
)
binary(
  'add of i32',
  (a, b) => a.add(b),
  (a, b) => a + b,
  { samples: [[ints(3, 4), ints(4)]], special: false, bad: [] },
)
const middle = (v: number[], share: number): number => {
  const sorted = [...v].sort((a, b) => a - b)
  const at = share * (v.length - 1)
  const low = sorted[Math.floor(at)]
  return low + (sorted[Math.ceil(at)] - low) * (at % 1)
}
add({
  name: 'quantile',
  f: (x) => x.quantile(0.3, 1),
  reference: (x) => reduce(x, [1], (v) => middle(v, 0.3)),
  samples: [[s(2, 7, 3)], [s(1, 1)], [s(3, 6)]],
  bad: [
    { what: 'a share beyond 1', run: () => tensor([1]).quantile([0.5, 1.5]), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'no share', run: () => tensor([1]).quantile([]), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'nothing', run: () => tensor([]).quantile(0.5), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'whole numbers', run: () => tensor(Int32Array.of(1)).quantile(0.5), code: 'AUX_DTYPE_MISMATCH' },
  ],
})
add({
  name: 'quantiles of all',
  f: (x) => x.quantile([0, 0.55, 1], undefined, true),
  reference: (x) => make([3, ...x.shape.map(() => 1)], ([i]) => middle([...x.data], [0, 0.55, 1][i])),
  samples: [[s(4, 5)], [s()]],
})
add({
  name: 'median',
  f: (x) => x.median(0, true),
  reference: (x) => reduce(x, [0], (v) => [...v].sort((a, b) => a - b)[(v.length - 1) >> 1], true),
  samples: [[s(6, 3)], [s(5)]],
  bad: [{ what: 'an axis that is not', run: () => tensor([1]).median(1), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'where',
  f: (c, a, b) => aux.where(c, a, b),
  reference: (c, a, b) => make(ref.broadcast(c.shape, a.shape, b.shape), (i) => (get(c, i) ? get(a, i) : get(b, i))),
  samples: [
    [bools(3, 4), s(4), s(3, 1)],
    [bools(1), s(2, 2), s(2, 2)],
  ],
})
add({
  name: 'where with a number',
  f: (c, a) => aux.where(c, a, -3),
  reference: (c, a) => make(ref.broadcast(c.shape, a.shape), (i) => (get(c, i) ? get(a, i) : -3)),
  samples: [[bools(3, 4), s(4)]],
  bad: [
    { what: 'a string', run: () => aux.where(tensor([true]), 1, 'x' as never), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'a condition of floats', run: () => aux.where(tensor([1]), 1, 0), code: 'AUX_DTYPE_MISMATCH' },
  ],
})
add({
  name: 'where with two numbers',
  f: (c) => aux.where(c, 1.5, 0),
  reference: (c) => map(c, (v) => (v ? 1.5 : 0)),
  samples: [[bools(3, 4)]],
})
add({
  name: 'clamp to tensors',
  f: (x, low, high) => x.clamp(low, high),
  reference: (x, low, high) => zip(zip(x, low, Math.max), high, Math.min),
  samples: [
    [s(2, 3, 5), within(-1, 0, 3, 1), within(0, 1, 5)],
    [s(4), s(4), s(4)],
  ],
  bad: [{ what: 'words', run: () => tensor([1]).clamp('a' as never, tensor([1])), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'clamp to a tensor and a number',
  f: (x, high) => x.clamp(-0.5, high),
  reference: (x, high) => zip(x, high, (v, h) => Math.min(Math.max(v, -0.5), h)),
  samples: [[s(3, 4), within(0, 1, 4)]],
})
add({
  name: 'clamp from below',
  f: (x) => x.clamp(0.5),
  reference: (x) => map(x, (v) => Math.max(v, 0.5)),
  samples: [[s(3, 4)]],
})
add({
  name: 'outer',
  f: (a, b) => aux.outer(a, b),
  reference: (a, b) => make([a.shape[0], b.shape[0]], ([i, j]) => a.data[i] * b.data[j]),
  samples: [
    [s(3), s(4)],
    [s(1), s(0)],
  ],
  bad: [{ what: 'a matrix', run: () => aux.outer(tensor([[1]]), tensor([1])), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'dot',
  f: (a, b) => aux.dot(a, b),
  reference: (a, b) =>
    reduce(
      zip(a, b, (x, y) => x * y),
      undefined,
      sum,
    ),
  samples: [[s(7), s(7)]],
  bad: [{ what: 'lengths', run: () => aux.dot(tensor([1]), tensor([1, 2])), code: 'AUX_SHAPE_MISMATCH' }],
})

// --- reductions ---

type ReductionCase = [axes: number | number[] | undefined, keep: boolean, ...shape: number[]]
const reductionCases: ReductionCase[] = [
  [undefined, false, 2, 3, 4],
  [1, false, 2, 3, 4],
  [[0, 2], true, 2, 3, 4],
  [-1, true, 5, 7],
  [0, false, 600, 5],
  [[], false, 3, 2],
  [undefined, false],
  [0, false, 1, 4],
  [1, false, 30, 700],
]
function reduction(
  name: string,
  f: (x: Tensor, axes: number | number[] | undefined, keep: boolean) => Tensor,
  g: (values: number[]) => number,
  o: Partial<Row> & { low?: number; high?: number; dtype?: Sample['dtype']; empty?: boolean } = {},
): void {
  const { low = -2, high = 2, dtype, empty = true, ...rest } = o
  const cases: ReductionCase[] = [...reductionCases, ...(empty ? [[1, false, 3, 0] as ReductionCase] : [])]
  cases.forEach(([axes, keep, ...shape], i) =>
    add({
      name: `${name} over ${JSON.stringify(axes ?? 'all')} of [${shape.join()}]${keep ? ', kept' : ''}`,
      f: (x) => f(x, axes, keep),
      reference: (x) => reduce(x, axes === undefined ? undefined : [axes].flat(), g, keep),
      samples: [[{ shape, low, high, dtype }]],
      ...rest,
      bad: i
        ? []
        : [...(rest.bad ?? []), { what: 'axis', run: () => f(tensor([1, 2]), 1, false), code: 'AUX_INVALID_ARGUMENT' }],
    }),
  )
}
const variance =
  (correction: number) =>
  (v: number[]): number =>
    sum(v.map((x) => (x - mean(v)) ** 2)) / Math.max(0, v.length - correction)
const nothingThere = (run: (t: Tensor) => unknown) => [
  { what: 'no terms', run: () => run(aux.zeros([2, 0])), code: 'AUX_INVALID_ARGUMENT' as const },
]
reduction('sum', (x, a, k) => x.sum(a, k), sum, { atol: 1e-5, twoPaths: true })
reduction('mean', (x, a, k) => x.mean(a, k), mean, { twoPaths: true })
reduction(
  'max',
  (x, a, k) => x.max(a, k),
  (v) => Math.max(...v),
  { empty: false, bad: nothingThere((t) => t.max(1)) },
)
reduction(
  'min',
  (x, a, k) => x.min(a, k),
  (v) => Math.min(...v),
  { empty: false, bad: nothingThere((t) => t.min(1)) },
)
reduction(
  'prod',
  (x, a, k) => x.prod(a, k),
  (v) => v.reduce((p, x) => p * x, 1),
  { low: 0.7, high: 1.3, rtol: 2e-6, gtol: 1e-4 },
)
reduction('var', (x, a, k) => x.var(a, { keep: k }), variance(1), { empty: false, wanted: [], twoPaths: true })
reduction('biased var', (x, a, k) => x.var(a, { keep: k, correction: 0 }), variance(0), {
  twoPaths: true,
  low: 99,
  high: 101,
  empty: false,
  gtol: 1e-4,
})
reduction(
  'std',
  (x, a, k) => x.std(a, { keep: k, correction: 0 }),
  (v) => Math.sqrt(variance(0)(v)),
  { twoPaths: true, empty: false, wanted: [] },
)
reduction('logSumExp', (x, a, k) => x.logSumExp(a, k), ref.logSumExp, { low: -60, high: 60, twoPaths: true, ...fused })
reduction(
  'norm',
  (x, a, k) => x.norm(a, { keep: k }),
  (v) => Math.sqrt(sum(v.map((x) => x * x))),
  { twoPaths: true },
)
reduction(
  'norm 1',
  (x, a, k) => x.norm(a, { p: 1, keep: k }),
  (v) => sum(v.map(Math.abs)),
  { atol: 1e-5, bad: [{ what: 'p', run: () => tensor([1]).norm(0, { p: 0.5 }), code: 'AUX_INVALID_ARGUMENT' }] },
)
reduction(
  'norm 3',
  (x, a, k) => x.norm(a, { p: 3, keep: k }),
  (v) => Math.cbrt(sum(v.map((x) => Math.abs(x) ** 3))),
  { empty: false, ...fused },
)
reduction(
  'norm infinity',
  (x, a, k) => x.norm(a, { p: Infinity, keep: k }),
  (v) => Math.max(...v.map(Math.abs)),
  { empty: false },
)
reduction(
  'any',
  (x, a, k) => x.any(a, k),
  (v) => Number(v.some((x) => x)),
  { dtype: 'bool', low: 0, high: 2 },
)
reduction(
  'all',
  (x, a, k) => x.all(a, k),
  (v) => Number(v.every((x) => x)),
  { dtype: 'bool', low: 0, high: 2 },
)
reduction('sum of i32', (x, a, k) => x.sum(a, k), sum, { dtype: 'i32', low: -9, high: 9 })
add({
  name: 'std, gradient',
  f: (x) => x.std(1),
  reference: (x) => reduce(x, [1], (v) => Math.sqrt(variance(1)(v))),
  samples: [[s(3, 5)]],
})
add({
  name: 'any of f32',
  f: (x) => x.any(1),
  reference: (x) => reduce(x, [1], (v) => Number(v.some((y) => y))),
  samples: [[{ shape: [2, 2], values: [0, 0, 0, -1] }]],
  wanted: [],
})
const arg =
  (better: (a: number, b: number) => boolean) =>
  (v: number[]): number =>
    v.reduce((best, x, i) => (better(x, v[best]) ? i : best), 0)
add({
  name: 'argmax',
  f: (x) => x.argmax(1),
  reference: (x) =>
    reduce(
      x,
      [1],
      arg((a, b) => a > b),
    ),
  samples: [[s(2, 5, 3)], [s(2, 1)]],
  wanted: [],
  bad: nothingThere((t) => t.argmax(1)),
})
add({
  name: 'argmax that keeps its axis',
  f: (x) => x.argmax(1, true),
  reference: (x) =>
    reduce(
      x,
      [1],
      arg((a, b) => a > b),
      true,
    ),
  samples: [[s(2, 5, 3)]],
  wanted: [],
})
add({
  name: 'argmin',
  f: (x) => x.argmin(),
  reference: (x) =>
    reduce(
      x,
      [-1],
      arg((a, b) => a < b),
    ),
  samples: [[s(4, 5)]],
  wanted: [],
})
add({
  name: 'prod with zeros',
  f: (x) => x.prod(1),
  reference: (x) => reduce(x, [1], (v) => v.reduce((p, y) => p * y, 1)),
  samples: [[{ shape: [3, 3], values: [0, 2, 3, 0, 0, 5, 1, 2, 3] }]],
})

// --- along an axis ---

const cumulate = (v: number[]): number[] => v.map((_, i) => sum(v.slice(0, i + 1)))
add({
  name: 'cumsum',
  f: (x) => x.cumsum(1),
  reference: (x) => lines(x, 1, cumulate),
  samples: [[s(2, 5, 3)], [s(2, 1, 4)]],
  bad: wrongKind((t) => t.cumsum(0)),
})
add({
  name: 'cumsum over the last axis',
  f: (x) => x.cumsum(-1),
  reference: (x) => lines(x, -1, cumulate),
  samples: [[s(3, 400)]],
})
let running = 1
const multiply = (v: number[]): number[] => ((running = 1), v.map((x) => (running *= x)))
add({
  name: 'cumprod',
  f: (x) => x.cumprod(1),
  reference: (x) => lines(x, 1, multiply),
  samples: [[s(2, 5, 3)], [s(2, 1, 4)], [{ shape: [2, 4], values: [2, 0, 3, -1, 0, 1, 0, 2] }], [s(2, 0)]],
  bad: [{ what: 'axis', run: () => aux.zeros([2]).cumprod(1), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'cumprod over a long axis',
  f: (x) => x.cumprod(-1),
  reference: (x) => lines(x, -1, multiply),
  samples: [[within(0.9, 1.1, 3, 400)]],
  rtol: 3e-6,
})
for (const offset of [0, 1, -2, 3]) {
  add({
    name: `diagonal ${offset}`,
    f: (x) => x.diagonal(offset),
    reference: (x) => {
      const [r, c] = x.shape.slice(-2)
      const size = Math.min(r + Math.min(0, offset), c - Math.max(0, offset))
      return make([...x.shape.slice(0, -2), size], (at) => {
        const i = at[at.length - 1]
        return get(x, [...at.slice(0, -1), i + Math.max(0, -offset), i + Math.max(0, offset)])
      })
    },
    samples: [[s(4, 3)], [s(2, 3, 5)], [s(2, 3, 3, 3)]],
    bad: [
      { what: 'a vector', run: () => aux.zeros([3]).diagonal(offset), code: 'AUX_SHAPE_MISMATCH' },
      { what: 'far away', run: () => aux.zeros([3, 3]).diagonal(4), code: 'AUX_INVALID_ARGUMENT' },
      { what: 'a fraction', run: () => aux.zeros([3, 3]).diagonal(0.5), code: 'AUX_INVALID_ARGUMENT' },
    ],
  })
  add({
    name: `diagEmbed ${offset}`,
    f: (x) => x.diagEmbed(offset),
    reference: (x) => {
      const side = x.shape[x.shape.length - 1] + Math.abs(offset)
      return make([...x.shape.slice(0, -1), side, side], (at) => {
        const [i, j] = at.slice(-2)
        return j - i === offset ? get(x, [...at.slice(0, -2), Math.min(i, j)]) : 0
      })
    },
    samples: [[s(4)], [s(2, 3)], [s(2, 1, 2)], [s(0)]],
    bad: [{ what: 'a number', run: () => tensor(1, []).diagEmbed(offset), code: 'AUX_INVALID_ARGUMENT' }],
  })
}
for (const axis of [-1, 0, 1]) {
  add({
    name: `softmax over ${axis}`,
    f: (x) => x.softmax(axis),
    reference: (x) => lines(x, axis, ref.softmax),
    samples: [[within(-9, 9, 3, 4, 5)], [s(1, 1, 1)], [s(20, 3, 300)]],
    ...fused,
  })
  add({
    name: `logSoftmax over ${axis}`,
    f: (x) => x.logSoftmax(axis),
    reference: (x) => lines(x, axis, (v) => v.map((y) => y - ref.logSumExp(v))),
    samples: [[within(-9, 9, 3, 4, 5)], [s(1, 1, 1)]],
    ...fused,
  })
}
const sorted = (v: number[]): number[] => [...v].sort((a, b) => a - b)
const order = (v: number[], descending = false): number[] =>
  v.map((_, i) => i).sort((i, j) => (descending ? v[j] - v[i] : v[i] - v[j]) || i - j)
add({
  name: 'sort',
  f: (x) => x.sort().values,
  reference: (x) => lines(x, -1, sorted),
  samples: [[s(3, 7)], [s(2, 1)], [s(4, 100)], [s(3, 1000)]],
  rtol: 0,
  atol: 0,
  bad: [{ what: 'a number', run: () => tensor(1).sort(), code: 'AUX_SHAPE_MISMATCH' }],
})
for (const axis of [0, -2]) {
  add({
    name: `sort along ${axis}`,
    f: (x) => x.sort({ axis }).values,
    reference: (x) => lines(x, axis, sorted),
    samples: [[s(7, 3, 5)], [s(2, 1)], [s(40, 2, 0)]],
    rtol: 0,
    atol: 0,
    bad: [{ what: 'no such axis', run: () => tensor([1, 2]).sort({ axis: 1 }), code: 'AUX_INVALID_ARGUMENT' }],
  })
  add({
    name: `topk along ${axis}, where they were`,
    f: (x) => x.topk(2, { axis }).indices,
    reference: (x) => lines(x, axis, (v) => order(v, true).slice(0, 2)),
    samples: [[s(6, 3, 4)]],
    wanted: [],
  })
}
add({
  name: 'sort, descending',
  f: (x) => x.sort({ descending: true }).values,
  reference: (x) => lines(x, -1, (v) => sorted(v).reverse()),
  samples: [[s(3, 33)]],
  rtol: 0,
  atol: 0,
})
add({
  name: 'sort of i32',
  f: (x) => x.sort().values,
  reference: (x) => lines(x, -1, sorted),
  samples: [[ints(3, 50)]],
})
add({
  name: 'argsort with ties',
  f: (x) => x.argsort(),
  reference: (x) => lines(x, -1, (v) => order(v)),
  samples: [[ints(3, 50)], [ints(2, 300)]],
})
add({
  name: 'argsort with ties, descending',
  f: (x) => x.argsort({ descending: true }),
  reference: (x) => lines(x, -1, (v) => order(v, true)),
  samples: [[ints(3, 50)]],
})
add({
  name: 'topk',
  f: (x) => x.topk(3).values,
  reference: (x) => lines(x, -1, (v) => sorted(v).reverse().slice(0, 3)),
  samples: [[s(2, 9)], [s(3)]],
  rtol: 0,
  atol: 0,
  bad: [{ what: 'k', run: () => tensor([1, 2]).topk(3), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'topk, smallest',
  f: (x) => x.topk(2, { largest: false }).indices,
  reference: (x) => lines(x, -1, (v) => order(v).slice(0, 2)),
  samples: [[s(2, 9)]],
  wanted: [],
})

// --- views and joins ---

const sliceBad = [
  { what: 'too many ranges', run: () => tensor([1]).slice(null, null), code: 'AUX_INVALID_ARGUMENT' as const },
  { what: 'step 0', run: () => tensor([1]).slice([0, 1, 0]), code: 'AUX_INVALID_ARGUMENT' as const },
  { what: 'a fraction', run: () => tensor([1]).slice([0.5]), code: 'AUX_INVALID_ARGUMENT' as const },
]
add({
  name: 'slice',
  f: (x) => x.slice([1, 3], [-3, null, 2]),
  reference: (x) => make([2, 2], ([i, j]) => get(x, [i + 1, j * 2 + 1])),
  samples: [[s(4, 4)]],
  bad: sliceBad,
})
add({ name: 'slice, empty', f: (x) => x.slice([3, 2]), reference: () => make([0, 3], () => 0), samples: [[s(4, 3)]] })
add({
  name: 'slice, beyond the end',
  f: (x) => x.slice(null, [2, 99, 3]),
  reference: (x) => make([2, 2], ([i, j]) => get(x, [i, 2 + 3 * j])),
  samples: [[s(2, 6)]],
})
add({ name: 'slice of all', f: (x) => x.slice().mul(1), reference: (x) => x, samples: [[s(2, 6)]] })
add({
  name: 'narrow',
  f: (x) => x.narrow(1, -3, 2),
  reference: (x) => make([3, 2], ([i, j]) => get(x, [i, j + 2])),
  samples: [[s(3, 5)]],
  bad: [{ what: 'length', run: () => tensor([1, 2]).narrow(0, 1, 2), code: 'AUX_INDEX_OUT_OF_RANGE' }],
})
add({
  name: 'select',
  f: (x) => x.select(1, -1),
  reference: (x) => make([3, 2], ([i, k]) => get(x, [i, 4, k])),
  samples: [[s(3, 5, 2)]],
  bad: [{ what: 'index', run: () => tensor([1, 2]).select(0, 2), code: 'AUX_INDEX_OUT_OF_RANGE' }],
})
add({
  name: 'chunk and unbind',
  f: (x) => aux.stack([...x.chunk(3, 1), ...x.chunk(9, 1)].flatMap((t) => t.unbind(1)).reverse(), 1),
  reference: (x) => make([x.shape[0], 2 * x.shape[1]], ([i, j]) => get(x, [i, (2 * x.shape[1] - 1 - j) % x.shape[1]])),
  samples: [[s(2, 7)], [s(3, 2)]],
  bad: [
    { what: 'none', run: () => aux.zeros([2]).chunk(0), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'axis', run: () => aux.zeros([2]).unbind(1), code: 'AUX_INVALID_ARGUMENT' },
  ],
})
for (const [indexing, axes] of [
  ['ij', [0, 1, 2]],
  ['xy', [1, 0, 2]],
] as const)
  add({
    name: `meshgrid ${indexing}`,
    f: (...v) => aux.stack(aux.meshgrid(v, { indexing })),
    reference: (...v) => {
      const shape = v.length > 1 ? v.map((_, i) => v[axes[i]].shape[0]) : v[0].shape
      return make([v.length, ...shape], ([k, ...at]) => v[k].data[at[v.length > 1 ? axes[k] : 0]])
    },
    samples: [[s(3)], [s(3), s(2)], [s(3), s(2), s(4)]],
    bad: [
      {
        what: 'indexing',
        run: () => aux.meshgrid([tensor([1])], { indexing: 'yx' as never }),
        code: 'AUX_INVALID_ARGUMENT',
      },
      { what: 'no array', run: () => aux.meshgrid(tensor([1]) as never), code: 'AUX_INVALID_ARGUMENT' },
      { what: 'axes', run: () => aux.meshgrid([tensor([[1]])]), code: 'AUX_SHAPE_MISMATCH' },
    ],
  })
add({
  name: 'maskedFill',
  f: (x, m) => x.maskedFill(m, -3),
  reference: (x, m) => zip(x, m, (v, hidden) => (hidden ? -3 : v)),
  samples: [
    [s(2, 3, 4), bools(3, 1)],
    [s(3), bools(2, 3)],
  ],
  bad: [{ what: 'mask', run: () => tensor([1]).maskedFill(tensor([1]), 0), code: 'AUX_DTYPE_MISMATCH' }],
})
add({
  name: 'split',
  f: (x) => {
    const [a, b, c] = x.split(2, 1)
    return a.mul(b).add(aux.concat([c, c], 1))
  },
  reference: (x) => make([2, 2], ([i, j]) => get(x, [i, j]) * get(x, [i, j + 2]) + get(x, [i, 4])),
  samples: [[s(2, 5)]],
  bad: [
    { what: 'sizes', run: () => tensor([1, 2]).split([1, 2]), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'size', run: () => tensor([1, 2]).split(0), code: 'AUX_INVALID_ARGUMENT' },
  ],
})
add({
  name: 'concat',
  f: (a, b, c) => aux.concat([a, b, c], 1),
  samples: [
    [s(2, 3, 2), s(2, 1, 2), s(2, 4, 2)],
    [s(1, 1, 1), s(1, 0, 1), s(1, 2, 1)],
    [s(200, 3, 50), s(200, 2, 50), s(200, 1, 50)],
  ],
  reference: (a, b, c) => {
    const [m, n] = [a.shape[1], a.shape[1] + b.shape[1]]
    return make([a.shape[0], n + c.shape[1], a.shape[2]], ([i, j, k]) =>
      j < m ? get(a, [i, j, k]) : j < n ? get(b, [i, j - m, k]) : get(c, [i, j - n, k]),
    )
  },
  bad: [
    { what: 'none', run: () => aux.concat([]), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'shapes', run: () => aux.concat([tensor([[1]]), tensor([[1, 2]])]), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'dtypes', run: () => aux.concat([tensor([1]), tensor(Int32Array.of(1))]), code: 'AUX_DTYPE_MISMATCH' },
  ],
})
add({
  name: 'concat of 60',
  f: (x) =>
    aux.concat(
      Array.from({ length: 60 }, (_, i) => x.mul(i)),
      0,
    ),
  reference: (x) => make([120, 3], ([i, j]) => get(x, [i % 2, j]) * Math.floor(i / 2)),
  samples: [[s(2, 3)]],
})
add({
  name: 'concat of bool',
  f: (a, b) => aux.concat([a, b]),
  reference: (a, b) => make([5], ([i]) => (i < 3 ? a.data[i] : b.data[i - 3])),
  samples: [[bools(3), bools(2)]],
})
add({
  name: 'stack',
  f: (a, b) => aux.stack([a, b], -1),
  reference: (a, b) => make([2, 3, 2], ([i, j, k]) => get(k ? b : a, [i, j])),
  samples: [[s(2, 3), s(2, 3)]],
  bad: [
    { what: 'shapes', run: () => aux.stack([tensor([1]), tensor([1, 2])]), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'none', run: () => aux.stack([]), code: 'AUX_INVALID_ARGUMENT' },
  ],
})
add({
  name: 'pad',
  f: (x) =>
    x.pad(
      [
        [1, 0],
        [2, 1],
      ],
      7,
    ),
  samples: [[s(2, 3)], [s(1, 1)], [s(0, 2)]],
  reference: (x) =>
    make([x.shape[0] + 1, x.shape[1] + 3], ([i, j]) =>
      i < 1 || j < 2 || j >= x.shape[1] + 2 ? 7 : get(x, [i - 1, j - 2]),
    ),
  bad: [
    { what: 'pairs', run: () => tensor([1]).pad([]), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'a negative result', run: () => tensor([1]).pad([[-2, 0]]), code: 'AUX_INVALID_ARGUMENT' },
  ],
})
add({
  name: 'pad, cutting',
  f: (x) =>
    x.pad([
      [-1, 2],
      [1, -1],
    ]),
  reference: (x) => make([4, 3], ([i, j]) => (i < 2 && j >= 1 ? get(x, [i + 1, j - 1]) : 0)),
  samples: [[s(3, 3)]],
})
add({
  name: 'flip',
  f: (x) => x.flip([0, 2]),
  reference: (x) => make(x.shape, ([i, j, k]) => get(x, [x.shape[0] - 1 - i, j, x.shape[2] - 1 - k])),
  samples: [[s(3, 2, 4)], [s(1, 2, 1)], [s(0, 2, 3)]],
})
const mod = (a: number, n: number): number => ((a % n) + n) % n
add({
  name: 'roll',
  f: (x) => x.roll([1, -2], [0, 1]),
  reference: (x) => make(x.shape, ([i, j]) => get(x, [mod(i - 1, x.shape[0]), mod(j + 2, x.shape[1])])),
  samples: [[s(3, 5)], [s(1, 2)]],
  bad: [{ what: 'axes', run: () => tensor([1]).roll([1, 2], 0), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'tile',
  f: (x) => x.tile([2, 1, 3]),
  reference: (x) => make([2, x.shape[0], x.shape[1] * 3], ([, j, k]) => get(x, [j, k % x.shape[1]])),
  samples: [[s(2, 3)]],
  bad: [{ what: 'negative', run: () => tensor([1]).tile([-1]), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'repeatInterleave',
  f: (x) => x.repeatInterleave(3, 1),
  reference: (x) => make([2, 9], ([i, j]) => get(x, [i, Math.floor(j / 3)])),
  samples: [[s(2, 3)]],
})
add({
  name: 'tril',
  f: (x) => x.tril(1),
  reference: (x) => make(x.shape, (i) => (i[i.length - 1] <= i[i.length - 2] + 1 ? get(x, i) : 0)),
  samples: [[s(4, 5)], [s(2, 3, 3)], [s(1, 1)]],
  bad: [{ what: 'a vector', run: () => tensor([1]).tril(), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'triu',
  f: (x) => x.triu(-1),
  reference: (x) => make(x.shape, (i) => (i[i.length - 1] >= i[i.length - 2] - 1 ? get(x, i) : 0)),
  samples: [[s(5, 4)], [s(70, 300)]],
})
add({
  name: 'reshape and permute',
  f: (x) => x.reshape([3, -1]).permute([1, 0]).reshape([2, 2, 3]).transpose(0, 2),
  reference: (x) => permute(reshape(permute(reshape(x, [3, 4]), [1, 0]), [2, 2, 3]), [2, 1, 0]),
  samples: [[s(2, 6)]],
  bad: [
    { what: 'size', run: () => tensor([1, 2]).reshape([3]), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'order', run: () => tensor([[1]]).permute([0, 0]), code: 'AUX_INVALID_ARGUMENT' },
  ],
})
add({
  name: 'expand',
  f: (x) => x.expand([2, 3, 4]).mul(1),
  reference: (x) => make([2, 3, 4], (i) => get(x, i)),
  samples: [[s(3, 1)]],
  bad: [{ what: 'size', run: () => tensor([1, 2]).expand([3]), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'squeeze of all axes of size 1',
  f: (x) => x.squeeze(),
  reference: (x) =>
    reshape(
      x,
      x.shape.filter((n) => n !== 1),
    ),
  samples: [[s(1, 3, 1, 2)], [s(1, 1)], [s(0, 1)]],
})
add({
  name: 'squeeze and unsqueeze',
  f: (x) => x.unsqueeze(-1).squeeze(0),
  reference: (x) => reshape(x, [3, 1]),
  samples: [[s(1, 3)]],
  bad: [{ what: 'size', run: () => tensor([1, 2]).squeeze(0), code: 'AUX_SHAPE_MISMATCH' }],
})
add({ name: 'clone', f: (x) => x.clone(), reference: (x) => x, samples: [[s(2, 3)]] })
add({
  name: 'detach',
  f: (x) => x.detach().mul(x),
  reference: (x) => map(x, (v) => v * v),
  samples: [[s(2, 3)]],
  wanted: [],
})

// --- by index ---

const outside = (run: () => unknown, message: RegExp) => ({
  what: 'index',
  run,
  code: 'AUX_INDEX_OUT_OF_RANGE' as const,
  message,
})
add({
  name: 'embedding',
  f: (i, w) => aux.embedding(i, w),
  reference: (i, w) => make([...i.shape, w.shape[1]], (at) => get(w, [get(i, at.slice(0, -1)), at[at.length - 1]])),
  samples: [
    [indices(5, 3, 2), s(5, 4)],
    [indices(1, 1), s(1, 1)],
    [indices(5, 0), s(5, 3)],
    [indices(50, 300), s(50, 70)],
  ],
  bad: [
    outside(
      () => aux.embedding(tensor(Int32Array.of(0, 5, 1)), aux.zeros([5, 2])),
      /embedding: index 5 at position 1 is not in \[0, 5\)/,
    ),
    outside(() => aux.embedding(tensor(Int32Array.of(-1)), aux.zeros([5, 2])), /index -1 at position 0/),
    { what: 'f32 indices', run: () => aux.embedding(tensor([1]), aux.zeros([5, 2])), code: 'AUX_DTYPE_MISMATCH' },
    { what: 'weight', run: () => aux.embedding(tensor(Int32Array.of(1)), aux.zeros([5])), code: 'AUX_SHAPE_MISMATCH' },
  ],
})
add({
  name: 'embedding by u8',
  f: (i, w) => aux.embedding(i, w),
  reference: (i, w) => make([3, 2], ([j, k]) => get(w, [i.data[j], k])),
  samples: [[{ shape: [3], low: 0, high: 4, dtype: 'u8' }, s(4, 2)]],
})
add({
  name: 'indexSelect',
  f: (x, i) => x.indexSelect(1, i),
  reference: (x, i) =>
    make([x.shape[0], ...i.shape, x.shape[2]], (at) => get(x, [at[0], get(i, at.slice(1, -1)), at[at.length - 1]])),
  samples: [
    [s(2, 4, 3), indices(4, 6)],
    [s(2, 4, 3), indices(4, 2, 2)],
    [s(2, 1, 1), indices(1, 1)],
  ],
  bad: [
    outside(
      () => tensor([1, 2]).indexSelect(0, tensor(Int32Array.of(2))),
      /indexSelect: index 2 at position 0 is not in \[0, 2\)/,
    ),
  ],
})
add({
  name: 'gather',
  f: (x, i) => x.gather(1, i),
  reference: (x, i) => make(i.shape, (at) => get(x, [at[0], get(i, at), at[2]])),
  samples: [
    [s(2, 5, 3), indices(5, 2, 4, 3)],
    [s(3, 5, 3), indices(5, 2, 1, 2)],
    [s(60, 40, 30), indices(40, 60, 7, 30)],
  ],
  bad: [
    outside(
      () => tensor([[1, 2]]).gather(1, tensor(Int32Array.of(0, 3), [1, 2])),
      /gather: index 3 at position 1 is not in \[0, 2\)/,
    ),
    { what: 'rank', run: () => tensor([[1, 2]]).gather(1, tensor(Int32Array.of(0))), code: 'AUX_SHAPE_MISMATCH' },
    {
      what: 'no axis',
      run: () => tensor([1, 2]).gather(...([tensor(Int32Array.of(0))] as unknown as [number, Tensor])),
      code: 'AUX_INVALID_ARGUMENT',
      message: /gather: expected an axis in \[-1, 0\], got Tensor/,
    },
  ],
})
add({
  name: 'gather along the last axis',
  f: (x, i) => x.gather(-1, i),
  reference: (x, i) => make(i.shape, ([a, b]) => get(x, [a, get(i, [a, b])])),
  samples: [[s(3, 5), indices(5, 3, 8)]],
})
add({
  name: 'scatterAdd',
  f: (x, i, v) => x.scatterAdd(0, i, v),
  reference: (x, i, v) => {
    const y = { shape: x.shape, data: x.data.slice() }
    ref.eachIndex(i.shape, (at) => (y.data[get(i, at) * x.shape[1] + at[1]] += get(v, at)))
    return y
  },
  samples: [
    [s(4, 3), indices(4, 6, 3), s(6, 3)],
    [s(4, 3), indices(4, 2, 2), s(2, 2)],
    [s(20, 300), indices(20, 90, 300), s(90, 300)],
  ],
  atol: 2e-6,
  bad: [
    outside(
      () => tensor([1, 2]).scatterAdd(0, tensor(Int32Array.of(9)), tensor([1])),
      /scatterAdd: index 9 at position 0/,
    ),
    {
      what: 'source',
      run: () => tensor([1, 2]).scatterAdd(0, tensor(Int32Array.of(1)), tensor([1, 2])),
      code: 'AUX_SHAPE_MISMATCH',
    },
  ],
})
add({
  name: 'indexAdd',
  f: (x, i, v) => x.indexAdd(1, i, v),
  reference: (x, i, v) => {
    const y = { shape: x.shape, data: x.data.slice() }
    ref.eachIndex(v.shape, (at, k) => (y.data[(at[0] * x.shape[1] + i.data[at[1]]) * x.shape[2] + at[2]] += v.data[k]))
    return y
  },
  samples: [
    [s(2, 4, 3), indices(4, 6), s(2, 6, 3)],
    [s(1, 4, 1), indices(4, 0), s(1, 0, 1)],
    [s(2, 20, 30), indices(20, 90), s(2, 90, 30)],
  ],
  atol: 2e-6,
  bad: [
    outside(
      () => tensor([1, 2]).indexAdd(0, tensor(Int32Array.of(-1)), tensor([1])),
      /index -1 at position 0 is not in \[0, 2\)/,
    ),
    {
      what: 'source',
      run: () => tensor([1, 2]).indexAdd(0, tensor(Int32Array.of(1)), tensor([1, 2])),
      code: 'AUX_SHAPE_MISMATCH',
      message: /indexAdd: expected source of shape \[1\], got \[2\]/,
    },
    { what: 'indices', run: () => tensor([1]).indexAdd(0, tensor([[0]]), tensor([1])), code: 'AUX_DTYPE_MISMATCH' },
  ],
})
add({
  name: 'bincount',
  f: (i, w) => aux.bincount(i, { classes: 6, weights: w }),
  reference: (i, w) => make([6], ([c]) => sum([...w.data].filter((_, k) => i.data[k] === c))),
  samples: [
    [indices(5, 3, 4), s(3, 4)],
    [indices(6, 0), s(0)],
  ],
  bad: [
    outside(() => aux.bincount(tensor(Int32Array.of(7)), { classes: 5 }), /index 7 at position 0 is not in \[0, 5\)/),
    {
      what: 'weights',
      run: () => aux.bincount(tensor(Int32Array.of(7)), { weights: tensor([1, 2]) }),
      code: 'AUX_SHAPE_MISMATCH',
    },
  ],
})
for (const right of [false, true])
  add({
    name: `searchsorted ${right ? 'right' : 'left'}`,
    f: (x, v) => aux.searchsorted(x.round(), v.round(), { right }),
    reference: (x, v) => map(v, (y) => [...x.data].filter((z) => roundEven(z) < roundEven(y) || (right && roundEven(z) === roundEven(y))).length), // prettier-ignore
    samples: [0, 1, 2, 3, 7, 8, 9].map((n) => [
      { shape: [n], values: Array.from({ length: n }, (_, i) => Math.floor((i * 5) / 4) - 2) },
      within(-4, 9, 3, 20),
    ]),
    wanted: [],
    bad: [
      { what: 'two axes', run: () => aux.searchsorted(aux.zeros([2, 2]), tensor([1])), code: 'AUX_SHAPE_MISMATCH' },
    ],
  })
add({
  name: 'oneHot',
  f: (i) => aux.oneHot(i, 5),
  reference: (i) => make([...i.shape, 5], (at) => Number(get(i, at.slice(0, -1)) === at[at.length - 1])),
  samples: [[indices(5, 3, 2)], [indices(5)], [indices(5, 0)]],
  bad: [
    outside(() => aux.oneHot(tensor(Int32Array.of(7)), 5), /oneHot: index 7 at position 0 is not in \[0, 5\)/),
    { what: 'classes', run: () => aux.oneHot(tensor(Int32Array.of(0)), 0), code: 'AUX_INVALID_ARGUMENT' },
  ],
})

// --- products, windows, normalisation ---

const product = { rtol: 2e-6, atol: 2e-6, fused: true }
add({
  name: 'matmul',
  f: (a, b) => a.matmul(b),
  reference: ref.matmul,
  ...product,
  samples: [
    [s(3, 4), s(4, 5)],
    [s(2, 3, 4), s(2, 4, 5)],
    [s(2, 1, 3, 4), s(5, 4, 2)],
    [s(1, 1), s(1, 1)],
    [s(2, 0), s(0, 3)],
    [s(0, 2), s(2, 3)],
  ],
  bad: [
    { what: 'sizes', run: () => tensor([[1, 2]]).matmul(tensor([[1, 2]])), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'a number', run: () => tensor(1).matmul(tensor([[1, 2]])), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'sizes of vectors', run: () => tensor([1, 2]).matmul(tensor([1])), code: 'AUX_SHAPE_MISMATCH' },
  ],
})
add({
  name: 'matmul of vectors',
  f: (a, b, c) => a.matmul(b).matmul(c),
  reference: (a, b, c) => {
    const rows = ref.matmul(reshape(a, [1, ...a.shape]), b)
    const y = ref.matmul(rows, reshape(c, [...c.shape, 1]))
    return reshape(y, y.shape.slice(0, -2))
  },
  ...product,
  samples: [
    [s(3), s(3, 4), s(4)],
    [s(3), s(2, 3, 4), s(4)],
  ],
})
add({
  name: 'linear',
  f: (x, w, b) => aux.linear(x, w, b),
  ...product,
  reference: (x, w, b) =>
    make(
      [...x.shape.slice(0, -1), w.shape[0]],
      (at) =>
        sum(
          Array.from(
            { length: w.shape[1] },
            (_, k) => get(x, [...at.slice(0, -1), k]) * get(w, [at[at.length - 1], k]),
          ),
        ) + get(b, [at[at.length - 1]]),
    ),
  samples: [
    [s(3, 4), s(5, 4), s(5)],
    [s(2, 3, 4), s(5, 4), s(5)],
    [s(1, 1), s(1, 1), s(1)],
  ],
  bad: [{ what: 'sizes', run: () => aux.linear(tensor([[1, 2]]), tensor([[1]])), code: 'AUX_SHAPE_MISMATCH' }],
})
for (const o of [{}, { stride: 2, padding: 1 }, { padding: 2, dilation: 2 }, { groups: 2, padding: 1 }])
  add({
    name: `conv2d ${JSON.stringify(o)}`,
    f: (x, w) => aux.conv2d(x, w, undefined, o),
    reference: (x, w) => ref.conv2d(x, w, o),
    ...product,
    gtol: 2e-5,
    samples: [[s(2, 6, 5, 4), s(4, 3, 3, 4 / ((o as { groups?: number }).groups ?? 1))]],
    bad: [
      {
        what: 'channels',
        run: () => aux.conv2d(aux.zeros([1, 4, 4, 3]), aux.zeros([2, 3, 3, 4])),
        code: 'AUX_SHAPE_MISMATCH',
      },
    ],
  })
add({
  name: 'conv2d that leaves the size',
  f: (x, w) => aux.conv2d(x, w, undefined, { padding: 'same', dilation: 2 }),
  reference: (x, w) => ref.conv2d(x, w, { padding: 2, dilation: 2 }),
  ...product,
  samples: [[s(2, 6, 5, 2), s(3, 3, 3, 2)]],
})
for (const o of [
  {},
  { stride: 2, padding: 1 },
  { stride: 3, padding: 1, outputPadding: 2 },
  { stride: 2, dilation: 2, groups: 2, outputPadding: 1 },
  { stride: 1, padding: 2, dilation: 4, outputPadding: 3 },
])
  add({
    name: `convTranspose2d ${JSON.stringify(o)}`,
    f: (x, w, b) => aux.convTranspose2d(x, w, b, o),
    reference: (x, w, b) => {
      const y = ref.convTranspose2d(x, w, o)
      return make(y.shape, (i) => get(y, i) + get(b, [i[3]]))
    },
    ...product,
    gtol: 2e-5,
    samples: ((groups) => [
      [s(2, 3, 4, 4), s(4, 3, 2, 6 / groups), s(6)],
      [s(1, 1, 1, 2), s(2, 3, 3, 2 / groups), s(2)],
    ])((o as { groups?: number }).groups ?? 1),
    bad: [
      {
        what: 'channels',
        run: () => aux.convTranspose2d(aux.zeros([1, 4, 4, 3]), aux.zeros([2, 3, 3, 3])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /\[N, H, W, 2\].*\[1, 4, 4, 3\]/,
      },
      {
        what: 'outputPadding',
        run: () =>
          aux.convTranspose2d(aux.zeros([1, 4, 4, 3]), aux.zeros([3, 3, 3, 3]), undefined, { outputPadding: 1 }),
        code: 'AUX_INVALID_ARGUMENT',
      },
      {
        what: 'bias',
        run: () => aux.convTranspose2d(aux.zeros([1, 4, 4, 3]), aux.zeros([3, 3, 3, 2]), aux.zeros([3])),
        code: 'AUX_SHAPE_MISMATCH',
      },
      {
        what: 'nothing left',
        run: () => aux.convTranspose2d(aux.zeros([1, 1, 1, 3]), aux.zeros([3, 3, 3, 2]), undefined, { padding: 2 }),
        code: 'AUX_SHAPE_MISMATCH',
      },
    ],
  })
/** The gradients of convolutions, as functions: they are differentiated where a loss contains a gradient. */
const through = { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 1 } as const
add({
  name: 'weight gradient of conv2d',
  f: (delta, x) => convWeightGradient(delta, x, through, [3, 3, 3, 2]),
  reference: (delta, x) =>
    make([3, 3, 3, 2], ([o, u, v, c]) => {
      let total = 0
      const [n, p, q] = delta.shape
      for (let b = 0; b < n; b++)
        for (let i = 0; i < p; i++)
          for (let j = 0; j < q; j++) {
            const [y, z] = [2 * i - 1 + u, 2 * j - 1 + v]
            if (y >= 0 && y < x.shape[1] && z >= 0 && z < x.shape[2])
              total += get(delta, [b, i, j, o]) * get(x, [b, y, z, c])
          }
      return total
    }),
  ...product,
  samples: [[s(2, 3, 2, 3), s(2, 6, 4, 2)]],
})
// Of sizes, or of the factor and 1.
const cornersMeet = (from: number, to: number) => (i: number) => (to > 1 ? (i * (from - 1)) / (to - 1) : 0)
const edgesMeet = (from: number, to: number) => (i: number) => Math.max(0, ((i + 0.5) * from) / to - 0.5)
for (const [name, options, place] of [
  ['edges meet', { size: [5, 8] }, edgesMeet],
  ['smaller', { size: [2, 1] }, edgesMeet],
  ['by a factor', { scale: [2, 2] }, edgesMeet],
  ['by another factor', { scale: [1.4, 0.7] }, edgesMeet],
  ['corners meet', { size: [5, 7], alignCorners: true }, cornersMeet],
] as const)
  add({
    name: `interpolate, bilinear, ${name}`,
    f: (x) => aux.interpolate(x, { mode: 'bilinear', ...options } as never),
    reference: (x) => {
      const [n, h, w, c] = x.shape
      const [by, wide] = 'scale' in options ? options.scale : [1, 1]
      const [p, q] = 'scale' in options ? [Math.floor(by * h), Math.floor(wide * w)] : options.size
      const [down, across] = 'scale' in options ? [place(1, by), place(1, wide)] : [place(h, p), place(w, q)]
      return make([n, p, q, c], ([b, i, j, k]) => {
        const [y, z] = [down(i), across(j)]
        const at = (u: number, v: number): number => get(x, [b, Math.min(u, h - 1), Math.min(v, w - 1), k])
        const [u, v] = [Math.floor(y), Math.floor(z)]
        const [s, t] = [y - u, z - v]
        return (1 - s) * ((1 - t) * at(u, v) + t * at(u, v + 1)) + s * ((1 - t) * at(u + 1, v) + t * at(u + 1, v + 1))
      })
    },
    ...product,
    samples: [[s(2, 3, 4, 2)], [s(1, 1, 2, 1)]],
  })
for (const [name, options, size] of [
  ['a whole factor', { scale: 2 }, (n: number) => 2 * n],
  ['a factor and a half', { scale: [1.5, 1.5] }, (n: number) => Math.floor(1.5 * n)],
  ['twice and a bit', { scale: 2.2 }, (n: number) => Math.floor(2.2 * n)],
  ['the same', { scale: 1 }, (n: number) => n],
] as const)
  add({
    name: `interpolate, nearest, ${name}`,
    f: (x) => aux.interpolate(x, options),
    reference: (x) => {
      const [n, h, w, c] = x.shape
      const [p, q] = [size(h), size(w)]
      const by = [options.scale].flat()[0]
      return make([n, p, q, c], ([b, i, j, k]) => get(x, [b, Math.floor(i / by), Math.floor(j / by), k]))
    },
    samples: [[s(2, 3, 4, 2)], [s(1, 1, 1, 3)]],
    bad: [
      { what: 'none', run: () => aux.interpolate(aux.zeros([1, 2, 2, 1]), {}), code: 'AUX_INVALID_ARGUMENT' },
      {
        what: 'both',
        run: () => aux.interpolate(aux.zeros([1, 2, 2, 1]), { size: 2, scale: 2 }),
        code: 'AUX_INVALID_ARGUMENT',
      },
      {
        what: 'a mode',
        run: () => aux.interpolate(aux.zeros([1, 2, 2, 1]), { size: 2, mode: 'cubic' as never }),
        code: 'AUX_INVALID_ARGUMENT',
      },
      { what: 'axes', run: () => aux.interpolate(aux.zeros([2, 2, 1]), { size: 2 }), code: 'AUX_SHAPE_MISMATCH' },
    ],
  })
// Gradients of windows of one tensor are put together where they adjoin, added up where they do not.
type WindowCase = [name: string, windows: [axis: number, start: number, end: number, step: number][]]
const windowCases: WindowCase[] = [
  [
    'that tile it',
    [
      [0, 0, 2, 1],
      [0, 5, 6, 1],
      [0, 2, 5, 1],
    ],
  ],
  [
    'with gaps',
    [
      [1, 1, 2, 1],
      [1, 2, 4, 1],
      [1, 6, 7, 1],
    ],
  ],
  [
    'that overlap',
    [
      [0, 0, 4, 1],
      [0, 4, 6, 1],
      [0, 2, 5, 1],
      [0, 0, 4, 1],
    ],
  ],
  [
    'of two axes',
    [
      [0, 0, 3, 1],
      [1, 0, 4, 1],
      [0, 3, 6, 1],
    ],
  ],
  [
    'with steps',
    [
      [1, 0, 7, 2],
      [1, 1, 7, 2],
      [1, 0, 3, 1],
      [1, 3, 7, 1],
    ],
  ],
  [
    'and the whole',
    [
      [0, 0, 3, 1],
      [0, 0, 6, 1],
      [0, 3, 6, 1],
    ],
  ],
]
for (const [name, windows] of windowCases)
  add({
    name: `windows ${name}`,
    f: (x) =>
      windows
        .map(([axis, start, end, step], i) =>
          x
            .slice(...[null, null].map((_, at): aux.Range | null => (at === axis ? [start, end, step] : null)))
            .square()
            .mul(i + 1)
            .sum(),
        )
        .reduce((a, b) => a.add(b)),
    reference: (x) =>
      scalar(
        sum(
          windows.map(([axis, start, end, step], i) => {
            let total = 0
            ref.eachIndex(x.shape, (index, at) => {
              const n = index[axis] - start
              if (n >= 0 && index[axis] < end && n % step === 0) total += (i + 1) * x.data[at] ** 2
            })
            return total
          }),
        ),
      ),
    samples: [[s(6, 7)]],
    atol: 1e-4,
  })
for (const o of [{}, { stride: 2, padding: 1 }, { padding: 2, dilation: 2 }, { groups: 2, padding: 1, stride: 3 }])
  add({
    name: `conv1d ${JSON.stringify(o)}`,
    f: (x, w, b) => aux.conv1d(x, w, b, o),
    reference: (x, w, b) => {
      const y = ref.conv1d(x, w, o)
      return make(y.shape, (i) => get(y, i) + get(b, [i[2]]))
    },
    ...product,
    gtol: 2e-5,
    samples: ((groups) => [
      [s(2, 7, 4), s(6, 3, 4 / groups), s(6)],
      [s(3, 11, 2), s(2, 5, 2 / groups), s(2)],
    ])((o as { groups?: number }).groups ?? 1),
    bad: [
      {
        what: 'channels first',
        run: () => aux.conv1d(aux.zeros([2, 4, 7]), aux.zeros([6, 3, 4])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^conv1d: expected input \[N, L, 4\].*channels come last/,
      },
      {
        what: 'a kernel that is too long',
        run: () => aux.conv1d(aux.zeros([2, 4, 1]), aux.zeros([1, 5, 1])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^conv1d: kernel of 5/,
      },
      {
        what: "an even kernel with 'same'",
        run: () => aux.conv1d(aux.zeros([2, 4, 1]), aux.zeros([1, 2, 1]), undefined, { padding: 'same' }),
        code: 'AUX_INVALID_ARGUMENT',
        message: /^conv1d: expected an odd kernel/,
      },
    ],
  })
add({
  name: 'conv1d that leaves the length',
  f: (x, w) => aux.conv1d(x, w, undefined, { padding: 'same', dilation: 2 }),
  reference: (x, w) => ref.conv1d(x, w, { padding: 2, dilation: 2 }),
  ...product,
  samples: [[s(2, 6, 2), s(3, 3, 2)]],
})
for (const o of [
  {},
  { stride: [2, 1, 2], padding: [1, 0, 1] },
  { padding: [2, 1, 0], dilation: [2, 1, 1] },
  { groups: 2, stride: [3, 2, 1], padding: [1, 1, 1] },
  { stride: [2, 2, 2], padding: [3, 1, 1], dilation: [3, 1, 2] },
] as { stride?: aux.Triple; padding?: aux.Triple; dilation?: aux.Triple; groups?: number }[])
  add({
    name: `conv3d ${JSON.stringify(o)}`,
    f: (x, w, b) => aux.conv3d(x, w, b, o),
    reference: (x, w, b) => {
      const y = ref.conv3d(x, w, o as { stride?: number[] })
      return make(y.shape, (i) => get(y, i) + get(b, [i[4]]))
    },
    ...product,
    gtol: 2e-5,
    samples: ((groups) => [
      [s(2, 4, 3, 3, 2), s(4, 3, 2, 3, 2 / groups), s(4)],
      [s(1, 3, 3, 3, 4), s(2, 1, 3, 1, 4 / groups), s(2)],
      [s(1, 1, 6, 6, 2), s(2, 1, 2, 2, 2 / groups), s(2)],
    ])(o.groups ?? 1),
    bad: [
      {
        what: 'channels first',
        run: () => aux.conv3d(aux.zeros([2, 4, 7, 7, 7]), aux.zeros([6, 3, 3, 3, 4])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^conv3d: expected input \[N, D, H, W, 4\].*channels come last/,
      },
      {
        what: 'a kernel that is too deep',
        run: () => aux.conv3d(aux.zeros([2, 4, 5, 5, 1]), aux.zeros([1, 5, 1, 1, 1])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^conv3d: kernel of depth 5/,
      },
      {
        what: 'a stride of two numbers',
        run: () =>
          aux.conv3d(aux.zeros([2, 4, 5, 5, 1]), aux.zeros([1, 1, 1, 1, 1]), undefined, { stride: [1, 2] as never }),
        code: 'AUX_INVALID_ARGUMENT',
        message: /^conv3d: stride: expected a whole number >= 1 or three of them, got 1,2/,
      },
    ],
  })
add({
  name: 'conv3d that leaves the size',
  f: (x, w) => aux.conv3d(x, w, undefined, { padding: 'same', dilation: [2, 1, 1] }),
  reference: (x, w) => ref.conv3d(x, w, { padding: [2, 1, 1], dilation: [2, 1, 1] }),
  ...product,
  samples: [[s(2, 6, 3, 4, 2), s(3, 3, 3, 3, 2)]],
})
add({
  name: 'maxPool3d',
  f: (x) => x.maxPool3d([3, 2, 2], { stride: [2, 1, 2], padding: [1, 0, 1] }),
  reference: (x) => ref.pool3d(x, [3, 2, 2], [2, 1, 2], [1, 0, 1], (v) => Math.max(...v)),
  samples: [[s(2, 5, 4, 3, 3)], [s(1, 2, 2, 1, 1)]],
  bad: [{ what: 'an image', run: () => aux.zeros([1, 4, 4, 1]).maxPool3d(2), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'avgPool3d',
  f: (x) => x.avgPool3d(2, { padding: [1, 0, 1] }),
  reference: (x) => ref.pool3d(x, [2, 2, 2], [2, 2, 2], [1, 0, 1], (v) => sum(v) / 8),
  samples: [[s(2, 5, 4, 3, 3)]],
})
add({
  name: 'adaptiveAvgPool3d',
  f: (x) => x.adaptiveAvgPool3d([2, 1, 3]),
  reference: (x) => ref.pool3d(x, [3, 4, 2], [3, 4, 2], [0, 0, 0], mean),
  samples: [[s(2, 6, 4, 6, 3)]],
})
add({
  name: 'maxPool1d',
  f: (x) => x.maxPool1d(3, { stride: 2, padding: 1 }),
  reference: (x) => ref.pool1d(x, 3, 2, 1, (v) => Math.max(...v)),
  samples: [[s(2, 7, 3)], [s(1, 2, 1)]],
  bad: [{ what: 'an image', run: () => aux.zeros([1, 4, 4, 1]).maxPool1d(2), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'avgPool1d',
  f: (x) => x.avgPool1d(2),
  reference: (x) => ref.pool1d(x, 2, 2, 0, mean),
  samples: [[s(2, 7, 3)], [s(1, 2, 1)]],
  bad: [{ what: 'a window', run: () => aux.zeros([1, 4, 1]).avgPool1d(0), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'adaptiveAvgPool1d',
  f: (x) => x.adaptiveAvgPool1d(2),
  reference: (x) => ref.pool1d(x, 3, 3, 0, mean),
  samples: [[s(2, 6, 3)]],
})
add({
  name: 'maxPool2d',
  f: (x) => x.maxPool2d(2),
  reference: (x) => ref.pool2d(x, 2, 2, 0, (v) => Math.max(...v)),
  samples: [[s(2, 6, 4, 3)], [s(1, 2, 2, 1)]],
})
add({
  name: 'avgPool2d',
  f: (x) => x.avgPool2d(3, { stride: 2, padding: 1 }),
  reference: (x) => ref.pool2d(x, 3, 2, 1, (v) => sum(v) / 9),
  samples: [[s(2, 6, 5, 3)]],
})
add({
  name: 'adaptiveAvgPool2d',
  f: (x) => x.adaptiveAvgPool2d(1),
  reference: (x) => reduce(x, [1, 2], mean, true),
  samples: [[s(2, 3, 4, 3)]],
})
const normalised = (
  x: Arr,
  keys: (i: number[]) => string,
  eps: number,
  scale: (i: number[]) => number,
  shift: (i: number[]) => number,
  centre = true,
): Arr => {
  const groups = new Map<string, number[]>()
  ref.eachIndex(x.shape, (i, at) => groups.set(keys(i), [...(groups.get(keys(i)) ?? []), x.data[at]]))
  const statistics = new Map(
    [...groups].map(([key, v]) => {
      const m = centre ? mean(v) : 0
      return [key, [m, 1 / Math.sqrt(mean(v.map((y) => (y - m) ** 2)) + eps)]]
    }),
  )
  return make(x.shape, (i) => {
    const [m, r] = statistics.get(keys(i))!
    return (get(x, i) - m) * r * scale(i) + shift(i)
  })
}
const last = (i: number[]): number => i[i.length - 1]
const channel =
  (a: Arr) =>
  (i: number[]): number =>
    a.data[last(i)]
const norms = { rtol: 3e-6, atol: 3e-6, gtol: 2e-5 }
add({
  name: 'layerNorm',
  f: (x, g, b) => aux.layerNorm(x, g, b),
  reference: (x, g, b) => normalised(x, (i) => i.slice(0, -1).join(), 1e-5, channel(g), channel(b)),
  ...norms,
  samples: [
    [s(3, 2, 6), s(6), s(6)],
    [within(5, 6, 4, 8), s(8), s(8)],
  ],
  bad: [
    {
      what: 'weight',
      run: () => aux.layerNorm(tensor([[1, 2]]), tensor([1]), tensor([1])),
      code: 'AUX_SHAPE_MISMATCH',
    },
  ],
})
add({
  name: 'rmsNorm',
  f: (x, g) => aux.rmsNorm(x, g),
  reference: (x, g) =>
    normalised(
      x,
      (i) => i.slice(0, -1).join(),
      1e-6,
      channel(g),
      () => 0,
      false,
    ),
  ...norms,
  samples: [
    [s(3, 2, 6), s(6)],
    [s(1, 1), s(1)],
    [s(700, 40), s(40)],
    [s(0, 4), s(4)],
  ],
  bad: [{ what: 'weight', run: () => aux.rmsNorm(tensor([[1, 2]]), tensor([1])), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'groupNorm',
  f: (x, g, b) => aux.groupNorm(x, 2, g, b),
  reference: (x, g, b) =>
    normalised(x, (i) => `${i[0]}.${Math.floor(last(i) / (g.shape[0] / 2))}`, 1e-5, channel(g), channel(b)),
  ...norms,
  samples: [
    [s(2, 3, 2, 6), s(6), s(6)],
    [s(3, 4), s(4), s(4)],
    [s(2, 30, 40, 4), s(4), s(4)],
  ],
  bad: [
    {
      what: 'groups',
      run: () => aux.groupNorm(aux.zeros([1, 2, 3]), 2, tensor([1, 1, 1]), tensor([1, 1, 1])),
      code: 'AUX_INVALID_ARGUMENT',
    },
    {
      what: 'rank',
      run: () => aux.groupNorm(tensor([1, 2]), 1, tensor([1, 1]), tensor([1, 1])),
      code: 'AUX_SHAPE_MISMATCH',
    },
  ],
})
add({
  name: 'batchNorm, training',
  ...norms,
  f: (x, g, b) =>
    aux.batchNorm(x, g, b, { runningMean: aux.zeros([3]), runningVar: aux.ones([3]), momentum: 0.1 }, true),
  reference: (x, g, b) => normalised(x, (i) => String(last(i)), 1e-5, channel(g), channel(b)),
  samples: [[s(4, 2, 3), s(3), s(3)]],
})
add({
  name: 'batchNorm, evaluation',
  ...norms,
  f: (x, g, b) =>
    aux.batchNorm(
      x,
      g,
      b,
      { runningMean: tensor([0.5, -1, 2]), runningVar: tensor([1, 2, 0.25]), momentum: 0.1 },
      false,
    ),
  reference: (x, g, b) =>
    make(
      x.shape,
      (i) =>
        ((get(x, i) - [0.5, -1, 2][last(i)]) / Math.sqrt([1, 2, 0.25][last(i)] + 1e-5)) * g.data[last(i)] +
        b.data[last(i)],
    ),
  samples: [[s(4, 2, 3), s(3), s(3)]],
})

// --- attention ---

const heads = (t: number, keys: number, d: number, e = d): Sample[] => [
  s(2, 2, t, d),
  s(2, 2, keys, d),
  s(2, 2, keys, e),
]
const attending = { rtol: 3e-6, atol: 2e-6, gtol: 3e-5, fused: true }
add({
  name: 'scaledDotProductAttention',
  f: (q, k, v) => aux.scaledDotProductAttention(q, k, v),
  reference: (q, k, v) => ref.attention(q, k, v),
  ...attending,
  samples: [heads(3, 5, 4), heads(1, 1, 1), heads(70, 140, 20, 12), heads(2, 3, 5, 2)],
  bad: [
    {
      what: 'k',
      run: () =>
        aux.scaledDotProductAttention(aux.zeros([1, 2, 3, 4]), aux.zeros([1, 2, 3, 5]), aux.zeros([1, 2, 3, 5])),
      code: 'AUX_SHAPE_MISMATCH',
    },
    {
      what: 'mask',
      run: () =>
        aux.scaledDotProductAttention(aux.zeros([1, 2, 3, 4]), aux.zeros([1, 2, 3, 4]), aux.zeros([1, 2, 3, 4]), {
          mask: aux.zeros([2]),
        }),
      code: 'AUX_SHAPE_MISMATCH',
    },
    {
      what: 'rank',
      run: () => aux.scaledDotProductAttention(aux.zeros([2, 3, 4]), aux.zeros([2, 3, 4]), aux.zeros([2, 3, 4])),
      code: 'AUX_SHAPE_MISMATCH',
    },
    {
      what: 'dropout',
      run: () =>
        aux.scaledDotProductAttention(aux.zeros([1, 2, 3, 4]), aux.zeros([1, 2, 3, 4]), aux.zeros([1, 2, 3, 4]), {
          dropoutP: 2,
        }),
      code: 'AUX_INVALID_ARGUMENT',
    },
  ],
})
add({
  name: 'attention, causal',
  f: (q, k, v) => aux.scaledDotProductAttention(q, k, v, { causal: true, scale: 0.7 }),
  reference: (q, k, v) => ref.attention(q, k, v, { causal: true, scale: 0.7 }),
  samples: [heads(5, 5, 3), heads(3, 7, 2), heads(7, 3, 2), heads(150, 150, 8)],
  ...attending,
})
add({
  name: 'attention, bool mask of keys',
  f: (q, k, v, m) => aux.scaledDotProductAttention(q, k, v, { mask: m }),
  reference: (q, k, v, m) => ref.attention(q, k, v, { mask: ([b, , , t]) => (get(m, [b, 0, 0, t]) ? 0 : -Infinity) }),
  samples: [[...heads(4, 6, 3), bools(2, 1, 1, 6)]],
  ...attending,
})
add({
  name: 'attention, additive mask',
  f: (q, k, v, m) => aux.scaledDotProductAttention(q, k, v, { mask: m, causal: true }),
  reference: (q, k, v, m) => ref.attention(q, k, v, { causal: true, mask: ([, h, t, j]) => get(m, [h, t, j]) }),
  samples: [[...heads(4, 4, 3), s(2, 4, 4)]],
  wanted: [0, 1, 2],
  ...attending,
})
add({
  name: 'attention that sees nothing',
  f: (q, k, v, m) => aux.scaledDotProductAttention(q, k, v, { mask: m }),
  ...attending,
  reference: (q, k, v, m) => ref.attention(q, k, v, { mask: ([, , t, j]) => (get(m, [t, j]) ? 0 : -Infinity) }),
  samples: [[...heads(2, 3, 3), { shape: [2, 3], dtype: 'bool', values: [0, 0, 0, 1, 0, 1] }]],
})
const packed = (x: Arr, which: number): Arr => make([2, 2, 5, 3], ([b, h, t, d]) => get(x, [b, t, which, h, d]))
add({
  name: 'attention from one projection',
  f: (x) =>
    aux
      .scaledDotProductAttention(
        ...([0, 1, 2].map((i) => x.select(2, i).permute([0, 2, 1, 3])) as [Tensor, Tensor, Tensor]),
      )
      .permute([0, 2, 1, 3])
      .reshape([2, 5, 6]),
  reference: (x) => reshape(permute(ref.attention(packed(x, 0), packed(x, 1), packed(x, 2)), [0, 2, 1, 3]), [2, 5, 6]),
  samples: [[s(2, 5, 3, 2, 3)]],
  ...attending,
})

// --- losses ---

const entropy = (v: number[], label: number, smoothing = 0): number => {
  const l = v.map((x) => ref.logSumExp(v) - x)
  return (1 - smoothing) * l[label] + smoothing * mean(l)
}
const rowsOf = (x: Arr): number[][] =>
  Array.from({ length: x.data.length / last(x.shape) }, (_, i) => [
    ...x.data.slice(i * last(x.shape), (i + 1) * last(x.shape)),
  ])
const scalar = (v: number): Arr => ({ shape: [], data: Float64Array.of(v) })
const labelsBad = [
  {
    what: 'f32 labels',
    run: () => aux.crossEntropy(tensor([[1, 2]]), tensor([1])),
    code: 'AUX_DTYPE_MISMATCH' as const,
  },
  {
    what: 'shape',
    run: () => aux.crossEntropy(tensor([[1, 2]]), tensor(Int32Array.of(1, 0))),
    code: 'AUX_SHAPE_MISMATCH' as const,
  },
  outside(() => aux.crossEntropy(tensor([[1, 2]]), tensor(Int32Array.of(2))), /label 2 at row 0 is not in \[0, 2\)/),
  outside(() => aux.crossEntropy(tensor([[1, 2]]), tensor(Int32Array.of(-100))), /label -100/),
  {
    what: 'reduction',
    run: () => aux.crossEntropy(tensor([[1, 2]]), tensor(Int32Array.of(1)), { reduction: 'max' as 'sum' }),
    code: 'AUX_INVALID_ARGUMENT' as const,
  },
]
add({
  name: 'crossEntropy',
  ...fused, // exp
  f: (x, y) => aux.crossEntropy(x, y),
  reference: (x, y) => scalar(mean(rowsOf(x).map((v, i) => entropy(v, y.data[i])))),
  samples: [
    [within(-9, 9, 4, 5), indices(5, 4)],
    [s(1, 1), indices(1, 1)],
    [s(2, 3, 5), indices(5, 2, 3)],
  ],
  bad: labelsBad,
})
add({
  name: 'crossEntropy by u8, smoothed, summed',
  ...fused, // exp
  f: (x, y) => aux.crossEntropy(x, y, { labelSmoothing: 0.1, reduction: 'sum' }),
  reference: (x, y) => scalar(sum(rowsOf(x).map((v, i) => entropy(v, y.data[i], 0.1)))),
  samples: [[s(4, 5), { shape: [4], low: 0, high: 5, dtype: 'u8' }]],
})
add({
  name: 'crossEntropy, each',
  ...fused, // exp
  f: (x, y) => aux.crossEntropy(x, y, { reduction: 'none' }),
  reference: (x, y) => ({ shape: y.shape, data: Float64Array.from(rowsOf(x), (v, i) => entropy(v, y.data[i])) }),
  samples: [[s(2, 3, 4), indices(4, 2, 3)]],
})
const ignored = (x: Arr, y: Arr, loss: (v: number[], label: number) => number): Arr => {
  const kept = rowsOf(x)
    .map((v, i) => (y.data[i] === -1 ? undefined : loss(v, y.data[i])))
    .filter((v) => v !== undefined)
  return scalar(kept.length ? mean(kept) : 0)
}
const someIgnored: Sample[][] = [
  [s(4, 3), { shape: [4], dtype: 'i32', values: [2, -1, 0, -1] }],
  [s(2, 3), { shape: [2], dtype: 'i32', values: [-1, -1] }],
]
add({
  name: 'crossEntropy, ignoring',
  ...fused, // exp
  f: (x, y) => aux.crossEntropy(x, y, { ignoreIndex: -1 }),
  reference: (x, y) => ignored(x, y, entropy),
  samples: someIgnored,
})
const classWeights = [0.5, 2, 1.5]
for (const reduction of ['mean', 'sum', 'none'] as const)
  add({
    name: `crossEntropy, weighted, ${reduction}`,
    ...fused, // exp
    f: (x, y) => aux.crossEntropy(x, y, { weight: tensor(classWeights), ignoreIndex: -1, reduction }),
    reference: (x, y) => {
      const factors = [...y.data].map((label) => (label === -1 ? 0 : classWeights[label]))
      const each = rowsOf(x).map((v, i) => (factors[i] ? factors[i] * entropy(v, y.data[i]) : 0))
      if (reduction === 'none') return { shape: y.shape, data: Float64Array.from(each) }
      return scalar(reduction === 'sum' ? sum(each) : sum(each) / (sum(factors) || 1))
    },
    samples: [...someIgnored, [s(2, 2, 3), indices(3, 2, 2)]],
    bad: [
      {
        what: 'a weight of other classes',
        run: () => aux.crossEntropy(tensor([[1, 2]]), tensor(Int32Array.of(0)), { weight: tensor([1, 2, 3]) }),
        code: 'AUX_SHAPE_MISMATCH',
        message: /weight.*\[2\].*\[3\]/,
      },
    ],
  })
for (const labelSmoothing of [0, 0.2])
  add({
    name: `crossEntropy of probabilities, smoothed by ${labelSmoothing}`,
    f: (x, t) => aux.crossEntropy(x, t.softmax(), { labelSmoothing }),
    reference: (x, t) => {
      const soft = (v: number[]): number[] => {
        const e = v.map(Math.exp)
        return e.map((p) => p / sum(e))
      }
      const targets = rowsOf(t).map(soft)
      return scalar(
        mean(
          rowsOf(x).map((v, i) =>
            sum(
              soft(v).map((p, k) => -Math.log(p) * ((1 - labelSmoothing) * targets[i][k] + labelSmoothing / v.length)),
            ),
          ),
        ),
      )
    },
    samples: [
      [s(4, 5), s(4, 5)],
      [s(2, 3, 4), s(2, 3, 4)],
    ],
    fused: true,
    bad: [
      {
        what: 'ignoreIndex',
        run: () => aux.crossEntropy(tensor([[1, 2]]), tensor([[0, 1]]), { ignoreIndex: 1 }),
        code: 'AUX_INVALID_ARGUMENT',
      },
    ],
  })
add({
  name: 'nll',
  f: (x, y) => aux.nll(x, y),
  reference: (x, y) => scalar(-mean(rowsOf(x).map((v, i) => v[y.data[i]]))),
  samples: [
    [s(4, 5), indices(5, 4)],
    [s(2, 3, 5), indices(5, 2, 3)],
  ],
  bad: [outside(() => aux.nll(tensor([[1, 2]]), tensor(Int32Array.of(2))), /index 2/)],
})
add({
  name: 'nll, ignoring',
  f: (x, y) => aux.nll(x, y, { ignoreIndex: -1 }),
  reference: (x, y) => ignored(x, y, (v, label) => -v[label]),
  samples: someIgnored,
})
const meanOf =
  (f: (a: number, b: number) => number) =>
  (a: Arr, b: Arr): Arr =>
    reduce(zip(a, b, f), undefined, mean)
const twins: Sample[][] = [
  [s(3, 4), s(3, 4)],
  [s(1), s(1)],
  [within(-9, 9, 30, 50), within(-9, 9, 30, 50)],
]
const huber = (d: number, delta: number): number =>
  Math.abs(d) <= delta ? (d * d) / 2 : delta * (Math.abs(d) - delta / 2)
add({ name: 'mse', f: (a, b) => aux.mse(a, b), reference: meanOf((a, b) => (a - b) ** 2), samples: twins })
add({ name: 'l1', f: (a, b) => aux.l1(a, b), reference: meanOf((a, b) => Math.abs(a - b)), samples: twins })
add({
  name: 'huber',
  f: (a, b) => aux.huber(a, b, { delta: 0.7 }),
  reference: meanOf((a, b) => huber(a - b, 0.7)),
  samples: twins,
  bad: [{ what: 'delta', run: () => aux.huber(tensor([1]), tensor([1]), { delta: 0 }), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'smoothL1',
  f: (a, b) => aux.smoothL1(a, b, { beta: 0.5 }),
  reference: meanOf((a, b) => huber(a - b, 0.5) / 0.5),
  samples: twins,
})
add({
  name: 'smoothL1 without rounding off',
  f: (a, b) => aux.smoothL1(a, b, { beta: 0 }),
  reference: meanOf((a, b) => Math.abs(a - b)),
  samples: twins,
})
const bce = (x: number, y: number, w = 1): number =>
  w * y * Math.log1p(Math.exp(-x)) + (1 - y) * (x + Math.log1p(Math.exp(-x)))
add({
  name: 'bceWithLogits',
  f: (x, y) => aux.bceWithLogits(x, y),
  reference: meanOf((x, y) => bce(x, y)),
  samples: [
    [within(-20, 20, 3, 4), within(0, 1, 3, 4)],
    [s(1), within(0, 1, 1)],
  ],
  wanted: [0],
  bad: [{ what: 'shapes', run: () => aux.bceWithLogits(tensor([1, 2]), tensor([1])), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'bceWithLogits, weighted, each',
  f: (x, y) => aux.bceWithLogits(x, y, { posWeight: 3, reduction: 'none' }),
  reference: (x, y) => zip(x, y, (a, b) => bce(a, b, 3)),
  samples: [[within(-20, 20, 3, 4), within(0, 1, 3, 4)]],
  wanted: [0],
})
add({
  name: 'bceWithLogits, a weight for each class',
  f: (x, y, w) => aux.bceWithLogits(x, y, { posWeight: w, reduction: 'none' }),
  reference: (x, y, w) => make(x.shape, (i) => bce(get(x, i), get(y, i), w.data[i[1]])),
  samples: [[within(-9, 9, 3, 4), within(0, 1, 3, 4), within(0, 5, 4)]],
  rtol: 2e-6,
  wanted: [0],
  fused: true,
  bad: [
    {
      what: 'a weight of another shape',
      run: () => aux.bceWithLogits(aux.zeros([2, 3]), aux.zeros([2, 3]), { posWeight: aux.zeros([2]) }),
      code: 'AUX_SHAPE_MISMATCH',
    },
    {
      what: 'a weight for more than there is',
      run: () => aux.bceWithLogits(aux.zeros([3]), aux.zeros([3]), { posWeight: aux.zeros([2, 3]) }),
      code: 'AUX_SHAPE_MISMATCH',
      message: /posWeight to broadcast to \[3\], got \[2, 3\]/,
    },
    {
      what: 'a list',
      run: () => aux.bceWithLogits(aux.zeros([3]), aux.zeros([3]), { posWeight: [1, 2, 3] as never }),
      code: 'AUX_INVALID_ARGUMENT',
      message: /posWeight to be a number >= 0 or a tensor, got Array/,
    },
  ],
})
add({
  name: 'bceWithLogits, a weight for each loss',
  f: (x, y, w) => aux.bceWithLogits(x, y, { weight: w, posWeight: 3 }),
  reference: (x, y, w) => {
    const losses = make(x.shape, (i) => w.data[i[0]] * bce(get(x, i), get(y, i), 3))
    return make([], () => losses.data.reduce((a, b) => a + b, 0) / losses.data.length)
  },
  samples: [[within(-9, 9, 3, 4), within(0, 1, 3, 4), within(0, 5, 3, 1)]],
  rtol: 2e-6,
  wanted: [0],
  fused: true,
  bad: [
    {
      what: 'a weight for more than there is',
      run: () => aux.bceWithLogits(aux.zeros([3]), aux.zeros([3]), { weight: aux.zeros([2, 3]) }),
      code: 'AUX_SHAPE_MISMATCH',
      message: /weight to broadcast to \[3\], got \[2, 3\]/,
    },
    {
      what: 'a number',
      run: () => aux.bceWithLogits(aux.zeros([3]), aux.zeros([3]), { weight: 2 as never }),
      code: 'AUX_INVALID_ARGUMENT',
      message: /bceWithLogits: expected a tensor, got 2/,
    },
  ],
})
add({
  name: 'klDivergence',
  f: (x, t) => aux.klDivergence(x, t, { reduction: 'batchmean' }),
  reference: (x, t) => scalar(sum([...zip(x, t, (a, b) => (b > 0 ? b * (Math.log(b) - a) : 0)).data]) / x.shape[0]),
  samples: [[within(-4, 0, 3, 4), within(0.01, 1, 3, 4)]],
})
add({
  name: 'klDivergence with zeros',
  f: (x, t) => aux.klDivergence(x, t),
  reference: meanOf((a, b) => (b > 0 ? b * (Math.log(b) - a) : 0)),
  samples: [[s(3), { shape: [3], values: [0, 0.25, 0.75] }]],
  wanted: [0],
})
add({
  name: 'klDivergence of logarithms',
  f: (x, t) => aux.klDivergence(x, t, { logTarget: true, reduction: 'sum' }),
  reference: (x, t) => scalar(sum([...zip(x, t, (a, b) => Math.exp(b) * (b - a)).data])),
  samples: [[within(-4, 0, 3, 4), within(-4, 0, 3, 4)]],
  ...fused, // exp
})

/** By all that the frames can say: those of which this text is left without repetitions and blanks (0). */
function ctcOf(rows: number[][], text: number[]): number {
  let total = 0
  const say = (t: number, said: number[], last: number, p: number): void => {
    if (t === rows.length) {
      if (said.join() === text.join()) total += p
      return
    }
    rows[t].forEach((x, c) => say(t + 1, c && c !== last ? [...said, c] : said, c, p * Math.exp(x)))
  }
  say(0, [], 0, 1)
  return -Math.log(total)
}
add({
  name: 'ctc',
  f: (x, y, frames, labels) => aux.ctc(x, y, { inputLengths: frames, targetLengths: labels }),
  reference: (x, y, frames, labels) => {
    const all = rowsOf(x)
    const [, t] = x.shape
    return scalar(
      mean(
        Array.from(labels.data, (n, i) => {
          const text = [...y.data.slice(i * y.shape[1], i * y.shape[1] + n)]
          return ctcOf(all.slice(i * t, i * t + frames.data[i]), text) / Math.max(1, n)
        }),
      ),
    )
  },
  samples: [
    [
      within(-4, 0, 3, 5, 3),
      { shape: [3, 2], dtype: 'i32', values: [1, 1, 2, 1, 2, 2] },
      { shape: [3], dtype: 'i32', values: [5, 4, 3] },
      { shape: [3], dtype: 'i32', values: [2, 1, 0] },
    ],
    [
      within(-4, 0, 2, 4, 4),
      { shape: [2, 3], dtype: 'i32', values: [1, 2, 3, 3, 1, 3] },
      { shape: [2], dtype: 'i32', values: [4, 3] },
      { shape: [2], dtype: 'i32', values: [2, 3] },
    ],
  ],
  fused: true,
  gtol: 3e-5,
})

// --- gradients as functions: traced inside of a function, they are part of it and have gradients of their own ---

const erfSlope = (v: number): number => Math.exp((-v * v) / 2) / Math.sqrt(2 * Math.PI)
const slopes: [string, (x: Tensor) => Tensor, (v: number) => number][] = [
  ['tanh', (x) => x.tanh(), (v) => 1 - Math.tanh(v) ** 2],
  ['sigmoid', (x) => x.sigmoid(), (v) => sigmoid(v) * (1 - sigmoid(v))],
  ['relu', (x) => x.relu(), (v) => Number(v > 0)],
  ['leakyRelu', (x) => x.leakyRelu(0.25), (v) => (v > 0 ? 1 : 0.25)],
  ['elu', (x) => x.elu(1.5), (v) => (v > 0 ? 1 : 1.5 * Math.exp(v))],
  ['softplus', (x) => x.softplus(2), (v) => sigmoid(2 * v)],
  ['silu', (x) => x.silu(), (v) => sigmoid(v) * (1 + v * (1 - sigmoid(v)))],
  ['gelu', (x) => x.gelu(), (v) => cdf(v) + v * erfSlope(v)],
  ['gelu by tanh', (x) => x.gelu({ approximate: 'tanh' }), (v) => (geluTanh(v + 1e-6) - geluTanh(v - 1e-6)) / 2e-6],
  ['clamp', (x) => x.clamp(-1, 1), (v) => Number(v >= -1 && v <= 1)],
  ['exp', (x) => x.exp(), Math.exp],
  ['square', (x) => x.square(), (v) => 2 * v],
  ['pow', (x) => x.square().add(1).pow(1.5), (v) => 3 * v * Math.sqrt(v * v + 1)],
]
for (const [name, f, slope] of slopes)
  add({
    name: `gradient of ${name}`,
    f: (x, g) => aux.grad((x) => f(x).mul(g).sum())(x)[0],
    reference: (x, g) => zip(x, g, (v, u) => u * slope(v)),
    samples: [[s(3, 4), s(3, 4)]],
    rtol: 4e-6,
    atol: 4e-6,
    gtol: 4e-5,
    fused: true,
  })
add({
  name: 'gradient of softmax',
  f: (x, g) => aux.grad((x) => x.softmax().mul(g).sum())(x)[0],
  reference: (x, g) => {
    const p = rowsOf(x).map((v) => v.map((u) => Math.exp(u) / sum(v.map(Math.exp))))
    const along = p.map((row, i) => sum(row.map((q, k) => q * get(g, [i, k]))))
    return make(x.shape, ([i, k]) => p[i][k] * (get(g, [i, k]) - along[i]))
  },
  samples: [[s(3, 4), s(3, 4)]],
  fused: true,
})
add({
  name: 'gradient of logSoftmax',
  f: (x, g) => aux.grad((x) => x.logSoftmax().mul(g).sum())(x)[0],
  reference: (x, g) => {
    const p = rowsOf(x).map((v) => v.map((u) => Math.exp(u) / sum(v.map(Math.exp))))
    const total = rowsOf(g).map(sum)
    return make(x.shape, ([i, k]) => get(g, [i, k]) - p[i][k] * total[i])
  },
  samples: [[s(3, 4), s(3, 4)]],
  fused: true,
})
add({
  name: 'gradient of a convolution and a mean over windows',
  f: (x, w, g) => aux.grad((x, w) => aux.conv2d(x, w).avgPool2d(2).mul(g).sum())(x, w)[0],
  reference: (_, w, g) =>
    ref.convTranspose2d(
      make([1, 4, 4, 3], ([b, i, j, c]) => get(g, [b, Math.floor(i / 2), Math.floor(j / 2), c]) / 4),
      w,
    ),
  samples: [[s(1, 6, 6, 2), s(3, 3, 3, 2), s(1, 2, 2, 3)]],
  ...product,
  gtol: 2e-5,
})
for (const o of [{}, { stride: 2, padding: 1, outputPadding: 1 }, { dilation: 2, groups: 2 }])
  add({
    name: `convTranspose1d ${JSON.stringify(o)}`,
    f: (x, w, b) => aux.convTranspose1d(x, w, b, o),
    reference: (x, w, b) => {
      const three = (v: number | undefined, rest: number): number[] => [rest, rest, v ?? rest]
      const long = (a: Arr): Arr => reshape(a, [a.shape[0], 1, 1, ...a.shape.slice(1)])
      const { stride, padding, dilation, outputPadding, groups } = o as aux.ConvTranspose1dOptions
      const y = ref.convTranspose3d(long(x), long(w), {
        stride: three(stride, 1),
        padding: three(padding, 0),
        dilation: three(dilation, 1),
        outputPadding: three(outputPadding, 0),
        groups,
      })
      return make([y.shape[0], y.shape[3], y.shape[4]], ([n, l, c]) => get(y, [n, 0, 0, l, c]) + get(b, [c]))
    },
    ...product,
    gtol: 2e-5,
    samples: ((groups) => [[s(2, 5, 4), s(4, 3, 6 / groups), s(6)]])((o as { groups?: number }).groups ?? 1),
    bad: [
      {
        what: 'channels',
        run: () => aux.convTranspose1d(aux.zeros([1, 4, 3]), aux.zeros([2, 3, 3])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^convTranspose1d: .*\[1, 4, 3\] and \[2, 3, 3\]/,
      },
      {
        what: 'outputPadding',
        run: () => aux.convTranspose1d(aux.zeros([1, 4, 3]), aux.zeros([3, 3, 3]), undefined, { outputPadding: 1 }),
        code: 'AUX_INVALID_ARGUMENT',
      },
    ],
  })
for (const o of [
  {},
  { stride: [2, 1, 2], padding: [1, 0, 1], outputPadding: [1, 0, 0] },
  { dilation: [2, 1, 1], padding: [2, 1, 0], groups: 2 },
  { stride: [3, 1, 1], outputPadding: [2, 0, 0] },
  { stride: [2, 1, 1], padding: [1, 0, 0] },
  { stride: [2, 1, 1], dilation: [3, 1, 1] },
] as const)
  add({
    name: `convTranspose3d ${JSON.stringify(o)}`,
    f: (x, w, b) => aux.convTranspose3d(x, w, b, o),
    reference: (x, w, b) => {
      const y = ref.convTranspose3d(x, w, o as object)
      return make(y.shape, (i) => get(y, i) + get(b, [i[4]]))
    },
    ...product,
    gtol: 2e-5,
    samples: ((groups) => [[s(2, 3, 2, 3, 2), s(2, 2, 3, 2, 4 / groups), s(4)]])(
      (o as { groups?: number }).groups ?? 1,
    ),
    bad: [
      {
        what: 'channels',
        run: () => aux.convTranspose3d(aux.zeros([1, 4, 4, 4, 3]), aux.zeros([2, 3, 3, 3, 1])),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^convTranspose3d/,
      },
      {
        what: 'outputPadding',
        run: () =>
          aux.convTranspose3d(aux.zeros([1, 2, 2, 2, 3]), aux.zeros([3, 1, 1, 1, 1]), undefined, {
            outputPadding: [1, 0, 0],
          }),
        code: 'AUX_INVALID_ARGUMENT',
      },
      {
        what: 'nothing left',
        run: () =>
          aux.convTranspose3d(aux.zeros([1, 1, 1, 1, 3]), aux.zeros([3, 1, 1, 1, 2]), undefined, { padding: 1 }),
        code: 'AUX_SHAPE_MISMATCH',
      },
    ],
  })
add({
  name: 'convTranspose3d that leaves padding alone',
  f: (x, w, b) =>
    aux.convTranspose3d(x, w, b, { stride: [2, 1, 1], padding: [1, 0, 0] }).add(x.sum().add(w.sum()).mul(0)),
  reference: (_, __, b) => make([1, 1, 2, 3, 2], (i) => get(b, [i[4]])),
  samples: [[s(1, 2, 1, 2, 3), s(3, 1, 2, 2, 2), s(2)]],
})
const binned = (v: number[], parts: number): number[][] =>
  Array.from({ length: parts }, (_, i) =>
    v.slice(Math.floor((i * v.length) / parts), Math.ceil(((i + 1) * v.length) / parts)),
  )
/** Along one axis after the other: the maximum of maxima. */
const maxima = (x: Arr, sizes: number[]): Arr =>
  sizes.reduce((y, parts, i) => lines(y, 1 + i, (v) => binned(v, parts).map((b) => Math.max(...b))), x)
add({
  name: 'adaptiveMaxPool1d',
  f: (x) => x.adaptiveMaxPool1d(3),
  reference: (x) => maxima(x, [3]),
  samples: [[s(2, 7, 3)], [s(1, 6, 2)], [s(1, 2, 2)]],
  bad: [{ what: 'a size', run: () => aux.zeros([1, 4, 1]).adaptiveMaxPool1d(0), code: 'AUX_INVALID_ARGUMENT' }],
})
add({
  name: 'adaptiveMaxPool2d',
  f: (x) => x.adaptiveMaxPool2d([3, 2]),
  reference: (x) => maxima(x, [3, 2]),
  samples: [[s(2, 7, 5, 3)], [s(1, 6, 4, 2)], [s(1, 2, 1, 1)]],
  bad: [{ what: 'a sequence', run: () => aux.zeros([1, 4, 1]).adaptiveMaxPool2d(1), code: 'AUX_SHAPE_MISMATCH' }],
})
add({
  name: 'adaptiveMaxPool3d',
  f: (x) => x.adaptiveMaxPool3d([2, 3, 1]),
  reference: (x) => maxima(x, [2, 3, 1]),
  samples: [[s(2, 5, 4, 3, 2)]],
})
for (const mode of ['reflect', 'replicate', 'circular'] as const)
  add({
    name: `pad, ${mode}`,
    f: (x) =>
      x.pad(
        [
          [0, 0],
          [2, 1],
          [-1, 2],
        ],
        mode,
      ),
    reference: (x) => {
      const [, h, w] = x.shape
      const at = (i: number, n: number): number =>
        mode === 'circular'
          ? (i + n) % n
          : mode === 'replicate'
            ? Math.max(0, Math.min(i, n - 1))
            : n - 1 - Math.abs(n - 1 - Math.abs(i))
      return make([x.shape[0], h + 3, w + 1], ([n, i, j]) => get(x, [n, at(i - 2, h), at(j + 1, w)]))
    },
    samples: [[s(2, 3, 4)], [s(1, 4, 3)]],
    bad: [
      {
        what: 'too much',
        run: () => aux.zeros([mode === 'replicate' ? 0 : 2]).pad([[3, 0]], mode),
        code: 'AUX_SHAPE_MISMATCH',
        message: new RegExp(`^pad: mode ${mode}`),
      },
      { what: 'a mode', run: () => aux.zeros([2]).pad([[1, 0]], 'mirror' as never), code: 'AUX_INVALID_ARGUMENT' },
    ],
  })
const geometries = [
  { kernel: [2, 3], o: {} },
  { kernel: [3, 2], o: { stride: [2, 1], padding: [1, 0], dilation: [1, 2] } },
  { kernel: [1, 1], o: { stride: 2 } },
] as const
for (const { kernel, o } of geometries) {
  const two = (v: number | readonly number[] | undefined, rest: number): number[] => {
    const both = v ?? rest
    return typeof both === 'number' ? [both, both] : [...both]
  }
  const { stride, padding, dilation } = o as aux.UnfoldOptions
  const [step, edge, gap] = [two(stride, 1), two(padding as number, 0), two(dilation, 1)]
  /** Calls f with a column's index and the place in the image that it is of, unless it is of padding. */
  const each = (image: number[], f: (column: number[], place: number[]) => void): number[] => {
    const [n, h, w, c] = image
    const count = [h, w].map((d, i) => Math.floor((d + 2 * edge[i] - gap[i] * (kernel[i] - 1) - 1) / step[i]) + 1)
    ref.eachIndex([n, ...count, ...kernel, c], ([b, p, q, u, v, ch]) => {
      const [i, j] = [p * step[0] - edge[0] + u * gap[0], q * step[1] - edge[1] + v * gap[1]]
      if (i >= 0 && i < h && j >= 0 && j < w) f([b, p, q, (u * kernel[1] + v) * c + ch], [b, i, j, ch])
    })
    return [n, ...count, kernel[0] * kernel[1] * c]
  }
  const at = (a: Arr, index: number[]): number => index.reduce((p, v, i) => p * a.shape[i] + v, 0)
  add({
    name: `unfold ${kernel.join()} ${JSON.stringify(o)}`,
    f: (x) => aux.unfold(x, kernel, o),
    reference: (x) => {
      const shape = each(x.shape, () => undefined)
      const y = make(shape, () => 0)
      each(x.shape, (column, place) => (y.data[at(y, column)] = get(x, place)))
      return y
    },
    samples: [[s(2, 5, 4, 3)]],
    bad: [
      { what: 'a kernel', run: () => aux.unfold(aux.zeros([1, 2, 2, 1]), 3), code: 'AUX_SHAPE_MISMATCH' },
      { what: 'a sequence', run: () => aux.unfold(aux.zeros([1, 2, 2]), 1), code: 'AUX_SHAPE_MISMATCH' },
    ],
  })
  const image = [2, 5, 4, 3]
  const columns = each(image, () => undefined)
  add({
    name: `fold ${kernel.join()} ${JSON.stringify(o)}`,
    f: (y) => aux.fold(y, [5, 4], kernel, o),
    reference: (y) => {
      const x = make(image, () => 0)
      each(image, (column, place) => (x.data[at(x, place)] += get(y, column)))
      return x
    },
    samples: [[s(...columns)]],
    bad: [
      {
        what: 'columns',
        run: () => aux.fold(aux.zeros([1, 2, 2, 5]), 3, 2),
        code: 'AUX_SHAPE_MISMATCH',
        message: /^fold: expected columns \[N, 2, 2, 2 · 2 · C\], got \[1, 2, 2, 5\]/,
      },
    ],
  })
}
/** The sum over all axes by the definition. */
const einsum = (equation: string, ...arrays: Arr[]): Arr => {
  const [inputs, output] = equation.split('->')
  const letters = inputs.split(',')
  const every = [...new Set(letters.join(''))]
  const size = (a: string): number => {
    const k = letters.findIndex((axes) => axes.includes(a))
    return arrays[k].shape[letters[k].indexOf(a)]
  }
  const inner = every.filter((a) => !output.includes(a))
  return make([...output].map(size), (index) => {
    const at = new Map([...output].map((a, i) => [a, index[i]]))
    let total = 0
    ref.eachIndex(inner.map(size), (rest) => {
      inner.forEach((a, i) => at.set(a, rest[i]))
      total += arrays.reduce((p, x, k) => p * get(x, [...letters[k]].map((a) => at.get(a)!)), 1) // prettier-ignore
    })
    return total
  })
}
/** An equation, and what it is written out. */
const einsumCase = (
  equation: string,
  written: string,
  shapes: readonly (readonly number[])[],
  more: Partial<Row> = {},
) =>
  add({
    name: `einsum ${equation}`,
    f: (...x) => aux.einsum(equation, ...x),
    reference: (...x) => einsum(written, ...x),
    ...product,
    ...more,
    samples: [shapes.map((shape) => s(...shape))],
  })
for (const [equation, ...shapes] of [
  ['ij,jk->ik', [3, 4], [4, 5]],
  ['bhqd,bhkd->bhqk', [2, 3, 4, 5], [2, 3, 2, 5]],
  ['bi,oij,bj->bo', [3, 2], [4, 2, 5], [3, 5]],
  ['ijk,kl->li', [2, 3, 4], [4, 5]],
  ['i,j->ij', [3], [4]],
  ['ij,ij->', [3, 4], [3, 4]],
  ['ijk->kj', [2, 3, 4]],
] as const)
  einsumCase(equation, equation, shapes)
for (const [equation, written, ...shapes] of [
  ['...ij,...jk->...ik', 'abij,bjk->abik', [2, 3, 2, 4], [3, 4, 5]],
  ['...ij,...jk', 'bij,bjk->bik', [3, 2, 4], [3, 4, 5]],
  ['i...,...i->...', 'iab,bi->ab', [3, 2, 4], [4, 3]],
  ['...i->i', 'abi->i', [2, 3, 4]],
  ['...->...', 'ab->ab', [2, 3]],
  ['ii', 'ii->', [3, 3]],
  ['bii->ib', 'bii->ib', [2, 3, 3]],
  ['iji...i,j->...i', 'ijiai,j->ai', [2, 3, 2, 4, 2], [3]],
] as const)
  einsumCase(equation, written, shapes, { twoPaths: true })
add({
  name: 'einsum broadcasting',
  f: (x, y) => aux.einsum('...i,...i', x, y),
  reference: (x, y) => reduce(zip(x, y, (a, b) => a * b), [-1], sum), // prettier-ignore
  ...product,
  samples: [
    [s(3, 1, 4), s(2, 4)],
    [s(1, 4), s(1, 4)],
    [s(1, 4), s(4)],
  ],
})
add({
  name: 'einsum without an arrow',
  f: (x, y) => aux.einsum('kj, ik', x, y),
  reference: (x, y) => einsum('kj,ik->ij', x, y),
  ...product,
  samples: [[s(3, 2), s(4, 3)]],
  bad: [
    { what: 'dots', run: () => aux.einsum('..i->i', aux.zeros([2])), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'too few axes', run: () => aux.einsum('...ij', aux.zeros([2])), code: 'AUX_SHAPE_MISMATCH' },
    {
      what: 'axes that do not broadcast',
      run: () => aux.einsum('...i,...i', aux.zeros([2, 4]), aux.zeros([3, 4])),
      code: 'AUX_SHAPE_MISMATCH',
    },
    { what: 'a letter twice', run: () => aux.einsum('i->ii', aux.zeros([2])), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'sizes of a diagonal', run: () => aux.einsum('ii', aux.zeros([2, 3])), code: 'AUX_SHAPE_MISMATCH' },
    { what: 'a letter of none', run: () => aux.einsum('i->j', aux.zeros([2])), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'one tensor', run: () => aux.einsum('i,i', aux.zeros([2])), code: 'AUX_INVALID_ARGUMENT' },
    { what: 'axes', run: () => aux.einsum('ij', aux.zeros([2])), code: 'AUX_SHAPE_MISMATCH' },
    {
      what: 'sizes',
      run: () => aux.einsum('ij,jk', aux.zeros([2, 3]), aux.zeros([4, 2])),
      code: 'AUX_SHAPE_MISMATCH',
      message: /^einsum: axis j of 'ij,jk' has sizes 3 and 4/,
    },
  ],
})

export { rows }

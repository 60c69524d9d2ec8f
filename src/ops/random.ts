import { describe, expectOptions, fail } from '../errors'
import { tracing, type Graph } from '../graph/graph'
import { apply, defineOp, expectDType, expectTensor, graphOf, type Op } from '../graph/op'
import { checkSeed } from '../tensor/philox'
import { checkShape, resolveAxis, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { alias } from './shape'

// Random tensors. Every number is a function of (seed, step or call, stream, position) by Philox4x32-10 (Salmon et al.
// 2011), or with 7 rounds where it is only noise (dropout, rounding): the same seed gives the same numbers for any number
// of threads, on any device, and again in recomputation.
// In a compiled step the key is an input of the step; eagerly it is the global seed and a count of calls.

let globalSeed: readonly [number, number] = [0, 0]
let calls = 0

/** Starts the random numbers of this process (or worker) again from a whole number in [0, 2^53). Until then it is 0. */
export function seed(value: number): void {
  checkSeed('seed', value)
  globalSeed = [value % 2 ** 32, Math.floor(value / 2 ** 32)]
  calls = 0
}

/** Stream of eager calls; steps count theirs from 0. */
const eagerStream = 2 ** 32 - 1

/** @internal Seed, as low and high word, and count of eager calls. */
export const randomState = (): { seed: readonly [number, number]; calls: number } => ({ seed: globalSeed, calls })

/** @internal The key of the next call: seed and count, each as low and high word. */
export function nextWords(): Int32Array {
  const words = [...globalSeed, calls % 2 ** 32, Math.floor(calls / 2 ** 32)]
  calls++
  return Int32Array.from(words, (w) => w | 0)
}

const nextKey = (graph: Graph | undefined): { key: Tensor; id: number } =>
  graph ? graph.random() : { key: Tensor.from(nextWords(), [4], 'i32'), id: eagerStream }

type RandomAttrs = { shape: Shape; id: number; numbers: readonly number[] }

const generator = (name: string, dtype: 'f32' | 'i32'): Op<RandomAttrs> =>
  defineOp({
    name,
    infer: (_, { shape }) => [{ shape, dtype }],
    kernel: (_, __, { id, numbers }) => ({ name, numbers: [id, ...numbers] }),
    constant: true,
  })

const uniformOp = generator('random_uniform', 'f32')
const normalOp = generator('random_normal', 'f32')
const truncatedNormalOp = generator('random_truncated_normal', 'f32')
const integerOp = generator('random_integer', 'i32')
const bitsOp = generator('random_bits', 'i32')

function generate(op: Op<RandomAttrs>, name: string, shape: Shape, numbers: readonly number[]): Tensor {
  checkShape(name, shape)
  for (const n of numbers)
    if (!Number.isFinite(n)) fail('AUX_INVALID_ARGUMENT', `${name}: expected finite parameters, got ${n}`)
  return tidy(() => {
    const { key, id } = nextKey(tracing())
    return apply(op, [key], { shape, id, numbers })[0]
  })
}

/** Uniform in [low, high), 24 random bits each. */
export function uniform(shape: Shape, options: { low?: number; high?: number } = {}): Tensor {
  expectOptions('uniform', options, ['low', 'high'])
  const { low = 0, high = 1 } = options
  if (!(low <= high)) fail('AUX_INVALID_ARGUMENT', `uniform: expected low <= high, got ${low} and ${high}`)
  return generate(uniformOp, 'uniform', shape, [low, high])
}

/** Normal (Box & Muller 1958); no value lies beyond 5.8 standard deviations. */
export function normal(shape: Shape, options: { mean?: number; std?: number } = {}): Tensor {
  expectOptions('normal', options, ['mean', 'std'])
  const { mean = 0, std = 1 } = options
  return generate(normalOp, 'normal', shape, [mean, std])
}

/** Error function in double: its series, or the continued fraction of erfc. */
function erf(x: number): number {
  const a = Math.abs(x)
  if (a < 3) {
    let term = a
    let sum = a
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n
      sum += term / (2 * n + 1)
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI)
  }
  let fraction = 0
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction)
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)))
}

/** Normal, restricted to [a, b] (absolute bounds, within about 5 standard deviations of the mean), by inversion. */
export function truncatedNormal(
  shape: Shape,
  options: { mean?: number; std?: number; a?: number; b?: number } = {},
): Tensor {
  expectOptions('truncatedNormal', options, ['mean', 'std', 'a', 'b'])
  const { mean = 0, std = 1, a = mean - 2 * std, b = mean + 2 * std } = options
  if (!(std > 0) || !(a < b))
    fail('AUX_INVALID_ARGUMENT', `truncatedNormal: expected std > 0 and a < b, got ${std}, ${a}, ${b}`)
  const of = (bound: number): number => erf((bound - mean) / (std * Math.SQRT2))
  if (!(of(a) < of(b)) || Math.max(of(a), -of(b)) > 1 - 1e-6)
    fail('AUX_INVALID_ARGUMENT', `truncatedNormal: the bounds ${a} and ${b} lie too far from mean ${mean} (std ${std})`)
  return generate(truncatedNormalOp, 'truncatedNormal', shape, [mean, std, a, b, of(a), of(b)])
}

/** 1 with probability p, else 0. */
export function bernoulli(shape: Shape, p = 0.5): Tensor {
  if (!(p >= 0 && p <= 1)) fail('AUX_INVALID_ARGUMENT', `bernoulli: expected p in [0, 1], got ${p}`)
  return tidy(() => uniform(shape).lt(p).cast('f32'))
}

/** Whole numbers in [low, high), i32. */
export function randint(low: number, high: number, shape: Shape): Tensor {
  if (!Number.isInteger(low) || !Number.isInteger(high) || low >= high || low < -(2 ** 31) || high > 2 ** 31)
    fail(
      'AUX_INVALID_ARGUMENT',
      `randint: expected whole numbers low < high in the range of i32, got ${describe(low)} and ${describe(high)}`,
    )
  return generate(integerOp, 'randint', shape, [low, high - low])
}

/** @internal 32 random bits each, as i32. */
export const randomBits = (shape: Shape): Tensor => generate(bitsOp, 'randomBits', shape, [])

/** 0 to n - 1 in random order, i32. */
export const permutation = (n: number): Tensor => tidy(() => randomBits([n]).argsort())

/** The entries of an axis in random order. */
export function shuffle(x: Tensor, axis = 0): Tensor {
  expectTensor('shuffle', x)
  const at = resolveAxis('shuffle', axis, x.rank)
  return tidy(() => x.indexSelect(at, permutation(x.shape[at])))
}

const dropoutOp: Op<{ p: number; id: number }> = defineOp({
  name: 'dropout',
  infer: ([x]) => [{ shape: x!.shape, dtype: 'f32' }],
  kernel: (_, __, { p, id }) => ({ name: 'dropout', numbers: [id, p] }),
  derive: (d) => [apply(dropoutOp, [d.grad()!, d.input(1)], d.attrs)[0], undefined],
  inplace: [0],
  nonNegative: 'as input',
})

/** @internal p as a probability, or an error. */
export function checkDropout(name: string, p: number): void {
  if (!(p >= 0 && p <= 1)) fail('AUX_INVALID_ARGUMENT', `${name}: expected a probability in [0, 1], got ${p}`)
}

/** @internal Key and stream of a random op on these inputs. */
export const randomFor = (inputs: readonly Tensor[]): { key: Tensor; id: number } => nextKey(graphOf(inputs))

/**
 * In training, each element becomes 0 with probability p and is divided by 1 - p otherwise (Srivastava et al. 2014).
 * Backward keeps nothing: the mask is made again from its counter.
 */
export function dropout(x: Tensor, p = 0.5, training = true): Tensor {
  checkDropout('dropout', p)
  expectDType('dropout', 'input', x, 'f32')
  if (!training || p === 0) return alias(x)
  return tidy(() => {
    const { key, id } = randomFor([x])
    return apply(dropoutOp, [x, key], { p, id })[0]
  })
}

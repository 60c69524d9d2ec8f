import type { Schedule } from '../compile/optimizer'
import { describe, expectOptions, fail } from '../errors'

// Learning rates as pure functions of the number of updates done, so that a resumed run continues them.

/** A slow beginning. */
export interface WarmUp {
  /** Updates over which the rate rises linearly from (almost) 0 (0). */
  warmUp?: number
}

function checkRate(name: string, lr: number, spans: Record<string, number | undefined>): void {
  if (!(lr >= 0 && Number.isFinite(lr)))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected a rate >= 0, got ${String(lr)}`)
  for (const [what, n] of Object.entries(spans))
    if (n === undefined || !(n >= 0)) fail('AUX_INVALID_ARGUMENT', `${name}: expected ${what} >= 0, got ${String(n)}`)
}

const rise = (step: number, warmUp: number): number => (step < warmUp ? (step + 1) / warmUp : 1)

/** The same rate, after a warm-up. */
export function constant(lr: number, options: WarmUp = {}) {
  expectOptions('constant', options, ['warmUp'])
  const { warmUp = 0 } = options
  checkRate('constant', lr, { warmUp })
  return (step: number): number => lr * rise(step, warmUp)
}

/** Times `gamma` after every `every` updates, or after each of the numbers of updates `at`. */
export function stepDecay(
  lr: number,
  options: ({ every: number; at?: undefined } | { every?: undefined; at: readonly number[] }) & {
    gamma?: number
  } & WarmUp,
) {
  expectOptions('stepDecay', options, ['every', 'at', 'gamma', 'warmUp'])
  const { every, at, gamma = 0.1, warmUp = 0 } = options
  checkRate('stepDecay', lr, { gamma, warmUp })
  if (at === undefined && !(every >= 1)) fail('AUX_INVALID_ARGUMENT', `stepDecay: expected every >= 1, got ${every}`)
  if (at !== undefined && (every !== undefined || !Array.isArray(at)))
    fail('AUX_INVALID_ARGUMENT', `stepDecay: expected every, or at to be an array, got ${describe(at)}`)
  return (step: number): number => {
    const times = at ? at.filter((n) => step >= n).length : Math.floor(step / every!)
    return lr * gamma ** times * rise(step, warmUp)
  }
}

interface Span {
  /** Updates until the end is reached. */
  steps: number
  /** Rate at the end (0). */
  end?: number
}

/** From lr to `end`: what is `left` of the way, of the share of the steps that are done. */
function decay(name: string, lr: number, options: Span & WarmUp, left: (done: number) => number, own: string[] = []) {
  expectOptions(name, options, ['steps', 'end', 'warmUp', ...own])
  const { steps, end = 0, warmUp = 0 } = options
  checkRate(name, lr, { steps, end, warmUp })
  return (step: number): number => {
    if (step < warmUp) return lr * rise(step, warmUp)
    return end + (lr - end) * left(Math.min(1, (step - warmUp) / Math.max(1, steps - warmUp)))
  }
}

const halfCosine = (done: number): number => 0.5 * (1 + Math.cos(Math.PI * done))

/** Straight from lr to `end`. */
export const linear = (lr: number, options: Span & WarmUp) => decay('linear', lr, options, (done) => 1 - done)

/** Half a cosine from lr to `end` (Loshchilov & Hutter 2017). */
export const cosine = (lr: number, options: Span & WarmUp) => decay('cosine', lr, options, halfCosine)

/** From lr to `end` with a power (1) of the steps that are left. */
export function polynomial(lr: number, options: Span & WarmUp & { power?: number }) {
  const power = options?.power ?? 1
  checkRate('polynomial', lr, { power })
  return decay('polynomial', lr, options, (done) => (1 - done) ** power, ['power'])
}

/**
 * Half a cosine from lr to `end` (0) over `period` updates, again and again, each time `factor` (1) times as long (Loshchilov
 * & Hutter 2017).
 */
export function cosineRestarts(lr: number, options: { period: number; factor?: number; end?: number } & WarmUp) {
  expectOptions('cosineRestarts', options, ['period', 'factor', 'end', 'warmUp'])
  const { period, factor = 1, end = 0, warmUp = 0 } = options
  checkRate('cosineRestarts', lr, { end, warmUp })
  if (!(period >= 1 && factor >= 1))
    fail('AUX_INVALID_ARGUMENT', `cosineRestarts: expected period and factor >= 1, got ${period} and ${factor}`)
  return (step: number): number => {
    if (step < warmUp) return lr * rise(step, warmUp)
    let [done, length] = [step - warmUp, period]
    if (factor === 1) done %= period
    for (; done >= length; length *= factor) done -= length
    return end + (lr - end) * halfCosine(done / length)
  }
}

/**
 * Straight from `low` up to lr over `rise` updates and down again over `fall` (as many), again and again, each time `gamma`
 * (1) times as high above `low` (Smith 2017).
 */
export function cyclic(lr: number, options: { low: number; rise: number; fall?: number; gamma?: number }) {
  expectOptions('cyclic', options, ['low', 'rise', 'fall', 'gamma'])
  const { low, rise: up, fall = up, gamma = 1 } = options
  checkRate('cyclic', lr, { low, gamma })
  if (!(up > 0 && fall > 0)) fail('AUX_INVALID_ARGUMENT', `cyclic: expected rise and fall > 0, got ${up} and ${fall}`)
  return (step: number): number => {
    const at = step % (up + fall)
    const height = at <= up ? at / up : (up + fall - at) / fall
    return low + (lr - low) * height * gamma ** Math.floor(step / (up + fall))
  }
}

/** One schedule or rate after the other: the next from each of the numbers of updates `at` on, where it begins with its step 0. */
export function sequence(schedules: readonly Schedule[], at: readonly number[]) {
  const what = 'sequence: expected schedules, and an increasing number of updates for each but the first'
  if (!Array.isArray(schedules) || !Array.isArray(at) || at.length !== schedules.length - 1)
    fail('AUX_INVALID_ARGUMENT', `${what}, got ${describe(schedules)} and ${describe(at)} of other lengths`)
  const starts: readonly number[] = [0, ...at]
  if (!at.every((n: number, i) => n > starts[i])) fail('AUX_INVALID_ARGUMENT', `${what}, got ${at.join(', ')}`)
  return (step: number): number => {
    const i = at.filter((n) => step >= n).length
    const schedule = schedules[i]
    return typeof schedule === 'function' ? schedule(step - starts[i]) : schedule
  }
}

/**
 * Up to lr over `warmUp` updates, then down with the inverse square root of their number (Vaswani et al. 2017, where lr is
 * (features · warmUp) ** -0.5).
 */
export function inverseSquareRoot(lr: number, options: { warmUp: number }) {
  expectOptions('inverseSquareRoot', options, ['warmUp'])
  const { warmUp } = options
  checkRate('inverseSquareRoot', lr, { warmUp })
  if (!(warmUp >= 1)) fail('AUX_INVALID_ARGUMENT', `inverseSquareRoot: expected warmUp >= 1, got ${warmUp}`)
  return (step: number): number => lr * Math.min(rise(step, warmUp), Math.sqrt(warmUp / (step + 1)))
}

/**
 * Up from lr / divide to lr over the first `rise` of the steps, then down to lr / divide / finalDivide, by cosines (Smith & Topin
 * 2018); the first and the last of the steps have the rates at the ends.
 */
export function oneCycle(lr: number, options: { steps: number; rise?: number; divide?: number; finalDivide?: number }) {
  expectOptions('oneCycle', options, ['steps', 'rise', 'divide', 'finalDivide'])
  const { steps, rise: share = 0.3, divide = 25, finalDivide = 1e4 } = options
  checkRate('oneCycle', lr, { steps, rise: share, divide, finalDivide })
  const top = Math.max(0, share * steps - 1)
  const between = (a: number, b: number, done: number): number => b + (a - b) * halfCosine(Math.min(1, done))
  return (step: number): number =>
    step < top
      ? between(lr / divide, lr, step / top)
      : between(lr, lr / divide / finalDivide, (step - top) / Math.max(1, steps - 1 - top))
}

import { expectOptions, fail } from '../errors'

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

/** Times `gamma` after every `every` updates. */
export function stepDecay(lr: number, options: { every: number; gamma?: number } & WarmUp) {
  expectOptions('stepDecay', options, ['every', 'gamma', 'warmUp'])
  const { every, gamma = 0.1, warmUp = 0 } = options
  checkRate('stepDecay', lr, { gamma, warmUp })
  if (!(every >= 1)) fail('AUX_INVALID_ARGUMENT', `stepDecay: expected every >= 1, got ${every}`)
  return (step: number): number => lr * gamma ** Math.floor(step / every) * rise(step, warmUp)
}

interface Span {
  /** Updates until the end is reached. */
  steps: number
  /** Rate at the end (0). */
  end?: number
}

/** Straight down from lr to `end`. */
export function linear(lr: number, options: Span & WarmUp) {
  expectOptions('linear', options, ['steps', 'end', 'warmUp'])
  const { steps, end = 0, warmUp = 0 } = options
  checkRate('linear', lr, { steps, end, warmUp })
  return (step: number): number => {
    if (step < warmUp) return lr * rise(step, warmUp)
    const t = Math.min(1, (step - warmUp) / Math.max(1, steps - warmUp))
    return lr + (end - lr) * t
  }
}

/** Half a cosine from lr to `end` (Loshchilov & Hutter 2017). */
export function cosine(lr: number, options: Span & WarmUp) {
  expectOptions('cosine', options, ['steps', 'end', 'warmUp'])
  const { steps, end = 0, warmUp = 0 } = options
  checkRate('cosine', lr, { steps, end, warmUp })
  return (step: number): number => {
    if (step < warmUp) return lr * rise(step, warmUp)
    const t = Math.min(1, (step - warmUp) / Math.max(1, steps - warmUp))
    return end + (lr - end) * 0.5 * (1 + Math.cos(Math.PI * t))
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

/** Up from lr/divide to lr over the first `rise` of the steps, then down to lr/finalDivide, by cosines (Smith & Topin 2018). */
export function oneCycle(lr: number, options: { steps: number; rise?: number; divide?: number; finalDivide?: number }) {
  expectOptions('oneCycle', options, ['steps', 'rise', 'divide', 'finalDivide'])
  const { steps, rise: share = 0.3, divide = 25, finalDivide = 1e4 } = options
  checkRate('oneCycle', lr, { steps, rise: share, divide, finalDivide })
  const top = Math.max(1, share * steps)
  const between = (a: number, b: number, t: number): number =>
    a + (b - a) * 0.5 * (1 - Math.cos(Math.PI * Math.min(1, t)))
  return (step: number): number =>
    step < top
      ? between(lr / divide, lr, step / top)
      : between(lr, lr / finalDivide, (step - top) / Math.max(1, steps - top))
}

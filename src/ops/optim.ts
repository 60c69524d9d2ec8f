import { apply, defineOp, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { changing } from './store'

// In-place updates: the first inputs are changed, the others read.

const inPlace = <A = undefined>(name: string, changed: number, numbers?: (attrs: A) => number[]): Op<A> =>
  defineOp<A>({
    name,
    infer: () => [],
    kernel: (_, __, attrs) => ({ name, numbers: numbers?.(attrs) }),
    mutates: Array.from({ length: changed }, (_, i) => i),
    constant: true,
  })

/**
 * Of a parameter, its state (both changed), its gradient, and what else of lr, step and scale the kernel reads. A parameter
 * that is stored in bf16 is changed there, rounded stochastically.
 */
const update = <A>(name: string, changed: number, numbers: (attrs: A) => number[]) => {
  const op = inPlace<{ attrs: A; stream: number[] }>(name, changed, ({ attrs, stream }) => [
    ...numbers(attrs),
    ...stream,
  ])
  return ([w, ...others]: readonly [Tensor, ...(Tensor | undefined)[]], attrs: A): void => {
    const stored = changing(w)
    if (stored) apply(op, [stored.patterns, ...others, stored.key], { attrs, stream: [stored.id] })
    else apply(op, [w, ...others], { attrs, stream: [] })
  }
}

/** @internal [w, momentum?, gradient, lr, scale?]. */
export const sgdUpdate = update('sgd_update', 2, (a: { momentum: number; nesterov: boolean; weightDecay: number }) => [
  a.momentum,
  a.nesterov ? 1 : 0,
  a.weightDecay,
])

type AdamAttrs = { beta1: number; beta2: number; eps: number; weightDecay: number; decoupled: boolean }
const adamNumbers = (a: AdamAttrs): number[] => [a.beta1, a.beta2, a.eps, a.weightDecay, a.decoupled ? 1 : 0]
/** @internal [w, m, v, gradient, lr, step, scale?]. */
export const adamUpdate = update('adam_update', 3, adamNumbers)

/** @internal Elements that share a scale in `adam8Update`. */
export const adam8Block = 256
/** @internal [w, m, v, largest, gradient, lr, step, scale?]: codes u8 of w's shape, the largest of each block f32 [2, blocks]. */
export const adam8Update = update('adam8_update', 4, adamNumbers)

/**
 * @internal [w, squares, mean gradient?, last update?, gradient, lr, scale?]: w -= lr u, u = momentum u + g / (root(squares +
 * start) + eps), squares = keep squares + fresh g², without the square of the mean where there is one.
 */
export const rmsUpdate = update(
  'rms_update',
  4,
  (a: { keep: number; fresh: number; start: number; eps: number; weightDecay: number; momentum: number }) => [
    a.keep,
    a.fresh,
    a.start,
    a.eps,
    a.weightDecay,
    a.momentum,
  ],
)

/** @internal [w, momentum (f32 or bf16), gradient, lr, scale?]. */
export const lionUpdate = update('lion_update', 2, (a: { beta1: number; beta2: number; weightDecay: number }) => [
  a.beta1,
  a.beta2,
  a.weightDecay,
])

/**
 * @internal [w, mean squares of rows (or of elements), of columns?, gradient, lr, step, scale?]. `eps` is added to squared
 * gradients, `least` the least root mean square of w that lr is relative to (0: lr is absolute), `limit` the largest of
 * the update; new squares have the share step^-decay.
 */
export const adafactorUpdate = update(
  'adafactor_update',
  3,
  (a: { eps: number; least: number; limit: number; weightDecay: number; decay: number }) => [
    a.eps,
    a.least,
    a.limit,
    a.weightDecay,
    a.decay,
  ],
)

/** @internal [w, largest squares of rows (or squares of elements), of columns?, momentum?, gradient, lr, scale?]. */
export const sm3Update = update('sm3_update', 4, (a: { momentum: number; weightDecay: number }) => [
  a.momentum,
  a.weightDecay,
])

const accumulateOp = inPlace('accumulate', 1)
const clearOp = inPlace('fill', 1, () => [0])

/** @internal total += x, in place. */
export const accumulateInto = (total: Tensor, x: Tensor): void => void apply(accumulateOp, [total, x], undefined)
/** @internal total = 0, in place. */
export const clear = (total: Tensor): void => void apply(clearOp, [total], undefined)

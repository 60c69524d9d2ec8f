import { apply, defineOp, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'

// In-place updates: the first inputs are changed, the others read.

/** @internal */
export interface SgdAttrs {
  momentum: number
  nesterov: boolean
  weightDecay: number
}
const sgdOp: Op<SgdAttrs> = defineOp({
  name: 'sgd_update',
  infer: () => [],
  kernel: (_, __, a) => ({ name: 'sgd_update', numbers: [a.momentum, a.nesterov ? 1 : 0, a.weightDecay] }),
  mutates: [0, 1],
  constant: true,
})
/** @internal w and its momentum buffer, in place. */
export const sgdUpdate = (
  w: Tensor,
  buffer: Tensor | undefined,
  grad: Tensor,
  lr: Tensor,
  scale: Tensor | undefined,
  a: SgdAttrs,
): void => void apply(sgdOp, [w, buffer, grad, lr, scale], a)

/** @internal */
export interface AdamAttrs {
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  decoupled: boolean
}
const adamOp: Op<AdamAttrs> = defineOp({
  name: 'adam_update',
  infer: () => [],
  kernel: (_, __, a) => ({
    name: 'adam_update',
    numbers: [a.beta1, a.beta2, a.eps, a.weightDecay, a.decoupled ? 1 : 0],
  }),
  mutates: [0, 1, 2],
  constant: true,
})
/** @internal w, m and v in place. */
export const adamUpdate = (
  w: Tensor,
  m: Tensor,
  v: Tensor,
  grad: Tensor,
  lr: Tensor,
  step: Tensor,
  scale: Tensor | undefined,
  a: AdamAttrs,
): void => void apply(adamOp, [w, m, v, grad, lr, step, scale], a)

const inPlace = (name: string, numbers: number[] = []): Op<undefined> =>
  defineOp<undefined>({ name, infer: () => [], kernel: () => ({ name, numbers }), mutates: [0], constant: true })
const accumulateOp = inPlace('accumulate')
const clearOp: Op<undefined> = inPlace('fill', [0])

/** @internal total += x, in place. */
export const accumulateInto = (total: Tensor, x: Tensor): void => void apply(accumulateOp, [total, x], undefined)
/** @internal total = 0, in place. */
export const clear = (total: Tensor): void => void apply(clearOp, [total], undefined)

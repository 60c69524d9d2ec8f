import { apply, defineOp, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'

// In-place updates: the first inputs are changed, the others read.

/** @internal */
export interface SgdAttrs { momentum: number; nesterov: boolean; weightDecay: number }
const sgdOp: Op<SgdAttrs> = defineOp({
  name: 'sgd_update',
  infer: () => [],
  kernel: (_, __, a) => ({ name: 'sgd_update', numbers: [a.momentum, a.nesterov ? 1 : 0, a.weightDecay] }),
  mutates: [0, 1],
  constant: true,
})
/** @internal w and its momentum buffer, in place. */
export const sgdUpdate = (w: Tensor, buffer: Tensor | undefined, grad: Tensor, lr: Tensor, a: SgdAttrs): void =>
  void apply(sgdOp, [w, buffer, grad, lr], a)

/** @internal */
export interface AdamAttrs { beta1: number; beta2: number; eps: number; weightDecay: number; decoupled: boolean }
const adamOp: Op<AdamAttrs> = defineOp({
  name: 'adam_update',
  infer: () => [],
  kernel: (_, __, a) => ({ name: 'adam_update', numbers: [a.beta1, a.beta2, a.eps, a.weightDecay, a.decoupled ? 1 : 0] }),
  mutates: [0, 1, 2],
  constant: true,
})
/** @internal w, m and v in place. */
export const adamUpdate = (w: Tensor, m: Tensor, v: Tensor, grad: Tensor, lr: Tensor, step: Tensor, a: AdamAttrs): void =>
  void apply(adamOp, [w, m, v, grad, lr, step], a)

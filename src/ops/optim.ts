import { apply, defineOp, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'

// In-place updates: the first inputs are changed, the others read.

const inPlace = <A = undefined>(name: string, changed: number, numbers?: (attrs: A) => number[]): Op<A> =>
  defineOp<A>({
    name,
    infer: () => [],
    kernel: (_, __, attrs) => ({ name, numbers: numbers?.(attrs) }),
    mutates: Array.from({ length: changed }, (_, i) => i),
    constant: true,
  })

/** @internal */
export interface SgdAttrs {
  momentum: number
  nesterov: boolean
  weightDecay: number
}
const sgdOp = inPlace<SgdAttrs>('sgd_update', 2, (a) => [a.momentum, a.nesterov ? 1 : 0, a.weightDecay])
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
const adamNumbers = (a: AdamAttrs): number[] => [a.beta1, a.beta2, a.eps, a.weightDecay, a.decoupled ? 1 : 0]
const adamOp = inPlace('adam_update', 3, adamNumbers)
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

/** @internal Elements that share a scale in `adam8Update`. */
export const adam8Block = 256
const adam8Op = inPlace('adam8_update', 4, adamNumbers)
/** @internal w, the codes of m and v (u8, of its shape) and the largest of each block (f32 [2, blocks]), in place. */
export const adam8Update = (
  w: Tensor,
  m: Tensor,
  v: Tensor,
  largest: Tensor,
  grad: Tensor,
  lr: Tensor,
  step: Tensor,
  scale: Tensor | undefined,
  a: AdamAttrs,
): void => void apply(adam8Op, [w, m, v, largest, grad, lr, step, scale], a)

/** @internal */
export interface LionAttrs {
  beta1: number
  beta2: number
  weightDecay: number
}
const lionOp = inPlace<LionAttrs>('lion_update', 2, (a) => [a.beta1, a.beta2, a.weightDecay])
/** @internal w and its momentum (f32 or bf16) in place. */
export const lionUpdate = (
  w: Tensor,
  momentum: Tensor,
  grad: Tensor,
  lr: Tensor,
  scale: Tensor | undefined,
  a: LionAttrs,
): void => void apply(lionOp, [w, momentum, grad, lr, scale], a)

/** @internal */
export interface AdafactorAttrs {
  /** Added to squared gradients. */
  eps: number
  /** Least root mean square of w that lr is relative to; 0: lr is absolute. */
  least: number
  /** Largest root mean square of the update. */
  limit: number
  weightDecay: number
}
const adafactorOp = inPlace<AdafactorAttrs>('adafactor_update', 3, (a) => [a.eps, a.least, a.limit, a.weightDecay])
/** @internal w, mean squares of rows and of columns (or of elements alone) in place; `fresh`: the share of new squares. */
export const adafactorUpdate = (
  w: Tensor,
  squares: Tensor,
  columns: Tensor | undefined,
  grad: Tensor,
  lr: Tensor,
  fresh: Tensor,
  scale: Tensor | undefined,
  a: AdafactorAttrs,
): void => void apply(adafactorOp, [w, squares, columns, grad, lr, fresh, scale], a)

/** @internal */
export interface Sm3Attrs {
  momentum: number
  weightDecay: number
}
const sm3Op = inPlace<Sm3Attrs>('sm3_update', 4, (a) => [a.momentum, a.weightDecay])
/** @internal w, largest squares of rows and of columns (or squares of elements alone), momentum, in place. */
export const sm3Update = (
  w: Tensor,
  squares: Tensor,
  columns: Tensor | undefined,
  momentum: Tensor | undefined,
  grad: Tensor,
  lr: Tensor,
  scale: Tensor | undefined,
  a: Sm3Attrs,
): void => void apply(sm3Op, [w, squares, columns, momentum, grad, lr, scale], a)

const accumulateOp = inPlace('accumulate', 1)
const clearOp = inPlace('fill', 1, () => [0])

/** @internal total += x, in place. */
export const accumulateInto = (total: Tensor, x: Tensor): void => void apply(accumulateOp, [total, x], undefined)
/** @internal total = 0, in place. */
export const clear = (total: Tensor): void => void apply(clearOp, [total], undefined)

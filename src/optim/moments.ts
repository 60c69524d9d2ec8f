import type { Tensor } from '../tensor/tensor'

// What updates that are traced operation by operation have in common.

/** @internal The gradient as an update sees it: scaled down by `clip`, weight decay added. */
export function decayed(w: Tensor, gradient: Tensor, scale: Tensor | undefined, weightDecay: number): Tensor {
  const g = scale ? gradient.mul(scale) : gradient
  return weightDecay ? g.add(w.mul(weightDecay)) : g
}

/** @internal A running mean: state = beta state + (1 - beta) x. */
export const average = (state: Tensor, x: Tensor, beta: number): Tensor =>
  state.assign(state.mul(beta).add(x.mul(1 - beta)))

/** @internal 1 - beta^step: the share of gradients in a running mean that was 0 at first. */
export const shareOf = (beta: number, step: Tensor): Tensor => step.mul(Math.log(beta)).expm1().neg()

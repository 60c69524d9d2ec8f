import type { Tensor } from '../tensor/tensor'
import { Base, checkBetas, checkEps, type BaseOptions } from './base'

// What Adam and its kin have in common, and updates that are traced operation by operation.

/** Options of methods with moments. */
export interface MomentsOptions extends BaseOptions {
  /** Decay of the two moments ([0.9, 0.999]). */
  betas?: readonly [number, number]
  /** Added to the root of the second moment (1e-8). */
  eps?: number
}

/** A method with moments. */
export abstract class Moments extends Base {
  protected readonly betas: readonly [number, number]
  protected readonly eps: number

  /** `own`: names of the options besides those of all such methods. */
  constructor(options: MomentsOptions, own: readonly string[]) {
    super(options, ['betas', 'eps', ...own])
    this.betas = checkBetas(options.betas ?? [0.9, 0.999])
    this.eps = checkEps(options.eps ?? 1e-8)
  }
}

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

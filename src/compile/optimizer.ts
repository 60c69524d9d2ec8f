import { fail } from '../errors'
import type { Tensor } from '../tensor/tensor'
import type { Trainable } from './trainable'

/** A learning rate: a number, or a function of the number of updates done. */
export type Schedule = number | ((step: number) => number)

/** Traced values that an update reads: they change from step to step without making a new plan. */
export interface UpdateInputs {
  /** Learning rate, f32 []. */
  lr: Tensor
  /** Updates of the parameter since it was first met, this one included, f32 []. */
  step: Tensor
  /** Factor for the gradient, f32 []; absent: 1. */
  scale?: Tensor
}

/** How parameters change: the contract of `optim`. `optim.Base` is the easier start for one of your own. */
export interface Optimizer {
  /** For checkpoints: a run is resumed by the same method. */
  readonly name: string
  /** Learning rate, or the rate of each update; may be changed at any time without a new plan. */
  lr: Schedule
  /** Updates done. */
  steps: number
  /** Updates that were done before a parameter was first met, where there were any; saved with a run. */
  readonly begun?: Map<Tensor, number>
  /** Throws where its options do not fit a model with these parameters, by path; called when a step is planned. */
  expectFit?(parameters: ReadonlyMap<string, Tensor>): void
  /** State of a parameter, made (as zeros, or as the method wants) at the first call. */
  state(name: string, parameter: Tensor): Readonly<Record<string, Tensor>>
  /** Whether there is state of a parameter: what a plan that is refused has made anew is freed again. */
  holds?(parameter: Tensor): boolean
  /** Frees the state of a parameter that is no longer in the model. */
  forget?(parameter: Tensor): void
  /** Traces the in-place update of a parameter and its state, by `assign`. */
  update(name: string, parameter: Tensor, gradient: Tensor, inputs: UpdateInputs): void
  /**
   * The same for some rows of a table alone, `rows` i32 [m] (each once, then the first of them again), gradient [m, ...]. A
   * method without it trains no sparse tables.
   */
  updateRows?(name: string, parameter: Tensor, rows: Tensor, gradient: Tensor, inputs: UpdateInputs): void
}

/** The learning rate of the next update. */
export function rateAt(lr: Schedule, step: number): number {
  const rate = typeof lr === 'function' ? lr(step) : lr
  if (!(rate >= 0 && Number.isFinite(rate)))
    fail('AUX_INVALID_ARGUMENT', `lr: expected a number >= 0, got ${String(rate)} after ${step} updates`)
  return rate
}

/** @internal What `begun` says of the parameters of a model, by path. */
export function begunOf({ begun }: Optimizer, model: Trainable): Record<string, number> {
  if (!begun?.size) return {}
  return Object.fromEntries(
    Array.from(model.namedParameters(), ([name, p]) => [name, begun.get(p) ?? 0]).filter(([, n]) => n),
  )
}

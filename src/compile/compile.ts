import type { Tensor } from '../tensor/tensor'
import { CompiledFunction, type Traceable } from './function'
import { TrainingStep, type StepOptions } from './step'
import type { Trainable } from './trainable'

/** An evaluation of a model, for `compile`. */
export interface ForwardOptions<R extends Traceable = Traceable> {
  /** The model, or whatever `forward` runs: its modules find the policies of its training step. */
  model: Trainable
  /** Traced with the model in evaluation mode. */
  forward: (batch: Record<string, Tensor>) => R
}

/**
 * Traces, differentiates and plans.
 *
 * `compile({ model, loss, optimizer, ... })` makes a training step, `compile({ model, forward })` an evaluation of the
 * model, `compile(f)` a plan of any function of named tensors. All three: `.plan(shapes)` and `await .run(batch)`.
 */
export function compile<R extends Traceable>(f: (batch: Record<string, Tensor>) => R): CompiledFunction<R>
export function compile<R extends Traceable>(options: ForwardOptions<R>): CompiledFunction<R>
export function compile<R extends Traceable>(options: StepOptions<R>): TrainingStep<R>
export function compile<R extends Traceable>(
  options: ((batch: Record<string, Tensor>) => R) | ForwardOptions<R> | StepOptions<R>,
): CompiledFunction<R> | TrainingStep<R> {
  if (typeof options === 'function') return new CompiledFunction(options)
  if ('loss' in options) return new TrainingStep(options)
  return new CompiledFunction(options.forward, options.model)
}

import { describe, expectOptions, fail } from '../errors'
import type { MemoryAssignment } from '../memory/assignment'
import { checkSeed } from '../tensor/philox'
import type { Tensor } from '../tensor/tensor'
import { CompiledFunction, type Traceable } from './function'
import type { Optimizer } from './optimizer'
import { TrainingStep, type StepOptions } from './step'
import type { Trainable } from './trainable'

/**
 * The tensors of a batch, by name; a function may say in its type which there are, `({ x, y }: Inputs<'x' | 'y'>) => ...`,
 * and has to where TypeScript's `noUncheckedIndexedAccess` is set.
 */
export type Inputs<Names extends string = string> = Record<Names, Tensor>

/** An evaluation of a model, for `compile`. */
export interface ForwardOptions<R extends Traceable = Traceable, B extends Inputs = Inputs> {
  /** The model, or whatever `forward` runs: its modules find the policies of its training step. */
  model: Trainable
  /** Traced with the model in evaluation mode. */
  forward: (batch: B) => R
  /**
   * The `memory` that the model was trained with, where no training step of this process says it: what ASA adds in forward
   * belongs to the network. It holds for all evaluations of the model.
   */
  memory?: MemoryAssignment
}

/**
 * Traces, differentiates and plans.
 *
 * `compile({ model, loss, optimizer, ... })` makes a training step, `compile({ model, forward })` an evaluation of the
 * model, `compile(f)` a plan of any function of named tensors. All three: `.plan(shapes)` and `await .run(batch)`.
 */
export function compile<R extends Traceable, B extends Inputs = Inputs>(f: (batch: B) => R): CompiledFunction<R>
export function compile<R extends Traceable, B extends Inputs = Inputs>(
  options: ForwardOptions<R, B>,
): CompiledFunction<R>
export function compile<R extends Traceable, B extends Inputs = Inputs>(
  options: Omit<StepOptions<R>, 'loss'> & { loss: (batch: B) => R },
): TrainingStep<R>
export function compile<R extends Traceable>(
  options: ((batch: Inputs) => R) | ForwardOptions<R> | StepOptions<R>,
): CompiledFunction<R> | TrainingStep<R> {
  if (typeof options === 'function') return new CompiledFunction(options)
  if (typeof options !== 'object' || options === null || !('loss' in options || 'forward' in options))
    fail(
      'AUX_INVALID_ARGUMENT',
      'compile: expected a function, { model, loss, optimizer } for training or { model, forward } for evaluation',
    )
  if ('loss' in options) {
    checkStep(options)
    return new TrainingStep(options)
  }
  expectOptions('compile', options, ['model', 'forward', 'memory'])
  checkModel(options.model)
  checkFunction('forward', options.forward)
  checkMemory(options.memory)
  return new CompiledFunction(options.forward, options.model, options.memory)
}

function checkModel(model: unknown): void {
  if (typeof (model as Trainable | undefined)?.namedParameters !== 'function')
    fail('AUX_INVALID_ARGUMENT', `compile: expected model to be a module, got ${describe(model)}`)
}

function checkFunction(name: string, f: unknown): void {
  if (typeof f !== 'function')
    fail('AUX_INVALID_ARGUMENT', `compile: expected ${name} to be a function, got ${describe(f)}`)
}

function checkMemory(memory: unknown): void {
  if (memory !== undefined && (typeof memory !== 'object' || memory === null))
    fail('AUX_INVALID_ARGUMENT', `compile: expected memory to be a policy or { name: policy }, got ${describe(memory)}`)
}

/** What types refuse and JavaScript does not. */
function checkStep(options: StepOptions): void {
  const { model, loss, optimizer, memory, clip, seed } = options
  expectOptions('compile', options, names)
  checkModel(model)
  checkFunction('loss', loss)
  if (typeof (optimizer as Optimizer | undefined)?.update !== 'function')
    fail(
      'AUX_INVALID_ARGUMENT',
      `compile: expected an optimizer such as new optim.Adam({ lr }), got ${describe(optimizer)}`,
    )
  checkMemory(memory)
  if (clip !== undefined) expectOptions('compile: clip', clip, ['norm', 'value'])
  if (seed !== undefined) checkSeed('compile', seed)
}

const names = ['model', 'loss', 'optimizer', 'memory', 'budget', 'clip', 'accumulate', 'seed', 'indicator']

import { describe, fail } from '../errors'
import type { Tensor } from '../tensor/tensor'
import { isPlainObject } from '../tensor/tidy'

/** A tensor that an optimizer may change. */
export interface ParameterLike extends Tensor {
  /** False if it is frozen. */
  readonly trainable: boolean
  /** True for a table of which an update changes the rows alone that its batch has looked up. */
  readonly sparse?: boolean
}

/** What compilation needs to know of a module. */
export interface TrainableModule {
  /** Training or evaluation mode. */
  training: boolean
  /** What it computes; replaced while a step is traced, to know where its operations come from. */
  forward(...inputs: never[]): unknown
}

/** What compilation needs to know of a model; `nn.Module` is one. */
export interface Trainable {
  /** Training or evaluation mode. */
  training: boolean
  /** Every module inside, this one as ''. A path is also the name by which policies find it. */
  namedModules(): Iterable<[string, TrainableModule]>
  /** Every parameter by path. */
  namedParameters(): Iterable<[string, ParameterLike]>
  /** Parameters and buffers by path. */
  state(): ReadonlyMap<string, Tensor>
}

/** Throws unless it has modules inside: what JavaScript lets through. */
export function expectModule(what: string, model: unknown): void {
  if (typeof (model as Trainable | undefined | null)?.namedModules !== 'function')
    fail('AUX_INVALID_ARGUMENT', `${what}: expected a module, got ${describe(model)}`)
}

/** True for what may hold parts of a module: an array or a plain object. */
export const isContainer = (value: unknown): value is Record<string, unknown> =>
  Array.isArray(value) || isPlainObject(value)

/**
 * Counts changes that make plans out of date: training or evaluation, freezing. Steps look at it instead of walking
 * the model at every run.
 */
export const revision = { current: 0 }

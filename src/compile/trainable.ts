import type { Tensor } from '../tensor/tensor'

/** A tensor that an optimizer may change. */
export interface ParameterLike extends Tensor {
  readonly trainable: boolean
}

/** What compilation needs to know of a model; `nn.Module` is one. */
export interface Trainable {
  training: boolean
  /** Every module inside, this one as ''. A path is also the name by which policies find it. */
  namedModules(): Iterable<[string, { training: boolean; forward(...inputs: never[]): unknown }]>
  namedParameters(): Iterable<[string, ParameterLike]>
  /** Parameters and buffers by path. */
  state(): ReadonlyMap<string, Tensor>
}

/**
 * Counts changes that make plans out of date: training or evaluation, freezing. Steps look at it instead of walking
 * the model at every run.
 */
export const revision = { current: 0 }

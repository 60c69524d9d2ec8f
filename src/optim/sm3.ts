import type { UpdateInputs } from '../compile/optimizer'
import { sm3Update } from '../ops/optim'
import type { Spec, Tensor } from '../tensor/tensor'
import { Base, expectDecays, type BaseOptions } from './base'
import { factoredSlot } from './factored'

/** Options of `SM3`. */
export interface SM3Options extends BaseOptions {
  /** Share of the last update that goes on (0: none is remembered; 0.9 in the paper). */
  momentum?: number
}

/**
 * Anil et al. 2019, *Memory-Efficient Adaptive Optimization*, SM3-II: Adagrad whose sum of squares is bounded from above
 * by the least of what a row and a column of the parameter (its first axis by all others) remember. Weight decay is
 * decoupled. State: 4 bytes a row and a column, 4 a weight for vectors; with momentum 4 a weight more.
 */
export class SM3 extends Base {
  /** For checkpoints. */
  readonly name = 'sm3'
  protected readonly slots = ['rows', 'columns', 'elements', 'momentum']
  readonly #momentum: number

  constructor(options: SM3Options) {
    super(options, ['momentum'])
    this.#momentum = options.momentum ?? 0
    expectDecays({ momentum: this.#momentum })
  }

  protected override slot(name: string, parameter: Tensor): Spec | undefined {
    if (name !== 'momentum') return factoredSlot(name, parameter)
    return this.#momentum ? parameter : undefined
  }

  protected apply(
    w: Tensor,
    { rows, columns, elements, momentum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    sm3Update([w, rows ?? elements, columns, momentum, gradient, lr, scale], { momentum: this.#momentum, weightDecay })
  }
}

import type { Schedule, UpdateInputs } from '../compile/optimizer'
import { expectOptions } from '../errors'
import { adafactorUpdate } from '../ops/optim'
import type { Spec, Tensor } from '../tensor/tensor'
import { Base, expectPositive, type BaseOptions } from './base'
import { factoredSlot } from './factored'

/** Options of `Adafactor`. */
export interface AdafactorOptions extends Omit<BaseOptions, 'lr'> {
  /** Learning rate (`min(0.01, 1 / sqrt(step))`, relative to the size of each parameter). */
  lr?: Schedule
  /** Whether `lr` is a share of the root mean square of each parameter; only where no `lr` is given, unless it is said. */
  relative?: boolean
  /** Least root mean square that a relative rate is a share of (1e-3). */
  least?: number
  /** Squares are averaged with the weight `step ** -decay` for the new ones (0.8). */
  decay?: number
  /** Updates are scaled down to this root mean square (1). */
  limit?: number
  /** Added to squared gradients (1e-30). */
  eps?: number
}

const relativeStep = (step: number): number => Math.min(1e-2, 1 / Math.sqrt(step + 1))

/**
 * Shazeer & Stern 2018, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, without momentum: the mean
 * squares of gradients by row and by column of each parameter (its first axis by all others) stand for those of its
 * elements. Weight decay is decoupled. State: 4 bytes a row and a column; 4 a weight for vectors.
 */
export class Adafactor extends Base {
  /** For checkpoints. */
  readonly name = 'adafactor'
  protected readonly slots = ['rows', 'columns', 'elements']
  readonly #least: number
  readonly #decay: number
  readonly #limit: number
  readonly #eps: number

  constructor(options: AdafactorOptions = {}) {
    expectOptions('Adafactor', options)
    super({ ...options, lr: options.lr ?? relativeStep }, ['relative', 'least', 'decay', 'limit', 'eps'])
    const { relative = options.lr === undefined, least = 1e-3, decay = 0.8, limit = 1, eps = 1e-30 } = options
    expectPositive({ least, decay, limit, eps })
    this.#least = relative ? least : 0
    this.#decay = decay
    this.#limit = limit
    this.#eps = eps
  }

  protected override slot(name: string, parameter: Tensor): Spec | undefined {
    return factoredSlot(name, parameter)
  }

  protected apply(
    w: Tensor,
    { rows, columns, elements }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    adafactorUpdate([w, rows ?? elements, columns, gradient, lr, step, scale], {
      eps: this.#eps,
      least: this.#least,
      limit: this.#limit,
      weightDecay,
      decay: this.#decay,
    })
  }
}

import { fail } from '../errors'
import type { UpdateInputs } from '../compile/optimizer'
import { adamUpdate } from '../ops/optim'
import type { Tensor } from '../tensor/tensor'
import { Base, type BaseOptions } from './base'

/** Options of `Adam` and `AdamW`. */
export interface AdamOptions extends BaseOptions {
  /** Decay of the two moments ([0.9, 0.999]). */
  betas?: readonly [number, number]
  /** Added to the root of the second moment (1e-8). */
  eps?: number
}

/** Kingma & Ba 2015; weight decay is added to the gradient. State: 8 bytes a weight. */
export class Adam extends Base {
  /** For checkpoints. */
  readonly name: string = 'adam'
  protected readonly slots = ['m', 'v']
  protected readonly decoupled: boolean = false
  readonly #betas: readonly [number, number]
  readonly #eps: number

  constructor(options: AdamOptions) {
    super(options)
    this.#betas = options.betas ?? [0.9, 0.999]
    this.#eps = options.eps ?? 1e-8
    for (const beta of this.#betas)
      if (!(beta >= 0 && beta < 1))
        fail('AUX_INVALID_ARGUMENT', `betas: expected numbers in [0, 1), got ${this.#betas.join(' and ')}`)
    if (!(this.#eps > 0)) fail('AUX_INVALID_ARGUMENT', `eps: expected a number > 0, got ${this.#eps}`)
  }

  protected apply(
    w: Tensor,
    { m, v }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.#betas
    adamUpdate(w, m, v, gradient, lr, step, scale, {
      beta1,
      beta2,
      eps: this.#eps,
      weightDecay,
      decoupled: this.decoupled,
    })
  }
}

/** Loshchilov & Hutter 2019: weight decay shrinks the weights directly (0.01). */
export class AdamW extends Adam {
  /** For checkpoints. */
  override readonly name = 'adamw'
  protected override readonly decoupled = true

  constructor(options: AdamOptions) {
    super({ weightDecay: 0.01, ...options })
  }
}

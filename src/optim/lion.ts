import type { UpdateInputs } from '../compile/optimizer'
import { fail } from '../errors'
import { lionUpdate } from '../ops/optim'
import type { Spec, Tensor } from '../tensor/tensor'
import { Base, checkBetas, type BaseOptions } from './base'

/** Options of `Lion`. */
export interface LionOptions extends BaseOptions {
  /** Share of the momentum in the direction of a step, and its decay ([0.9, 0.99]). */
  betas?: readonly [number, number]
  /** How the momentum is stored ('f32'). */
  momentum?: 'f32' | 'bf16'
}

/**
 * Chen et al. 2023, *Symbolic Discovery of Optimization Algorithms*: steps are the signs of a momentum, so lr is usually
 * 3 to 10 times less than Adam's and weight decay, which is decoupled, as much more. State: 4 bytes a weight, 2 in bf16.
 */
export class Lion extends Base {
  /** For checkpoints. */
  readonly name = 'lion'
  protected readonly slots = ['momentum']
  readonly #betas: readonly [number, number]
  readonly #momentum: 'f32' | 'bf16'

  constructor(options: LionOptions) {
    super(options, ['betas', 'momentum'])
    this.#betas = checkBetas(options.betas ?? [0.9, 0.99])
    this.#momentum = options.momentum ?? 'f32'
    if (!['f32', 'bf16'].includes(this.#momentum))
      fail('AUX_INVALID_ARGUMENT', `momentum: expected 'f32' or 'bf16', got ${String(this.#momentum)}`)
  }

  protected override slot(_: string, { shape }: Tensor): Spec {
    return { shape, dtype: this.#momentum }
  }

  protected apply(
    w: Tensor,
    { momentum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.#betas
    lionUpdate([w, momentum, gradient, lr, scale], { beta1, beta2, weightDecay })
  }
}

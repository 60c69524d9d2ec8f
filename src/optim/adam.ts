import type { UpdateInputs } from '../compile/optimizer'
import { fail } from '../errors'
import { Parameter } from '../nn/parameter'
import { adam8Block, adam8Update, adamUpdate } from '../ops/optim'
import type { Spec, Tensor } from '../tensor/tensor'
import { Base, checkBetas, type BaseOptions } from './base'

/** Options of `Adam` and `AdamW`. */
export interface AdamOptions extends BaseOptions {
  /** Decay of the two moments ([0.9, 0.999]). */
  betas?: readonly [number, number]
  /** Added to the root of the second moment (1e-8). */
  eps?: number
  /**
   * Bits of each moment of a weight (32). With 8 they are codes, each 256 elements with a scale of their own (Dettmers et
   * al. 2022); parameters of less than 4096 elements and tables of embeddings keep 32.
   */
  bits?: 8 | 32
}

/** Fewer elements than this are not worth codes. */
const least = 4096

/** Kingma & Ba 2015; weight decay is added to the gradient. State: 8 bytes a weight, 2 with 8 bits. */
export class Adam extends Base {
  /** For checkpoints. */
  readonly name: string = 'adam'
  protected readonly slots = ['m', 'v', 'largest']
  protected readonly decoupled: boolean = false
  readonly #betas: readonly [number, number]
  readonly #eps: number
  readonly #bits: 8 | 32

  constructor(options: AdamOptions) {
    super(options, ['betas', 'eps', 'bits'])
    this.#betas = checkBetas(options.betas ?? [0.9, 0.999])
    this.#eps = options.eps ?? 1e-8
    this.#bits = options.bits ?? 32
    if (!(this.#eps > 0)) fail('AUX_INVALID_ARGUMENT', `eps: expected a number > 0, got ${this.#eps}`)
    if (![8, 32].includes(this.#bits)) fail('AUX_INVALID_ARGUMENT', `bits: expected 8 or 32, got ${this.#bits}`)
  }

  protected override slot(name: string, parameter: Tensor): Spec | undefined {
    const { shape, size } = parameter
    const codes = this.#bits === 8 && size >= least && !(parameter instanceof Parameter && parameter.table)
    if (name === 'largest') return codes ? { shape: [2, Math.ceil(size / adam8Block)], dtype: 'f32' } : undefined
    return codes ? { shape, dtype: 'u8' } : parameter
  }

  protected apply(
    w: Tensor,
    { m, v, largest }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.#betas
    const numbers = { beta1, beta2, eps: this.#eps, weightDecay, decoupled: this.decoupled }
    if (largest) adam8Update([w, m, v, largest, gradient, lr, step, scale], numbers)
    else adamUpdate([w, m, v, gradient, lr, step, scale], numbers)
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

import type { UpdateInputs } from '../compile/optimizer'
import { fail } from '../errors'
import { Parameter } from '../nn/parameter'
import { adam8Block, adam8Update, adamUpdate } from '../ops/optim'
import type { Spec, Tensor } from '../tensor/tensor'
import { average, decayed, Moments, shareOf, type MomentsOptions } from './moments'

/** Options of `Adam` and `AdamW`. */
export interface AdamOptions extends MomentsOptions {
  /**
   * Bits of each moment of a weight (32). With 8 they are codes, each 256 elements with a scale of their own (Dettmers et
   * al. 2022); parameters of less than 4096 elements and tables of embeddings keep 32.
   */
  bits?: 8 | 32
  /** Divides by the root of the largest second moment so far (Reddi et al. 2018): 4 bytes a weight more (false). */
  amsgrad?: boolean
}

/** Fewer elements than this are not worth codes. */
const least = 4096

/** Kingma & Ba 2015; weight decay is added to the gradient. State: 8 bytes a weight, 2 with 8 bits. */
export class Adam extends Moments {
  /** For checkpoints. */
  readonly name: string = 'adam'
  protected readonly slots = ['m', 'v', 'largest', 'most']
  protected readonly decoupled: boolean = false
  readonly #bits: 8 | 32
  readonly #amsgrad: boolean

  constructor(options: AdamOptions) {
    super(options, ['bits', 'amsgrad'])
    this.#bits = options.bits ?? 32
    this.#amsgrad = options.amsgrad ?? false
    if (![8, 32].includes(this.#bits)) fail('AUX_INVALID_ARGUMENT', `bits: expected 8 or 32, got ${this.#bits}`)
    if (this.#amsgrad && this.#bits === 8)
      fail('AUX_INVALID_ARGUMENT', 'amsgrad: expected moments of 32 bits with it, got 8')
  }

  protected override slot(name: string, parameter: Tensor): Spec | undefined {
    const { shape, size } = parameter
    if (name === 'most') return this.#amsgrad ? parameter : undefined
    const codes = this.#bits === 8 && size >= least && !(parameter instanceof Parameter && parameter.table)
    if (name === 'largest') return codes ? { shape: [2, Math.ceil(size / adam8Block)], dtype: 'f32' } : undefined
    return codes ? { shape, dtype: 'u8' } : parameter
  }

  protected apply(
    w: Tensor,
    { m, v, largest, most }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.betas
    if (most) {
      const g = decayed(w, gradient, scale, this.decoupled ? 0 : weightDecay)
      average(m, g, beta1)
      average(v, g.square(), beta2)
      most.assign(most.maximum(v))
      const root = most.div(shareOf(beta2, step)).sqrt().add(this.eps)
      const rest = this.decoupled && weightDecay ? w.sub(w.mul(lr.mul(weightDecay))) : w
      w.assign(rest.sub(m.div(root).mul(lr.div(shareOf(beta1, step)))))
      return
    }
    const numbers = { beta1, beta2, eps: this.eps, weightDecay, decoupled: this.decoupled }
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
    super({ ...options, weightDecay: options?.weightDecay ?? 0.01 })
  }
}

import { describe, expectIntegers, expectOptions, fail } from '../errors'
import type { ModuleTest } from '../memory/assignment'
import { linear, matmul, zeros } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Linear } from './linear'
import { Module } from './module'
import type { Parameter } from './parameter'
import { modulesMeant, replaceModules } from './replace'

/** Options of `LoRA`. */
export interface LoRAOptions {
  /** Width of the adapter (8). */
  rank?: number
  /** The adapter is scaled by alpha / rank (16). */
  alpha?: number
}

/**
 * A linear layer that is frozen, with an adapter of low rank beside it (Hu et al. 2021): y = W x + b + (alpha / rank) B A x,
 * B zeros at first. Takes the weight and bias of `layer` over, under the names they had. Backward keeps x for A alone (a
 * policy on `down` keeps less) and the `rank` numbers of A x.
 */
export class LoRA extends Module {
  /** [outputs, inputs], frozen. */
  readonly weight: Parameter
  /** [outputs], frozen; undefined if the layer had none. */
  readonly bias: Parameter | undefined
  /** A: [inputs] to [rank]. */
  readonly down: Linear
  /** B: [rank] to [outputs]. */
  readonly up: Linear
  readonly #scale: number

  constructor(layer: Linear, options: LoRAOptions = {}) {
    super()
    expectOptions('LoRA', options, ['rank', 'alpha'])
    const { rank = 8, alpha = 16 } = options
    if (!(layer instanceof Linear))
      fail('AUX_INVALID_ARGUMENT', `LoRA: expected a Linear layer, got ${describe(layer)}`)
    expectIntegers('LoRA', { rank })
    if (!Number.isFinite(alpha)) fail('AUX_INVALID_ARGUMENT', `LoRA: expected a finite alpha, got ${alpha}`)
    this.weight = layer.weight
    this.bias = layer.bias
    this.weight.trainable = false
    if (this.bias) this.bias.trainable = false
    const [outputs, inputs] = layer.weight.shape
    this.down = new Linear(inputs, rank, { bias: false })
    this.up = new Linear(rank, outputs, { bias: false })
    this.#scale = alpha / rank
    tidy(() => void this.up.weight.assign(zeros([outputs, rank])))
  }

  /** [..., inputs] to [..., outputs]. */
  forward(x: Tensor): Tensor {
    const adapted = this.up.forward(this.down.forward(x)).mul(this.#scale)
    return linear(x, this.weight, this.bias).add(adapted)
  }

  /** Adds the adapter to the weight and sets B to zeros: the layer computes the same (without what `asa` on `down` adds to x). */
  merge(): this {
    tidy(() => {
      const change = matmul(this.up.weight, this.down.weight).mul(this.#scale)
      this.weight.assign(this.weight.add(change))
      this.up.weight.assign(zeros(this.up.weight.shape))
    })
    return this
  }
}

/**
 * Freezes a model and puts an adapter beside each linear layer that is meant (names or patterns as in `memory`, or
 * tests), wherever it stands; only adapters learn then. Returns their paths.
 * @throws AUX_INVALID_ARGUMENT if no linear layer is meant.
 */
export function adapt(model: Module, where: string | RegExp | ModuleTest, options: LoRAOptions = {}): string[] {
  const found = modulesMeant(model, where, (m) => m instanceof Linear, 'adapt: no linear layer')
  model.freeze()
  replaceModules(model, new Map(found.map(([, layer]) => [layer, new LoRA(layer, options)])))
  return found.map(([path]) => path)
}

import { describe, expectIntegers, expectOptions, fail } from '../errors'
import { normal } from '../ops'
import { resolveAxis, showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { buffer, Module } from './module'
import { Parameter } from './parameter'

/** A layer with a weight: linear layers, convolutions and transposed ones. */
export interface WeightedLayer extends Module {
  /** What is normalised. */
  readonly weight: Parameter
  /** What it makes of a tensor. */
  forward(x: Tensor): Tensor
}

/** A layer that computes with what is made of its weight. */
abstract class Normed<L extends WeightedLayer> extends Module {
  /** Axis of the weight, which counts what has a norm of its own. */
  protected readonly axis: number

  constructor(
    /** Its `weight` is what learns. */
    readonly layer: L,
    axis: number,
  ) {
    super()
    if (!(layer instanceof Module) || !(layer.weight instanceof Parameter))
      fail('AUX_INVALID_ARGUMENT', `${new.target.name}: expected a layer with a weight, got ${describe(layer)}`)
    if (layer.weight.rank < 2)
      fail(
        'AUX_SHAPE_MISMATCH',
        `${new.target.name}: expected a weight with at least 2 axes, got ${showShape(layer.weight.shape)}`,
      )
    this.axis = resolveAxis(new.target.name, axis, layer.weight.rank)
  }

  /** The weight that the layer computes with. */
  protected abstract normed(weight: Tensor): Tensor

  /** What the layer makes of it, with the weight made anew. */
  forward(x: Tensor): Tensor {
    const { layer } = this
    const holder = layer as { weight: Tensor }
    const own = layer.weight
    return tidy(() => {
      try {
        holder.weight = this.normed(own)
        return layer.forward(x)
      } finally {
        holder.weight = own
      }
    })
  }
}

/**
 * Weight normalisation (Salimans & Kingma 2016): the weight is g v / |v|, `layer.weight` v, one norm for each entry of
 * an axis (the first: outputs). At first g is |v|: the layer computes what it did. v is PyTorch's `weight_v`, g its
 * `weight_g`.
 */
export class WeightNorm<L extends WeightedLayer> extends Normed<L> {
  /** Norms, of the weight's shape with 1 on all axes but one. */
  readonly g: Parameter

  constructor(layer: L, options: { axis?: number } = {}) {
    expectOptions('WeightNorm', options, ['axis'])
    super(layer, options.axis ?? 0)
    this.g = new Parameter(this.#norm(layer.weight).clone())
  }

  #norm(weight: Tensor): Tensor {
    return weight.norm(
      weight.shape.flatMap((_, i) => (i === this.axis ? [] : [i])),
      { keep: true },
    )
  }

  protected normed(weight: Tensor): Tensor {
    return weight.mul(this.g.div(this.#norm(weight)))
  }
}

/** Options of `SpectralNorm`. */
export interface SpectralNormOptions {
  /** Iterations of the power method at each forward of training (1). */
  iterations?: number
  /** No vector counts as shorter than this (1e-12). */
  eps?: number
  /** Axis of outputs, the rows of the matrix (0; of transposed convolutions without groups -1). */
  axis?: number
}

/**
 * Spectral normalisation (Miyato et al. 2018): the weight, as a matrix of outputs by all else, over its largest
 * singular value as the power method estimates it, which goes on a step at each forward of training, as PyTorch's
 * `parametrizations.spectral_norm`.
 */
export class SpectralNorm<L extends WeightedLayer> extends Normed<L> {
  /** Left singular vector, [outputs]. */
  readonly u: Tensor
  /** Right singular vector, [all else]. */
  readonly v: Tensor
  readonly #iterations: number
  readonly #eps: number

  constructor(layer: L, options: SpectralNormOptions = {}) {
    expectOptions('SpectralNorm', options, ['iterations', 'eps', 'axis'])
    super(layer, options.axis ?? 0)
    const { iterations = 1, eps = 1e-12 } = options
    expectIntegers('SpectralNorm', { iterations })
    if (!(eps > 0)) fail('AUX_INVALID_ARGUMENT', `SpectralNorm: expected eps > 0, got ${eps}`)
    this.#iterations = iterations
    this.#eps = eps
    const outputs = layer.weight.shape[this.axis]
    const [u, v] = tidy(() => [outputs, layer.weight.size / outputs].map((n) => this.#unit(normal([n]))))
    this.u = buffer(u)
    this.v = buffer(v)
    tidy(() => this.#iterate(this.#matrix(layer.weight), 15))
  }

  /** [outputs, all else]. */
  #matrix(weight: Tensor): Tensor {
    const order = weight.shape.map((_, i) => i).filter((i) => i !== this.axis)
    return weight.permute([this.axis, ...order]).reshape([weight.shape[this.axis], -1])
  }

  #unit(t: Tensor): Tensor {
    return t.div(t.norm().maximum(this.#eps))
  }

  #iterate(matrix: Tensor, times: number): void {
    for (let i = 0; i < times; i++) {
      this.u.assign(this.#unit(matrix.matmul(this.v.unsqueeze(1)).squeeze(1)))
      this.v.assign(this.#unit(this.u.unsqueeze(0).matmul(matrix).squeeze(0)))
    }
  }

  protected normed(weight: Tensor): Tensor {
    const matrix = this.#matrix(weight)
    if (this.training) this.#iterate(matrix.detach(), this.#iterations)
    const largest = matrix.matmul(this.v.detach().unsqueeze(1)).squeeze(1).mul(this.u.detach()).sum()
    return weight.div(largest)
  }
}

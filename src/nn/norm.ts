import { expectIntegers, expectOptions, fail } from '../errors'
import { batchNorm, groupNorm, layerNorm, ones, rmsNorm, zeros } from '../ops'
import { constant } from '../ops/constant'
import { sameShape, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { buffer, Module } from './module'
import { Parameter } from './parameter'

/** Options of norms. */
export interface NormOptions {
  /** Added to the variance (1e-5; RMSNorm 1e-6). */
  eps?: number
}

/** Options of batch norms. */
export interface BatchNormOptions extends NormOptions {
  /** Share of a batch in the running statistics (0.1). */
  momentum?: number
}

/** Batch normalisation over the last axis (Ioffe & Szegedy 2015), with running statistics for evaluation. */
class BatchNorm extends Module {
  /** Factor, [channels]. */
  readonly weight: Parameter
  /** Added, [channels]. */
  readonly bias: Parameter
  /** Mean over past batches, for evaluation, [channels]. */
  readonly runningMean: Tensor
  /** Variance over past batches (unbiased), for evaluation, [channels]. */
  readonly runningVar: Tensor
  readonly #options: Required<BatchNormOptions>

  constructor(channels: number, options: BatchNormOptions = {}) {
    super()
    expectIntegers('BatchNorm', { channels })
    expectOptions('BatchNorm', options, ['eps', 'momentum'])
    const { eps = 1e-5, momentum = 0.1 } = options
    if (!(momentum >= 0 && momentum <= 1))
      fail('AUX_INVALID_ARGUMENT', `BatchNorm: expected momentum in [0, 1], got ${String(momentum)}`)
    this.weight = new Parameter(ones([channels]))
    this.bias = new Parameter(zeros([channels]))
    this.runningMean = buffer(zeros([channels]))
    this.runningVar = buffer(ones([channels]))
    this.#options = { eps, momentum }
  }

  /** [..., channels] to the same. */
  forward(x: Tensor): Tensor {
    const { runningMean, runningVar } = this
    const { eps, momentum } = this.#options
    return batchNorm(x, this.weight, this.bias, { runningMean, runningVar, momentum }, this.training, eps)
  }
}

/** Of [N, C] or [N, T, C]. */
export class BatchNorm1d extends BatchNorm {}
/** Of images [N, H, W, C]. */
export class BatchNorm2d extends BatchNorm {}
/** Of volumes [N, D, H, W, C]. */
export class BatchNorm3d extends BatchNorm {}

/** Layer normalisation over the last axis, or the last ones (Ba et al. 2016). */
export class LayerNorm extends Module {
  /** Factor, [...features]. */
  readonly weight: Parameter
  /** Added, [...features]. */
  readonly bias: Parameter
  readonly #eps: number

  /** `features`: the size of the last axis, or those of the last axes. */
  constructor(features: number | readonly number[], options: NormOptions = {}) {
    super()
    const sizes = Array.isArray(features) ? (features as readonly number[]) : [features as number]
    if (!sizes.length) fail('AUX_INVALID_ARGUMENT', 'LayerNorm: expected at least one size of features, got none')
    for (const size of sizes) expectIntegers('LayerNorm', { features: size })
    expectOptions('LayerNorm', options, ['eps'])
    this.weight = new Parameter(ones(sizes))
    this.bias = new Parameter(zeros(sizes))
    this.#eps = options.eps ?? 1e-5
  }

  /** [..., ...features] to the same. */
  forward(x: Tensor): Tensor {
    const { weight, bias } = this
    if (weight.rank === 1) return layerNorm(x, weight, bias, this.#eps)
    const rest = x.shape.slice(0, -weight.rank)
    if (!sameShape(x.shape.slice(rest.length), weight.shape))
      fail(
        'AUX_SHAPE_MISMATCH',
        `LayerNorm: expected input [..., ${weight.shape.join(', ')}], got ${showShape(x.shape)}`,
      )
    return tidy(() => layerNorm(x.flatten(rest.length), weight.flatten(), bias.flatten(), this.#eps).reshape(x.shape))
  }
}

/** Group normalisation (Wu & He 2018), channels-last: statistics of each sample over its positions and a group's channels. */
export class GroupNorm extends Module {
  /** Factor, [channels]. */
  readonly weight: Parameter
  /** Added, [channels]. */
  readonly bias: Parameter
  readonly #groups: number
  readonly #eps: number

  constructor(groups: number, channels: number, options: NormOptions = {}) {
    super()
    expectIntegers('GroupNorm', { groups, channels })
    expectOptions('GroupNorm', options, ['eps'])
    if (channels % groups)
      fail('AUX_INVALID_ARGUMENT', `GroupNorm: expected channels that ${groups} groups divide, got ${channels}`)
    this.weight = new Parameter(ones([channels]))
    this.bias = new Parameter(zeros([channels]))
    this.#groups = groups
    this.#eps = options.eps ?? 1e-5
  }

  /** [..., channels] to the same. */
  forward(x: Tensor): Tensor {
    return groupNorm(x, this.#groups, this.weight, this.bias, this.#eps)
  }
}

/**
 * Instance normalisation (Ulyanov et al. 2016), channels-last: statistics of each sample and channel over its positions; a
 * `GroupNorm` of as many groups as channels, which learns no factors unless `affine` is given.
 */
class InstanceNorm extends Module {
  /** Factor, [channels]; with `affine`. */
  readonly weight: Parameter | undefined
  /** Added, [channels]; with `affine`. */
  readonly bias: Parameter | undefined
  readonly #channels: number
  readonly #eps: number

  constructor(channels: number, options: NormOptions & { affine?: boolean } = {}) {
    super()
    expectIntegers('InstanceNorm', { channels })
    expectOptions('InstanceNorm', options, ['eps', 'affine'])
    const { eps = 1e-5, affine = false } = options
    this.weight = affine ? new Parameter(ones([channels])) : undefined
    this.bias = affine ? new Parameter(zeros([channels])) : undefined
    this.#channels = channels
    this.#eps = eps
  }

  /** [N, ..., channels] to the same. */
  forward(x: Tensor): Tensor {
    const n = this.#channels
    return tidy(() => groupNorm(x, n, this.weight ?? constant(ones, [n]), this.bias ?? constant(zeros, [n]), this.#eps))
  }
}
/** Of [N, T, C]. */
export class InstanceNorm1d extends InstanceNorm {}
/** Of images [N, H, W, C]. */
export class InstanceNorm2d extends InstanceNorm {}
/** Of volumes [N, D, H, W, C]. */
export class InstanceNorm3d extends InstanceNorm {}

/** x / √(mean x² + eps) over the last axis, times a weight (Zhang & Sennrich 2019). */
export class RMSNorm extends Module {
  /** Factor, [features]. */
  readonly weight: Parameter
  readonly #eps: number

  constructor(features: number, options: NormOptions = {}) {
    super()
    expectIntegers('RMSNorm', { features })
    expectOptions('RMSNorm', options, ['eps'])
    this.weight = new Parameter(ones([features]))
    this.#eps = options.eps ?? 1e-6
  }

  /** [..., features] to the same. */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.#eps)
  }
}

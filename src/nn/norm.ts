import { expectIntegers, expectOptions, fail } from '../errors'
import { batchNorm, groupNorm, layerNorm, ones, rmsNorm, zeros } from '../ops'
import { constant } from '../ops/constant'
import { sameShape, showShape, sizeOf } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { buffer, Module } from './module'
import { Parameter } from './parameter'

/** Options of norms. */
export interface NormOptions {
  /** Added to the variance (1e-5; RMSNorm 1e-6). */
  eps?: number
  /** Whether it learns: without, neither `weight` nor `bias` exists (true; instance norms false). */
  affine?: boolean
}

/** Options of `LayerNorm`. */
export interface LayerNormOptions extends NormOptions {
  /** Whether it has a `bias` beside its `weight` (true). */
  bias?: boolean
}

/** Options of batch norms. */
export interface BatchNormOptions extends NormOptions {
  /** Share of a batch in the running statistics (0.1); null: each batch that was seen has the same share. */
  momentum?: number | null
}

/** What a norm learns, of such sizes; undefined where it does not. */
const learnt = (make: typeof ones, sizes: readonly number[], learns: boolean): Parameter | undefined =>
  learns ? new Parameter(make(sizes)) : undefined

/** What is computed with in place of what is not learnt. */
const factors = (weight: Tensor | undefined, features: number): Tensor => weight ?? constant(ones, [features])
const terms = (bias: Tensor | undefined, features: number): Tensor => bias ?? constant(zeros, [features])

/** Batch normalisation over the last axis (Ioffe & Szegedy 2015), with running statistics for evaluation. */
class BatchNorm extends Module {
  /** Factor, [channels]; with `affine`. */
  readonly weight: Parameter | undefined
  /** Added, [channels]; with `affine`. */
  readonly bias: Parameter | undefined
  /** Mean over past batches, for evaluation, [channels]. */
  readonly runningMean: Tensor
  /** Variance over past batches (unbiased), for evaluation, [channels]. */
  readonly runningVar: Tensor
  /** How many batches those are, i32 []; with momentum null. */
  readonly numBatchesTracked: Tensor | undefined
  readonly #eps: number
  readonly #momentum: number | null

  constructor(channels: number, options: BatchNormOptions = {}) {
    super()
    expectIntegers('BatchNorm', { channels })
    expectOptions('BatchNorm', options, ['eps', 'affine', 'momentum'])
    const { eps = 1e-5, affine = true, momentum = 0.1 } = options
    if (momentum !== null && !(momentum >= 0 && momentum <= 1))
      fail('AUX_INVALID_ARGUMENT', `BatchNorm: expected momentum in [0, 1] or null, got ${String(momentum)}`)
    this.weight = learnt(ones, [channels], affine)
    this.bias = learnt(zeros, [channels], affine)
    this.runningMean = buffer(zeros([channels]))
    this.runningVar = buffer(ones([channels]))
    this.numBatchesTracked = momentum === null ? buffer(zeros([], 'i32')) : undefined
    this.#eps = eps
    this.#momentum = momentum
  }

  /** [..., channels] to the same. */
  forward(x: Tensor): Tensor {
    const { weight, bias, runningMean, runningVar, numBatchesTracked: tracked, training } = this
    return tidy(() => {
      const seen = tracked?.add(1)
      const momentum = this.#momentum ?? seen!.cast('f32').reciprocal()
      const [gamma, beta] = [factors(weight, runningMean.size), terms(bias, runningMean.size)]
      const y = batchNorm(x, gamma, beta, { runningMean, runningVar, momentum }, training, this.#eps)
      if (training && seen) tracked!.assign(seen)
      return y
    })
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
  /** Factor, [...features]; with `affine`. */
  readonly weight: Parameter | undefined
  /** Added, [...features]; with `affine` and `bias`. */
  readonly bias: Parameter | undefined
  readonly #features: readonly number[]
  readonly #eps: number

  /** `features`: the size of the last axis, or those of the last axes. */
  constructor(features: number | readonly number[], options: LayerNormOptions = {}) {
    super()
    const sizes = Array.isArray(features) ? (features as readonly number[]) : [features as number]
    if (!sizes.length) fail('AUX_INVALID_ARGUMENT', 'LayerNorm: expected at least one size of features, got none')
    for (const size of sizes) expectIntegers('LayerNorm', { features: size })
    expectOptions('LayerNorm', options, ['eps', 'affine', 'bias'])
    const { eps = 1e-5, affine = true, bias = true } = options
    this.weight = learnt(ones, sizes, affine)
    this.bias = learnt(zeros, sizes, affine && bias)
    this.#features = [...sizes]
    this.#eps = eps
  }

  /** [..., ...features] to the same. */
  forward(x: Tensor): Tensor {
    const { weight, bias } = this
    const sizes = this.#features
    const n = sizeOf(sizes)
    if (sizes.length === 1) return tidy(() => layerNorm(x, factors(weight, n), terms(bias, n), this.#eps))
    const rows = x.shape.slice(0, -sizes.length)
    if (!sameShape(x.shape.slice(rows.length), sizes))
      fail('AUX_SHAPE_MISMATCH', `LayerNorm: expected input [..., ${sizes.join(', ')}], got ${showShape(x.shape)}`)
    return tidy(() => {
      const [gamma, beta] = [factors(weight?.flatten(), n), terms(bias?.flatten(), n)]
      return layerNorm(x.flatten(rows.length), gamma, beta, this.#eps).reshape(x.shape)
    })
  }
}

/** Group normalisation (Wu & He 2018), channels-last: statistics of each sample over its positions and a group's channels. */
export class GroupNorm extends Module {
  /** Factor, [channels]; with `affine`. */
  readonly weight: Parameter | undefined
  /** Added, [channels]; with `affine`. */
  readonly bias: Parameter | undefined
  readonly #groups: number
  readonly #channels: number
  readonly #eps: number

  constructor(groups: number, channels: number, options: NormOptions = {}) {
    super()
    expectIntegers('GroupNorm', { groups, channels })
    expectOptions('GroupNorm', options, ['eps', 'affine'])
    const { eps = 1e-5, affine = true } = options
    if (channels % groups)
      fail('AUX_INVALID_ARGUMENT', `GroupNorm: expected channels that ${groups} groups divide, got ${channels}`)
    this.weight = learnt(ones, [channels], affine)
    this.bias = learnt(zeros, [channels], affine)
    this.#groups = groups
    this.#channels = channels
    this.#eps = eps
  }

  /** [N, ..., channels] to the same. */
  forward(x: Tensor): Tensor {
    const n = this.#channels
    return tidy(() => groupNorm(x, this.#groups, factors(this.weight, n), terms(this.bias, n), this.#eps))
  }
}

/**
 * Instance normalisation (Ulyanov et al. 2016), channels-last: statistics of each sample and channel over its positions; a
 * `GroupNorm` of as many groups as channels, which learns no factors unless `affine` is given.
 */
class InstanceNorm extends GroupNorm {
  constructor(channels: number, options: NormOptions = {}) {
    expectIntegers('InstanceNorm', { channels })
    expectOptions('InstanceNorm', options, ['eps', 'affine'])
    super(channels, channels, { affine: false, ...options })
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
  /** Factor, [features]; with `affine`. */
  readonly weight: Parameter | undefined
  readonly #features: number
  readonly #eps: number

  constructor(features: number, options: NormOptions = {}) {
    super()
    expectIntegers('RMSNorm', { features })
    expectOptions('RMSNorm', options, ['eps', 'affine'])
    const { eps = 1e-6, affine = true } = options
    this.weight = learnt(ones, [features], affine)
    this.#features = features
    this.#eps = eps
  }

  /** [..., features] to the same. */
  forward(x: Tensor): Tensor {
    return tidy(() => rmsNorm(x, factors(this.weight, this.#features), this.#eps))
  }
}

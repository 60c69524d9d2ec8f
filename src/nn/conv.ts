import { expectIntegers, expectOptions, fail } from '../errors'
import { conv1d, conv2d, conv3d, type Conv1dOptions, type Conv3dOptions, type ConvOptions, type Triple } from '../ops'
import { rowOptions } from '../ops/conv1d'
import { triple, volumeOptions } from '../ops/conv3d'
import { convAttrs, convOptions, pair, type Pair } from '../ops/geometry'
import type { Tensor } from '../tensor/tensor'
import { fanInUniform } from './init'
import { Module } from './module'
import { Parameter } from './parameter'

/** @internal Throws unless groups divide the channels of both sides. */
export function expectGroups(layer: string, groups: number, inputs: number, outputs: number): void {
  if (inputs % groups || outputs % groups)
    fail(
      'AUX_INVALID_ARGUMENT',
      `${layer}: expected channels that ${groups} groups divide, got ${inputs} and ${outputs}`,
    )
}

/** 2-D convolution, channels-last: [N, H, W, inputs] to [N, P, Q, outputs]. Weight [outputs, KH, KW, inputs / groups]. */
export class Conv2d extends Module {
  /** [outputs, KH, KW, inputs / groups]. */
  readonly weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined
  readonly #options: ConvOptions

  constructor(
    /** Channels of the image. */
    readonly inputs: number,
    /** Channels of the result. */
    readonly outputs: number,
    kernel: Pair,
    options: ConvOptions & { bias?: boolean } = {},
  ) {
    super()
    expectOptions('Conv2d', options, [...convOptions, 'bias'])
    const { bias = true, ...geometry } = options
    const groups = geometry.groups ?? 1
    const [kh, kw] = pair('Conv2d: kernel', kernel, undefined)
    expectIntegers('Conv2d', { inputs, outputs, groups })
    convAttrs('Conv2d', [kh, kw], geometry)
    expectGroups('Conv2d', groups, inputs, outputs)
    const fanIn = kh * kw * (inputs / groups)
    this.weight = new Parameter(fanInUniform([outputs, kh, kw, inputs / groups], fanIn))
    this.bias = bias ? new Parameter(fanInUniform([outputs], fanIn)) : undefined
    this.#options = geometry
  }

  /** [N, H, W, inputs] to [N, P, Q, outputs]. */
  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, this.bias, this.#options)
  }
}

/** 1-D convolution, channels-last: [N, L, inputs] to [N, P, outputs]. Weight [outputs, K, inputs / groups]. */
export class Conv1d extends Module {
  /** [outputs, K, inputs / groups]. */
  readonly weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined
  readonly #options: Conv1dOptions

  constructor(
    /** Channels of the sequence. */
    readonly inputs: number,
    /** Channels of the result. */
    readonly outputs: number,
    kernel: number,
    options: Conv1dOptions & { bias?: boolean } = {},
  ) {
    super()
    expectOptions('Conv1d', options, [...convOptions, 'bias'])
    const { bias = true, ...geometry } = options
    const groups = geometry.groups ?? 1
    expectIntegers('Conv1d', { inputs, outputs, kernel, groups })
    convAttrs('Conv1d', [1, kernel], rowOptions('Conv1d', geometry))
    expectGroups('Conv1d', groups, inputs, outputs)
    const fanIn = kernel * (inputs / groups)
    this.weight = new Parameter(fanInUniform([outputs, kernel, inputs / groups], fanIn))
    this.bias = bias ? new Parameter(fanInUniform([outputs], fanIn)) : undefined
    this.#options = geometry
  }

  /** [N, L, inputs] to [N, P, outputs]. */
  forward(x: Tensor): Tensor {
    return conv1d(x, this.weight, this.bias, this.#options)
  }
}

/**
 * 3-D convolution, channels-last: [N, D, H, W, inputs] to [N, P, Q, R, outputs]. Weight [outputs, KD, KH, KW, inputs /
 * groups].
 */
export class Conv3d extends Module {
  /** [outputs, KD, KH, KW, inputs / groups]. */
  readonly weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined
  readonly #options: Conv3dOptions

  constructor(
    /** Channels of the volume. */
    readonly inputs: number,
    /** Channels of the result. */
    readonly outputs: number,
    kernel: Triple,
    options: Conv3dOptions & { bias?: boolean } = {},
  ) {
    super()
    expectOptions('Conv3d', options, [...convOptions, 'bias'])
    const { bias = true, ...geometry } = options
    const groups = geometry.groups ?? 1
    const size = triple('Conv3d: kernel', kernel)
    expectIntegers('Conv3d', { inputs, outputs, groups })
    volumeOptions('Conv3d', size, geometry)
    expectGroups('Conv3d', groups, inputs, outputs)
    const fanIn = size.reduce((a, b) => a * b) * (inputs / groups)
    this.weight = new Parameter(fanInUniform([outputs, ...size, inputs / groups], fanIn))
    this.bias = bias ? new Parameter(fanInUniform([outputs], fanIn)) : undefined
    this.#options = geometry
  }

  /** [N, D, H, W, inputs] to [N, P, Q, R, outputs]. */
  forward(x: Tensor): Tensor {
    return conv3d(x, this.weight, this.bias, this.#options)
  }
}

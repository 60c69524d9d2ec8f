import { expectIntegers, expectOptions } from '../errors'
import {
  convTranspose1d,
  convTranspose2d,
  convTranspose3d,
  type ConvTranspose1dOptions,
  type ConvTranspose3dOptions,
  type ConvTransposeOptions,
  type Triple,
} from '../ops'
import { triple } from '../ops/conv3d'
import { convOptions, pair, type Pair } from '../ops/geometry'
import type { Tensor } from '../tensor/tensor'
import { expectGroups } from './conv'
import { fanInUniform } from './init'
import { Module } from './module'
import { Parameter } from './parameter'

/** What transposed convolutions have in common: weight [inputs, ...kernel, outputs / groups], and a bias. */
abstract class ConvTranspose<O extends { groups?: number }> extends Module {
  /** [inputs, ...kernel, outputs / groups]. */
  readonly weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined
  readonly #options: O

  constructor(inputs: number, outputs: number, kernel: readonly number[], options: O & { bias?: boolean }) {
    super()
    const { name } = new.target
    expectOptions(name, options, [...convOptions, 'outputPadding', 'bias'])
    const { bias = true, ...geometry } = options
    const { groups = 1 } = geometry
    expectIntegers(name, { inputs, outputs, groups })
    expectGroups(name, groups, inputs, outputs)
    const fan = kernel.reduce((a, b) => a * b) * (outputs / groups) // as PyTorch counts it
    this.weight = new Parameter(fanInUniform([inputs, ...kernel, outputs / groups], fan))
    this.bias = bias ? new Parameter(fanInUniform([outputs], fan)) : undefined
    this.#options = geometry as unknown as O
  }

  protected get options(): O {
    return this.#options
  }
}

/** Transposed 1-D convolution, channels-last: [N, L, inputs] to [N, P, outputs], sizes as of `convTranspose1d`. */
export class ConvTranspose1d extends ConvTranspose<ConvTranspose1dOptions> {
  constructor(
    inputs: number,
    outputs: number,
    kernel: number,
    options: ConvTranspose1dOptions & { bias?: boolean } = {},
  ) {
    expectIntegers('ConvTranspose1d', { kernel })
    super(inputs, outputs, [kernel], options)
  }

  /** [N, L, inputs] to [N, P, outputs]. */
  forward(x: Tensor): Tensor {
    return convTranspose1d(x, this.weight, this.bias, this.options)
  }
}

/**
 * Transposed 2-D convolution, channels-last: [N, H, W, inputs] to [N, P, Q, outputs], sizes as of `convTranspose2d`.
 */
export class ConvTranspose2d extends ConvTranspose<ConvTransposeOptions> {
  constructor(inputs: number, outputs: number, kernel: Pair, options: ConvTransposeOptions & { bias?: boolean } = {}) {
    super(inputs, outputs, pair('ConvTranspose2d: kernel', kernel, undefined), options)
  }

  /** [N, H, W, inputs] to [N, P, Q, outputs]. */
  forward(x: Tensor): Tensor {
    return convTranspose2d(x, this.weight, this.bias, this.options)
  }
}

/** Transposed 3-D convolution, channels-last: [N, D, H, W, inputs] to [N, P, Q, R, outputs]. */
export class ConvTranspose3d extends ConvTranspose<ConvTranspose3dOptions> {
  constructor(
    inputs: number,
    outputs: number,
    kernel: Triple,
    options: ConvTranspose3dOptions & { bias?: boolean } = {},
  ) {
    super(inputs, outputs, triple('ConvTranspose3d: kernel', kernel), options)
  }

  /** [N, D, H, W, inputs] to [N, P, Q, R, outputs]. */
  forward(x: Tensor): Tensor {
    return convTranspose3d(x, this.weight, this.bias, this.options)
  }
}

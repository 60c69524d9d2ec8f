import { expectIntegers, expectOptions } from '../errors'
import { expectShape } from '../graph/op'
import { linear } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { fanInUniform } from './init'
import { Module } from './module'
import { Parameter } from './parameter'

/** y = x Wᵀ + b on the last axis: [..., inputs] to [..., outputs]. Weight [outputs, inputs]. */
export class Linear extends Module {
  /** [outputs, inputs]; may be set to that of another layer, which both then share. */
  weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined

  constructor(inputs: number, outputs: number, options: { bias?: boolean } = {}) {
    super()
    expectIntegers('Linear', { inputs, outputs })
    expectOptions('Linear', options, ['bias'])
    this.weight = new Parameter(fanInUniform([outputs, inputs], inputs))
    this.bias = options.bias === false ? undefined : new Parameter(fanInUniform([outputs], inputs))
  }

  /** [..., inputs] to [..., outputs]. */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias)
  }
}

/**
 * y = x₁ W x₂ + b on the last axes, a W for each output (the products of all pairs are made): weight [outputs, first,
 * second].
 */
export class Bilinear extends Module {
  /** [outputs, first, second]. */
  readonly weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined

  constructor(first: number, second: number, outputs: number, options: { bias?: boolean } = {}) {
    super()
    expectIntegers('Bilinear', { first, second, outputs })
    expectOptions('Bilinear', options, ['bias'])
    this.weight = new Parameter(fanInUniform([outputs, first, second], first))
    this.bias = options.bias === false ? undefined : new Parameter(fanInUniform([outputs], first))
  }

  /** [..., first] and [..., second] to [..., outputs]. */
  forward(x: Tensor, y: Tensor): Tensor {
    const { weight, bias } = this
    const [outputs, first, second] = weight.shape
    const rest = x.shape.slice(0, -1)
    for (const [what, t, size] of [
      ['the first input', x, first],
      ['the second input', y, second],
    ] as const)
      expectShape('Bilinear', what, t, [...rest, size])
    return tidy(() => {
      const pairs = x.unsqueeze(-1).mul(y.unsqueeze(-2))
      return linear(pairs.reshape([...rest, first * second]), weight.reshape([outputs, first * second]), bias)
    })
  }
}

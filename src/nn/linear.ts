import { expectOptions } from '../errors'
import { linear } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { fanInUniform } from './init'
import { Module } from './module'
import { Parameter } from './parameter'
import { expectSizes } from './size'

/** y = x Wᵀ + b on the last axis: [..., inputs] to [..., outputs]. Weight [outputs, inputs]. */
export class Linear extends Module {
  /** [outputs, inputs]; may be set to that of another layer, which both then share. */
  weight: Parameter
  /** [outputs]; undefined with `bias: false`. */
  readonly bias: Parameter | undefined

  constructor(inputs: number, outputs: number, options: { bias?: boolean } = {}) {
    super()
    expectSizes('Linear', { inputs, outputs })
    expectOptions('Linear', options, ['bias'])
    this.weight = new Parameter(fanInUniform([outputs, inputs], inputs))
    this.bias = options.bias === false ? undefined : new Parameter(fanInUniform([outputs], inputs))
  }

  /** [..., inputs] to [..., outputs]. */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias)
  }
}

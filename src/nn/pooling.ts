import type { PoolOptions } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

type Pair = number | readonly [number, number]

export class MaxPool2d extends Module {
  constructor(
    readonly kernel: Pair,
    readonly options: PoolOptions = {},
  ) {
    super()
  }
  forward(x: Tensor): Tensor {
    return x.maxPool2d(this.kernel, this.options)
  }
}
export class AvgPool2d extends Module {
  constructor(
    readonly kernel: Pair,
    readonly options: PoolOptions = {},
  ) {
    super()
  }
  forward(x: Tensor): Tensor {
    return x.avgPool2d(this.kernel, this.options)
  }
}
/** Mean over bins that divide the image into `size` parts. */
export class AdaptiveAvgPool2d extends Module {
  constructor(readonly size: Pair) {
    super()
  }
  forward(x: Tensor): Tensor {
    return x.adaptiveAvgPool2d(this.size)
  }
}

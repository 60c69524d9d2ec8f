import { describe, fail } from '../errors'
import * as nn from '../nn'
import type { Tensor } from '../tensor/tensor'

/** Linear layers with ReLU between: sizes such as [784, 512, 512, 10]. Layers are `layers.0`, `layers.1`, ... */
export class MLP extends nn.Module {
  /** The layers, from input to output. */
  readonly layers: nn.Linear[]

  constructor(sizes: readonly number[]) {
    super()
    if (!Array.isArray(sizes) || sizes.length < 2)
      fail(
        'AUX_INVALID_ARGUMENT',
        `MLP: expected the sizes of at least two layers, such as [784, 512, 10], got ${describe(sizes)}`,
      )
    this.layers = sizes.slice(1).map((outputs, i) => new nn.Linear(sizes[i], outputs))
  }

  /** [N, ...] with sizes[0] numbers a row to [N, last size]. */
  forward(x: Tensor): Tensor {
    x = x.flatten(1)
    this.layers.forEach((layer, i) => {
      x = layer.forward(x)
      if (i < this.layers.length - 1) x = x.relu()
    })
    return x
  }
}

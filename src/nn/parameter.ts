import { revision } from '../compile/trainable'
import { fail } from '../errors'
import { expectTensor } from '../graph/op'
import { keep } from '../tensor/tidy'
import { Tensor } from '../tensor/tensor'

/** A tensor of a module that optimizers change. It owns the memory of the tensor it is made of. */
export class Parameter extends Tensor {
  #trainable = true
  /** True for a table whose rows are looked up: a step changes few of them, and some optimizers treat it apart. */
  readonly table: boolean

  constructor(value: Tensor, options: { table?: boolean } = {}) {
    expectTensor('Parameter', value)
    if (value.traced)
      fail(
        'AUX_TRACED_VALUE',
        'Parameter: expected a tensor with values; layers are made in constructors, not in forward',
      )
    super({ dtype: value.dtype, layout: value, storage: value.liveStorage().retain() })
    this.table = options.table ?? false
    value.dispose()
    keep(this)
  }

  /** False freezes it: no gradient is computed, nothing is kept for one, and its value never changes. */
  get trainable(): boolean {
    return this.#trainable
  }

  /** Freezes or lets learn again; a step makes its plan anew. */
  set trainable(trainable: boolean) {
    if (trainable !== this.#trainable) revision.current++
    this.#trainable = trainable
  }
}

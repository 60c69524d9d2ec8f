import { revision } from '../compile/trainable'
import { describe, expectOptions, fail } from '../errors'
import { canLearn, checkStoreFormat, emptyPacked, storedBytes, type StoreFormat } from '../ops/store'
import { expectTensor } from '../graph/op'
import { keep } from '../tensor/tidy'
import { Tensor } from '../tensor/tensor'

/** What parameters are stored in as they are made, while `frozen` makes a module. */
let making: StoreFormat | undefined

/** A tensor of a module that optimizers change. It owns the memory of the tensor it is made of. */
export class Parameter extends Tensor {
  #trainable = true
  /** True for a table whose rows are looked up: a step changes few of them, and some optimizers treat it apart. */
  readonly table: boolean
  /** True for a table of which an update changes the rows alone that its batch has looked up, and their state. */
  readonly sparse: boolean

  constructor(value: Tensor, options: { table?: boolean; sparse?: boolean } = {}) {
    expectTensor('Parameter', value)
    expectOptions('Parameter', options, ['table', 'sparse'])
    if (value.traced)
      fail(
        'AUX_TRACED_VALUE',
        'Parameter: expected a tensor with values; layers are made in constructors, not in forward',
      )
    const own = value.packed?.read() ?? value // it learns
    super({ dtype: own.dtype, layout: own, storage: own.liveStorage().retain() })
    this.sparse = options.sparse ?? false
    this.table = options.table ?? this.sparse
    for (const t of new Set([own, value])) t.dispose()
    keep(this)
    if (making) {
      this.#trainable = false
      this.store(making)
    }
  }

  /** False freezes it: no gradient is computed, nothing is kept for one, and its value never changes. */
  get trainable(): boolean {
    return this.#trainable
  }

  /** Freezes or lets learn again; a step makes its plan anew. */
  set trainable(trainable: boolean) {
    if (trainable && !canLearn(this.stored))
      fail(
        'AUX_INVALID_ARGUMENT',
        `a weight that is stored in ${this.stored} cannot learn: store('f32') of its module brings it back to float32; ` +
          'or let something beside it learn (nn.adapt)',
      )
    if (trainable !== this.#trainable) revision.current++
    this.#trainable = trainable
  }

  /** What it is stored in (`Module.store`). */
  get stored(): StoreFormat | 'f32' {
    return this.packed?.format ?? 'f32'
  }

  /** @internal Stores it otherwise, rounded to what the format can say; vectors, views, and what would not take less, stay. */
  store(format: StoreFormat | 'f32'): void {
    if (format === this.stored) return
    const whole = this.dtype === 'f32' && this.contiguous && this.offset === 0
    if (format !== 'f32' && !(whole && this.rank > 1 && storedBytes(format, this.shape) < 4 * this.size)) return
    const { device } = this.liveStorage()
    const made = format === 'f32' ? this.packed!.read() : emptyPacked(format, this.shape, 'a weight')
    made.packed?.assign(this)
    this.relocate(made)
    made.dispose()
    this.liveStorage().place(device)
    revision.current++
  }
}

/**
 * A module whose parameters are frozen and stored in few bytes (as by `freeze` and `Module.store`) as soon as each is made:
 * at no time is all of it float32. `nn.frozen('q8', () => new models.GPT(sizes))`, then `train.loadWeights` and `nn.adapt`.
 */
export function frozen<M>(format: StoreFormat, make: () => M): M {
  checkStoreFormat('frozen', format)
  if (typeof make !== 'function')
    fail('AUX_INVALID_ARGUMENT', `frozen: expected a function that makes a module, got ${describe(make)}`)
  const before = making
  making = format
  try {
    return make()
  } finally {
    making = before
  }
}

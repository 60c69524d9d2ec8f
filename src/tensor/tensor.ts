import type { Node } from '../graph/graph'
import type { Packed } from '../ops/store'
import { AuxgradError, fail, sign } from '../errors'
import { native } from '../native'
import { bytesPerElement, typedArray, type DType, type TypedArray } from './dtype'
import { format, nest, readable, type NestedArray } from './format'
import { contiguousStrides, isContiguous, showShape, sizeOf, type Shape } from './shape'
import { Storage } from './storage'
import { registerInScope } from './tidy'

/** What an op needs to know of a tensor before it has values. */
export interface Spec {
  /** Sizes of the axes. */
  readonly shape: Shape
  /** Element type. */
  readonly dtype: DType
}

/** How a tensor lies in its memory, in elements. */
export interface Layout {
  /** Sizes of the axes. */
  readonly shape: Shape
  /** Elements between neighbours along each axis. */
  readonly strides: readonly number[]
  /** First element. */
  readonly offset: number
}

/**
 * An n-dimensional array. It is either **eager** (it has memory and values now) or **traced** (it stands for a value
 * of a step that is being compiled: shape and dtype are known, values are not). Methods work on both alike and are
 * attached by the files of `ops/`.
 */
export class Tensor {
  static {
    sign(this)
  }

  /** Sizes of the axes. */
  readonly shape: Shape
  /** Element type. */
  readonly dtype: DType
  /** Elements between neighbours along each axis. */
  readonly strides: readonly number[]
  /** First element, counted in elements from the start of the storage (or of the base, when traced). */
  readonly offset: number
  /** @internal Memory of an eager tensor. */
  storage: Storage | null
  /** @internal Where its memory does not hold values of its dtype: what it holds instead. */
  packed: Packed | null
  /** @internal Node that makes a traced tensor, and which of its outputs this is. */
  node: Node | null
  /** @internal */
  index: number
  /** @internal The traced tensor whose memory this one is a view of. */
  base: Tensor | null
  #disposed = false

  /** @internal Use `tensor()`, `zeros()` and the like. */
  constructor(init: {
    dtype: DType
    layout: Layout
    storage?: Storage | null
    packed?: Packed | null
    node?: Node | null
    index?: number
    base?: Tensor | null
  }) {
    this.dtype = init.dtype
    this.shape = init.layout.shape
    this.strides = init.layout.strides
    this.offset = init.layout.offset
    this.storage = init.storage ?? null
    this.packed = init.packed ?? null
    this.node = init.node ?? null
    this.index = init.index ?? 0
    this.base = init.base ?? null
    if (this.storage) registerInScope(this)
  }

  /** @internal A new eager tensor, uninitialised unless `zero`. */
  static allocate(shape: Shape, dtype: DType, options: { zero?: boolean; what?: string } = {}): Tensor {
    const storage = new Storage(sizeOf(shape) * bytesPerElement(dtype), options)
    return new Tensor({ dtype, layout: { shape, strides: contiguousStrides(shape), offset: 0 }, storage })
  }

  /** @internal An eager tensor with a copy of the values of a typed array. */
  static from(values: TypedArray, shape: Shape, dtype: DType): Tensor {
    const t = Tensor.allocate(shape, dtype)
    native().write(t.storage!.handle, 0, values)
    return t
  }

  /** Number of axes. */
  get rank(): number {
    return this.shape.length
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  /** True if this tensor stands for a value of a step being compiled. */
  get traced(): boolean {
    return this.node !== null
  }

  /** Where it lies, `cpu` or `cuda`: where it was used last. A traced tensor is of no device yet. */
  get device(): string | undefined {
    return this.storage ? (this.storage.device?.name ?? 'cpu') : undefined
  }

  /** True after `dispose()`. */
  get disposed(): boolean {
    return this.#disposed
  }

  /** @internal */
  get contiguous(): boolean {
    return isContiguous(this.shape, this.strides)
  }

  /**
   * The values, in row-major order, as a typed array of their own (bf16 as floats).
   * @throws AUX_TRACED_VALUE on a traced tensor, AUX_DISPOSED after `dispose()`.
   */
  dataSync(): TypedArray {
    return readable(this.rawSync(), this.dtype)
  }

  /** @internal The values as they are stored: bf16 as 16-bit patterns. */
  rawSync(): TypedArray {
    const scope = this.node?.graph.scope || this.node?.scope // the module that reads, or the one that made it
    if (this.node)
      fail(
        'AUX_TRACED_VALUE',
        `a traced tensor of shape ${showShape(this.shape)} has no values while a step is compiled; return it from the ` +
          `function to read it after a run${scope ? ` (in ${scope})` : ''}`,
      )
    const storage = this.liveStorage()
    if (this.packed) return this.packed.values()
    const out = typedArray(this.dtype, this.size)
    if (this.contiguous) {
      native().read(storage.handle, this.offset * bytesPerElement(this.dtype), out)
      return out
    }
    const span = this.size === 0 ? 0 : 1 + this.shape.reduce((n, d, i) => n + (d - 1) * this.strides[i], 0)
    const raw = typedArray(this.dtype, span)
    native().read(storage.handle, this.offset * bytesPerElement(this.dtype), raw)
    const index = new Array<number>(this.rank).fill(0)
    for (let i = 0, at = 0; i < out.length; i++) {
      out[i] = raw[at]
      for (let axis = this.rank - 1; axis >= 0; axis--) {
        at += this.strides[axis]
        if (++index[axis] < this.shape[axis]) break
        at -= this.strides[axis] * this.shape[axis]
        index[axis] = 0
      }
    }
    return out
  }

  /** Like `dataSync()`, as a promise. */
  async data(): Promise<TypedArray> {
    return this.dataSync()
  }

  /** The values as arrays nested as deep as there are axes (a number or boolean if there are none). */
  toArray(): NestedArray {
    return nest(this.dataSync(), this.shape, this.dtype)
  }

  /** What `JSON.stringify` writes: `toArray()`. */
  toJSON(): NestedArray {
    return this.toArray()
  }

  /** A readable table of the values, cut where it is long. */
  toString(): string {
    if (this.node) return `Tensor ${this.dtype} ${showShape(this.shape)} (traced by ${this.node.op.name})`
    if (this.#disposed) return `Tensor ${this.dtype} ${showShape(this.shape)} (disposed)`
    return format(this.dataSync(), this.shape, this.dtype)
  }

  /** JavaScript's operators compare and calculate with numbers alone: of several elements they are an error. */
  [Symbol.toPrimitive](hint: string): string | number {
    if (hint !== 'number') return this.toString()
    if (this.size !== 1)
      fail(
        'AUX_INVALID_ARGUMENT',
        `JavaScript has no operators for tensors, here of shape ${showShape(this.shape)}; use add(), mul(), gt() and the like`,
      )
    return this.item()
  }

  /** What `console.log` shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString()
  }

  /** The only value of a tensor with one element. */
  item(): number {
    if (this.size !== 1) fail('AUX_SHAPE_MISMATCH', `item: expected one element, got shape ${showShape(this.shape)}`)
    return this.dataSync()[0]
  }

  /** @internal The storage, or a clear error. */
  liveStorage(): Storage {
    if (!this.storage) throw new AuxgradError('AUX_TRACED_VALUE', 'expected an eager tensor, got a traced one')
    if (this.#disposed)
      throw new AuxgradError('AUX_DISPOSED', `this tensor of shape ${showShape(this.shape)} was disposed`)
    return this.storage
  }

  /** @internal Lets it lie elsewhere, in the same or in another form. */
  relocate({ storage, packed }: Tensor): void {
    const before = this.liveStorage()
    this.storage = storage!.retain()
    this.packed = packed
    before.release()
  }

  /** Frees the memory now if no other tensor shares it. Safe to call twice; nothing to do on a traced tensor. */
  dispose(): void {
    if (this.#disposed || !this.storage) return
    this.#disposed = true
    this.storage.release()
  }

  /** `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }
}

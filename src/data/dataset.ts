import { describe, expectIntegers, expectOptions, fail, sign } from '../errors'
import { typedArray, type DType, type TypedArray } from '../tensor/dtype'
import { isHostArray, toHost, type HostArray, type HostValues } from '../tensor/host'
import { checkSeed } from '../tensor/philox'
import { sameShape, showShape, sizeOf } from '../tensor/shape'
import { permutation } from './order'

/** Rows of several fields, stacked along axis 0: `{ x: [128, 28, 28, 1], y: [128] }`. Any field names. */
export type Batch = Record<string, HostArray>

/** What a batch was made from: all that a transform may depend on, so that its result can be made again. */
export interface BatchContext {
  /** The row of the data set that each row of the batch is. */
  readonly indices: Uint32Array
  /** How many times each has come before in the epoch; of a loader that draws rows by weights. */
  readonly repeats?: Uint32Array
  /** Seed of the loader. */
  readonly seed: number
  /** Epoch, from 0. */
  readonly epoch: number
}

/** Makes a batch from a batch: a pure function of its two arguments that leaves the batch it is given unchanged. */
export type Transform<A extends Batch = Batch, B extends Batch = A> = (
  batch: A,
  context: BatchContext,
) => B | Promise<B>

/** How plain numbers become arrays. */
export interface FieldOptions {
  /** Element types of fields given as plain numbers (f32 otherwise), as in `{ y: 'i32' }`. */
  dtypes?: Readonly<Record<string, DType>>
}

/** One of the ways in which a cross-validation divides the rows. */
export interface Fold<B extends Batch = Batch> {
  /** Rows to train on. */
  readonly train: Dataset<B>
  /** All other rows. */
  readonly validation: Dataset<B>
}

/** Rows that can be read in any order. Extend it (`size` and `read`) for data that lies elsewhere. */
export abstract class Dataset<B extends Batch = Batch> {
  static {
    sign(this)
  }

  /** Number of rows. */
  abstract readonly size: number

  /**
   * The rows `context.indices`, which are in range, as a batch that nothing else holds. `into`, where given, is a batch
   * whose memory may be used for the result.
   */
  abstract read(context: BatchContext, into?: B): B | Promise<B>

  /**
   * The rows with these indices, in this order.
   * @param options.into a batch of the same shapes, whose memory may be used for the result (mapped and joined data sets make
   * new arrays all the same); without it the arrays are new.
   * @throws AUX_INDEX_OUT_OF_RANGE
   */
  async batch(indices: ArrayLike<number>, options: { seed?: number; epoch?: number; into?: B } = {}): Promise<B> {
    expectOptions('Dataset.batch', options, ['seed', 'epoch', 'into'])
    const seed = options.seed ?? 0
    checkSeed('Dataset.batch', seed)
    const rows = checkedIndices('Dataset.batch', indices, this.size)
    return checkBatch('Dataset.read', await this.read({ indices: rows, seed, epoch: options.epoch ?? 0 }, options.into))
  }

  /** This data set with every batch passed through a function. */
  map<C extends Batch>(transform: Transform<B, C>): Dataset<C> {
    return new MappedDataset(this, transform)
  }

  /** Rows `start` to `end` (not included); negative numbers count from the end, as in `Array.slice`. */
  slice(start: number, end = this.size): Dataset<B> {
    for (const n of [start, end])
      if (!Number.isInteger(n)) fail('AUX_INVALID_ARGUMENT', `Dataset.slice: expected integers, got ${String(n)}`)
    const clamp = (n: number): number => Math.min(this.size, Math.max(0, n < 0 ? n + this.size : n))
    const from = clamp(start)
    return this.select(range(from, Math.max(0, clamp(end) - from)))
  }

  /**
   * All rows in parts, each row in one of them, at random by the seed: so many rows each, or shares that add up to 1 (rows that
   * are left over go to the first parts).
   */
  split(parts: readonly number[], options: { seed?: number } = {}): Dataset<B>[] {
    expectOptions('Dataset.split', options, ['seed'])
    const { seed = 0 } = options
    checkSeed('Dataset.split', seed)
    const total = (sizes: readonly number[]): number => sizes.reduce((n, size) => n + size, 0)
    const given: readonly number[] = Array.isArray(parts) ? parts : []
    const shares = Math.abs(total(given) - 1) < 1e-9 && this.size !== 1
    // 0.57 of 100 is a little less than 57 in binary.
    const sizes = given.map((part) => (shares ? Math.floor(part * this.size * (1 + Number.EPSILON)) : part))
    for (let i = 0, left = shares ? this.size - total(sizes) : 0; i < left; i++) sizes[i % sizes.length]++
    if (!given.length || !sizes.every((n) => Number.isInteger(n) && n >= 0) || total(sizes) !== this.size)
      fail(
        'AUX_INVALID_ARGUMENT',
        `Dataset.split: expected numbers of rows that add up to ${this.size}, or shares to 1, got ${String(parts)}`,
      )
    const order = permutation(this.size, seed, 0)
    let from = 0
    return sizes.map((n) => this.select(order.subarray(from, (from += n))))
  }

  /**
   * The rows for a cross-validation, at random by the seed: `k` times a set to validate on, each row in one of them, and all
   * other rows to train on.
   */
  kFold(k: number, options: { seed?: number } = {}): Fold<B>[] {
    expectIntegers('Dataset.kFold', { k }, 2, this.size)
    expectOptions('Dataset.kFold', options, ['seed'])
    const { seed = 0 } = options
    checkSeed('Dataset.kFold', seed)
    const order = permutation(this.size, seed, 0)
    const place = (fold: number): number => Math.floor((fold * this.size) / k)
    return Array.from({ length: k }, (_, fold) => {
      const [from, to] = [place(fold), place(fold + 1)]
      return {
        train: this.select([...order.subarray(0, from), ...order.subarray(to)]),
        validation: this.select(order.subarray(from, to)),
      }
    })
  }

  /** These rows, then those of other data sets that have the same fields. */
  concat(...others: readonly Dataset<B>[]): Dataset<B> {
    return new JoinedDataset([this, ...others])
  }

  /** The rows with these indices, in this order. */
  select(indices: ArrayLike<number>): Dataset<B> {
    return new SelectedDataset(this, checkedIndices('Dataset.select', indices, this.size))
  }
}

/** @internal The whole numbers from `first` on. */
export function range(first: number, count: number): Uint32Array {
  const numbers = new Uint32Array(count)
  for (let i = 0; i < count; i++) numbers[i] = first + i
  return numbers
}

function checkedIndices(what: string, indices: ArrayLike<number>, size: number): Uint32Array {
  if (typeof indices?.length !== 'number')
    fail('AUX_INVALID_ARGUMENT', `${what}: expected an array of indices, got ${describe(indices)}`)
  for (let i = 0; i < indices.length; i++)
    if (!Number.isInteger(indices[i]) || indices[i] < 0 || indices[i] >= size)
      fail('AUX_INDEX_OUT_OF_RANGE', `${what}: expected indices in [0, ${size}), got ${indices[i]}`)
  return Uint32Array.from(indices)
}

class MappedDataset<A extends Batch, B extends Batch> extends Dataset<B> {
  constructor(
    readonly source: Dataset<A>,
    readonly transform: Transform<A, B>,
  ) {
    super()
    if (typeof transform !== 'function')
      fail('AUX_INVALID_ARGUMENT', `Dataset.map: expected a function, got ${typeof transform}`)
  }

  get size(): number {
    return this.source.size
  }

  async read(context: BatchContext): Promise<B> {
    return checkBatch('Dataset.map', await this.transform(await this.source.read(context), context))
  }
}

class SelectedDataset<B extends Batch> extends Dataset<B> {
  constructor(
    readonly source: Dataset<B>,
    readonly rows: Uint32Array,
  ) {
    super()
  }

  get size(): number {
    return this.rows.length
  }

  read(context: BatchContext, into?: B): B | Promise<B> {
    return this.source.read({ ...context, indices: context.indices.map((i) => this.rows[i]) }, into)
  }
}

class JoinedDataset<B extends Batch> extends Dataset<B> {
  readonly size: number

  constructor(readonly parts: readonly Dataset<B>[]) {
    super()
    for (const part of parts)
      if (!(part instanceof Dataset))
        fail('AUX_INVALID_ARGUMENT', `Dataset.concat: expected data sets, got ${describe(part)}`)
    this.size = parts.reduce((n, part) => n + part.size, 0)
  }

  async read({ indices, repeats, ...context }: BatchContext): Promise<B> {
    const result: Batch = {}
    let from = 0
    for (const part of this.parts) {
      const own = [...indices.keys()].filter((k) => indices[k] >= from && indices[k] < from + part.size)
      if (own.length || !indices.length) {
        const rows = await part.read({
          ...context,
          indices: Uint32Array.from(own, (k) => indices[k] - from),
          repeats: repeats && Uint32Array.from(own, (k) => repeats[k]),
        })
        placeRows(checkBatch('Dataset.read', rows), own, indices.length, result)
      }
      from += part.size
    }
    return result as B
  }
}

/** Puts rows where they belong in a batch of so many; the first ones that come say which fields it has. */
function placeRows(rows: Batch, places: readonly number[], count: number, batch: Batch): void {
  const names = Object.keys(rows)
  const fields = Object.keys(batch)
  if (fields.length && (names.length !== fields.length || !names.every((name) => name in batch)))
    fail('AUX_SHAPE_MISMATCH', `Dataset.concat: expected fields ${fields.join(', ')}, got ${names.join(', ')}`)
  for (const [name, { data, shape, dtype }] of Object.entries(rows)) {
    const row = shape.slice(1)
    const size = sizeOf(row)
    const whole = (batch[name] ??= { data: typedArray(dtype, count * size), shape: [count, ...row], dtype })
    if (whole.dtype !== dtype || !sameShape(whole.shape.slice(1), row))
      fail(
        'AUX_SHAPE_MISMATCH',
        `Dataset.concat: expected field ${name} to be ${whole.dtype} ${showShape([count, ...whole.shape.slice(1)])}, got ` +
          `${dtype} ${showShape([count, ...row])}`,
      )
    places.forEach((at, i) => whole.data.set(data.subarray(i * size, (i + 1) * size), at * size))
  }
}

/** @internal Throws unless a user's function gave a batch. */
export function checkBatch<B extends Batch>(what: string, batch: B): B {
  if (typeof batch !== 'object' || batch === null || isHostArray(batch))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected a function that returns a batch { field: array }, got ` +
        `${batch === null ? 'null' : typeof batch}`,
    )
  for (const [name, array] of Object.entries(batch))
    if (!isHostArray(array))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected field ${name} to be { data, shape, dtype }, as hostArray() makes, got ${describe(array)}`,
      )
  return batch
}

class ArrayDataset<B extends Batch> extends Dataset<B> {
  constructor(
    readonly size: number,
    readonly fields: B,
  ) {
    super()
  }

  read({ indices }: BatchContext, into?: B): B {
    const batch: Batch = {}
    for (const [name, source] of Object.entries(this.fields)) {
      if (source.data.length !== sizeOf(source.shape))
        fail(
          'AUX_INVALID_ARGUMENT',
          `fromArrays: expected field ${name} to have its ${sizeOf(source.shape)} values still, got ${source.data.length}: ` +
            'their memory was transferred or resized',
        )
      const shape = [indices.length, ...source.shape.slice(1)]
      const target = into?.[name]
      if (target && (!sameShape(target.shape, shape) || target.dtype !== source.dtype))
        fail(
          'AUX_SHAPE_MISMATCH',
          `Dataset.batch: expected field ${name} of 'into' to be ${source.dtype} ${showShape(shape)}, got ` +
            `${target.dtype} ${showShape(target.shape)}`,
        )
      const out = target ?? { data: typedArray(source.dtype, sizeOf(shape)), shape, dtype: source.dtype }
      gather(source.data, indices, sizeOf(shape.slice(1)), out.data)
      batch[name] = out
    }
    return batch as B
  }
}

function gather(source: TypedArray, indices: Uint32Array, row: number, out: TypedArray): void {
  if (row === 1) for (let i = 0; i < indices.length; i++) out[i] = source[indices[i]]
  else
    for (let i = 0; i < indices.length; i++) out.set(source.subarray(indices[i] * row, (indices[i] + 1) * row), i * row)
}

/** Throws unless every dtype is that of a field: of one that is misspelled the field would be f32. */
function expectFields(what: string, { dtypes = {} }: FieldOptions, fields: object): void {
  for (const name of Object.keys(dtypes))
    if (!(name in fields))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected dtypes of the fields ${Object.keys(fields).join(', ')}, got one of ${name}`,
      )
}

/**
 * A data set of arrays with equal first axes: typed arrays, host arrays, tensors (copied) or nested numbers. Typed and
 * host arrays are not copied, so do not change them while the data set is in use.
 * @throws AUX_SHAPE_MISMATCH
 */
export function fromArrays<F extends Record<string, HostValues>>(
  fields: F,
  options: FieldOptions = {},
): Dataset<{ [K in keyof F]: HostArray }> {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields))
    fail('AUX_INVALID_ARGUMENT', `fromArrays: expected fields { x, y, ... }, got ${describe(fields)}`)
  expectOptions('fromArrays', options, ['dtypes'])
  expectFields('fromArrays', options, fields)
  const arrays: Batch = {}
  let size: number | undefined
  for (const [name, values] of Object.entries(fields)) {
    const array = toHost(`fromArrays: field ${name}`, values, options.dtypes?.[name])
    if (array.shape.length === 0)
      fail('AUX_SHAPE_MISMATCH', `fromArrays: expected field ${name} to have rows, got a single number`)
    size ??= array.shape[0]
    if (array.shape[0] !== size)
      fail(
        'AUX_SHAPE_MISMATCH',
        `fromArrays: expected field ${name} to have ${size} rows as the first field, got ${array.shape[0]}`,
      )
    arrays[name] = array
  }
  if (size === undefined) fail('AUX_INVALID_ARGUMENT', 'fromArrays: expected at least one field, got none')
  return new ArrayDataset(size, arrays as { [K in keyof F]: HostArray })
}

/** One row: a number, an array or a tensor for each field. */
export type Sample = Readonly<Record<string, HostValues>>

/** Samples, one by one: an array, a generator, a stream. */
export type Samples = Iterable<Sample> | AsyncIterable<Sample>

/**
 * @internal Collects samples into arrays that grow, and gives them as a batch. All samples must have the fields, shapes
 * and dtypes of the first.
 */
export class Stack {
  readonly #fields = new Map<string, { shape: readonly number[]; dtype: DType; row: number; data: TypedArray }>()
  #capacity: number
  #rows = 0

  constructor(
    readonly what: string,
    readonly options: FieldOptions,
    capacity = 64,
  ) {
    this.#capacity = capacity
  }

  get rows(): number {
    return this.#rows
  }

  add(sample: Sample): void {
    if (typeof sample !== 'object' || sample === null || Array.isArray(sample))
      fail('AUX_INVALID_ARGUMENT', `${this.what}: expected samples { field: values }, got ${describe(sample)}`)
    const entries = Object.entries(sample)
    if (!this.#rows) expectFields(this.what, this.options, sample)
    if (this.#rows > 0 && entries.length !== this.#fields.size)
      fail(
        'AUX_SHAPE_MISMATCH',
        `${this.what}: expected fields ${[...this.#fields.keys()].join(', ')}, got ` +
          `${entries.map((e) => e[0]).join(', ')}`,
      )
    for (const [name, values] of entries) {
      const array = toHost(`${this.what}: field ${name}`, values, this.options.dtypes?.[name])
      let field = this.#fields.get(name)
      if (!field) {
        if (this.#rows > 0)
          fail(
            'AUX_SHAPE_MISMATCH',
            `${this.what}: expected fields ${[...this.#fields.keys()].join(', ')}, got ${name}`,
          )
        const row = array.data.length
        field = { shape: array.shape, dtype: array.dtype, row, data: typedArray(array.dtype, row * this.#capacity) }
        this.#fields.set(name, field)
      }
      if (!sameShape(field.shape, array.shape) || field.dtype !== array.dtype)
        fail(
          'AUX_SHAPE_MISMATCH',
          `${this.what}: expected field ${name} of every sample to be ${field.dtype} ${showShape(field.shape)}, got ` +
            `${array.dtype} ${showShape(array.shape)}`,
        )
      if (this.#rows === this.#capacity) this.#grow()
      field.data.set(array.data, this.#rows * field.row)
    }
    this.#rows++
  }

  #grow(): void {
    this.#capacity *= 2
    for (const field of this.#fields.values()) {
      const data = typedArray(field.dtype, field.row * this.#capacity)
      data.set(field.data)
      field.data = data
    }
  }

  take(): Batch {
    const batch: Batch = {}
    for (const [name, { shape, dtype, row, data }] of this.#fields) {
      const used = row * this.#rows
      batch[name] = { data: data.length === used ? data : data.slice(0, used), shape: [this.#rows, ...shape], dtype }
    }
    return batch
  }
}

/**
 * Reads samples into memory, all or the first `limit`, and makes a data set of them.
 * @throws AUX_SHAPE_MISMATCH if samples differ in fields, shapes or dtypes.
 */
export async function collect<S extends Sample>(
  samples: Iterable<S> | AsyncIterable<S>,
  options: FieldOptions & { limit?: number } = {},
): Promise<Dataset<{ [K in keyof S]: HostArray }>> {
  expectOptions('collect', options, ['dtypes', 'limit'])
  const stack = new Stack('collect', options)
  const limit = options.limit ?? Infinity
  if (!(limit > 0)) fail('AUX_INVALID_ARGUMENT', `collect: expected a limit above 0, got ${limit}`)
  for await (const sample of samples) {
    stack.add(sample)
    if (stack.rows >= limit) break
  }
  if (stack.rows === 0) fail('AUX_INVALID_ARGUMENT', 'collect: expected at least one sample, got none')
  return new ArrayDataset(stack.rows, stack.take() as { [K in keyof S]: HostArray })
}

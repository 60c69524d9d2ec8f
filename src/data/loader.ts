import { createHash } from 'node:crypto'
import { describe, expectIntegers, expectOptions, fail } from '../errors'
import { checkSeed } from '../tensor/philox'
import { checkBatch, Dataset, range, Stack, type Batch, type BatchContext, type Transform } from './dataset'
import { drawn, permutation, repeatsIn } from './order'
import { SampleStream } from './stream'

/** Options of a `DataLoader`. */
export interface LoaderOptions<A extends Batch, B extends Batch> {
  /** Rows of a batch; the last one of an epoch may have fewer. */
  batchSize: number
  /** A new order each epoch, a function of seed and epoch alone. */
  shuffle?: boolean
  /**
   * A number >= 0 a row: an epoch is as many rows as there are, each drawn from all in proportion to it, so that rare ones may
   * come often and others not at all.
   */
  weights?: ArrayLike<number>
  /** Seed of the order and of random transforms; 0 by default. */
  seed?: number
  /** Leaves out a last batch that is not full. */
  dropLast?: boolean
  /** Batches prepared ahead while the program does something else; 2 by default, 0 for none. */
  prefetch?: number
  /** Applied to each batch. */
  transform?: Transform<A, B>
}

/** Where a loader stands: plain JSON. */
export interface LoaderState {
  /** Of this format. */
  readonly version: 1
  /** Epoch, from 0. */
  readonly epoch: number
  /** Batches of the epoch that were handed out. */
  readonly position: number
  /** The loader's, as the next six; a loader with others refuses the state. */
  readonly seed: number
  /** Rows of a batch. */
  readonly batchSize: number
  /** Whether each epoch has its own order. */
  readonly shuffle: boolean
  /** Whether a last batch that is not full is left out. */
  readonly dropLast: boolean
  /** Rows of the data set; null for a stream of unknown size. */
  readonly size: number | null
  /** SHA-256 of the running sums of the weights, null without; a state of before may lack it. */
  readonly weights?: string | null
  /** Of a stream that is shuffled, null otherwise; a state of before may lack it. */
  readonly shuffleBuffer?: number | null
}

/** Running sums of the weights of so many rows. */
function sumsOf(weights: ArrayLike<number>, size: number): Float64Array {
  let total = 0
  const sums = Float64Array.from(weights, (w) => (w >= 0 ? (total += w) : NaN))
  if (sums.length !== size || !(total > 0 && total < Infinity) || sums.includes(NaN))
    fail(
      'AUX_INVALID_ARGUMENT',
      `DataLoader: expected weights >= 0, not all 0, one for each of ${size} rows of a data set, got ${sums.length}`,
    )
  return sums
}

/** Batches of one epoch, in order; `next` may be called again before the last call has ended. */
interface Source<B> {
  next(): Promise<B | undefined>
  close(): Promise<void>
}

/**
 * Batches of a data set, for `for await`; each loop is the next epoch. A loop left by `break` ends its epoch. Batches
 * are new arrays and can be kept. One loop at a time: a new one makes the old one fail.
 *
 * `state()` says where it stands (batches handed out count as used), `restore()` goes there: the next loop continues in
 * the middle of the epoch with the very batches that would have come.
 */
export class DataLoader<A extends Batch = Batch, B extends Batch = A> implements AsyncIterable<B> {
  /** Rows of a batch. */
  readonly batchSize: number
  /** Whether each epoch has its own order. */
  readonly shuffle: boolean
  /** Seed of orders and random transforms. */
  readonly seed: number
  /** Whether a last batch that is not full is left out. */
  readonly dropLast: boolean
  /** Batches prepared ahead. */
  readonly prefetch: number
  readonly #data: Dataset<A> | SampleStream<A>
  readonly #transform: Transform<A, B> | undefined
  readonly #sums: Float64Array | undefined
  #digest: string | undefined
  #epoch = 0
  #position = 0
  // True if the next loop starts exactly here; false while a loop runs and after it was left early.
  #exact = true
  #loop = 0

  constructor(data: Dataset<A> | SampleStream<A>, options: LoaderOptions<A, B>) {
    expectOptions('DataLoader', options, [
      'batchSize',
      'shuffle',
      'weights',
      'seed',
      'dropLast',
      'prefetch',
      'transform',
    ])
    const { batchSize, weights, seed = 0, dropLast = false, prefetch = 2, transform } = options
    const { shuffle = weights !== undefined } = options
    if (!(data instanceof Dataset) && !(data instanceof SampleStream))
      fail(
        'AUX_INVALID_ARGUMENT',
        `DataLoader: expected a data set, from data.fromArrays() or data.fromSamples(), got ${describe(data)}`,
      )
    if (data instanceof Dataset) expectIntegers('DataLoader', { 'size of the data set': data.size }, 0)
    expectIntegers('DataLoader', { batchSize })
    expectIntegers('DataLoader', { prefetch }, 0)
    if (transform !== undefined && typeof transform !== 'function')
      fail('AUX_INVALID_ARGUMENT', `DataLoader: expected transform to be a function, got ${typeof transform}`)
    checkSeed('DataLoader', seed)
    if (data instanceof SampleStream && shuffle && data.options.shuffleBuffer === undefined)
      fail(
        'AUX_INVALID_ARGUMENT',
        'DataLoader: expected a data set that can be read in any order to shuffle, got a stream without a ' +
          'shuffleBuffer',
      )
    this.#sums = weights && sumsOf(weights, data instanceof Dataset ? data.size : 0)
    if (weights && !shuffle)
      fail(
        'AUX_INVALID_ARGUMENT',
        'DataLoader: expected no shuffle: false with weights, by which rows are drawn at random',
      )
    this.#data = data
    this.#transform = transform
    this.batchSize = batchSize
    this.shuffle = shuffle
    this.seed = seed
    this.dropLast = dropLast
    this.prefetch = prefetch
    if (dropLast && this.length === 0)
      fail(
        'AUX_INVALID_ARGUMENT',
        `DataLoader: expected at least one full batch of ${batchSize} rows with dropLast, got ${this.#size} rows`,
      )
  }

  get #size(): number | null {
    return this.#data instanceof Dataset ? this.#data.size : (this.#data.options.size ?? null)
  }

  /** Batches an epoch; NaN for a stream of unknown size. */
  get length(): number {
    const size = this.#size
    return size === null ? NaN : this.dropLast ? Math.floor(size / this.batchSize) : Math.ceil(size / this.batchSize)
  }

  /** The epoch that the running loop, or else the next one, belongs to; the first is 0. */
  get epoch(): number {
    return this.#epoch
  }

  /** What the batches of an epoch depend on, besides the data. */
  get #order(): Omit<LoaderState, 'epoch' | 'position'> {
    const { seed, batchSize, shuffle, dropLast } = this
    if (this.#sums) this.#digest ??= createHash('sha256').update(this.#sums).digest('hex')
    const shuffleBuffer = (shuffle && !(this.#data instanceof Dataset) && this.#data.options.shuffleBuffer) || null
    return {
      version: 1,
      seed,
      batchSize,
      shuffle,
      dropLast,
      size: this.#size,
      weights: this.#digest ?? null,
      shuffleBuffer,
    }
  }

  /** Where the loader stands: plain JSON, for `restore`. */
  state(): LoaderState {
    return { ...this.#order, epoch: this.#epoch, position: this.#position }
  }

  /**
   * Goes to a place that `state()` gave, also in another process.
   * @throws AUX_INVALID_ARGUMENT if the data set or the options are not those of the state.
   */
  restore(state: LoaderState): void {
    for (const [name, value] of Object.entries(this.#order)) {
      const got = (state as unknown as Record<string, unknown> | null)?.[name]
      const unknown = got === undefined && (name === 'weights' || name === 'shuffleBuffer')
      if (got !== value && !unknown)
        fail(
          'AUX_INVALID_ARGUMENT',
          `DataLoader.restore: expected a state with ${name} ${String(value)} as in this loader, got ${String(got)}`,
        )
    }
    const last = Number.isNaN(this.length) ? undefined : this.length
    expectIntegers('DataLoader.restore', { epoch: state.epoch }, 0, 2 ** 32 - 1)
    expectIntegers('DataLoader.restore', { position: state.position }, 0, last)
    this.#epoch = state.epoch
    this.#position = state.position
    this.#exact = true
    this.#loop++
  }

  /** Begins the next epoch, or goes on where `restore` went. */
  [Symbol.asyncIterator](): AsyncGenerator<B, void, undefined> {
    if (!this.#exact) {
      this.#epoch++
      this.#position = 0
    }
    this.#exact = false
    return this.#batches(++this.#loop)
  }

  async *#batches(loop: number): AsyncGenerator<B, void, undefined> {
    const mine = (): void => {
      if (loop !== this.#loop)
        fail(
          'AUX_INVALID_ARGUMENT',
          'DataLoader: expected one loop at a time, got a batch asked for after another loop or restore() began',
        )
    }
    mine()
    const source = this.#open()
    const ahead: Promise<B | undefined>[] = []
    let timer: NodeJS.Immediate | undefined
    const start = (): Promise<B | undefined> => {
      const batch = source.next()
      batch.catch(() => {}) // it is reported when its turn comes, and not before
      return batch
    }
    try {
      for (;;) {
        const batch = ahead.shift() ?? start()
        // Not now, but as soon as the program waits for something: the next batches are made while a step runs.
        clearImmediate(timer)
        timer = setImmediate(() => {
          while (ahead.length < this.prefetch) ahead.push(start())
        })
        const value = await batch
        mine()
        if (value === undefined) break
        this.#position++
        yield value
        mine()
      }
      this.#epoch++
      this.#position = 0
      this.#exact = true
    } finally {
      clearImmediate(timer)
      await source.close()
    }
  }

  #open(): Source<B> {
    return this.#data instanceof Dataset ? this.#rows(this.#data) : this.#samples(this.#data)
  }

  async #finish(batch: A, context: BatchContext): Promise<B> {
    if (!this.#transform) return batch as unknown as B
    return checkBatch('DataLoader: transform', await this.#transform(batch, context))
  }

  #rows(data: Dataset<A>): Source<B> {
    const { seed, shuffle, batchSize } = this
    const epoch = this.#epoch
    const sums = this.#sums
    const order = sums ? drawn(sums, seed, epoch) : shuffle ? permutation(data.size, seed, epoch) : range(0, data.size)
    const repeats = sums && repeatsIn(order)
    let next = this.#position
    return {
      next: async () => {
        if (next >= this.length) return undefined
        const [from, to] = [next * batchSize, ++next * batchSize]
        const context = { indices: order.slice(from, to), repeats: repeats?.slice(from, to), seed, epoch }
        return this.#finish(checkBatch('Dataset.read', await data.read(context)), context)
      },
      close: async () => {},
    }
  }

  #samples(stream: SampleStream<A>): Source<B> {
    const { seed, batchSize, dropLast } = this
    const epoch = this.#epoch
    const samples = stream.open({ seed, epoch }, this.shuffle)
    let index = 0
    let ended = false
    const pull = async (): Promise<{ batch: A; context: BatchContext } | undefined> => {
      if (ended) return undefined
      const stack = new Stack('fromSamples', stream.options, batchSize)
      const first = index
      while (stack.rows < batchSize) {
        const result = await samples.next()
        if (result.done) {
          ended = true
          break
        }
        stack.add(result.value)
        index++
      }
      if (stack.rows === 0 || (dropLast && stack.rows < batchSize)) return undefined
      return { batch: stack.take() as A, context: { indices: range(first, stack.rows), seed, epoch } }
    }
    // A stream goes on from its beginning: the samples of batches handed out before a restore are passed over.
    const skip = async (count: number): Promise<undefined> => {
      for (; index < count && !ended; index++) ended = (await samples.next()).done === true
      return undefined
    }
    let last: Promise<unknown> = skip(this.#position * batchSize)
    last.catch(() => {})
    return {
      next: async () => {
        const mine = last.then(pull)
        last = mine
        const pulled = await mine
        return pulled && this.#finish(pulled.batch, pulled.context)
      },
      close: async () => {
        ended = true
        await last.catch(() => {})
        await samples.return?.()
      },
    }
  }
}

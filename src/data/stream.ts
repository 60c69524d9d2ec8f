import { expectIntegers, expectOptions, fail } from '../errors'
import type { HostArray } from '../tensor/host'
import { Random } from '../tensor/philox'
import type { Batch, FieldOptions, Sample, Samples } from './dataset'

/** Options of `fromSamples`. */
export interface StreamOptions extends FieldOptions {
  /** Number of samples an epoch, where it is known; then a loader knows its length. */
  size?: number
  /** Samples held back to mix the order when the loader shuffles. */
  shuffleBuffer?: number
}

/** The batch that samples make when they are stacked. */
export type Stacked<S extends Sample> = { [K in keyof S]: HostArray }

/** Samples that come one after another and need not fit into memory; a loader makes batches of type `B` of them. */
export class SampleStream<B extends Batch = Batch> {
  /** As given. */
  readonly options: StreamOptions
  /** Type of its batches; there is no such value. */
  declare readonly batch: B
  readonly #open: (at: { seed: number; epoch: number }) => Samples
  #used = false

  constructor(source: Samples | ((at: { seed: number; epoch: number }) => Samples), options: StreamOptions) {
    expectOptions('fromSamples', options, ['dtypes', 'size', 'shuffleBuffer'])
    const { size, shuffleBuffer } = options
    for (const [name, n] of Object.entries({ size, shuffleBuffer }))
      if (n !== undefined) expectIntegers('fromSamples', { [name]: n })
    this.options = options
    this.#open = typeof source === 'function' ? source : () => this.#again(source)
  }

  /** @internal The samples of an epoch, in the order given or mixed. */
  open(at: { seed: number; epoch: number }, shuffle: boolean): AsyncIterator<Sample> {
    const samples = this.#open(at)
    if (!isIterable(samples))
      fail(
        'AUX_INVALID_ARGUMENT',
        'fromSamples: expected an iterable or async iterable of samples, got ' +
          `${samples === null ? 'null' : typeof samples}`,
      )
    return shuffle ? mixed(samples, this.options.shuffleBuffer!, at) : inOrder(samples)
  }

  // A generator object is its own iterator and is empty after one pass.
  #again(source: Samples): Samples {
    if (!isIterable(source)) return source
    const own = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
    if ((own as unknown) !== source) return source
    if (this.#used)
      fail(
        'AUX_INVALID_ARGUMENT',
        'fromSamples: expected a function that makes a generator for each epoch, got a generator that can be ' +
          'read only once',
      )
    this.#used = true
    return source
  }
}

const isIterable = (value: unknown): value is Samples =>
  typeof value === 'object' && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value)

async function* inOrder(samples: Samples): AsyncGenerator<Sample> {
  yield* samples
}

// Keeps a buffer; each sample that comes takes the place of a random one, which leaves.
async function* mixed(samples: Samples, capacity: number, at: { seed: number; epoch: number }): AsyncGenerator<Sample> {
  const random = new Random(at.seed).seek(0, at.epoch, 0)
  const held: Sample[] = []
  for await (const sample of samples) {
    if (held.length < capacity) {
      held.push(sample)
      continue
    }
    const i = random.below(capacity)
    const leaving = held[i]
    held[i] = sample
    yield leaving
  }
  while (held.length > 0) {
    const i = random.below(held.length)
    const leaving = held[i]
    held[i] = held[held.length - 1]
    held.pop()
    yield leaving
  }
}

/**
 * A stream of samples for a `DataLoader`: a function called for each epoch (it may be a generator function), or
 * something that can be iterated again and again. For an exact resume it must give the same samples in the same order
 * for the same `{ seed, epoch }`.
 */
export function fromSamples<S extends Sample>(
  source: Iterable<S> | AsyncIterable<S> | ((at: { seed: number; epoch: number }) => Iterable<S> | AsyncIterable<S>),
  options: StreamOptions = {},
): SampleStream<Stacked<S>> {
  return new SampleStream(source, options)
}

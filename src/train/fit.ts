import type { StepResult, Traceable, TrainingStep } from '../compile'
import { expectSignal } from '../compile/session'
import { DataLoader, type Batch } from '../data'
import { describe, expectOptions, fail } from '../errors'
import { EarlyStopping } from './stopping'

/** Options of `fit`. */
export interface FitOptions<A extends Batch, B extends Batch, R extends Traceable> {
  /** The step that each batch is given to. */
  step: TrainingStep<R>
  /** Batches, and the place in the data. */
  loader: DataLoader<A, B>
  /** The epoch after the last; training goes on from where the loader stands. */
  epochs: number
  /**
   * Ends the run after the step at hand, or at once where the loader still waits for its data or `validate` has not
   * answered. The loader stands behind the last batch that was trained on: another `fit` goes on there, and asks `validate`.
   */
  signal?: AbortSignal
  /**
   * Asked after each epoch how good the model is, as a number that is to fall: `() => evaluate(validation, loader)`.
   * (Of an accuracy, give its negative.)
   */
  validate?: () => number | Promise<number>
  /** Epochs without a new lowest `validate` that are borne; then the run ends (Infinity). */
  patience?: number
  /** What is known of `validate` from before, for a run that is resumed: `loadTraining` puts it back. */
  stopping?: EarlyStopping
}

/** After each step. Times are in seconds. */
export interface StepEvent<R extends Traceable = Traceable> {
  /** Tells it from the other kind of event. */
  type: 'step'
  /** Epoch, from 0. */
  epoch: number
  /** Steps of this epoch done, and of all its steps. */
  step: number
  /** Steps of an epoch. */
  steps: number
  /** What the run resolved to. */
  result: StepResult<R>
  /** Rows a second, over this run. */
  rate: number
  /** Time left in all epochs at this rate. */
  secondsLeft: number
}

/** After each epoch. */
export interface EpochEvent {
  /** Tells it from the other kind of event. */
  type: 'epoch'
  /** Epoch that has ended, from 0. */
  epoch: number
  /** Mean loss of the epoch's steps in this run. */
  loss: number
  /** Time of the epoch's steps in this run, whatever the program did between them left out. */
  seconds: number
  /** Rows trained on. */
  rows: number
  /** What `validate` gave; there with it. */
  validation?: number
  /** Whether that is the lowest so far: the moment to save the weights. */
  best?: boolean
}

/** What `fit` tells of. */
export type FitEvent<R extends Traceable = Traceable> = StepEvent<R> | EpochEvent

/** What a promise gives, or undefined where the signal comes first. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T | undefined> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const abort = (): void => resolve(undefined)
    signal.addEventListener('abort', abort)
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

/** The batches of an epoch that come before the signal, behind the last of which it leaves the loader. */
async function* batchesUntil<A extends Batch, B extends Batch>(
  signal: AbortSignal | undefined,
  loader: DataLoader<A, B>,
): AsyncGenerator<B, void> {
  const batches = loader[Symbol.asyncIterator]()
  let place = loader.state()
  try {
    for (;;) {
      const next = await unlessAborted(batches.next(), signal)
      if (!next) return
      place = loader.state()
      if (next.done) return
      yield next.value
    }
  } finally {
    const closed = batches.return()
    if (signal?.aborted) {
      loader.restore(place) // a batch that is still to come is refused then; nobody can wait for it
      closed.catch(() => {})
    } else await closed
  }
}

/**
 * Trains, telling of every step and epoch: `for await (const event of fit({ step, loader, epochs })) ...`.
 * Nothing runs ahead of the reader; leaving the loop ends the run after a whole step.
 */
export async function* fit<A extends Batch, B extends Batch, R extends Traceable>(
  options: FitOptions<A, B, R>,
): AsyncGenerator<FitEvent<R>, void> {
  expectOptions('fit', options, ['step', 'loader', 'epochs', 'signal', 'validate', 'patience', 'stopping'])
  const { step, loader, epochs, signal, validate, patience = Infinity, stopping = new EarlyStopping() } = options
  if (typeof step?.run !== 'function')
    fail('AUX_INVALID_ARGUMENT', `fit: expected step to be a training step, got ${describe(step)}`)
  expectSignal('fit', signal)
  if (!(loader instanceof DataLoader))
    fail('AUX_INVALID_ARGUMENT', `fit: expected loader to be a data.DataLoader, got ${describe(loader)}`)
  if (!(epochs >= 0)) fail('AUX_INVALID_ARGUMENT', `fit: expected a number of epochs, got ${String(epochs)}`)
  if (!(patience >= 0)) fail('AUX_INVALID_ARGUMENT', `fit: expected patience >= 0, got ${String(patience)}`)
  if (validate === undefined ? (options.patience ?? options.stopping) !== undefined : typeof validate !== 'function')
    fail('AUX_INVALID_ARGUMENT', `fit: expected validate to be a function, got ${describe(validate)}`)
  if (!(stopping instanceof EarlyStopping))
    fail('AUX_INVALID_ARGUMENT', `fit: expected stopping to be a train.EarlyStopping, got ${describe(stopping)}`)
  let rowsDone = 0
  let secondsDone = 0
  while (loader.epoch < epochs && stopping.state().waited <= patience && !signal?.aborted) {
    const epoch = loader.epoch
    const steps = loader.length
    const resumed = loader.state().position > 0
    let losses = 0
    let count = 0
    let rows = 0
    let seconds = 0
    let started = performance.now()
    let trained = loader.state()
    for await (const batch of batchesUntil(signal, loader)) {
      const result = await step.run(batch)
      const size = Object.values(batch)[0].shape[0]
      seconds += (performance.now() - started) / 1000
      rows += size
      losses += result.loss
      count++
      const rate = (rowsDone + rows) / (secondsDone + seconds)
      trained = loader.state()
      const { position } = trained
      const left =
        (steps - position + (epochs - epoch - 1) * steps) *
        ((secondsDone + seconds) / Math.max(1, (rowsDone + rows) / size))
      yield { type: 'step', epoch, step: position, steps, result, rate, secondsLeft: left }
      if (signal?.aborted) return
      started = performance.now()
    }
    if (signal?.aborted && loader.epoch === epoch) return
    if (!rows && loader.epoch === epoch + 1 && !resumed)
      fail('AUX_INVALID_ARGUMENT', 'fit: expected batches, got a loader without any')
    rowsDone += rows
    secondsDone += seconds
    const event = { type: 'epoch', epoch, loss: losses / Math.max(1, count), seconds, rows } as const
    if (!validate) {
      yield event
      continue
    }
    const next = loader.epoch
    const validation = await unlessAborted(Promise.resolve(validate()), signal)
    if (signal?.aborted && validation === undefined) {
      loader.restore(trained)
      return
    }
    if (loader.epoch !== next)
      fail('AUX_INVALID_ARGUMENT', 'fit: validate has read the loader that is trained on; expected a loader of its own')
    if (typeof validation !== 'number')
      fail('AUX_INVALID_ARGUMENT', `fit: expected validate to give a number, got ${describe(validation)}`)
    yield { ...event, validation, best: stopping.observe(validation) }
  }
}

import { fail } from '../errors'

/** Where early stopping stands: plain JSON. */
export interface StoppingState {
  /** Lowest value so far; null before the first. */
  readonly best: number | null
  /** Epochs since. */
  readonly waited: number
}

/**
 * What `fit` knows of the values that `validate` gave. Given to `fit`, `saveTraining` and `loadTraining` alike, a resumed
 * run ends where one that never stopped would have ended.
 */
export class EarlyStopping {
  #state: StoppingState = { best: null, waited: 0 }

  /** Takes note of a value; true if it is the lowest so far. NaN never is. */
  observe(value: number): boolean {
    const { best, waited } = this.#state
    const lower = value < (best ?? Infinity)
    this.#state = lower ? { best: value, waited: 0 } : { best, waited: waited + 1 }
    return lower
  }

  /** Where it stands. */
  state(): StoppingState {
    return this.#state
  }

  /** Goes to a place that `state()` gave. */
  restore(state: StoppingState): void {
    const { best, waited } = state ?? {}
    if (!(best === null || typeof best === 'number') || !(Number.isSafeInteger(waited) && waited >= 0))
      fail('AUX_INVALID_ARGUMENT', 'EarlyStopping.restore: expected a state that state() gave')
    this.#state = { best, waited }
  }
}

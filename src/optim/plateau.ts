import type { Schedule } from '../compile/optimizer'
import { describe, expectOptions, fail } from '../errors'

/** Options of `Plateau`. */
export interface PlateauOptions {
  /** Factor on the learning rate, each time (0.1). */
  factor?: number
  /** Observations without a new best that are borne (10); the next one lowers the rate. */
  patience?: number
  /** Share of the best by which a new one must be lower (1e-4). */
  threshold?: number
  /** Observations after a change that do not count (0). */
  cooldown?: number
  /** Least factor that all changes together may come to (0). */
  least?: number
}

/** Where a plateau schedule stands: plain JSON. */
export interface PlateauState {
  /** Lowest value so far; null before the first. */
  readonly best: number | null
  /** Observations since. */
  readonly waited: number
  /** Observations that do not count yet. */
  readonly resting: number
  /** Product of the factors so far. */
  readonly scale: number
}

/**
 * Lowers the learning rate of an optimizer when a value, the loss on validation data, no longer falls. The rate may be a
 * number or a schedule, which is then scaled.
 */
export class Plateau {
  readonly #optimizer: { lr: Schedule }
  readonly #rate: Schedule
  readonly #options: Required<PlateauOptions>
  #state: PlateauState = { best: null, waited: 0, resting: 0, scale: 1 }

  constructor(optimizer: { lr: Schedule }, options: PlateauOptions = {}) {
    expectOptions('Plateau', options, ['factor', 'patience', 'threshold', 'cooldown', 'least'])
    if (typeof optimizer !== 'object' || optimizer === null || !('lr' in optimizer))
      fail('AUX_INVALID_ARGUMENT', 'Plateau: expected an optimizer, whose lr it changes')
    const { factor = 0.1, patience = 10, threshold = 1e-4, cooldown = 0, least = 0 } = options
    if (!(factor > 0 && factor < 1)) fail('AUX_INVALID_ARGUMENT', `Plateau: expected factor in (0, 1), got ${factor}`)
    for (const [name, value] of Object.entries({ patience, threshold, cooldown, least }))
      if (!(value >= 0)) fail('AUX_INVALID_ARGUMENT', `Plateau: expected ${name} >= 0, got ${String(value)}`)
    this.#optimizer = optimizer
    this.#rate = optimizer.lr
    this.#options = { factor, patience, threshold, cooldown, least }
  }

  /** Takes note of a value; true if the learning rate is lower from now on. NaN is no new best. */
  observe(value: number): boolean {
    if (typeof value !== 'number')
      fail('AUX_INVALID_ARGUMENT', `Plateau.observe: expected a number, got ${describe(value)}`)
    const { factor, patience, threshold, cooldown, least } = this.#options
    const { best, resting, scale } = this.#state
    const better = value < (best === null ? Infinity : best - threshold * Math.abs(best))
    const waited = better || resting ? 0 : this.#state.waited + 1
    const next = Math.max(least, scale * factor)
    const lower = waited > patience && next < scale
    this.#state = {
      best: better ? value : best,
      waited: waited > patience ? 0 : waited,
      resting: lower ? cooldown : Math.max(0, resting - 1),
      scale: lower ? next : scale,
    }
    if (lower) this.#apply()
    return lower
  }

  /** Where it stands: for the `extra` of `saveTraining`. */
  state(): PlateauState {
    return this.#state
  }

  /** Goes to a place that `state()` gave, and sets the learning rate. */
  restore(state: PlateauState): void {
    const { best, waited, resting, scale } = state ?? {}
    if (!(best === null || typeof best === 'number') || !(waited >= 0) || !(resting >= 0) || !(scale > 0 && scale <= 1))
      fail('AUX_INVALID_ARGUMENT', 'Plateau.restore: expected a state that state() gave')
    this.#state = { best, waited, resting, scale }
    this.#apply()
  }

  #apply(): void {
    const rate = this.#rate
    const { scale } = this.#state
    this.#optimizer.lr = typeof rate === 'function' ? (step) => rate(step) * scale : rate * scale
  }
}

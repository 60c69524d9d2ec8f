import { describe, fail } from '../errors'
import type { Traceable } from '../compile'
import type { FitEvent } from './fit'

/** Numbers by name. A slash in a name makes a group: `indicator/conv1`. */
export type Scalars = Readonly<Record<string, number>>

/** One number over the steps. */
export interface Series {
  /** Steps at which it was noted. */
  steps: number[]
  /** What it was there. */
  values: number[]
}

/** @internal */
export function expectScalars(what: string, values: Scalars, step: number): void {
  if (!Number.isSafeInteger(step) || step < 0)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected the number of the step, got ${String(step)}`)
  for (const [name, value] of Object.entries(values))
    if (typeof value !== 'number')
      fail('AUX_INVALID_ARGUMENT', `${what}: expected ${name} to be a number, got ${typeof value}`)
}

/** Numbers of a run, held to be drawn by `report`. */
export class History {
  /** By name, in the order in which they came. */
  readonly series = new Map<string, Series>()

  /** Notes what these numbers are at a step; as of `EventWriter`. */
  scalars(values: Scalars, step: number): void {
    expectScalars('History', values, step)
    for (const [name, value] of Object.entries(values)) {
      const series = this.series.get(name) ?? { steps: [], values: [] }
      this.series.set(name, series)
      series.steps.push(step)
      series.values.push(value)
    }
  }
}

/**
 * The numbers of what `fit` tells, by name: of a step its `loss`, `gradNorm`, `rows/s` and each layer's learning indicator;
 * of an epoch its mean, `epoch/loss`, and `epoch/validation`. For `History` and `EventWriter`.
 */
export function scalarsOf(event: FitEvent<Traceable>): Record<string, number> {
  if (event?.type !== 'epoch' && event?.type !== 'step')
    fail('AUX_INVALID_ARGUMENT', `scalarsOf: expected an event of fit, got ${describe(event)}`)
  if (event.type === 'epoch')
    return {
      'epoch/loss': event.loss,
      ...(event.validation === undefined ? {} : { 'epoch/validation': event.validation }),
    }
  const { loss, gradNorm, indicators = {} } = event.result
  const means = Object.entries(indicators).map(([layer, { mean }]) => [`indicator/${layer || 'model'}`, mean])
  return {
    loss,
    ...(gradNorm === undefined ? {} : { gradNorm }),
    'rows/s': event.rate,
    ...(Object.fromEntries(means) as Record<string, number>),
  }
}

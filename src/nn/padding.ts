import { expectIntegers, fail } from '../errors'
import type { PadMode } from '../ops'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** Counts around each axis between samples and channels: one number for all, or [before, after] of each. */
export type Padding = number | readonly (readonly [number, number])[]

/** Padding of all axes between the first, of samples, and the last, of channels. */
abstract class Pad extends Module {
  /** What stands there. */
  protected abstract readonly fill: number | PadMode

  constructor(
    /** Counts around each axis. */
    readonly padding: Padding,
    /** Axes that are padded. */
    readonly axes: number,
  ) {
    super()
    if (typeof padding === 'number') expectIntegers(new.target.name, { padding })
    else if (!Array.isArray(padding) || padding.length !== axes)
      fail(
        'AUX_INVALID_ARGUMENT',
        `${new.target.name}: expected a number or ${axes} pairs of them, got ${JSON.stringify(padding)}`,
      )
  }

  /** [N, ..., C] to more of the same. */
  forward(x: Tensor): Tensor {
    if (x.rank !== this.axes + 2)
      fail(
        'AUX_SHAPE_MISMATCH',
        `${this.constructor.name}: expected input with ${this.axes + 2} axes, got ${showShape(x.shape)}`,
      )
    const none: [number, number] = [0, 0]
    const { padding: p } = this
    const pairs = typeof p === 'number' ? Array.from({ length: this.axes }, (): [number, number] => [p, p]) : p
    return x.pad([none, ...pairs, none], this.fill)
  }
}

/** Zeros around images [N, H, W, C]. */
export class ZeroPad2d extends Pad {
  protected readonly fill = 0
  constructor(padding: Padding) {
    super(padding, 2)
  }
}
/** Images [N, H, W, C] mirrored at their first and last rows and columns, which are not repeated. */
export class ReflectionPad2d extends Pad {
  protected readonly fill = 'reflect'
  constructor(padding: Padding) {
    super(padding, 2)
  }
}
/** Images [N, H, W, C] whose first and last rows and columns are repeated. */
export class ReplicationPad2d extends Pad {
  protected readonly fill = 'replicate'
  constructor(padding: Padding) {
    super(padding, 2)
  }
}
/** Images [N, H, W, C] that go on at the other end. */
export class CircularPad2d extends Pad {
  protected readonly fill = 'circular'
  constructor(padding: Padding) {
    super(padding, 2)
  }
}

import { describe, expectIntegers, expectOptions, fail } from '../errors'
import { expectDType, expectShape } from '../graph/op'
import { checkShape, showShape, type Shape } from '../tensor/shape'
import type { Spec } from '../tensor/tensor'

// Windows that slide over images: what convolution and pooling share.

/** Geometry of a convolution; single numbers stand for both axes. */
export interface ConvOptions {
  /** Places between windows (1). */
  stride?: Pair
  /** Rows and columns of zeros around the image (0); 'same': as many as leave its size, of odd kernels with stride 1. */
  padding?: Pair | 'same'
  /** Places between taps of a window (1). */
  dilation?: Pair
  /** Groups of channels that see only each other (1); as many as channels: a depthwise convolution. */
  groups?: number
}

/** Geometry of a convolution along a sequence. */
export interface Conv1dOptions {
  /** Places between windows (1). */
  stride?: number
  /** Zeros before and behind the sequence (0); 'same': as many as leave its length, of odd kernels with stride 1. */
  padding?: number | 'same'
  /** Places between taps of a window (1). */
  dilation?: number
  /** Groups of channels that see only each other (1); as many as channels: a depthwise convolution. */
  groups?: number
}

/** @internal Names of the options of convolutions. */
export const convOptions = ['stride', 'padding', 'dilation', 'groups'] as const

/** Attributes of a convolution, after defaults. */
export interface ConvAttrs {
  /** Places between windows. */
  stride: readonly [number, number]
  /** Rows and columns of zeros around the image. */
  padding: readonly [number, number]
  /** Places between taps of a window. */
  dilation: readonly [number, number]
  /** Groups of channels that see only each other. */
  groups: number
}

/** One number for both axes, or one for each: whole, and at least `least`. */
export type Pair = number | readonly [number, number]

/** @internal A pair after defaults; `what` names it in the error. */
export function pair(
  what: string,
  v: Pair | undefined,
  fallback: number | undefined,
  least = 1,
): readonly [number, number] {
  const both = v ?? fallback
  const two = typeof both === 'number' ? [both, both] : both
  if (!Array.isArray(two) || two.length !== 2 || !two.every((n) => Number.isSafeInteger(n) && n >= least))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected a whole number >= ${least} or a pair of them, got ${Array.isArray(v) ? showShape(v) : describe(v)}`,
    )
  return two as unknown as readonly [number, number]
}

/** @internal Attributes of a convolution with a kernel of this size. */
export function convAttrs(name: string, kernel: readonly number[], o: ConvOptions): ConvAttrs {
  expectOptions(name, o, convOptions)
  const stride = pair(`${name}: stride`, o.stride, 1)
  const dilation = pair(`${name}: dilation`, o.dilation, 1)
  const { groups = 1 } = o
  expectIntegers(name, { groups })
  if (o.padding !== 'same') return { stride, dilation, groups, padding: pair(`${name}: padding`, o.padding, 0, 0) }
  if (stride.some((s) => s !== 1) || kernel.some((k) => k % 2 === 0))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected an odd kernel and stride 1 for padding 'same', got kernel ${kernel.join('x')} and stride ${stride.join('x')}; pad() the input instead`,
    )
  return {
    stride,
    dilation,
    groups,
    padding: [0, 1].map((i) => (dilation[i] * (kernel[i] - 1)) / 2) as [number, number],
  }
}

/** @internal The numbers that all convolution kernels begin with. */
export const convNumbers = (a: ConvAttrs): number[] => [...a.stride, ...a.padding, ...a.dilation, a.groups]

/** @internal Positions of a window along an axis. */
export const windows = (size: number, kernel: number, stride: number, padding: number, dilation: number): number =>
  Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1

/** @internal Throws unless delta is the gradient of what a weight of this shape makes of such an image. */
export function expectConvGradient(
  op: string,
  delta: Spec | undefined,
  { shape, image, ...a }: ConvAttrs & { shape: Shape; image: Shape },
): void {
  for (const s of [shape, image]) checkShape(op, s)
  if (shape.length !== 4 || image.length !== 4 || shape[3] * a.groups !== image[3])
    fail(
      'AUX_SHAPE_MISMATCH',
      `${op}: expected a weight [O, KH, KW, C/groups] and an image [N, H, W, C], got ${showShape(shape)} and ${showShape(image)}`,
    )
  const [rows, columns] = [0, 1].map((i) =>
    windows(image[1 + i], shape[1 + i], a.stride[i], a.padding[i], a.dilation[i]),
  )
  expectDType(op, 'delta', delta, 'f32')
  expectShape(op, 'delta', delta, [image[0], rows, columns, shape[0]])
}

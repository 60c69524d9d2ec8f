// Windows that slide over images: what convolution and pooling share.

/** Geometry of a convolution; single numbers stand for both axes. */
export interface ConvOptions {
  /** Places between windows (1). */
  stride?: number | readonly [number, number]
  /** Rows and columns of zeros around the image (0). */
  padding?: number | readonly [number, number]
  /** Places between taps of a window (1). */
  dilation?: number | readonly [number, number]
  /** Groups of channels that see only each other (1); as many as channels: a depthwise convolution. */
  groups?: number
}

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

export const pair = (v: number | readonly [number, number] | undefined, fallback: number): readonly [number, number] =>
  v === undefined ? [fallback, fallback] : typeof v === 'number' ? [v, v] : v

/** @internal The numbers that all convolution kernels begin with. */
export const convNumbers = (a: ConvAttrs): number[] => [...a.stride, ...a.padding, ...a.dilation, a.groups]

/** Positions of a window along an axis. */
export const windows = (size: number, kernel: number, stride: number, padding: number, dilation: number): number =>
  Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1

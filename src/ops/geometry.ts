// Windows that slide over images: what convolution and pooling share.

/** Geometry of a convolution; single numbers stand for both axes. */
export interface ConvOptions {
  stride?: number | readonly [number, number]
  padding?: number | readonly [number, number]
  dilation?: number | readonly [number, number]
  groups?: number
}

/** Attributes of a convolution, after defaults. */
export interface ConvAttrs {
  stride: readonly [number, number]
  padding: readonly [number, number]
  dilation: readonly [number, number]
  groups: number
}

export const pair = (v: number | readonly [number, number] | undefined, fallback: number): readonly [number, number] =>
  v === undefined ? [fallback, fallback] : typeof v === 'number' ? [v, v] : v

/** @internal The numbers that all convolution kernels begin with. */
export const convNumbers = (a: ConvAttrs): number[] => [...a.stride, ...a.padding, ...a.dilation, a.groups]

/** Positions of a window along an axis. */
export const windows = (size: number, kernel: number, stride: number, padding: number, dilation: number): number =>
  Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1

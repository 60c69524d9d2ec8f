import { expectIntegers, expectOptions, fail } from '../errors'
import { expectDType, expectShape, expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { conv2d } from './conv'
import { convOptions, windows, type ConvOptions } from './geometry'
import { alias } from './shape'

/** One number for all three axes, or one for each: depth, height, width. */
export type Triple = number | readonly [number, number, number]

/** Geometry of a convolution of volumes; single numbers stand for all three axes. */
export interface Conv3dOptions {
  /** Places between windows (1). */
  stride?: Triple
  /** Zeros around the volume (0); 'same': as many as leave its size, of odd kernels with stride 1. */
  padding?: Triple | 'same'
  /** Places between taps of a window (1). */
  dilation?: Triple
  /** Groups of channels that see only each other (1). */
  groups?: number
}

/** @internal Three numbers after defaults; `what` names them in the error. */
export function triple(what: string, v: Triple | undefined, fallback?: number, least = 1): [number, number, number] {
  const all = v ?? fallback
  const three = typeof all === 'number' ? [all, all, all] : all
  if (!Array.isArray(three) || three.length !== 3 || !three.every((n) => Number.isSafeInteger(n) && n >= least))
    fail('AUX_INVALID_ARGUMENT', `${what}: expected a whole number >= ${least} or three of them, got ${String(v)}`)
  return three as [number, number, number]
}

/** @internal Along the depth, and the rest for `conv2d`. */
export function volumeOptions(
  name: string,
  kernel: readonly number[],
  o: Conv3dOptions,
): { depth: { stride: number; padding: number; dilation: number }; image: ConvOptions } {
  expectOptions(name, o, convOptions)
  const stride = triple(`${name}: stride`, o.stride, 1)
  const dilation = triple(`${name}: dilation`, o.dilation, 1)
  const { groups = 1 } = o
  expectIntegers(name, { groups })
  if (o.padding === 'same' && (stride.some((s) => s !== 1) || kernel.some((k) => k % 2 === 0)))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected an odd kernel and stride 1 for padding 'same', got kernel ${kernel.join('x')} and stride ${stride.join('x')}; pad() the input instead`,
    )
  const padding =
    o.padding === 'same'
      ? kernel.map((k, i) => (dilation[i] * (k - 1)) / 2)
      : triple(`${name}: padding`, o.padding, 0, 0)
  const rest = (v: readonly number[]): [number, number] => [v[1], v[2]]
  return {
    depth: { stride: stride[0], padding: padding[0], dilation: dilation[0] },
    image: { stride: rest(stride), padding: rest(padding), dilation: rest(dilation), groups },
  }
}

/**
 * 3-D convolution, channels-last: x [N, D, H, W, C], weight [O, KD, KH, KW, C/groups], bias [O]; y [N, P, Q, R, O]. It is
 * the sum of one `conv2d` a tap of depth, all of which read the same x: backward keeps it once, or what a policy makes of
 * it once a tap.
 */
export function conv3d(x: Tensor, weight: Tensor, bias?: Tensor, options: Conv3dOptions = {}): Tensor {
  const name = 'conv3d'
  expectTensor(name, x)
  expectTensor(name, weight)
  expectDType(name, 'input', x, 'f32')
  if (bias) expectShape(name, 'bias', bias, [weight.shape[0]])
  const { depth, image } = volumeOptions(name, weight.shape.slice(1, 4), options)
  const channels = weight.shape[4] * image.groups!
  if (weight.rank !== 5 || x.rank !== 5 || x.shape[4] !== channels) {
    const first = x.rank === 5 && x.shape[1] === channels // as in PyTorch
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected input [N, D, H, W, ${weight.rank === 5 ? channels : 'C'}] and weight [O, KD, KH, KW, C / groups], got ` +
        `${showShape(x.shape)} and ${showShape(weight.shape)} in ${image.groups} group(s)` +
        (first ? '; channels come last here: permute([0, 2, 3, 4, 1])' : ''),
    )
  }
  const [n, frames, height, width] = x.shape
  const [outputs, taps] = weight.shape
  const positions = windows(frames, taps, depth.stride, depth.padding, depth.dilation)
  if (positions < 1)
    fail('AUX_SHAPE_MISMATCH', `${name}: kernel of depth ${taps} does not fit the padded input ${showShape(x.shape)}`)
  return tidy(() => {
    // With stride s, a tap reads every s-th frame: those that begin with one of the first s.
    const every = new Map<number, Tensor>()
    let y: Tensor | undefined
    for (let tap = 0; tap < taps; tap++) {
      const at = tap * depth.dilation - depth.padding // the frame that it reads for the first position
      const shift = Math.floor(at / depth.stride)
      const first = at - shift * depth.stride
      const read = Math.max(0, Math.ceil((frames - first) / depth.stride))
      if (shift >= read || shift + positions <= 0) continue // padding alone
      if (!every.has(first)) {
        const seen = depth.stride === 1 ? x : x.slice(null, [first, null, depth.stride])
        every.set(first, seen.reshape([n * read, height, width, channels]))
      }
      const own = conv2d(every.get(first)!, weight.select(1, tap), undefined, image)
      const rows = own.shape.slice(1)
      const none: [number, number] = [0, 0]
      const moved = own.reshape([n, read, ...rows]).pad([none, [-shift, positions + shift - read], none, none, none])
      y = y ? y.add(moved) : moved
    }
    y ??= conv2d(x.reshape([n * frames, height, width, channels]), weight.select(1, 0), undefined, image).mul(0)
    return bias ? y.add(bias.reshape([1, 1, 1, 1, outputs])) : alias(y)
  })
}

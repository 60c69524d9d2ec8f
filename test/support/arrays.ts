import { hostArray, type HostArray } from '../../src'
import { sizeOf } from './reference'
import { bytes } from './run'

/** Values in (-1, 1), one in ten of them a zero of either sign. */
export const values = (random: () => number, shape: readonly number[]): Float32Array =>
  Float32Array.from({ length: sizeOf(shape) }, () => (random() < 0.1 ? (random() < 0.5 ? 0 : -0) : 2 * random() - 1))

export const host = (random: () => number, shape: number[]): HostArray => hostArray(values(random, shape), shape)

/** Whether both are there and equal bit for bit. */
export const same = (a: Float32Array | undefined, b: Float32Array | undefined): boolean =>
  !!a && !!b && bytes(a) === bytes(b)

/** |got - expected| / |expected|, Euclidean; of zeros |got|. */
export function distance(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let d = 0
  let n = 0
  for (let i = 0; i < got.length; i++) {
    d += (got[i] - expected[i]) ** 2
    n += expected[i] ** 2
  }
  return Math.sqrt(d / (n || 1))
}

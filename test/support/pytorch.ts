import { readFileSync } from 'node:fs'
import path from 'node:path'
import { tensor, type Tensor } from '../../src'

/** What PyTorch computed, as `fixtures/pytorch.py` wrote it down. */
export const pytorch = <T>(): T =>
  JSON.parse(readFileSync(path.join(__dirname, '..', 'fixtures', 'pytorch.json'), 'utf8')) as T

/** The values that `pytorch.py` computes on. */
export const wave = (shape: readonly number[], phase: number, scale = 1): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => scale * Math.sin(1.3 * i + phase)),
    shape,
  )

/** Equal to 2e-6 of the largest. */
export const near = (got: ArrayLike<number>, expected: readonly number[]): void => {
  expect(got.length).toBe(expected.length)
  const scale = Math.max(1, ...expected.map(Math.abs))
  expected.forEach((v, i) => expect(Math.abs(got[i] - v)).toBeLessThan(2e-6 * scale))
}

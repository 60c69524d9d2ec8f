import { compile, valueAndGrad, type Tensor } from '../../src/index'
import { native } from '../../src/native'
import type { TypedArray } from '../../src/tensor/dtype'

/** A small generator of its own (mulberry32), so that tests do not depend on what they test. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

type Function = (...inputs: Tensor[]) => Tensor

/** The result of f compiled, planned and run. */
export function compiled(f: Function, inputs: readonly Tensor[]): { data: TypedArray; shape: readonly number[] } {
  const g = compile((x: Record<string, Tensor>) => f(...inputs.map((_, i) => x[`x${i}`])))
  try {
    return g.runSync(Object.fromEntries(inputs.map((t, i) => [`x${i}`, t])))
  } finally {
    g.close()
  }
}

/** Gradients of sum(weights · f) with respect to the inputs at `wanted`; the others are captured by reference. */
export function gradients(
  f: Function,
  inputs: readonly Tensor[],
  wanted: readonly number[],
  weights: Tensor,
): TypedArray[] {
  const loss = (...xs: Tensor[]): Tensor => {
    const all = [...inputs]
    wanted.forEach((i, k) => (all[i] = xs[k]))
    return f(...all)
      .mul(weights)
      .sum()
  }
  const { value, grads } = valueAndGrad(loss)(...wanted.map((i) => inputs[i]))
  value.dispose()
  return grads.map((g) => {
    const data = g.dataSync()
    g.dispose()
    return data
  })
}

/** Runs body once for each instruction set of this machine and each of 1, 2 and 3 threads. */
export function eachSetting(body: (isa: string, threads: number) => void): void {
  const { isa, isaAvailable, threads } = native().info()
  try {
    for (const name of isaAvailable)
      for (const n of [1, 2, 3]) {
        native().setIsa(name)
        native().setThreads(n)
        body(name, n)
      }
  } finally {
    native().setIsa(isa)
    native().setThreads(threads)
  }
}

/** The bytes of an array, for comparisons bit by bit. */
export const bytes = (a: TypedArray): string => Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString('hex')

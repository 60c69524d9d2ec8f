import type { nn, Tensor } from '../../src'
import type { InputValue } from '../../src/compile/inputs'
import { gradientsOf } from './record'
import * as ref from './reference'
import { generator } from './run'

// Parts of networks by their definition and in doubles, and the comparison of a model with one made of them.

/** Parameters by path. */
export type Weights = Record<string, ref.Arr>

export const weightsOf = (model: nn.Module): Weights =>
  Object.fromEntries(
    [...model.namedParameters()].map(([name, p]) => [
      name,
      { shape: [...p.shape], data: Float64Array.from(p.dataSync()) },
    ]),
  )

/** Takes every parameter away from its initial 0 or 1. */
export function unsettle<M extends nn.Module>(model: M, random: () => number): M {
  for (const [, p] of model.namedParameters())
    p.assign(Float32Array.from(p.dataSync(), (v) => v + 0.3 * (2 * random() - 1)))
  return model
}

export const add = (a: ref.Arr, b: ref.Arr): ref.Arr => ref.zip(a, b, (u, v) => u + v)

export function linear(x: ref.Arr, p: Weights, name: string): ref.Arr {
  const y = ref.matmul(x, ref.permute(p[`${name}.weight`], [1, 0]))
  return name + '.bias' in p ? add(y, p[`${name}.bias`]) : y
}

const scaled = (x: ref.Arr, p: Weights, name: string): ref.Arr =>
  add(
    ref.zip(x, p[`${name}.weight`], (a, b) => a * b),
    p[`${name}.bias`],
  )

const standard =
  (eps: number) =>
  (row: number[]): number[] => {
    const m = ref.mean(row)
    const deviation = Math.sqrt(ref.mean(row.map((v) => (v - m) ** 2)) + eps)
    return row.map((v) => (v - m) / deviation)
  }

export const layerNorm = (x: ref.Arr, p: Weights, name: string, eps: number): ref.Arr =>
  scaled(ref.lines(x, -1, standard(eps)), p, name)

/** With the statistics of the batch. */
export function batchNorm(x: ref.Arr, p: Weights, name: string, eps = 1e-5): ref.Arr {
  const c = x.shape[x.shape.length - 1]
  const rows = ref.reshape(x, [x.data.length / c, c])
  return scaled(ref.reshape(ref.lines(rows, 0, standard(eps)), x.shape), p, name)
}

export const gelu = (x: ref.Arr): ref.Arr => ref.map(x, (v) => 0.5 * v * (1 + ref.erf(v / Math.SQRT2)))
export const geluTanh = (x: ref.Arr): ref.Arr =>
  ref.map(x, (v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))))
export const relu = (x: ref.Arr): ref.Arr => ref.map(x, (v) => Math.max(0, v))

/** x [N, T, features] attends to context [N, S, features]; `mask` is added to the scores. */
export function attention(
  x: ref.Arr,
  context: ref.Arr,
  p: Weights,
  name: string,
  heads: number,
  o: { causal?: boolean; mask?: (index: number[]) => number } = {},
): ref.Arr {
  const split = (t: ref.Arr): ref.Arr =>
    ref.permute(ref.reshape(t, [t.shape[0], t.shape[1], heads, t.shape[2] / heads]), [0, 2, 1, 3])
  const [q, k, v] = [linear(x, p, `${name}.q`), linear(context, p, `${name}.k`), linear(context, p, `${name}.v`)]
  const y = ref.permute(ref.attention(split(q), split(k), split(v), o), [0, 2, 1, 3])
  return linear(ref.reshape(y, x.shape), p, `${name}.out`)
}

/** Mean over the labels that are not `ignored`; logits [..., classes], labels row by row. */
export function crossEntropy(
  logits: ref.Arr,
  labels: ArrayLike<number>,
  o: { ignored?: number; smooth?: number } = {},
) {
  const { ignored = -1, smooth = 0 } = o
  const classes = logits.shape[logits.shape.length - 1]
  const losses = Array.from(labels).flatMap((label, i) => {
    const row = [...logits.data.slice(i * classes, (i + 1) * classes)]
    const total = ref.logSumExp(row)
    return label === ignored ? [] : [(1 - smooth) * (total - row[label]) + smooth * (total - ref.mean(row))]
  })
  return ref.mean(losses)
}

/** Loss and gradients of a model are those of a reference in doubles: of each parameter along a direction, by differences. */
export async function expectDefinition(
  model: nn.Module,
  loss: (batch: Record<string, Tensor>) => Tensor,
  batch: Record<string, InputValue>,
  lossOf: (p: Weights) => number,
): Promise<void> {
  const weights = weightsOf(model)
  const { result, gradients } = await gradientsOf(model, loss, batch)
  expect(Math.abs(result.loss - lossOf(weights))).toBeLessThan(2e-6)
  const random = generator(3)
  expect(Object.keys(gradients).sort()).toEqual(Object.keys(weights).sort())
  for (const [name, value] of Object.entries(weights)) {
    const direction = Array.from(value.data, () => 2 * random() - 1)
    const moved = (h: number): number =>
      lossOf({ ...weights, [name]: { shape: value.shape, data: value.data.map((v, i) => v + h * direction[i]) } })
    const slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    const own = direction.reduce((sum, d, i) => sum + d * gradients[name][i], 0)
    const close = Math.abs(own - slope) < 1e-6 * Math.sqrt(direction.length) + 1e-4 * Math.abs(slope)
    expect([name, own, slope, close]).toEqual([name, own, slope, true])
  }
}

import * as aux from '../../src/index'
import { randomBits } from '../../src/ops/random'
import { bytes, eachSetting, generator } from '../support/run'
import { codeOf } from '../support/refusals'

const { tensor } = aux
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((s, v, i) => s + v * b[i], 0)
const mean = (v: ArrayLike<number>): number => Array.from(v).reduce((a, b) => a + b, 0) / v.length

test('seed starts the numbers again; calls differ', () => {
  aux.seed(42)
  const [a, b] = [aux.uniform([1000]), aux.uniform([1000])]
  aux.seed(42)
  expect(bytes(aux.uniform([1000]).dataSync())).toBe(bytes(a.dataSync()))
  expect(bytes(aux.uniform([1000]).dataSync())).toBe(bytes(b.dataSync()))
  expect(bytes(a.dataSync())).not.toBe(bytes(b.dataSync()))
  aux.seed(2 ** 40 + 42) // the high word counts
  expect(bytes(aux.uniform([1000]).dataSync())).not.toBe(bytes(a.dataSync()))
})

test('a prefix does not depend on the length, nor anything on threads and instruction set', () => {
  const make = (n: number): string[] => {
    aux.seed(7)
    return [
      randomBits([n]),
      aux.uniform([n]),
      aux.normal([n]),
      aux.truncatedNormal([n]),
      aux.bernoulli([n], 0.3),
      aux.randint(-5, 9, [n]),
      aux.permutation(n),
      aux.dropout(aux.ones([n]), 0.4),
    ].map((t) => bytes(t.rawSync()))
  }
  const expected = make(50_001)
  eachSetting(() => expect(make(50_001)).toEqual(expected))
  const short = make(101)
  const perElement = [4, 4, 4, 4, 4, 4]
  perElement.forEach((size, i) => expect(expected[i].startsWith(short[i].slice(0, 101 * 2 * size))).toBe(true))
})

test('ranges and moments', () => {
  aux.seed(3)
  const n = 100_000
  const u = aux.uniform([n], { low: 2, high: 4 }).dataSync()
  expect(Math.min(...u.slice(0, 50_000))).toBeGreaterThanOrEqual(2)
  expect(Math.max(...u.slice(0, 50_000))).toBeLessThan(4)
  expect(Math.abs(mean(u) - 3)).toBeLessThan(0.01)
  expect(Math.abs(mean(aux.normal([n], { mean: -1, std: 3 }).dataSync()) + 1)).toBeLessThan(0.05)
  const t = aux.truncatedNormal([n], { std: 0.5, a: -0.25, b: 1 }).dataSync()
  expect(t.every((v) => v >= -0.25 && v <= 1)).toBe(true)
  expect(Math.abs(mean(t) - 0.2229)).toBeLessThan(0.005) // 0.5 (phi(-0.5) - phi(2)) / (Phi(2) - Phi(-0.5))
  expect(Math.abs(mean(aux.bernoulli([n], 0.3).dataSync()) - 0.3)).toBeLessThan(0.008)
  const counts = new Array<number>(7).fill(0)
  for (const v of aux.randint(-3, 4, [70_000]).dataSync()) counts[v + 3]++
  for (const c of counts) expect(Math.abs(c - 10_000)).toBeLessThan(500)
  expect(aux.randint(-(2 ** 31), 2 ** 31, [4]).dtype).toBe('i32')
})

test('permutation and shuffle keep every entry', () => {
  aux.seed(1)
  const p = aux.permutation(5000).dataSync()
  expect([...p].sort((a, b) => a - b)).toEqual(Array.from({ length: 5000 }, (_, i) => i))
  expect([...p].filter((v, i) => v === i).length).toBeLessThan(12)
  const x = aux.arange(12).reshape([4, 3])
  const y = aux.shuffle(x).toArray() as number[][]
  expect(y.map((r) => r[0]).sort((a, b) => a - b)).toEqual([0, 3, 6, 9])
  for (const r of y) expect(r).toEqual([r[0], r[0] + 1, r[0] + 2])
})

test('dropout: off, all and half; its gradient has the mask of its forward', () => {
  aux.seed(5)
  const x = aux.normal([64, 50])
  expect(bytes(aux.dropout(x, 0.5, false).dataSync())).toBe(bytes(x.dataSync()))
  expect(
    aux
      .dropout(x, 1)
      .dataSync()
      .every((v) => v === 0),
  ).toBe(true)
  const w = aux.normal([64, 50])
  const f = (t: aux.Tensor): aux.Tensor => aux.dropout(aux.dropout(t, 0.5).mul(w), 0.25).sum()
  const { value, grads } = aux.valueAndGrad(f)(x)
  const g = grads[0].dataSync()
  expect(Math.abs(dot(x.dataSync(), g) - value.item())).toBeLessThan(1e-3)
  const share = g.filter((v) => v !== 0).length / g.length
  expect(Math.abs(share - 0.375)).toBeLessThan(0.04)
  // The factor of what is kept, exactly.
  const wd = w.dataSync()
  g.forEach((v, i) => v !== 0 && expect(v / wd[i]).toBeCloseTo(1 / 0.5 / 0.75, 4))
})

test('random ops in a compiled function: new numbers at each run, the same after seed', () => {
  const f = aux.compile(({ x }) => x.add(aux.uniform([3])).add(aux.uniform([3])))
  const run = (): Float32Array => f.runSync({ x: [0, 0, 0] }).data as Float32Array
  aux.seed(9)
  const [a, b] = [run(), run()]
  aux.seed(9)
  expect([...run()]).toEqual([...a])
  expect([...b]).not.toEqual([...a])
  f.close()
})

test('attention dropout: unbiased, and its gradients belong to its forward', () => {
  const random = generator(1)
  const draw = (...shape: number[]): aux.Tensor =>
    tensor(
      Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => random() * 2 - 1),
      shape,
    )
  const [q, k, v, w] = [draw(1, 2, 70, 8), draw(1, 2, 150, 8), draw(1, 2, 150, 8), draw(1, 2, 70, 8)]
  const loss = (a: aux.Tensor, b: aux.Tensor, c: aux.Tensor): aux.Tensor =>
    aux.scaledDotProductAttention(a, b, c, { dropoutP: 0.3 }).mul(w).sum()
  const at = (a: aux.Tensor, b: aux.Tensor, c: aux.Tensor): { value: number; grads: Float32Array[] } => {
    aux.seed(11)
    const r = aux.valueAndGrad(loss)(a, b, c)
    return { value: r.value.item(), grads: r.grads.map((g) => g.dataSync() as Float32Array) }
  }
  const { value, grads } = at(q, k, v)
  // Linear in v: the value is <v, dv>.
  expect(Math.abs(dot(v.dataSync(), grads[2]) - value)).toBeLessThan(2e-4)
  // Along a random direction of q and of k, central differences of the kernel with the same mask.
  for (const which of [0, 1]) {
    const d = which ? draw(1, 2, 150, 8) : draw(1, 2, 70, 8)
    const moved = (h: number): number => (which ? at(q, k.add(d.mul(h)), v) : at(q.add(d.mul(h)), k, v)).value
    const expected = (moved(0.02) - moved(-0.02)) / 0.04
    const actual = dot(d.dataSync(), grads[which])
    expect(Math.abs(actual - expected)).toBeLessThan(2e-3 * Math.max(1, Math.abs(expected)))
  }
  aux.seed(2)
  let total = 0
  const rounds = 300
  for (let i = 0; i < rounds; i++) total += aux.tidy(() => loss(q, k, v).item())
  const plain = aux.scaledDotProductAttention(q, k, v).mul(w).sum().item()
  expect(Math.abs(total / rounds - plain)).toBeLessThan(0.15)
})

test('bad parameters', () => {
  expect(codeOf(() => aux.seed(-1))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.seed(0.5))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.uniform([2], { low: 1, high: 0 }))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.normal([2], { std: NaN }))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.normal([-2]))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.truncatedNormal([2], { a: 1, b: 1 }))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.truncatedNormal([2], { a: 9, b: 10 }))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.bernoulli([2], 1.5))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.randint(3, 3, [2]))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.dropout(tensor([1]), -0.1))).toBe('AUX_INVALID_ARGUMENT')
  expect(codeOf(() => aux.dropout(tensor(Int32Array.of(1)), 0.5))).toBe('AUX_DTYPE_MISMATCH')
})

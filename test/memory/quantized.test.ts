import fc from 'fast-check'
import {
  ara,
  asa,
  auxiliary,
  backprop,
  checkpoint,
  dequantize,
  hostArray,
  models,
  nn,
  quantize,
  quantized,
  seed,
  tensor,
  type CodeBits,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { distance, host, same } from '../support/arrays'
import { check } from '../support/property'
import { gradientsOf } from '../support/record'
import { generator } from '../support/run'

const aligned = (n: number): number => Math.ceil(n / 64) * 64
const packedBytes = (elements: number, bits: number): number => {
  const groups = Math.ceil(elements / 256)
  return aligned(groups * 32 * bits) + aligned(groups * 4)
}

test('quantize: within one step, or half of one; every level comes back; non-finite groups are NaN', async () => {
  const bitsOf = fc.constantFrom<CodeBits>(2, 4, 8)
  await check(60, fc.nat(), fc.integer({ min: 1, max: 1500 }), bitsOf, fc.boolean(), async (start, n, bits, near) => {
    const random = generator(start)
    const scale = 10 ** (4 * random() - 2)
    const x = Float32Array.from({ length: n }, () => scale * (random() + random() - 0.7))
    seed(start)
    const packed = quantize(tensor(x), bits, near ? 'nearest' : 'stochastic')
    expect(packed.codes.shape).toEqual([Math.ceil(n / 256), 8 * bits])
    const y = dequantize(packed, bits, [n]).dataSync() as Float32Array
    for (let g = 0; g < n; g += 256) {
      const group = x.subarray(g, g + 256)
      // In bfloat16 the minimum may be 2^-7 of itself lower, and the range as much wider.
      const [low, high] = [Math.min(...group), Math.max(...group)]
      const range = (high - low + Math.abs(low) / 128) * (1 + 1 / 128)
      const step = range / (2 ** bits - 1)
      group.forEach((v, i) =>
        expect(Math.abs(y[g + i] - v)).toBeLessThanOrEqual((near ? 0.5 : 1) * step * 1.001 + 1e-6 * range),
      )
    }
    x[0] = start % 2 ? NaN : -Infinity
    const odd = dequantize(quantize(tensor(x), bits), bits, [n]).dataSync() as Float32Array
    expect(odd.every((v, i) => Number.isNaN(v) === i < 256)).toBe(true)
  })
  expect(() => quantize(tensor([1]), 3 as CodeBits)).toThrow(/quantize: expected 2, 4 or 8 bits, got 3/)
  expect(() => quantize(tensor([1]), 8, 'up' as 'nearest')).toThrow(
    /quantize: expected rounding 'stochastic' or 'nearest', got up/,
  )
  expect(() => quantize(tensor([1]).cast('i32'), 8)).toThrow(/expected input of dtype f32, got i32/)
})

test("quantized, linear: all is backpropagation's but the weight gradient, which is deltaᵀ times the decoded input", async () => {
  const dims = [
    fc.integer({ min: 1, max: 70 }),
    fc.integer({ min: 16, max: 40 }),
    fc.integer({ min: 1, max: 24 }),
  ] as const
  await check(30, fc.nat(), ...dims, fc.constantFrom<CodeBits>(2, 4, 8), async (start, rows, I, O, bits) => {
    const random = generator(start)
    const T = rows + 64
    const model = new nn.Sequential(new nn.Linear(I, 32), new nn.Linear(32, O))
    const batch = { x: host(random, [T, I]), r: host(random, [T, O]) }
    const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
    const rounding = 'nearest'
    const decoded = auxiliary({
      name: 'decoded',
      keep: (x) => Object.values(quantize(x, bits, rounding)),
      read: ([codes, ranges], shape) => dequantize({ codes, ranges }, bits, shape),
    })
    const got = await gradientsOf(model, loss, batch, { '1': quantized({ bits, rounding }) })
    const expected = await gradientsOf(model, loss, batch, { '1': decoded })
    const exact = await gradientsOf(model, loss, batch)
    expect(got.result.loss).toBe(exact.result.loss)
    for (const name of ['0.weight', '0.bias', '1.bias'])
      expect(same(got.gradients[name], exact.gradients[name])).toBe(true)
    expect(same(got.gradients['1.weight'], expected.gradients['1.weight'])).toBe(true)
    expect(got.measured).toBe(got.plan.arenaBytes)
    const kept = got.plan.kept.filter((k) => k.layer === '1')
    expect(kept.reduce((n, k) => n + k.bytes, 0)).toBe(packedBytes(T * 32, bits))
    expect(kept.map((k) => k.policy)).toEqual([`quantized ${bits}`, `quantized ${bits}`])
  })
})

/** Gradients near backpropagation's, from a fraction of the memory. */
async function compare(
  model: nn.Module,
  loss: (b: Record<string, Tensor>) => Tensor,
  batch: Parameters<typeof gradientsOf>[2],
  memory: MemoryAssignment,
  limits: { error: number; kept: number },
): Promise<void> {
  const got = await gradientsOf(model, loss, batch, memory)
  const exact = await gradientsOf(model, loss, batch)
  expect(got.result.loss).toBe(exact.result.loss)
  const errors = Object.entries(got.gradients)
    .filter(([name]) => Math.hypot(...exact.gradients[name]) > 1e-4)
    .map(([name, g]) => [name, distance(g, exact.gradients[name])] as const)
  expect(errors.filter(([, e]) => !(e < limits.error))).toEqual([])
  expect(errors.some(([, e]) => e > 0)).toBe(true)
  expect(got.plan.bytes.kept).toBeLessThan(limits.kept * exact.plan.bytes.kept)
  expect(got.measured).toBe(got.plan.arenaBytes)
}

test('quantized to 8 bits, a residual network with batch norm: gradients near backpropagation, kept bytes a third', async () => {
  const random = generator(3)
  const model = new models.CNN({ width: 8, classes: 3 })
  const y = hostArray(
    Int32Array.from({ length: 16 }, (_, i) => i % 3),
    [16],
  )
  const batch = { x: host(random, [16, 16, 16, 1]), y }
  const loss = (b: Record<string, Tensor>): Tensor => nn.crossEntropy(model.forward(b.x), b.y)
  await compare(model, loss, batch, quantized(), { error: 0.05, kept: 0.33 })
  const kept = async (bits: CodeBits): Promise<number> =>
    (await gradientsOf(model, loss, batch, quantized({ bits }))).plan.bytes.kept
  expect(await kept(4)).toBeLessThan(0.65 * (await kept(8)))
  expect(await kept(2)).toBeLessThan(0.75 * (await kept(4)))
})

test('quantized to 8 bits, a transformer: attention, layer norms and GELU read codes; views share those of their base', async () => {
  const random = generator(5)
  const model = new models.GPT({ vocabulary: 11, length: 24, layers: 2, features: 32, heads: 4, dropout: 0.1 })
  const tokens = hostArray(
    Int32Array.from({ length: 8 * 24 }, () => Math.floor(11 * random())),
    [8, 24],
  )
  const batch = { x: tokens, r: host(random, [8, 24, 11]) }
  const loss = (b: Record<string, Tensor>): Tensor => model.forward(b.x).mul(b.r).sum()
  // 0.02 to 0.07 with other values: most where softmax takes the mean off, in queries and keys.
  await compare(model, loss, batch, quantized(), { error: 0.1, kept: 0.32 })
  const { plan } = await gradientsOf(model, loss, batch, quantized())
  const codes = (layer: string) =>
    plan.kept.filter((k) => k.layer === layer && k.shape.length === 2 && k.dtype === 'u32')
  // q, k and v of [8, 24, 32]; the result is listed with the projection that reads it first.
  expect(codes('blocks.0.attention').map((k) => k.bytes)).toEqual(Array(3).fill(8 * 24 * 32))
  expect(codes('blocks.0').map((k) => k.bytes)).toEqual([4 * 8 * 24 * 32]) // what GELU reads
})

test('inside a quantized module ASA keeps its bits, backprop() its input, a checkpoint nothing', async () => {
  const random = generator(6)
  const model = new nn.Sequential(...Array.from({ length: 4 }, () => new nn.Linear(48, 48)))
  const batch = { x: host(random, [64, 48]), r: host(random, [64, 48]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const inner = { '1': asa(), '2': backprop() }
  const alone = await gradientsOf(model, loss, batch, inner)
  const both = await gradientsOf(model, loss, batch, { ...inner, '3': quantized() })
  const all = await gradientsOf(model, loss, batch, [['', quantized()], ...Object.entries(inner)])
  for (const name of ['1.weight', '2.weight']) {
    expect(same(both.gradients[name], alone.gradients[name])).toBe(true)
    expect(same(all.gradients[name], alone.gradients[name])).toBe(true)
  }
  expect(same(all.gradients['3.weight'], alone.gradients['3.weight'])).toBe(false)
  const policy = (layer: string) => [...new Set(all.plan.kept.filter((k) => k.layer === layer).map((k) => k.policy))]
  expect(['0', '1', '2', '3'].map(policy)).toEqual([['quantized 8'], ['asa'], ['backpropagation'], ['quantized 8']])

  const deep = new nn.Sequential(new nn.Sequential(new nn.Linear(48, 48), new nn.Linear(48, 48)), new nn.Linear(48, 48))
  const run = (b: Record<string, Tensor>) => deep.forward(b.x).mul(b.r).sum()
  const mixed = await gradientsOf(deep, run, batch, { '0': checkpoint(), '1': quantized() })
  const exact = await gradientsOf(deep, run, batch)
  for (const name of ['0.0.weight', '0.1.weight']) expect(same(mixed.gradients[name], exact.gradients[name])).toBe(true)
  expect(distance(mixed.gradients['1.weight'], exact.gradients['1.weight'])).toBeLessThan(0.02)
})

test("ARA inside a quantized model keeps its group's auxiliary packed, once for all that read it", async () => {
  const random = generator(4)
  const model = new models.CNN({ width: 8, classes: 3 })
  const y = hostArray(new Int32Array(16), [16])
  const batch = { x: host(random, [16, 16, 16, 1]), y }
  const loss = (b: Record<string, Tensor>): Tensor => nn.crossEntropy(model.forward(b.x), b.y)
  const stages: [RegExp, ReturnType<typeof ara>] = [/^stage\d$/, ara()]
  const dense = await gradientsOf(model, loss, batch, [stages])
  const { plan, gradients } = await gradientsOf(model, loss, batch, [[(path) => path === '', quantized()], stages])
  expect(plan.kept.filter((k) => k.dtype === 'f32' && k.shape.length === 4)).toEqual([])
  const packed = await gradientsOf(model, loss, batch, quantized())
  expect(plan.bytes.kept).toBeLessThan(packed.plan.bytes.kept)
  for (const name of ['stage1.1.conv1.weight', 'stage2.1.conv1.weight'])
    expect(distance(gradients[name], dense.gradients[name])).toBeLessThan(0.05)
})

test('inside a quantized module ARA reads the codes that the first block of the group reads', async () => {
  const random = generator(4)
  const stage = new nn.Sequential(new nn.Linear(48, 48), new nn.Linear(48, 48))
  const first = new nn.Linear(48, 48)
  const model = new nn.Sequential(first, stage)
  const batch = { x: host(random, [64, 48]), r: host(random, [64, 48]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const got = await gradientsOf(model, loss, batch, [
    ['', quantized({ rounding: 'nearest' })],
    ['1', ara()],
  ])
  const a = first.forward(tensor(batch.x.data as Float32Array).reshape([64, 48]))
  const decoded = dequantize(quantize(a, 8, 'nearest'), 8, [64, 48])
  // The gradient of the last layer's result is r itself.
  const r = tensor(batch.r.data as Float32Array).reshape([64, 48])
  const expected = r.transpose().matmul(decoded).dataSync() as Float32Array
  expect(distance(got.gradients['1.1.weight'], expected)).toBeLessThan(1e-6)
  const kept = got.plan.kept.filter((k) => k.layer.startsWith('1.'))
  expect(kept.reduce((n, k) => n + k.bytes, 0)).toBe(packedBytes(64 * 48, 8))
  expect(got.measured).toBe(got.plan.arenaBytes)
})

test('what gradients compare, and what is small, is kept as it is: their gradients are exact', async () => {
  class Odd extends nn.Module {
    readonly shift = new nn.Parameter(tensor(new Float32Array(64 * 48)).reshape([64, 48]))
    forward(x: Tensor): Tensor {
      const y = x.add(this.shift)
      return y.relu().maximum(y.mul(0.5)).max(1).mul(y.logSumExp(1))
    }
  }
  const random = generator(8)
  const model = new Odd()
  const batch = { x: host(random, [64, 48]), r: host(random, [64]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const exact = await gradientsOf(model, loss, batch)
  const got = await gradientsOf(model, loss, batch, quantized({ bits: 2 }))
  expect(same(got.gradients.shift, exact.gradients.shift)).toBe(true)
})

test('a frozen batch norm of many channels keeps its factors as they are', async () => {
  const random = generator(2)
  const model = new nn.Sequential(new nn.Linear(3, 1024), new nn.BatchNorm1d(1024))
  model[1].eval()
  for (const t of model.state().values()) t.assign(Float32Array.from({ length: t.size }, () => 0.1 + random()))
  model.freeze('1')
  const batch = { x: host(random, [4, 3]), r: host(random, [4, 1024]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const exact = await gradientsOf(model, loss, batch)
  const got = await gradientsOf(model, loss, batch, quantized({ bits: 2 }))
  expect(same(got.gradients['0.weight'], exact.gradients['0.weight'])).toBe(true)
})

test('quantized: the same numbers are drawn again from the same seed, and it refuses what it cannot do', async () => {
  const random = generator(9)
  const model = new nn.Sequential(new nn.Linear(32, 32), new nn.Linear(32, 8))
  const batch = { x: host(random, [64, 32]), r: host(random, [64, 8]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const weight = async (): Promise<Float32Array> =>
    (await gradientsOf(model, loss, batch, quantized({ bits: 4 }))).gradients['1.weight']
  expect(same(await weight(), await weight())).toBe(true)
  expect(() => quantized({ bits: 5 as CodeBits })).toThrow(/quantized: expected 2, 4 or 8 bits, got 5/)
  expect(() => quantized({ rounding: 'up' as 'nearest' })).toThrow(/'stochastic' or 'nearest', got up/)
})

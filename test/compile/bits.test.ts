import fc from 'fast-check'
import {
  allotBits,
  asa,
  compile,
  hostArray,
  nn,
  optim,
  quantized,
  seed,
  type HostArray,
  type MemoryAssignment,
  type MemoryPolicy,
  type Tensor,
} from '../../src'
import { allotments, distanceOf, sensitivities } from '../../src/compile/bits'
import { distance, host } from '../support/arrays'
import { check, liveBytes } from '../support/property'
import { gradientsOf, snapshot } from '../support/record'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

const levels = [32, 8, 4, 2] as const
type Bits = (typeof levels)[number]

test('allotments go down from all to two bits; none with as few bytes is nearer', async () => {
  const layer = fc.record({
    elements: fc.integer({ min: 1, max: 1000 }),
    sensitivity: fc.oneof(fc.constant(0), fc.double({ min: 1e-6, max: 1e3, noNaN: true })),
  })
  await check(100, fc.array(layer, { minLength: 1, maxLength: 5 }), async (list) => {
    const layers = list.map((l, i) => ({ ...l, paths: new Set([String(i)]) }))
    const bytes = (bits: readonly Bits[]): number => layers.reduce((n, { elements }, i) => n + elements * bits[i], 0)
    let every: Bits[][] = [[]]
    for (let i = 0; i < layers.length; i++) every = every.flatMap((head) => levels.map((b) => [...head, b]))
    const all = allotments(layers)
    expect(all).toHaveLength(3 * layers.length + 1)
    expect(all[0]).toEqual(layers.map(() => 32))
    expect(all[all.length - 1]).toEqual(layers.map(() => 2))
    all.forEach((bits, k) => {
      const before = all[k - 1] ?? bits
      expect(bits.filter((b, i) => b !== before[i])).toHaveLength(k ? 1 : 0)
      bits.forEach((b, i) => expect(b).toBeLessThanOrEqual(before[i]))
      const limit = distanceOf(layers, bits) * (1 - 1e-9) - 1e-12
      expect(every.filter((other) => bytes(other) <= bytes(bits) && distanceOf(layers, other) < limit)).toEqual([])
    })
  })
})

const byPath = (layers: Awaited<ReturnType<typeof sensitivities>>) =>
  new Map(layers.flatMap((layer) => [...layer.paths].map((path) => [path, layer] as const)))

test('the sensitivity of a linear layer is within the bound of the paper, and near what uniform values give', async () => {
  const dims = [
    fc.integer({ min: 64, max: 90 }),
    fc.integer({ min: 16, max: 32 }),
    fc.integer({ min: 8, max: 24 }),
  ] as const
  await check(12, fc.nat(), ...dims, async (start, T, I, O) => {
    seed(start)
    const random = generator(start)
    const model = new nn.Sequential(new nn.Linear(I, 32), new nn.Linear(32, O))
    const batch = { x: host(random, [T, I]), r: host(random, [T, O]) }
    const loss = (b: Record<string, Tensor>): Tensor => model.forward(b.x).mul(b.r).sum()
    const layers = byPath(await sensitivities({ model, loss, optimizer: new optim.SGD({ lr: 0 }) }, [batch]))
    expect([...layers.keys()].sort()).toEqual(['0', '1'])
    const f = compile({ model, forward: (b: Record<string, Tensor>) => model[0].forward(b.x) })
    const h = f.runSync({ x: batch.x }).data as Float32Array
    f.close()
    let bound = 0
    for (let at = 0; at < T * 32; at += 256) {
      const group = h.subarray(at, at + 256)
      const range = Math.max(...group) - Math.min(...group)
      for (let t = at / 32; t < (at + group.length) / 32; t++)
        for (let o = 0; o < O; o++) bound += (32 * (batch.r.data[t * O + o] * range) ** 2) / 36
    }
    const { elements, sensitivity } = layers.get('1')!
    expect(elements).toBe(T * 32)
    expect(sensitivity / bound).toBeGreaterThan(0.4)
    expect(sensitivity / bound).toBeLessThan(1)
  })
})

/** Convolutions, norms, and a value that two modules read. */
class Net extends nn.Module {
  stem = new nn.Conv2d(1, 8, 3, { padding: 1, bias: false })
  norm = new nn.BatchNorm2d(8)
  left = new nn.Conv2d(8, 8, 3, { padding: 1 })
  right = new nn.Conv2d(8, 8, 1)
  last = new nn.Conv2d(8, 16, 3, { padding: 1, stride: 2 })
  fc = new nn.Linear(8 * 8 * 16, 3)
  forward(x: Tensor): Tensor {
    x = this.norm.forward(this.stem.forward(x)).relu()
    x = this.left.forward(x).gelu().add(this.right.forward(x))
    return this.fc.forward(this.last.forward(x).gelu().flatten(1))
  }
}

function setting(start: number) {
  seed(start)
  const random = generator(start)
  const model = new Net()
  const y = hostArray(
    Int32Array.from({ length: 16 }, () => Math.floor(3 * random())),
    [16],
  )
  const batch: Record<string, HostArray> = { x: host(random, [16, 16, 16, 1]), y }
  const loss = (b: Record<string, Tensor>): Tensor => nn.crossEntropy(model.forward(b.x), b.y)
  const optimizer = new optim.Adam({ lr: 1e-3 })
  const bytes = (memory: MemoryAssignment) => {
    const step = compile({ model, loss, optimizer, memory })
    const plan = step.plan({ x: [16, 16, 16, 1], y: [16] })
    step.close()
    return plan.bytes
  }
  return { model, batch, loss, optimizer, bytes }
}

/** Bits by module. */
const bitsOf = (memory: Record<string, MemoryPolicy>): Record<string, number> =>
  Object.fromEntries(Object.entries(memory).map(([path, { name }]) => [path, Number(name.split(' ')[1] ?? 32)]))

test('within a budget: a plan that fits, gradients nearer than with the same bits everywhere', async () => {
  const { model, batch, loss, optimizer, bytes } = setting(2)
  const exact = await gradientsOf(model, loss, batch)
  const error = async (memory: MemoryAssignment): Promise<number> => {
    const { gradients } = await gradientsOf(model, loss, batch, memory)
    const all = (g: Record<string, Float32Array>): number[] => Object.keys(g).flatMap((name) => [...g[name]])
    return distance(all(gradients), all(exact.gradients))
  }
  for (const bits of [4, 2] as const) {
    const uniform = quantized({ bits })
    const budget = bytes(uniform).total
    const memory = await allotBits({ model, loss, optimizer, budget }, batch, batch)
    expect(bytes(memory).total).toBeLessThanOrEqual(budget)
    expect(await error(memory)).toBeLessThan(await error(uniform))
    const own = bitsOf(memory)
    expect(own.left).toBe(own.right)
    expect(Object.keys(own).sort()).toEqual(['', 'fc', 'last', 'left', 'norm', 'right', 'stem'])
  }
  const plain = bytes([]).total
  const loose = await allotBits({ model, loss, optimizer, budget: plain }, batch)
  expect(new Set(Object.values(bitsOf(loose)))).toEqual(new Set([32]))
  expect(await error(loose)).toBe(0)
  await expect(allotBits({ model, loss, optimizer, budget: '10KiB' }, batch)).rejects.toEqual(
    withCode('AUX_BUDGET_TOO_SMALL'),
  )
  const open = compile({ model, loss, optimizer })
  const run = async (): Promise<number> => (await open.run(batch)).loss
  const losses = [await run()]
  await allotBits({ model, loss, optimizer, budget: plain }, batch)
  losses.push(await run()) // a step that was open goes on
  expect(losses[1]).toBeLessThan(losses[0])
  open.close()
  const broken = { ...batch, x: hostArray(new Float32Array(16 * 16 * 16).fill(NaN), [16, 16, 16, 1]) }
  await expect(allotBits({ model, loss, optimizer, budget: plain }, broken)).rejects.toEqual(
    withCode('AUX_INVALID_ARGUMENT'),
  )
  await expect(allotBits({ model, loss, optimizer, budget: plain })).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
})

test('measuring leaves the model as it was, the policies that its evaluation follows, and no memory held', async () => {
  const { model, batch, loss, optimizer, bytes } = setting(5)
  const budget = bytes(quantized({ bits: 4 })).total
  const step = compile({ model, loss, optimizer, memory: asa() })
  await step.run(batch)
  const predict = compile({ model, forward: (b: Record<string, Tensor>) => model.forward(b.x) })
  const [state, before] = [snapshot(model), predict.runSync({ x: batch.x }).data]
  predict.close()
  step.close()
  const [steps, held] = [optimizer.steps, await liveBytes()]
  await allotBits({ model, loss, optimizer, budget }, batch)
  expect(await liveBytes()).toBe(held)
  expect(snapshot(model)).toEqual(state)
  expect(optimizer.steps).toBe(steps)
  const again = compile({ model, forward: (b: Record<string, Tensor>) => model.forward(b.x) })
  expect(again.runSync({ x: batch.x }).data).toEqual(before)
  again.close()
})

test('codes of a value are shared by modules with policies of their own, where bits and rounding are the same', () => {
  const { bytes } = setting(1)
  const one = bytes([[/^(left|right)$/, quantized({ bits: 4 })]])
  const each = bytes({ left: quantized({ bits: 4 }), right: quantized({ bits: 4 }) })
  expect(each.kept).toBe(one.kept)
  const apart = bytes({ left: quantized({ bits: 4 }), right: quantized({ bits: 8 }) })
  expect(apart.kept).toBeGreaterThan(each.kept + 16 * 16 * 16 * 8 - 1)
})

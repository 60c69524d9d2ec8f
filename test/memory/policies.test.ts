import fc from 'fast-check'
import {
  addSign,
  ara,
  asa,
  auxiliary,
  backprop,
  checkpoint,
  codePack,
  codeUnpack,
  compile,
  hostArray,
  invert,
  models,
  nn,
  optim,
  q2,
  seed,
  signPack,
  signUnpack,
  tensor,
  zeros,
  type MemoryAssignment,
  type MemoryPolicy,
  type Tensor,
  type ConvOptions,
} from '../../src'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { distance, host, same, values } from '../support/arrays'
import { check } from '../support/property'
import { gradientsOf, snapshot } from '../support/record'
import { sizeOf } from '../support/reference'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

type Alphabet = 'pm1' | '01'
const sign = (v: number, alphabet: Alphabet): number => (v > 0 ? 1 : alphabet === 'pm1' ? -1 : 0)

/** One layer, and a parameter of zeros added to its input: its gradient is the input gradient. */
class One<L extends nn.Module & { forward(x: Tensor): Tensor }> extends nn.Module {
  readonly shift: nn.Parameter
  constructor(
    readonly layer: L,
    shape: number[],
    readonly before: (x: Tensor) => Tensor = (x) => x,
  ) {
    super()
    this.shift = new nn.Parameter(Eager.from(new Float32Array(sizeOf(shape)), shape, 'f32'))
  }
  forward(x: Tensor): Tensor {
    return this.layer.forward(this.before(x.add(this.shift)))
  }
}

/** The layer under ASA, and under backpropagation with the same forward operand. delta is r itself. */
async function compareAsa(
  layer: nn.Module & { forward(x: Tensor): Tensor },
  x: ReturnType<typeof host>,
  r: ReturnType<typeof host>,
  epsilon: number,
  lambda: number,
  alphabet: Alphabet,
) {
  const loss = (model: nn.Module & { forward(x: Tensor): Tensor }) => (b: Record<string, Tensor>) =>
    model.forward(b.x).mul(b.r).sum()
  const a = new One(layer, [...x.shape])
  const b = new One(layer, [...x.shape], (t) => addSign(t, epsilon, alphabet))
  const under = await gradientsOf(a, loss(a), { x, r }, { layer: asa({ epsilon, lambda, alphabet }) })
  const exact = await gradientsOf(b, loss(b), { x, r })
  expect(under.result.loss).toBe(exact.result.loss)
  expect(same(under.gradients.shift, exact.gradients.shift)).toBe(true)
  expect(same(under.gradients['layer.bias'], exact.gradients['layer.bias'])).toBe(true)
  expect(under.measured).toBe(under.plan.arenaBytes)
  return { under, exact }
}

const asaOptions = [
  fc.nat(),
  fc.constantFrom<Alphabet>('pm1', '01'),
  fc.constantFrom(0.01, 0.5, 0.003),
  fc.constantFrom(100, 1, 7),
] as const

test("ASA, linear: input and bias gradients are backpropagation's, the weight gradient is that of dense signs", async () => {
  const sizes = [
    fc.integer({ min: 1, max: 140 }),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 24 }),
  ] as const
  await check(60, ...asaOptions, ...sizes, async (start, alphabet, epsilon, lambda, T, I, O) => {
    const random = generator(start)
    const layer = new nn.Linear(I, O)
    const shape = T % 3 === 0 ? [3, T / 3, I] : [T, I]
    const x = host(random, shape)
    const r = host(random, [...shape.slice(0, -1), O])
    const { under } = await compareAsa(layer, x, r, epsilon, lambda, alphabet)
    const expected = new Float64Array(O * I)
    for (let t = 0; t < T; t++)
      for (let o = 0; o < O; o++)
        for (let i = 0; i < I; i++)
          expected[o * I + i] += epsilon * lambda * r.data[t * O + o] * sign(x.data[t * I + i], alphabet)
    expect(distance(under.gradients['layer.weight'], expected)).toBeLessThan(1e-6)
    const kept = under.plan.kept.filter((k) => k.layer === 'layer')
    expect(kept.map((k) => k.bytes)).toEqual([Math.ceil((4 * I * Math.ceil(T / 32)) / 64) * 64])
    expect(kept[0].policy).toBe('asa')
  })
})

const geometry = fc
  .record({
    n: fc.integer({ min: 1, max: 3 }),
    h: fc.integer({ min: 3, max: 9 }),
    w: fc.integer({ min: 3, max: 9 }),
    kh: fc.integer({ min: 1, max: 3 }),
    kw: fc.integer({ min: 1, max: 3 }),
    stride: fc.integer({ min: 1, max: 2 }),
    padding: fc.integer({ min: 0, max: 2 }),
    dilation: fc.integer({ min: 1, max: 2 }),
    groups: fc.constantFrom(1, 2, 3),
    perGroup: fc.integer({ min: 1, max: 3 }),
    outPerGroup: fc.integer({ min: 1, max: 3 }),
    depthwise: fc.boolean(),
  })
  .filter(
    (g) => g.h + 2 * g.padding >= g.dilation * (g.kh - 1) + 1 && g.w + 2 * g.padding >= g.dilation * (g.kw - 1) + 1,
  )

const optionsOf = ({ stride, padding, dilation, groups }: ConvOptions): ConvOptions => ({
  stride,
  padding,
  dilation,
  groups,
})

test('ASA, convolution: the same for strides, padding, dilation, groups and depthwise', async () => {
  await check(60, ...asaOptions, geometry, async (start, alphabet, epsilon, lambda, g) => {
    const random = generator(start)
    const C = g.groups * (g.depthwise ? 1 : g.perGroup)
    const O = g.groups * g.outPerGroup
    const depth = C / g.groups
    const layer = new nn.Conv2d(C, O, [g.kh, g.kw], optionsOf(g))
    const P = Math.floor((g.h + 2 * g.padding - g.dilation * (g.kh - 1) - 1) / g.stride) + 1
    const Q = Math.floor((g.w + 2 * g.padding - g.dilation * (g.kw - 1) - 1) / g.stride) + 1
    const x = host(random, [g.n, g.h, g.w, C])
    const r = host(random, [g.n, P, Q, O])
    const { under } = await compareAsa(layer, x, r, epsilon, lambda, alphabet)
    const expected = new Float64Array(O * g.kh * g.kw * depth)
    for (let n = 0; n < g.n; n++)
      for (let p = 0; p < P; p++)
        for (let q = 0; q < Q; q++)
          for (let o = 0; o < O; o++)
            for (let kh = 0; kh < g.kh; kh++)
              for (let kw = 0; kw < g.kw; kw++) {
                const [y, z] = [p * g.stride + kh * g.dilation - g.padding, q * g.stride + kw * g.dilation - g.padding]
                if (y < 0 || z < 0 || y >= g.h || z >= g.w) continue
                const group = Math.floor(o / g.outPerGroup)
                for (let c = 0; c < depth; c++)
                  expected[((o * g.kh + kh) * g.kw + kw) * depth + c] +=
                    epsilon *
                    lambda *
                    r.data[((n * P + p) * Q + q) * O + o] *
                    sign(x.data[((n * g.h + y) * g.w + z) * C + group * depth + c], alphabet)
              }
    expect(distance(under.gradients['layer.weight'], expected)).toBeLessThan(1e-6)
    const kept = under.plan.kept.filter((k) => k.layer === 'layer')
    expect(kept.map((k) => k.bytes)).toEqual([Math.ceil((4 * C * Math.ceil((g.n * g.h * g.w) / 32)) / 64) * 64])
  })
})

test('ASA: only signs count, and on inputs of ±c it is backpropagation times epsilon lambda / (c + epsilon)', async () => {
  await check(
    30,
    fc.nat(),
    fc.integer({ min: 1, max: 70 }),
    fc.integer({ min: 1, max: 20 }),
    fc.constantFrom(0.25, 1, 3),
    async (start, T, I, c) => {
      const random = generator(start)
      const layer = new nn.Linear(I, 5)
      const r = host(random, [T, 5])
      const x = Float32Array.from({ length: T * I }, () => (random() < 0.5 ? -1 : 1) * (0.1 + random()))
      const gradient = async (data: Float32Array): Promise<Float32Array> =>
        (await compareAsa(layer, hostArray(data, [T, I]), r, 0.01, 100, 'pm1')).under.gradients['layer.weight']
      const plain = await gradient(x)
      expect(same(await gradient(x.map((v) => v * (0.01 + 10 * random()))), plain)).toBe(true)
      expect(
        same(
          (await gradient(x.map((v) => -v))).map((v) => 0 - v),
          plain.map((v) => 0 + v),
        ),
      ).toBe(true)
      const { under, exact } = await compareAsa(
        layer,
        hostArray(
          x.map((v) => c * Math.sign(v)),
          [T, I],
        ),
        r,
        0.01,
        100,
        'pm1',
      )
      const scaled = Float64Array.from(exact.gradients['layer.weight'], (v) => v / (c + 0.01))
      expect(distance(under.gradients['layer.weight'], scaled)).toBeLessThan(2e-6)
    },
  )
})

/** The layer under q2, and under the auxiliary that keeps the values its codes stand for. */
async function compareQ2(
  layer: nn.Module & { forward(x: Tensor): Tensor },
  x: ReturnType<typeof host>,
  r: ReturnType<typeof host>,
) {
  const model = new One(layer, [...x.shape])
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const decode = (t: Tensor): Tensor => {
    const flat = layer instanceof nn.Linear ? t.reshape([-1, t.shape[t.rank - 1]]) : t
    const { codes, ranges } = codePack(flat)
    return codeUnpack(codes, ranges, t.shape)
  }
  const under = await gradientsOf(model, loss, { x, r }, { layer: q2() }, true)
  const dense = await gradientsOf(model, loss, { x, r }, { layer: auxiliary({ name: 'decoded', keep: decode }) }, true)
  const exact = await gradientsOf(model, loss, { x, r })
  expect(under.result.loss).toBe(exact.result.loss)
  expect(same(under.gradients.shift, exact.gradients.shift)).toBe(true)
  expect(same(under.gradients['layer.bias'], exact.gradients['layer.bias'])).toBe(true)
  expect(under.measured).toBe(under.plan.arenaBytes)
  const expected = Float64Array.from(dense.gradients['layer.weight'])
  expect(distance(under.gradients['layer.weight'], expected)).toBeLessThan(2e-6)
  return under
}

/** Bytes of the codes of [tokens, channels] and of the ranges, in whole lines of 64. */
const codeBytes = (tokens: number, channels: number, ranges: number): number[] =>
  [4 * channels * Math.ceil(tokens / 16), 8 * ranges].map((b) => Math.ceil(b / 64) * 64)

test("q2, linear: forward, input and bias gradients are backpropagation's, the weight gradient is that of the decoded input", async () => {
  const sizes = [
    fc.integer({ min: 1, max: 140 }),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 24 }),
  ] as const
  await check(40, fc.nat(), ...sizes, async (start, T, I, O) => {
    const random = generator(start)
    const shape = T % 3 === 0 ? [3, T / 3, I] : [T, I]
    const r = host(random, [...shape.slice(0, -1), O])
    const { plan } = await compareQ2(new nn.Linear(I, O), host(random, shape), r)
    const kept = plan.kept.filter((k) => k.layer === 'layer')
    const [codes, ranges] = codeBytes(T, I, T)
    expect(kept.reduce((sum, k) => sum + k.bytes, 0)).toBe(codes + ranges)
    expect(kept.every((k) => k.policy === 'q2')).toBe(true)
  })
})

test('q2, convolution: the same for strides, padding, dilation, groups and depthwise, one range a sample', async () => {
  await check(40, fc.nat(), geometry, async (start, g) => {
    const random = generator(start)
    const C = g.groups * (g.depthwise ? 1 : g.perGroup)
    const O = g.groups * g.outPerGroup
    const P = Math.floor((g.h + 2 * g.padding - g.dilation * (g.kh - 1) - 1) / g.stride) + 1
    const Q = Math.floor((g.w + 2 * g.padding - g.dilation * (g.kw - 1) - 1) / g.stride) + 1
    const layer = new nn.Conv2d(C, O, [g.kh, g.kw], optionsOf(g))
    const r = host(random, [g.n, P, Q, O])
    const { plan } = await compareQ2(layer, host(random, [g.n, g.h, g.w, C]), r)
    const [codes, ranges] = codeBytes(g.n * g.h * g.w, C, g.n)
    expect(plan.kept.filter((k) => k.layer === 'layer').reduce((sum, k) => sum + k.bytes, 0)).toBe(codes + ranges)
  })
})

test('q2: a code is the nearest of four levels between the least and the largest of its group', async () => {
  await check(40, fc.nat(), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 50 }), async (start, G, C) => {
    const random = generator(start)
    const x = values(random, [G, C])
    const { codes, ranges } = codePack(tensor(x).reshape([G, C]))
    const decoded = codeUnpack(codes, ranges, [G, C]).dataSync() as Float32Array
    for (let i = 0; i < G; i++) {
      const row = x.subarray(i * C, (i + 1) * C)
      const [low, high] = [Math.min(...row), Math.max(...row)]
      row.forEach((v, c) => {
        const level = low === high ? 0 : Math.round((3 * (decoded[i * C + c] - low)) / (high - low))
        expect(Math.abs(decoded[i * C + c] - (low + (level * (high - low)) / 3))).toBeLessThan(1e-6)
        expect(Math.abs(decoded[i * C + c] - v)).toBeLessThan((high - low) / 6 + 1e-6)
      })
    }
  })
})

/** A residual block whose first layer's delta can be read: `probe` is added to its result. */
class Block extends nn.Module {
  readonly fc1: nn.Linear
  readonly fc2: nn.Linear
  readonly probe: nn.Parameter
  constructor(T: number, C: number, hidden: number) {
    super()
    this.fc1 = new nn.Linear(C, hidden)
    this.fc2 = new nn.Linear(hidden, C)
    this.probe = new nn.Parameter(Eager.from(new Float32Array(T * hidden), [T, hidden], 'f32'))
  }
  seen!: Tensor
  forward(x: Tensor): Tensor {
    this.seen = x
    const y = this.fc2.forward(this.fc1.forward(x).add(this.probe).relu()).add(x).tanh()
    return y
  }
}
class Residual extends nn.Module {
  readonly blocks: Block[]
  readonly stage: nn.Sequential
  readonly shift: nn.Parameter
  constructor(T: number, C: number, hidden: number, depth: number) {
    super()
    this.shift = new nn.Parameter(Eager.from(new Float32Array(T * C), [T, C], 'f32'))
    this.blocks = []
    const blocks = Array.from({ length: depth }, () => new Block(T, C, hidden))
    this.stage = new nn.Sequential(...blocks)
    this.blocks = blocks
    Object.defineProperty(this, 'blocks', { enumerable: false }) // their names are stage.0, ...
  }
  forward(x: Tensor): Tensor {
    return this.stage.forward(x.add(this.shift))
  }
}

test("ARA: all but the weight gradients of a group's later blocks is backpropagation's; these are deltaᵀ a; LI is 1 - |h - a|²/|h|²", async () => {
  await check(
    25,
    fc.nat(),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 12 }),
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 4 }),
    async (start, T, C, hidden, depth, stride) => {
      const random = generator(start)
      const model = new Residual(T, C, hidden, depth)
      const batch = { x: host(random, [T, C]), r: host(random, [T, C]) }
      const loss = (b: Record<string, Tensor>) => {
        const y = model.forward(b.x).mul(b.r).sum()
        return { loss: y, ...Object.fromEntries(model.blocks.map((block, i) => [`seen${i}`, block.seen])) }
      }
      const exact = await gradientsOf(model, loss, batch)
      const under = await gradientsOf(model, loss, batch, { stage: ara({ stride }) }, true)
      for (const name of Object.keys(exact.gradients)) {
        const block = Number(/^stage\.(\d+)\.fc1\.weight$/.exec(name)?.[1] ?? 0)
        if (block % stride === 0)
          expect([name, same(under.gradients[name], exact.gradients[name])]).toEqual([name, true])
        else {
          const a = under.result[`seen${block - (block % stride)}`].data
          const h = under.result[`seen${block}`].data
          const delta = under.gradients[`stage.${block}.probe`]
          const expected = new Float64Array(hidden * C)
          for (let t = 0; t < T; t++)
            for (let o = 0; o < hidden; o++)
              for (let c = 0; c < C; c++) expected[o * C + c] += delta[t * hidden + o] * a[t * C + c]
          expect(distance(under.gradients[name], expected)).toBeLessThan(2e-6)
          const { values: li, min, mean, share } = under.result.indicators![`stage.${block}.fc1`]
          for (let t = 0; t < T; t++) {
            let [gap, norm] = [0, 0]
            for (let c = 0; c < C; c++) {
              gap += (h[t * C + c] - a[t * C + c]) ** 2
              norm += h[t * C + c] ** 2
            }
            expect(li[t]).toBeLessThanOrEqual(1 + 1e-6)
            expect(Math.abs(li[t] - (norm - gap) / (norm + 1e-6))).toBeLessThan(1e-4 * (1 + Math.abs(li[t])))
            if (Math.abs(norm - gap) > 1e-4 * norm) expect(li[t] > 0).toBe(gap < norm)
          }
          expect(min).toBeCloseTo(Math.min(...li), 6)
          expect(mean).toBeCloseTo(li.reduce((p, q) => p + q, 0) / T, 4)
          expect(share).toBeCloseTo(li.filter((v) => !(v > 0)).length / T, 6)
        }
      }
      // Inputs of first layers: once a group, whoever reads them.
      const inputs = under.plan.kept.filter((k) => k.shape.join() === `${T},${C}` && k.layer.endsWith('fc1'))
      expect(inputs.length).toBeLessThanOrEqual(Math.ceil(depth / stride))
    },
  )
})

test('the indicator: 1 under backpropagation, in [0, 1] under ASA', async () => {
  await check(20, fc.nat(), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 12 }), async (start, T, C) => {
    const random = generator(start)
    const model = new One(new nn.Linear(C, 3), [T, C])
    const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
    const batch = {
      x: hostArray(
        values(random, [T, C]).map((v) => v + 0.05),
        [T, C],
      ),
      r: host(random, [T, 3]),
    }
    const exact = await gradientsOf(model, loss, batch, undefined, true)
    exact.result.indicators!.layer.values.forEach((v, t) => {
      const norm = [...batch.x.data.subarray(t * C, (t + 1) * C)].reduce((n, h) => n + h * h, 0)
      expect(Math.abs(v - norm / (norm + 1e-6))).toBeLessThan(1e-5)
    })
    const epsilon = 0.05
    const under = await gradientsOf(model, loss, batch, asa({ epsilon }), true)
    under.result.indicators!.layer.values.forEach((v, t) => {
      let [norm, one] = [0, 0]
      for (let c = 0; c < C; c++) {
        const x = batch.x.data[t * C + c]
        norm += (x + epsilon * sign(x, 'pm1')) ** 2
        one += Math.abs(x)
      }
      expect(v).toBeGreaterThanOrEqual(0)
      expect(v).toBeLessThanOrEqual(1 + 1e-6)
      expect(Math.abs(v - (2 * epsilon * one + epsilon ** 2 * C) / (norm + 1e-6))).toBeLessThan(1e-5)
    })
  })
})

test('an update from signs decreases the loss of its sample', async () => {
  await check(30, fc.nat(), fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 10 }), async (start, I, O) => {
    const random = generator(start)
    const model = new nn.Linear(I, O, { bias: false })
    const step = compile({
      model,
      loss: (b) => model.forward(b.x).mul(b.r).sum(),
      optimizer: new optim.SGD({ lr: 0.1 }),
      memory: asa(),
    })
    const batch = {
      x: hostArray(
        values(random, [1, I]).map((v) => v || 0.5),
        [1, I],
      ),
      r: hostArray(
        values(random, [1, O]).map((v) => v || 0.5),
        [1, O],
      ),
    }
    const before = (await step.run(batch)).loss
    const after = (await step.run(batch)).loss
    expect(after).toBeLessThan(before)
    step.close()
  })
})

/** Losses and all state after some steps. */
async function train(
  build: () => nn.Module & { forward(x: Tensor): Tensor },
  memory: MemoryAssignment | undefined,
  shape: number[],
  steps = 4,
  indices = false,
) {
  seed(3)
  const model = build()
  const optimizer = new optim.AdamW({ lr: 3e-3 })
  const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer, memory, seed: 5 })
  const random = generator(11)
  const losses: number[] = []
  for (let i = 0; i < steps; i++) {
    const x = indices
      ? hostArray(
          Int32Array.from({ length: sizeOf(shape) }, () => Math.floor(random() * 20)),
          shape,
        )
      : host(random, shape)
    losses.push((await step.run({ x, y: Int32Array.from({ length: shape[0] }, () => Math.floor(random() * 3)) })).loss)
  }
  const plan = step.plan({ x: { shape, dtype: indices ? 'i32' : 'f32' }, y: { shape: [shape[0]], dtype: 'i32' } })
  const result = {
    losses,
    state: snapshot(model),
    kept: plan.bytes.kept,
    moments: [...step.stateTensors()].map(([n, t]) => [n, Buffer.from(t.rawSync().buffer).toString('base64')]),
    measured: step.measuredArenaBytes,
    arena: plan.arenaBytes,
    calls: plan.ops.length,
  }
  step.close()
  model.dispose()
  optimizer.dispose()
  return result
}

class Dropped extends nn.Module {
  readonly stage1 = new nn.Sequential(new models.BasicBlock(4, 4), new nn.Dropout(0.3), new models.BasicBlock(4, 8, 2))
  readonly norm = new nn.BatchNorm2d(8)
  readonly stage2 = new nn.Sequential(new models.BasicBlock(8, 8), new nn.Dropout(0.2))
  readonly fc = new nn.Linear(8, 3)
  forward(x: Tensor): Tensor {
    return this.fc.forward(this.stage2.forward(this.norm.forward(this.stage1.forward(x)).gelu()).mean([1, 2]))
  }
}

const images = [5, 9, 9, 4]
test.each<[string, MemoryAssignment]>([
  ['each block', { 'stage*.*': checkpoint() }],
  ['cheap', { 'stage*.*': checkpoint({ recompute: 'cheap' }) }],
  ['whole stages', { 'stage*': checkpoint() }],
  ['nested', { stage1: checkpoint(), 'stage1.0': checkpoint({ recompute: 'cheap' }), 'stage2.*': checkpoint() }],
  ['cheap outside, all inside', { stage1: checkpoint({ recompute: 'cheap' }), 'stage1.*': checkpoint() }],
  ['the whole model', checkpoint()],
  ['single norms', { '**.norm1': checkpoint(), norm: checkpoint() }],
  ['ranges', { 'stage1.0..stage1.1': checkpoint(), 'norm..stage2': checkpoint() }],
  ['ranges in ranges', { 'stage1..norm': checkpoint({ recompute: 'cheap' }), 'stage1.0..stage1.2': checkpoint() }],
])('checkpointing is bit-identical, with batch norm and dropout: %s', async (name, memory) => {
  const plain = await train(() => new Dropped(), undefined, images)
  const again = await train(() => new Dropped(), memory, images)
  expect(again.losses).toEqual(plain.losses)
  expect(again.state).toEqual(plain.state)
  expect(again.moments).toEqual(plain.moments)
  expect(again.measured).toBe(again.arena)
  if (name !== 'single norms') expect(again.kept).toBeLessThan(0.85 * plain.kept)
})

test('checkpointing a transformer with dropout is bit-identical, and keeps less', async () => {
  const build = (): models.Encoder =>
    new models.Encoder({ vocabulary: 20, length: 7, classes: 3, layers: 2, features: 16, heads: 2, dropout: 0.2 })
  const plain = await train(build, undefined, [4, 7], 4, true)
  for (const memory of [
    { 'blocks.*': checkpoint() },
    { 'blocks.*': checkpoint({ recompute: 'cheap' }) },
    { 'blocks.*.attention': checkpoint() },
  ] as MemoryAssignment[]) {
    const again = await train(build, memory, [4, 7], 4, true)
    expect(again.losses).toEqual(plain.losses)
    expect(again.state).toEqual(plain.state)
    expect(again.kept).toBeLessThan(plain.kept)
  }
})

test('ARA of stride 1 is backpropagation, bit for bit, over a training run; of stride 2 it is not', async () => {
  const build = (): models.CNN => new models.CNN({ width: 4, classes: 3 })
  const plain = await train(build, undefined, [4, 12, 12, 1])
  const one = await train(build, { stage1: ara({ stride: 1 }), stage2: ara({ stride: 1 }) }, [4, 12, 12, 1])
  expect([one.losses, one.state, one.moments, one.kept]).toEqual([plain.losses, plain.state, plain.moments, plain.kept])
  const two = await train(build, { stage1: ara(), stage2: ara() }, [4, 12, 12, 1])
  expect(two.state).not.toEqual(plain.state)
  expect(two.kept).toBeLessThan(plain.kept)
})

test('ARA: a stage that runs twice groups its blocks anew each time', async () => {
  const model = new Residual(6, 5, 4, 3)
  const random = generator(5)
  const batch = { x: host(random, [6, 5]), z: host(random, [6, 5]), r: host(random, [6, 5]) }
  const part = (field: 'x' | 'z') => (b: Record<string, Tensor>) => model.forward(b[field]).mul(b.r).sum()
  const both = await gradientsOf(model, (b) => part('x')(b).add(part('z')(b)), batch, { stage: ara({ stride: 2 }) })
  const [x, z] = [
    await gradientsOf(model, part('x'), batch, { stage: ara({ stride: 2 }) }),
    await gradientsOf(model, part('z'), batch, { stage: ara({ stride: 2 }) }),
  ]
  for (const name of Object.keys(both.gradients))
    expect(
      distance(
        both.gradients[name],
        Float64Array.from(x.gradients[name], (v, i) => v + z.gradients[name][i]),
      ),
    ).toBeLessThan(1e-5)
})

test('ARA refuses blocks whose inputs have other shapes, naming both', async () => {
  const model = new nn.Sequential(new nn.Sequential(new nn.Linear(4, 6), new nn.Linear(6, 6)))
  const step = compile({
    model,
    loss: ({ x }) => model.forward(x).sum(),
    optimizer: new optim.SGD({ lr: 1 }),
    memory: { 0: ara() },
  })
  expect(() => step.plan({ x: [2, 4] })).toThrow(withCode('AUX_SHAPE_MISMATCH', /\[2, 6\].*\[2, 4\]/))
})

class Chain extends nn.Module {
  readonly l0 = new nn.Linear(6, 6)
  readonly l1 = new nn.Linear(6, 6)
  readonly l2 = new nn.Linear(6, 6)
  readonly l3 = new nn.Linear(6, 6)
  readonly l4 = new nn.Linear(6, 6)
  forward(x: Tensor): Tensor {
    for (const layer of [this.l0, this.l1, this.l2, this.l3]) x = layer.forward(x).tanh()
    return this.l4.forward(x)
  }
}

test("policies compose: each layer's gradient is what it is among backpropagation with the same operands", async () => {
  const operand = (): ReturnType<typeof auxiliary> => {
    const signs = (x: Tensor): Tensor => signUnpack(signPack(x), x.shape, 'pm1', 0.01)
    return auxiliary({ name: 'operand', keep: (x) => x.add(signs(x)), add: signs })
  }
  const half = auxiliary({ name: 'half', keep: (x) => x.mul(0.5) })
  const model = new Chain()
  const random = generator(4)
  const batch = { x: host(random, [37, 6]), r: host(random, [37, 6]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const mixed = { l0: asa(), l1: q2(), l2: checkpoint(), l3: asa({ lambda: 3 }), l4: half }
  const all = await gradientsOf(model, loss, batch, mixed)
  const exact = { l0: operand(), l1: backprop(), l2: backprop(), l3: operand(), l4: backprop() }
  for (const layer of Object.keys(mixed) as (keyof typeof mixed)[]) {
    const alone = await gradientsOf(model, loss, batch, { ...exact, [layer]: mixed[layer] })
    expect(alone.result.loss).toBe(all.result.loss)
    for (const part of ['weight', 'bias'])
      expect([layer, part, same(alone.gradients[`${layer}.${part}`], all.gradients[`${layer}.${part}`])]).toEqual([
        layer,
        part,
        true,
      ])
  }
})

test('input gradients under any policies agree with finite differences, along any direction', async () => {
  // What forward adds is a constant to gradients; here it is far below what is compared.
  const choices: Record<string, () => MemoryPolicy> = {
    backprop,
    checkpoint,
    q2,
    asa: () => asa({ epsilon: 1e-6 }),
    ara: () => ara({ stride: 1 }),
    half: () => auxiliary({ name: 'half', keep: (x) => x.mul(0.5) }),
    invert: () => invert(),
  }
  const names = fc.array(fc.constantFrom(...Object.keys(choices)), { minLength: 5, maxLength: 5 })
  await check(25, fc.nat(), names, async (start, chosen) => {
    const random = generator(start)
    const model = new One(new Chain(), [4, 6])
    const memory = Object.fromEntries(chosen.map((name, i) => [`layer.l${i}`, choices[name]()]))
    const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
    const [x, r, direction] = [host(random, [4, 6]), host(random, [4, 6]), values(random, [4, 6])]
    const { gradients } = await gradientsOf(model, loss, { x, r }, memory)
    const at = async (d: number): Promise<number> => {
      const moved = x.data.map((v, i) => v + d * direction[i]) as Float32Array
      return (await gradientsOf(model, loss, { x: hostArray(moved, [4, 6]), r }, memory)).result.loss
    }
    const slope = ((await at(1e-2)) - (await at(-1e-2))) / 2e-2
    const expected = gradients.shift.reduce((sum, g, i) => sum + g * direction[i], 0)
    expect(Math.abs(slope - expected)).toBeLessThan(2e-3 * Math.hypot(...gradients.shift) + 1e-4)
    model.dispose()
  })
})

test('cheap checkpointing on top of ASA keeps no more than ASA', async () => {
  const model = new models.MLP([16, 48, 48, 48, 3])
  const random = generator(2)
  const batch = { x: host(random, [70, 16]), r: host(random, [70, 3]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const signs = await gradientsOf(model, loss, batch, asa())
  const both = await gradientsOf(model, loss, batch, [
    ['', asa()],
    ['', checkpoint({ recompute: 'cheap' })],
  ])
  expect(both.gradients).toEqual(signs.gradients)
  expect(both.plan.bytes.kept).toBeLessThanOrEqual(signs.plan.bytes.kept)
  const plain = await gradientsOf(model, loss, batch)
  const cheap = await gradientsOf(model, loss, batch, checkpoint({ recompute: 'cheap' }))
  expect(cheap.gradients).toEqual(plain.gradients)
  expect(cheap.plan.bytes.kept).toBeLessThanOrEqual(plain.plan.bytes.kept)
})

test('kept bytes: shared inputs count once, under every policy', async () => {
  class Heads extends nn.Module {
    readonly q = new nn.Linear(48, 8)
    readonly k = new nn.Linear(48, 8)
    readonly v = new nn.Linear(48, 8)
    forward(x: Tensor): Tensor {
      const h = x.neg()
      return this.q.forward(h).add(this.k.forward(h)).add(this.v.forward(h))
    }
  }
  const model = new Heads()
  const random = generator(1)
  const batch = { x: host(random, [2, 35, 48]), r: host(random, [2, 35, 8]) }
  const loss = (b: Record<string, Tensor>) => model.forward(b.x).mul(b.r).sum()
  const layers = (kept: { layer: string; bytes: number }[]): number =>
    kept.filter((k) => k.layer).reduce((n, k) => n + k.bytes, 0)
  expect(layers((await gradientsOf(model, loss, batch)).plan.kept)).toBe(4 * 70 * 48)
  expect(layers((await gradientsOf(model, loss, batch, asa())).plan.kept)).toBe(4 * 48 * 3)
  expect(
    layers((await gradientsOf(model, loss, batch, { q: asa(), k: asa({ alphabet: '01' }), v: backprop() })).plan.kept),
  ).toBe(4 * 48 * 3 + 4 * 70 * 48)
})

test('ReLU before a layer under ASA adds no bits of its own, also where the layer flattens its tokens', async () => {
  for (const shape of [
    [70, 48],
    [2, 35, 48],
  ]) {
    class Two extends nn.Module {
      readonly a = new nn.Linear(48, 48)
      readonly b = new nn.Linear(48, 8)
      forward(x: Tensor): Tensor {
        return this.b.forward(this.a.forward(x).relu())
      }
    }
    const model = new Two()
    const random = generator(1)
    const batch = { x: host(random, shape), r: host(random, [...shape.slice(0, -1), 8]) }
    const { plan } = await gradientsOf(model, (b) => model.forward(b.x).mul(b.r).sum(), batch, asa())
    expect(plan.kept.filter((k) => k.dtype === 'u32').map((k) => k.bytes)).toEqual([4 * 48 * 3, 4 * 48 * 3])
  }
})

test('ReLU6 keeps a bit of what lies between its bounds, and passes what does', async () => {
  await check(15, fc.nat(), fc.integer({ min: 1, max: 90 }), fc.integer({ min: 1, max: 40 }), async (start, T, C) => {
    const random = generator(start)
    class Net extends nn.Module {
      readonly shift = new nn.Parameter(zeros([C]))
      forward(x: Tensor): Tensor {
        return x.add(this.shift).relu6()
      }
    }
    const model = new Net()
    const special = [0, -0, 6, 7, -1, 5.9999995, 1e-30]
    const values = Float32Array.from({ length: T * C }, (_, i) => special[(i + start) % 11] ?? 8 * random() - 1)
    const batch = { x: hostArray(values, [T, C]), r: host(random, [T, C]) }
    const { plan, gradients } = await gradientsOf(model, (b) => model.forward(b.x).mul(b.r).sum(), batch)
    expect(plan.kept.filter((k) => k.op !== 'leaf').map((k) => [k.dtype, k.shape])).toEqual([
      ['u32', [Math.ceil(T / 32), C]],
    ])
    gradients.shift.forEach((g, c) => {
      let sum = 0
      for (let t = 0; t < T; t++) {
        const v = values[t * C + c]
        if (v > 0 && v < 6) sum += batch.r.data[t * C + c]
      }
      expect(Math.abs(g - sum)).toBeLessThan(1e-5 * T)
    })
    model.dispose()
  })
})

test('frozen weights: nothing kept for them, never changed, biases still train', async () => {
  for (const memory of [undefined, asa(), { l1: checkpoint() }] as (MemoryAssignment | undefined)[]) {
    const model = new Chain()
    model.freeze('l1.weight', 'l2')
    const before = snapshot(model)
    const optimizer = new optim.AdamW({ lr: 0.1 })
    const step = compile({ model, loss: (b) => model.forward(b.x).neg().square().mean(), optimizer, memory })
    const plan = step.plan({ x: [40, 6] })
    // tanh keeps its own result (l1's input) under backpropagation; the layers keep nothing.
    expect(plan.kept.filter((k) => k.layer === 'l1' || k.layer === 'l2').map((k) => k.bytes)).toEqual([])
    const random = generator(3)
    for (let i = 0; i < 3; i++) await step.run({ x: host(random, [40, 6]) })
    const after = snapshot(model)
    for (const name of ['l1.weight', 'l2.weight', 'l2.bias']) expect(after[name]).toBe(before[name])
    for (const name of ['l0.weight', 'l1.bias', 'l4.weight']) expect(after[name]).not.toBe(before[name])
    step.close()
  }
})

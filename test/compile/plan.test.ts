import fc from 'fast-check'
import {
  ara,
  asa,
  checkpoint,
  compile,
  conv2d,
  hostArray,
  layerNorm,
  batchNorm,
  linear,
  memory,
  models,
  nn,
  optim,
  resetPeakMemory,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { allocate, largestLiveSum, type Block } from '../../src/compile/allocate'
import { fuseActivations } from '../../src/compile/fuse'
import { maskActivations } from '../../src/compile/masks'
import { Draft } from '../../src/compile/plan'
import { derive } from '../../src/graph/derive'
import { Graph } from '../../src/graph/graph'
import { copy } from '../../src/graph/op'
import { check as ok, native } from '../../src/native'
import { Storage } from '../../src/tensor/storage'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { typedArray } from '../../src/tensor/dtype'
import { bytes, generator } from '../support/run'
import { check, interpret, liveBytes } from '../support/property'

function expectNoOverlap(blocks: readonly Block[], arena: number): void {
  const sorted = [...blocks].sort((a, b) => a.offset - b.offset)
  const open: Block[] = []
  for (const b of sorted) {
    if (b.offset % 64 || b.bytes % 64 || b.offset < 0 || b.offset + b.bytes > arena)
      throw new Error(`block ${JSON.stringify(b)} in an arena of ${arena}`)
    for (const o of open)
      if (o.offset + o.bytes > b.offset && o.from <= b.to && b.from <= o.to)
        throw new Error(`blocks ${JSON.stringify(o)} and ${JSON.stringify(b)} overlap`)
    open.push(b)
  }
}

/** The nodes of a graph as text, for failures. */
const listing = (graph: Graph): string =>
  graph.nodes
    .map(
      (n) =>
        `${n.id} ${n.inputName ?? n.op.name}(${n.inputs.map((t) => (t ? `${t.node!.id}.${t.index}` : '-')).join(' ')}) ${n.phase}`,
    )
    .join('\n')

/** A random program on [n, c] values: what it returns is one element. `pick(k)` is a whole number below k. */
function program(pick: (k: number) => number, length: number, x: Tensor, weights: Tensor[], vectors: Tensor[]): Tensor {
  const [n, c] = x.shape
  const values = [x]
  const any = (): Tensor => values[pick(values.length)]
  const steps: (() => Tensor)[] = [
    () => any().add(any()),
    () => any().sub(any()),
    () => any().mul(any()),
    () => any().maximum(any()),
    () => any().relu(),
    () => linear(any(), weights[0], vectors[1]).relu(),
    () =>
      batchNorm(
        any(),
        vectors[0],
        vectors[1],
        { runningMean: vectors[2], runningVar: vectors[3], momentum: 0.1 },
        n > 1,
      ).relu(),
    () => any().tanh(),
    () => any().gelu(),
    () => any().sigmoid(),
    () => any().softmax(),
    () => any().square().neg(),
    () => any().add(vectors[pick(vectors.length)]),
    () => any().mul(0.5),
    () => any().add(0.25),
    () => any().clamp(-1, 1),
    () => any().mean(1, true).add(any()),
    () => any().sub(any().mean(0)),
    () => linear(any(), weights[pick(weights.length)], pick(2) ? vectors[0] : undefined),
    () => any().matmul(weights[pick(weights.length)].transpose()),
    () => any().reshape([c, n]).transpose().mul(0.7),
    () => any().transpose().reshape([n, c]),
    () => layerNorm(any(), vectors[0], vectors[1]),
    () =>
      batchNorm(
        any(),
        vectors[0],
        vectors[1],
        { runningMean: vectors[2], runningVar: vectors[3], momentum: 0.1 },
        n > 1,
      ),
    () => conv2d(any().reshape([1, n, 1, c]), weights[0].reshape([c, 1, 1, c]), undefined, {}).reshape([n, c]),
    () => any().relu().reshape([1, n, c]).relu().reshape([n, c]),
    () => any().exp().clamp(0, 4).log().clamp(-3, 3),
  ]
  for (let i = 0; i < length; i++) values.push(steps[pick(steps.length)]())
  // Some values in the middle count too; the rest are dead code.
  return values
    .slice(-3)
    .map((v) => v.mul(v).mean())
    .reduce((a, b) => a.add(b))
}

test('random programs and their gradients: a plan computes, bit for bit, what node after node does', async () => {
  await check(
    150,
    fc.nat(),
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 7 }),
    fc.integer({ min: 1, max: 24 }),
    async (start, n, c, length) => {
      const random = generator(start)
      const pick = (k: number): number => Math.floor(random() * k)
      const make = (shape: number[], low = -1, high = 1): Eager =>
        Eager.from(
          Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => low + (high - low) * random()),
          shape,
          'f32',
        )
      const x = make([n, c])
      const weights = [make([c, c]), make([c, c])]
      const vectors = [make([c], 0.5, 1.5), make([c]), make([c]), make([c], 0.5, 2)]
      const graph = new Graph()
      const traced = graph.input('x', [n, c], 'f32')
      const seed = graph.input('seed', [], 'f32')
      const loss = graph.trace(() => program(pick, length, traced, weights, vectors))
      const wanted = [
        traced,
        ...[...weights, vectors[0]].map((t) => graph.referenceOf(t)?.outputs[0]).filter((t) => t !== undefined),
      ]
      const gradients = graph.trace(() => {
        const found = derive(loss, seed, wanted, { add: (a, b) => a.add(b) })
        return graph.withPhase('backward', () => found.filter((g) => g !== undefined).map((g) => copy(g)))
      })
      const results = [loss, ...gradients]
      const inputs = new Map([
        ['x', x],
        ['seed', Eager.from(Float32Array.of(1), [], 'f32')],
      ])
      const reference = interpret(graph, inputs)
      const expected = results.map((t) => reference.value(t).rawSync())
      reference.update()
      const state = vectors
        .slice(2)
        .map((t) => graph.referenceOf(t))
        .map((node) => node && reference.value(node.outputs[0]).rawSync())

      const named = new Map(results.map((t, i) => [`${i}`, t]))
      graph.trace(() => {
        fuseActivations(graph, named)
        maskActivations(graph)
      })
      const outputs = [...named.values()]
      const { plan } = new Draft(graph, outputs)
      expectNoOverlap(plan.blocks, plan.arenaBytes)
      expect(plan.arenaBytes).toBeGreaterThanOrEqual(plan.liveBytes)
      const arena = new Storage(plan.arenaBytes)
      native().write(arena.handle, 0, new Uint8Array(plan.arenaBytes).fill(0xff)) // NaN everywhere: nothing may be read before it is written
      for (const [name, slot] of plan.inputs) native().write(arena.handle, slot.offset, inputs.get(name)!.rawSync())
      const { status, stats } = native().runSync(plan.handle(), arena.handle)
      ok(status)
      expect(Math.max(stats.arenaPeak, plan.inputEnd)).toBe(plan.arenaBytes)
      plan.outputs.forEach((slot, i) => {
        const got = typedArray(slot.dtype, outputs[i].size)
        native().read(arena.handle, slot.offset, got)
        if (bytes(got) !== bytes(expected[i]))
          throw new Error(`output ${i}: expected ${expected[i]}, got ${got}\n${listing(graph)}`)
      })
      vectors.slice(2).forEach((t, i) => state[i] && expect(bytes(t.rawSync()) === bytes(state[i])).toBe(true))
      arena.release()
      plan.dispose()
    },
  )
})

test('allocation: no overlap, never below the live sum, for any lifetimes', async () => {
  const block = fc.record({
    bytes: fc.integer({ min: 1, max: 50 }).map((n) => n * 64),
    from: fc.nat(40),
    length: fc.nat(20),
  })
  await check(300, fc.array(block, { maxLength: 60 }), async (list) => {
    const blocks = list.map(({ bytes, from, length }) => ({ bytes, from, to: from + length, offset: -1 }))
    const arena = allocate(blocks)
    expectNoOverlap(blocks, arena)
    expect(arena).toBeGreaterThanOrEqual(largestLiveSum(blocks))
    let naive = 0
    for (let step = 0; step <= 60; step++)
      naive = Math.max(
        naive,
        blocks.filter((b) => b.from <= step && step <= b.to).reduce((n, b) => n + b.bytes, 0),
      )
    expect(largestLiveSum(blocks)).toBe(naive)
  })
})

type Case = [
  name: string,
  model: () => nn.Module & { forward(x: Tensor): Tensor },
  x: number[],
  memory: MemoryAssignment | undefined,
  dtype?: 'i32',
]
const stages = Object.fromEntries([1, 2, 3, 4].map((s) => [`stage${s}`, ara({ stride: 2 })]))
const policies: [string, MemoryAssignment | undefined][] = [
  ['backpropagation', undefined],
  ['asa', asa({ alphabet: 'auto' })],
  ['checkpoint', { 'stage*.*': checkpoint() }],
  ['cheap checkpoint', { 'stage*.*': checkpoint({ recompute: 'cheap' }) }],
]
const resnets = ([18, 50, 152] as const).flatMap((depth) =>
  (['standard', 'ara'] as const).flatMap((layout) =>
    [
      ...policies,
      ...(layout === 'ara'
        ? ([
            ['ara', stages],
            ['ara + cheap', { ...stages, 'stage*.*': checkpoint({ recompute: 'cheap' }) }],
          ] as [string, MemoryAssignment][])
        : []),
    ].map(([policy, memory]): Case => [
      `ResNet-${depth} ${layout} ${policy}`,
      () => new models.ResNet({ depth, layout, classes: 10, width: 16 }),
      [4, 32, 32, 3],
      memory,
    ]),
  ),
)
const encoder = (): nn.Module & { forward(x: Tensor): Tensor } =>
  new models.Encoder({ vocabulary: 50, length: 16, classes: 3, layers: 3, features: 32, heads: 4, dropout: 0.1 })
const vit = (): nn.Module & { forward(x: Tensor): Tensor } =>
  new models.ViT({ image: 32, patch: 8, layers: 2, features: 32, heads: 4, classes: 3, dropout: 0.1 })
const cases: Case[] = [
  ['MLP', () => new models.MLP([20, 64, 64, 10]), [32, 20], undefined],
  ['MLP asa', () => new models.MLP([20, 64, 64, 10]), [33, 20], asa()],
  ['CNN', () => new models.CNN(), [8, 28, 28, 1], undefined],
  ['CNN asa', () => new models.CNN(), [8, 28, 28, 1], asa()],
  ['CNN ara', () => new models.CNN(), [8, 28, 28, 1], { stage1: ara(), stage2: ara() }],
  ['encoder', encoder, [4, 16], undefined, 'i32'],
  ['encoder asa', encoder, [4, 16], asa(), 'i32'],
  ['encoder checkpoint', encoder, [4, 16], { 'blocks.*': checkpoint() }, 'i32'],
  ['ViT', vit, [4, 32, 32, 3], undefined],
  ['ViT asa', vit, [4, 32, 32, 3], { 'blocks.*': asa() }],
  ...resnets,
]

describe.each(cases)('%s', (_, build, shape, memory, dtype) => {
  const model = build()
  const optimizer = new optim.AdamW({ lr: 1e-3 })
  const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer, memory })
  afterAll(() => {
    step.close()
    model.dispose()
    optimizer.dispose()
  })

  test('the arena is tight, blocks never overlap, the bytes add up', () => {
    const plan = step.plan({ x: { shape, dtype }, y: [shape[0]] })
    expectNoOverlap(plan.blocks, plan.arenaBytes)
    expect(plan.arenaBytes / plan.liveBytes).toBeLessThanOrEqual(1.03)
    const { total, parameters, optimizer: state, ...arena } = plan.bytes
    expect(Object.values(arena).reduce((a, b) => a + b)).toBe(plan.arenaBytes)
    expect(total).toBe(parameters + state + plan.arenaBytes)
    expect(plan.kept.reduce((n, k) => n + k.bytes, 0)).toBe(arena.kept)
    for (const n of Object.values(plan.bytes)) expect(n).toBeGreaterThanOrEqual(0)
    const of = (kind: string) => plan.blocks.reduce((n, b) => n + (b.kind === kind ? b.bytes : 0), 0)
    expect(of('kept')).toBe(arena.kept)
    expect(of('staging')).toBeGreaterThanOrEqual(arena.staging)
    expect(of('workspace')).toBeGreaterThanOrEqual(arena.workspace)
  })

  test('its picture has every block that is a tenth of a pixel high where it lies', () => {
    const plan = step.plan({ x: { shape, dtype }, y: [shape[0]] })
    const boxes = [
      ...plan.toSVG().matchAll(/<rect x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)" fill=".*?"><title>/g),
    ]
    const [left, right, top, bottom] = [90, 980, 70, 480]
    const [steps, bytes] = [plan.ops.length / (right - left), plan.arenaBytes / (bottom - top)] // of a pixel
    const near = (a: number, b: number): boolean => Math.abs(a - b) < 0.11 // coordinates have one decimal
    const blocks = plan.blocks.filter((block) => block.bytes / bytes >= 0.05)
    expect(boxes).toHaveLength(blocks.length)
    const elsewhere = blocks.filter((block, i) => {
      const [x, y, width, height] = boxes[i].slice(1).map(Number)
      const within = x + width <= right + 0.2 && y >= top - 0.1
      const across = near(x - left, block.from / steps)
      const down = near(bottom - y - height, block.offset / bytes) && near(height, block.bytes / bytes)
      return !(within && across && down)
    })
    expect(elsewhere).toEqual([])
  })

  // A deep network takes seconds to run; its plan is made by the same code.
  if (shape[1] === 32 && model.parameters().length > 150) return
  test('a run measures what was planned', async () => {
    const random = generator(7)
    const size = shape.reduce((a, b) => a * b, 1)
    const data = dtype
      ? Int32Array.from({ length: size }, () => Math.floor(random() * 50))
      : Float32Array.from({ length: size }, () => random() - 0.5)
    const batch = {
      x: { data, shape, dtype: dtype ?? 'f32' },
      y: Int32Array.from({ length: shape[0] }, (_, i) => i % 3),
    } as const
    const plan = step.plan({ x: { shape, dtype }, y: [shape[0]] })
    const before = await liveBytes()
    const { loss } = await step.run(batch)
    expect(loss).toBeGreaterThan(0)
    expect(step.measuredArenaBytes).toBe(plan.arenaBytes)
    expect((await liveBytes()) - before).toBe(plan.arenaBytes)
  })
})

/** Bytes that backward keeps, for a batch of images. */
function keptBytes(model: nn.Module & { forward(x: Tensor): Tensor }, x: number[], memory?: MemoryAssignment): number {
  const step = compile({
    model,
    loss: (b) => nn.crossEntropy(model.forward(b.x), b.y),
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory,
  })
  const { kept } = step.plan({ x, y: [x[0]] }).bytes
  step.close()
  model.dispose()
  return kept
}

test('what ResNet-18 keeps is what it must', () => {
  const resnet = (memory?: MemoryAssignment, layout: models.Layout = 'standard') =>
    keptBytes(new models.ResNet({ depth: 18, classes: 10, layout }), [32, 32, 32, 3], memory)
  // In units of a first-stage activation: the stem's convolution and ReLU; per block two convolutions and two ReLU, and
  // the convolution on a shortcut; stages are half, a quarter, an eighth. Of the last ReLU one bit is enough.
  const unit = 4 * 32 * 32 * 32 * 64
  const activations = 2 + 8 + 9 / 2 + 9 / 4 + 9 / 8 - 1 / 8
  const small = unit / 8 / 32 + 4 * 32 * (32 * 32 * 3 + 512 + 10 + 1 + 1) // mask, images, pooled, logits, labels, log-sum-exp
  const statistics = 3 * 4 * 5 * (64 + 128 + 256 + 512) // mean, variance, 1/sigma of five norms a stage
  expect(resnet()).toBe(activations * unit + small + statistics)
  expect(resnet(asa())).toBe(80944896)
  expect(resnet({ 'stage*.*': checkpoint() })).toBe(47736576)
  expect(resnet({ 'stage*.*': checkpoint({ recompute: 'cheap' }) })).toBe(117991168)
  expect(resnet(stages, 'ara')).toBe(135227136)
})

test('what the CNN keeps', () => {
  const cnn = (memory?: MemoryAssignment): number => keptBytes(new models.CNN(), [128, 28, 28, 1], memory)
  expect(cnn()).toBe(62716032)
  expect(cnn(asa())).toBe(38963584)
  expect(cnn({ stage1: ara(), stage2: ara() })).toBe(58049664)
})

test('plans of other shapes hold nothing that the first did not count: numbers in the function too', async () => {
  const held = memory().live
  resetPeakMemory()
  const model = new nn.Linear(4, 3)
  const optimizer = new optim.Adam({ lr: 0.1 })
  const loss = ({ x }: Record<string, Tensor>): Tensor =>
    model.forward(x).maximum(0.1).maximum(-0).maximum(0).pow(2).minimum(0.1).sum()
  const step = compile({ model, loss, optimizer })
  const planned = step.plan({ x: [8, 4] }).bytes.total
  for (const rows of [8, 3, 1, 5]) await step.run({ x: hostArray(new Float32Array(4 * rows).fill(1), [rows, 4]) })
  expect(memory().peak - held).toBe(planned)
  step.close()
  model.dispose()
  optimizer.dispose()
  expect(memory().live).toBe(held)
})

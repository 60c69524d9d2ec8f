import fc from 'fast-check'
import {
  asa,
  backprop,
  checkpoint,
  compile,
  concat,
  hostArray,
  interpolate,
  models,
  nn,
  optim,
  quantized,
  seed,
  type Budget,
  type Bytes,
  type MemoryAssignment,
  zeros,
  type Tensor,
} from '../../src'
import { Builder } from '../../src/compile/builder'
import { Draft } from '../../src/compile/plan'
import { native } from '../../src/native'
import { check } from '../support/property'
import { snapshot } from '../support/record'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

const shapes = { x: [16, 28, 28, 1], y: [16] }
const open: { dispose(): void }[] = []
afterEach(() => open.splice(0).forEach((o) => o.dispose()))

/** A small residual network and its step. */
function make(options: { budget?: Bytes | Budget; memory?: MemoryAssignment } = {}) {
  seed(1)
  const model = new models.CNN({ width: 8 })
  const optimizer = new optim.SGD({ lr: 0.05, momentum: 0.9 })
  const step = compile({
    model,
    loss: ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y),
    optimizer,
    ...options,
  })
  open.push({ dispose: () => (step.close(), optimizer.dispose(), model.dispose()) })
  return { model, step }
}
function batch(n = 16, first = 1) {
  const random = generator(first)
  return {
    x: hostArray(
      Float32Array.from({ length: n * 784 }, () => random() - 0.5),
      [n, 28, 28, 1],
    ),
    y: Int32Array.from({ length: n }, (_, i) => i % 10),
  }
}

const total = (options: Parameters<typeof make>[0] = {}): number => make(options).step.plan(shapes).bytes.total
/** The least bytes that the methods reach, out of the refusal of an impossible budget. */
function least(options: Parameters<typeof make>[0] & { methods?: readonly MemoryAssignment[] } = {}): number {
  const { methods, ...rest } = options
  try {
    make({ ...rest, budget: { bytes: 1, methods } }).step.plan(shapes)
  } catch (error) {
    return Number(/\((\d+) bytes\) at least/.exec((error as Error).message)?.[1])
  }
  throw new Error('a plan of one byte')
}

test('a budget is met, by as few modules as will do, and no result changes', async () => {
  const free = make()
  const most = free.step.plan(shapes).bytes.total
  const fewest = least()
  expect(fewest).toBeLessThan(0.75 * most)
  for (let i = 0; i < 3; i++) await free.step.run(batch())
  await check(12, fc.integer({ min: fewest, max: most + 1000 }), async (budget) => {
    const { model, step } = make({ budget })
    const plan = step.plan(shapes)
    expect(plan.bytes.total).toBeLessThanOrEqual(budget)
    expect(step.memory.length > 0).toBe(budget < most)
    if (step.memory.length) {
      const [path, policy] = step.memory.at(-1)!
      const less = policy.name === 'checkpoint' ? [[path, checkpoint({ recompute: 'cheap' })] as const] : []
      expect(total({ memory: [...step.memory.slice(0, -1), ...less] })).toBeGreaterThan(budget)
    }
    for (let i = 0; i < 3; i++) await step.run(batch())
    expect(step.measuredArenaBytes).toBe(plan.arenaBytes)
    expect(snapshot(model)).toEqual(snapshot(free.model))
    open.pop()!.dispose()
  })
})

test('a budget that the methods cannot meet is refused, naming what they reach; with that it is met', () => {
  const before = native().memory().live
  const fewest = least()
  const { step } = make({ budget: fewest - 1 })
  expect(() => step.plan(shapes)).toThrow(
    withCode('AUX_BUDGET_TOO_SMALL', new RegExp(`${total()} bytes.*${fewest} bytes\\) at least.*${fewest - 1} bytes`)),
  )
  expect(step.memory).toEqual([])
  while (open.length) open.pop()!.dispose()
  expect(native().memory().live).toBe(before)
  expect(total({ budget: fewest })).toBe(fewest)
})

test('of candidates that take too much wherever their values lie no plan is made, and few are there at a time', () => {
  const { bytes, dispose } = Draft.prototype
  const places = Object.getOwnPropertyDescriptor(Builder.prototype, 'arenaBytes')!
  const drafts = new Set<Draft>()
  const there = new Set<Draft>()
  const placed = new Set<Builder>()
  let most = 0
  const spies = [
    jest.spyOn(Draft.prototype, 'bytes').mockImplementation(function (this: Draft, limit?: number) {
      drafts.add(this)
      most = Math.max(most, there.add(this).size)
      return bytes.call(this, limit)
    }),
    jest.spyOn(Draft.prototype, 'dispose').mockImplementation(function (this: Draft) {
      there.delete(this)
      dispose.call(this)
    }),
    jest.spyOn(Builder.prototype, 'arenaBytes', 'get').mockImplementation(function (this: Builder) {
      placed.add(this)
      return places.get!.call(this) as number
    }),
  ]
  expect(() => make({ budget: 1 }).step.plan(shapes)).toThrow(
    withCode('AUX_BUDGET_TOO_SMALL', /more than the budget of 1 bytes(?! \(1 )/),
  )
  for (const spy of spies) spy.mockRestore()
  expect(drafts.size).toBeGreaterThan(20)
  expect(placed.size).toBeLessThan(0.8 * drafts.size)
  expect(most).toBeLessThan(6)
  for (const draft of drafts) expect(draft.leastBytes).toBeLessThanOrEqual(draft.bytes())
})

test('without methods nothing is changed: a plan over the budget is refused', () => {
  const most = total()
  expect(total({ budget: { bytes: most, methods: [] } })).toBe(most)
  expect(() => total({ budget: { bytes: most - 1, methods: [] } })).toThrow(withCode('AUX_BUDGET_TOO_SMALL'))
})

test('methods are used in their order, the next one where all of the first will not do', () => {
  const exact = [checkpoint({ recompute: 'cheap' }), checkpoint()]
  const names = (methods: readonly MemoryAssignment[], bytes: number): Set<string> => {
    const { step } = make({ budget: { bytes, methods } })
    step.plan(shapes)
    return new Set(step.memory.map(([, policy]) => policy.name))
  }
  const packing = [exact[0], quantized()]
  const [cheap, all, packed] = [[exact[0]], exact, packing].map((methods) => least({ methods }))
  expect(cheap).toBeGreaterThan(all)
  expect(cheap).toBeGreaterThan(packed)
  const lists = [...exact, quantized()]
  expect(names(lists, Math.ceil((cheap + total()) / 2))).toEqual(new Set(['checkpoint, cheap parts']))
  expect(names(lists, all)).toContain('checkpoint')
  expect(names(lists, all)).not.toContain('quantized 8')
  expect(names(packing, packed)).toContain('quantized 8')
})

test('where all parts computed again would take more than some of them, some are taken, and nothing less was missed', () => {
  class Block extends nn.Module {
    norm1: nn.GroupNorm
    conv1: nn.Conv2d
    norm2: nn.GroupNorm
    conv2: nn.Conv2d
    constructor(from: number, to: number) {
      super()
      this.norm1 = new nn.GroupNorm(4, from)
      this.conv1 = new nn.Conv2d(from, to, 3, { padding: 1 })
      this.norm2 = new nn.GroupNorm(4, to)
      this.conv2 = new nn.Conv2d(to, to, 3, { padding: 1 })
    }
    forward(x: Tensor): Tensor {
      return this.conv2.forward(this.norm2.forward(this.conv1.forward(this.norm1.forward(x).silu())).silu())
    }
  }
  class UNet extends nn.Module {
    stem = new nn.Conv2d(3, 8, 3, { padding: 1 })
    down = [new Block(8, 8), new Block(8, 16), new Block(16, 16)]
    up = [new Block(32, 16), new Block(32, 8), new Block(16, 8)]
    out = new nn.Conv2d(8, 3, 3, { padding: 1 })
    forward(x: Tensor): Tensor {
      const a = this.down[0].forward(this.stem.forward(x))
      const b = this.down[1].forward(a.avgPool2d(2))
      const c = this.down[2].forward(b.avgPool2d(2))
      const beside = (low: Tensor, high: Tensor): Tensor => concat([interpolate(low, { scale: 2 }), high], -1)
      const d = this.up[1].forward(beside(this.up[0].forward(concat([c, c], -1)), b))
      return this.out.forward(this.up[2].forward(beside(d, a)))
    }
  }
  const model = new UNet()
  open.push(model)
  const plan = (options: { memory?: MemoryAssignment; budget?: Bytes } = {}): number => {
    const optimizer = new optim.SGD({ lr: 0.1 })
    const loss = ({ x, y }: Record<string, Tensor>): Tensor => nn.mse(model.forward(x), y)
    const step = compile({ model, loss, optimizer, ...options })
    open.push({ dispose: () => (step.close(), optimizer.dispose()) })
    return step.plan({ x: [4, 32, 32, 3], y: [4, 32, 32, 3] }).bytes.total
  }
  const reached = (budget: number): number => {
    try {
      return plan({ budget })
    } catch (error) {
      return Number(/\((\d+) bytes\) at least/.exec((error as Error).message)?.[1])
    }
  }
  const fewest = reached(1)
  expect(fewest).toBeLessThan(0.75 * plan({ memory: { 'down.*': checkpoint(), 'up.*': checkpoint() } }))
  const whole = plan()
  for (const share of [-0.02, 0, 0.1]) {
    const budget = Math.floor(fewest + share * (whole - fewest))
    const bytes = reached(budget)
    if (share < 0) expect(bytes).toBe(fewest)
    else expect(bytes).toBeLessThanOrEqual(budget)
    expect(bytes).toBeGreaterThanOrEqual(fewest)
  }
})

test('a method that saves little does not stand in the way of one behind it that saves more', () => {
  class Forecast extends nn.Module {
    gru = new nn.GRU(3, 16)
    out = new nn.Linear(16, 1)
    forward(x: Tensor): Tensor {
      return this.out.forward(this.gru.forward(x).output.select(1, -1))
    }
  }
  const model = new Forecast()
  const plan = (options: { memory?: MemoryAssignment; budget?: Budget }): number => {
    const optimizer = new optim.SGD({ lr: 0.1 })
    const loss = ({ x, y }: Record<string, Tensor>): Tensor => nn.mse(model.forward(x), y)
    const step = compile({ model, loss, optimizer, ...options })
    open.push({ dispose: () => (step.close(), optimizer.dispose()) })
    return step.plan({ x: [128, 12, 3], y: [128, 1] }).bytes.total
  }
  const bytes = plan({ memory: quantized() })
  expect(bytes).toBeLessThan(plan({ memory: checkpoint() }))
  expect(plan({ budget: { bytes, methods: [checkpoint(), quantized()] } })).toBeLessThanOrEqual(bytes)
  model.dispose()
})

test('a method may be an assignment, which is taken as it is', () => {
  const stages = { 'stage*': asa() }
  const { step } = make({ budget: { bytes: total({ memory: stages }), methods: [stages] } })
  step.plan(shapes)
  expect(step.memory).toEqual([
    ['stage1', stages['stage*']],
    ['stage2', stages['stage*']],
  ])
})

test('what memory says is kept, and where it says backpropagation nothing is chosen', () => {
  const memory = { stage1: backprop(), 'stage2.*.conv1': asa() }
  const fewest = least({ memory })
  const { step } = make({ memory, budget: fewest })
  step.plan(shapes)
  const chosen = step.memory.filter(([, { name }]) => name.startsWith('checkpoint'))
  expect(chosen.length).toBeGreaterThan(0)
  expect(chosen.some(([path]) => path.startsWith('stage1'))).toBe(false)
  expect(step.memory).toContainEqual(['stage1', memory.stage1])
  expect(total({ memory: step.memory })).toBe(fewest)
})

test('what was chosen stays for smaller batches, and evaluation follows it', async () => {
  const methods = [asa()]
  const evaluate = ({ model }: ReturnType<typeof make>) => compile({ model, forward: ({ x }) => model.forward(x) })
  const tight = make({ budget: { bytes: least({ methods }), methods } })
  const { x } = batch(4, 2)
  const output = async (predict: ReturnType<typeof evaluate>) => [...(await predict.run({ x })).data]
  const predict = evaluate(tight)
  const before = await output(predict)
  tight.step.plan(shapes)
  const { memory } = tight.step
  expect(memory.map(([, { name }]) => name)).toContain('asa')
  tight.step.plan({ x: [4, 28, 28, 1], y: [4] })
  expect(tight.step.memory).toEqual(memory)
  const after = await output(predict)
  expect(after).not.toEqual(before) // asa adds to what layers are given
  const told = make({ memory })
  const other = evaluate(told)
  expect(await output(other)).toEqual(after)
  for (const p of [predict, other]) p.close()
})

test('a larger batch may need more, which then holds for all', async () => {
  const { step } = make({ budget: Math.floor(1.02 * total()) })
  await step.run(batch())
  expect(step.memory).toEqual([])
  await step.run(batch(24))
  expect(step.memory.length).toBeGreaterThan(0)
  const { length } = step.memory
  await step.run(batch())
  expect(step.memory.length).toBe(length)
})

test('with gradient accumulation both plans keep within it', async () => {
  const step = (budget?: Bytes) => {
    seed(1)
    const model = new models.CNN({ width: 8 })
    const optimizer = new optim.SGD({ lr: 0.05 })
    const made = compile({
      model,
      loss: ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y),
      optimizer,
      budget,
      accumulate: 2,
    })
    open.push({ dispose: () => (made.close(), optimizer.dispose(), model.dispose()) })
    return { step: made, model }
  }
  const free = step()
  const tight = step(Math.floor(0.8 * free.step.plan(shapes).bytes.total))
  for (let i = 0; i < 4; i++) for (const s of [free, tight]) await s.step.run(batch(16, i))
  expect(tight.step.memory.length).toBeGreaterThan(0)
  expect(snapshot(tight.model)).toEqual(snapshot(free.model))
})

test('a method that a model does not admit says so, and leaves nothing behind', () => {
  const before = native().memory().live
  const { step } = make({ budget: { bytes: '1MiB', methods: [checkpoint(), { nowhere: asa() }] } })
  expect(() => step.plan(shapes)).toThrow(withCode('AUX_INVALID_ARGUMENT', /nowhere names no module/))
  open.pop()!.dispose()
  expect(native().memory().live).toBe(before)
})

/** Blocks one after the other, each called several times with something in between. */
class Chain extends nn.Module {
  blocks: nn.Sequential[]
  constructor(
    depth: number,
    private readonly times: number,
  ) {
    super()
    const block = () => new nn.Sequential(new nn.Linear(8, 32), new nn.Tanh(), new nn.Linear(32, 8))
    this.blocks = Array.from({ length: depth }, block)
  }
  forward(x: Tensor): Tensor {
    for (const block of this.blocks) for (let i = 0; i < this.times; i++) x = x.add(block.forward(x.mul(0.5)).mul(0.1))
    return x
  }
}

test.each([
  ['a module called many times keeps', 1, 40],
  ['modules that are small beside the weights keep', 40, 1],
])('a budget is met where %s most', (_, depth, times) => {
  const chain = new Chain(depth, times)
  const table = zeros([64, 65536])
  const planned = (options: { budget?: number; memory?: MemoryAssignment }): number => {
    using step = compile({
      model: chain,
      loss: ({ x }: Record<string, Tensor>) => chain.forward(x).square().mean().add(table.select(0, 0).mean()),
      optimizer: new optim.SGD({ lr: 0.1 }),
      ...options,
    })
    return step.plan({ x: [64, 8] }).bytes.total
  }
  const least = planned({ memory: { 'blocks.*': checkpoint() } })
  expect(least).toBeLessThan(planned({}) - 100000)
  expect(planned({ budget: least })).toBeLessThanOrEqual(least)
  chain.dispose()
  table.dispose()
})

/** What a flat net may consist of; each keeps the width of 16. */
const flatLayers: Record<string, () => nn.Layer> = {
  linear: () => new nn.Linear(16, 16),
  gelu: () => new nn.GELU(),
  relu: () => new nn.ReLU(),
  dropout: () => new nn.Dropout(0.3),
  norm: () => new nn.LayerNorm(16),
  batchNorm: () => new nn.BatchNorm1d(16),
  block: () => new nn.Sequential(new nn.Linear(16, 32), new nn.Tanh(), new nn.Linear(32, 16)),
}

/** Calls layers one after the other, with operations of its own behind some of them; `shared` stands in many places. */
class Flat extends nn.Module {
  readonly layers: nn.Layer[]
  readonly shared = new nn.Tanh()
  constructor(
    kinds: readonly string[],
    private readonly between: readonly string[],
  ) {
    super()
    this.layers = kinds.map((kind) => flatLayers[kind]())
  }
  forward(x: Tensor): Tensor {
    this.layers.forEach((layer, i) => {
      const y = layer.forward(x)
      const then = this.between[i % this.between.length]
      x = then === 'shared' ? this.shared.forward(y) : then === 'add' ? x.add(y) : then === 'square' ? y.square() : y
    })
    return x
  }
}

/** The least bytes that a refusal names: with the methods, or, if they do nothing, what is needed. */
function named(plan: () => unknown): number {
  try {
    plan()
  } catch (error) {
    const { message } = error as Error
    return Number((/\((\d+) bytes\) at least/.exec(message) ?? /needs .*?\((\d+) bytes\)/.exec(message))?.[1])
  }
  throw new Error('nothing was refused')
}

test('a flat net keeps within any budget that a refusal does not rule out, and no result changes', async () => {
  const nets = fc.record({
    kinds: fc.array(fc.constantFrom(...Object.keys(flatLayers)), { minLength: 4, maxLength: 24 }),
    between: fc.array(fc.constantFrom('nothing', 'nothing', 'shared', 'add', 'square'), { minLength: 1, maxLength: 5 }),
    sequential: fc.boolean(),
    signs: fc.boolean(),
    accumulate: fc.constantFrom(1, 2),
    indicator: fc.boolean(),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  const x = hostArray(Float32Array.from({ length: 64 * 16 }, generator(5)), [64, 16])
  let changed = 0
  await check(16, nets, async ({ kinds, between, sequential, signs, part, ...options }) => {
    const all = ['linear', ...kinds]
    const make = (budget?: number) => {
      seed(3)
      const model = sequential ? new nn.Sequential(...all.map((kind) => flatLayers[kind]())) : new Flat(all, between)
      const optimizer = new optim.SGD({ lr: 0.01, momentum: 0.9 })
      const memory = signs ? { [sequential ? '0' : 'layers.0']: asa() } : undefined
      const loss = ({ x }: Record<string, Tensor>) => (model as Flat).forward(x).square().mean()
      const step = compile({ model, loss, optimizer, memory, budget, ...options })
      open.push({ dispose: () => (step.close(), optimizer.dispose(), model.dispose()) })
      return { model, step, total: () => step.plan({ x: [64, 16] }).bytes.total }
    }
    const free = make()
    const most = free.total()
    const fewest = named(make(1).total)
    expect(fewest).toBeLessThanOrEqual(most)
    const budget = Math.floor(fewest + part * (most - fewest))
    const tight = make(budget)
    expect(tight.total()).toBeLessThanOrEqual(budget)
    if (tight.step.memory.length > Number(signs)) changed++
    for (let i = 0; i < 4; i++) {
      const [a, b] = [await free.step.run({ x }), await tight.step.run({ x })]
      expect(b).toEqual(a)
    }
    expect(snapshot(tight.model)).toEqual(snapshot(free.model))
    expect(tight.step.measuredArenaBytes).toBeLessThanOrEqual(budget)
    if (options.accumulate === 1)
      expect(tight.step.measuredArenaBytes).toBe(tight.step.plan({ x: [64, 16] }).arenaBytes)
    expect(() => make(fewest - 1).total()).toThrow(withCode('AUX_BUDGET_TOO_SMALL'))
    while (open.length) open.pop()!.dispose()
  })
  expect(changed).toBeGreaterThan(8)
})

test('layers that follow each other in one forward are computed again together, whoever calls them', async () => {
  const conv = (i: number) => [new nn.Conv2d(i ? 8 : 3, 8, 3, { padding: 1 }), new nn.BatchNorm2d(8), new nn.ReLU()]
  class Functional extends nn.Module {
    readonly list = Array.from({ length: 8 }, (_, i) => conv(i).slice(0, 2) as [nn.Conv2d, nn.BatchNorm2d])
    forward(x: Tensor): Tensor {
      for (const [c, norm] of this.list) x = norm.forward(c.forward(x)).relu()
      return x
    }
  }
  const inputs = { x: [8, 16, 16, 3] }
  const x = hostArray(Float32Array.from({ length: 8 * 256 * 3 }, generator(7)), inputs.x)
  for (const build of [
    () => new nn.Sequential(...Array.from({ length: 8 }, (_, i) => conv(i)).flat()),
    () => new Functional(),
  ]) {
    const make = (options: { budget?: number; memory?: MemoryAssignment } = {}) => {
      seed(1)
      const model: nn.Module & { forward(x: Tensor): Tensor } = build()
      const optimizer = new optim.Adam({ lr: 0.01 })
      const loss = ({ x }: Record<string, Tensor>) => model.forward(x).square().mean()
      const step = compile({ model, loss, optimizer, ...options })
      open.push({ dispose: () => (step.close(), optimizer.dispose(), model.dispose()) })
      return { model, step, plan: () => step.plan(inputs) }
    }
    const free = make()
    const { total } = free.plan().bytes
    const fewest = named(make({ budget: 1 }).plan)
    expect(fewest).toBeLessThan(0.5 * total) // 8 layers: kept are about 2 √8 of 16 values, and what is on its way
    const tight = make({ budget: fewest })
    expect(tight.plan().bytes.total).toBe(fewest)
    expect(tight.step.memory.some(([path]) => path.includes('..'))).toBe(true)
    expect(make({ memory: tight.step.memory }).plan().bytes.total).toBe(fewest)
    for (let i = 0; i < 3; i++) for (const { step } of [free, tight]) await step.run({ x })
    expect(snapshot(tight.model)).toEqual(snapshot(free.model)) // running statistics too
  }
})

test('of a flat net with a thousand layers plans take seconds', () => {
  const model = new nn.Sequential(...Array.from({ length: 500 }, () => [new nn.Linear(8, 8), new nn.GELU()]).flat())
  using step = compile({
    model,
    loss: ({ x }: Record<string, Tensor>) => model.forward(x).square().mean(),
    optimizer: new optim.SGD({ lr: 0.1 }),
    budget: '4MiB',
  })
  const from = performance.now()
  const { total } = step.plan({ x: [512, 8] }).bytes // 16 MiB without a budget
  expect(total).toBeLessThanOrEqual(4 * 2 ** 20)
  expect(performance.now() - from).toBeLessThan(60_000)
  model.dispose()
})

test('where backpropagation is asked for no range of modules passes', () => {
  const model = new nn.Sequential(...Array.from({ length: 12 }, () => [new nn.Linear(16, 16), new nn.GELU()]).flat())
  const planned = (budget: number) => {
    const step = compile({
      model,
      loss: ({ x }: Record<string, Tensor>) => model.forward(x).square().mean(),
      optimizer: new optim.SGD({ lr: 0.1 }),
      memory: { 11: backprop() },
      budget,
    })
    open.push({ dispose: () => step.close() })
    return { step, plan: () => step.plan({ x: [256, 16] }) }
  }
  const { step, plan } = planned(named(planned(1).plan))
  plan()
  const ranges = step.memory.slice(1).map(([path]) => path.split('..').map(Number))
  expect(ranges.length).toBeGreaterThan(1)
  for (const [first, last = first] of ranges) expect(first > 11 || last < 11).toBe(true)
  open.push(model)
})

test('what is no budget is refused', () => {
  for (const budget of ['lots', -1, {}, { bytes: '1MiB', methods: asa() }, { bytes: '1MiB', methods: ['asa'] }, null])
    expect(() => make({ budget } as never)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import {
  addSign,
  ara,
  asa,
  AuxgradError,
  auxiliary,
  backprop,
  bincount,
  checkpoint,
  compile,
  data,
  inPlaceBatchNorm,
  invert,
  memory,
  nn,
  optim,
  q2,
  quantized,
  resetPeakMemory,
  seed,
  tensor,
  tidy,
  train,
  valueAndGrad,
  type Graph,
  type MemoryPolicy,
  type ShapedArray,
  type StepOptions,
  type Tensor,
} from '../../src'
import { native } from '../../src/native'
import { distance, same } from '../support/arrays'
import { unsettle } from '../support/networks'
import { check, liveBytes } from '../support/property'
import { batchOf, description, RandomModel, type Description } from '../support/random-models'
import { gradientsOf, snapshot } from '../support/record'
import { generator } from '../support/run'

// Random small models, trained in random ways, against what the README promises. AUXGRAD_FUZZ=n runs n times as many,
// AUXGRAD_SEED others.
const times = Number(process.env.AUXGRAD_FUZZ ?? (process.env.AUXGRAD_LONG === '1' ? 30 : 1))
const limit = 60000 + 60000 * times

const policies: Record<string, () => MemoryPolicy> = {
  backprop,
  asa: () => asa(),
  'asa 01': () => asa({ alphabet: '01' }),
  'asa auto': () => asa({ alphabet: 'auto', epsilon: 0.1 }),
  ara: () => ara(),
  'ara 1': () => ara({ stride: 1 }),
  q2,
  quantized: () => quantized(),
  'quantized 2': () => quantized({ bits: 2, rounding: 'nearest' }),
  checkpoint: () => checkpoint(),
  'checkpoint cheap': () => checkpoint({ recompute: 'cheap' }),
  invert,
  inPlaceBatchNorm,
  half: () => auxiliary({ name: 'half', keep: (x) => x.mul(0.5), add: (x) => x.mul(-0.25) }),
}
const exact = ['backprop', 'ara 1', 'checkpoint', 'checkpoint cheap']

const optimizers: Record<string, () => optim.Base> = {
  sgd: () => new optim.SGD({ lr: 0.01 }),
  nesterov: () => new optim.SGD({ lr: 0.01, momentum: 0.9, nesterov: true, weightDecay: 0.01 }),
  dampened: () => new optim.SGD({ lr: 0.01, momentum: 0.9, dampening: 0.5 }),
  rmsprop: () => new optim.RMSprop({ lr: 0.001, momentum: 0.5, centered: true }),
  adagrad: () => new optim.Adagrad({ lr: 0.01, lrDecay: 0.1 }),
  adam: () => new optim.Adam({ lr: optim.schedule.cosine(0.01, { steps: 10 }) }),
  'adam 8': () => new optim.Adam({ lr: 0.01, bits: 8 }),
  amsgrad: () => new optim.Adam({ lr: 0.01, amsgrad: true }),
  adamw: () => new optim.AdamW({ lr: 0.01, groups: [{ match: '**', lrScale: 0.5 }] }),
  adamax: () => new optim.Adamax({ lr: 0.01 }),
  nadam: () => new optim.NAdam({ lr: 0.01 }),
  radam: () => new optim.RAdam({ lr: 0.01 }),
  lion: () => new optim.Lion({ lr: 0.001, momentum: 'bf16' }),
  adafactor: () => new optim.Adafactor(),
  sm3: () => new optim.SM3({ lr: 0.01, momentum: 0.9 }),
}

/** Policies for some modules: where is counted among the modules of the model. */
type Assignment = readonly { readonly where: number; readonly policy: string }[]

const assignment = (...names: string[]): fc.Arbitrary<Assignment> =>
  fc.array(fc.record({ where: fc.nat(20), policy: fc.constantFrom(...names) }, { noNullPrototype: true }), {
    maxLength: 3,
  })

function assigned(model: nn.Module, to: Assignment): (readonly [string, MemoryPolicy])[] {
  const modules = [...model.namedModules()].map(([name]) => name)
  return to.map(({ where, policy }) => [modules[where % modules.length], policies[policy]()] as const)
}

/** How it is trained. */
interface Way {
  readonly optimizer: string
  readonly memory: Assignment
  readonly budget: number
  readonly accumulate: number
  readonly clip: 'no' | 'norm' | 'value'
  readonly indicator: boolean
  readonly sparse: boolean
  readonly threads: number
}

const way = (...names: string[]): fc.Arbitrary<Way> =>
  fc.record(
    {
      optimizer: fc.constantFrom(...Object.keys(optimizers)),
      memory: assignment(...names),
      budget: fc.constantFrom(0, 0, 0, 0, 0, 0.6, 0.9, 0.98),
      accumulate: fc.constantFrom(1, 1, 1, 2),
      clip: fc.constantFrom('no', 'norm', 'value'),
      indicator: fc.boolean(),
      sparse: fc.constantFrom(false, false, false, true),
      threads: fc.integer({ min: 1, max: 4 }),
    },
    { noNullPrototype: true },
  )

function make(d: Description, sparse = false): RandomModel {
  seed(d.seed)
  return tidy(() => unsettle(new RandomModel(d, sparse), generator(d.seed)))
}

const lossOf =
  (model: RandomModel) =>
  ({ x, r }: Record<string, Tensor>): Tensor =>
    model.forward(x).mul(r).mean()

function stepOf(model: RandomModel, w: Way, optimizer: optim.Base, budget?: number) {
  return compile({
    model,
    loss: lossOf(model),
    optimizer,
    memory: assigned(model, w.memory),
    accumulate: w.accumulate,
    indicator: w.indicator,
    seed: 7,
    ...(w.clip !== 'no' && { clip: { [w.clip]: 0.1 } }),
    ...(budget && { budget }),
  } as StepOptions<Tensor>)
}

const shapesOf = (batch: ReturnType<typeof batchOf>) => ({ x: { ...batch.x }, r: [...batch.r.shape] })

/** What a refusal may be: an error of the library that says what, and in whose words. */
function expectRefusal(error: unknown): void {
  if (!(error instanceof AuxgradError)) throw error
  expect(error.message).toMatch(/\w+.*: .+|this plan needs|all parameters|reads no parameter/)
  expect(error.message).not.toMatch(/undefined is|NaN|\[object/)
}

const threads = native().info().threads
beforeEach(liveBytes) // what tests before have left is collected, not in the middle of one
afterEach(() => native().setThreads(threads))

let folder: string
beforeAll(() => void (folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-models-'))))
afterAll(() => rmSync(folder, { recursive: true }))

/** Trained for some steps; what is measured is what was planned, and nothing is left. Undefined where it is refused. */
async function trained(d: Description, w: Way) {
  native().setThreads(w.threads)
  const before = memory().live
  const model = make(d, w.sparse)
  const own = memory().live - before
  const batches = [batchOf(model, d.rows, 1), batchOf(model, d.rows + 2, 2)]
  const optimizer = optimizers[w.optimizer]()
  let budget: number | undefined
  if (w.budget) budget = Math.ceil((bytesOf(model, w, batches[0]) ?? 0) * w.budget)
  expect(memory().live).toBe(before + own)
  const step = stepOf(model, w, optimizer, budget)
  try {
    resetPeakMemory()
    const plan = step.plan(shapesOf(batches[0]))
    const { total, ...parts } = plan.bytes
    expect(Object.values(parts).reduce((a, b) => a + b)).toBe(total)
    if (budget) expect(total).toBeLessThanOrEqual(budget)
    expect(String(plan)).toMatch(/total/)
    expect(plan.toSVG()).toMatch(/^<svg/)
    const losses: number[] = []
    const run = async (i: number): Promise<number> => losses.push((await step.run(batches[i])).loss)
    await run(0)
    await run(0)
    expect([step.measuredArenaBytes, memory().peak - before]).toEqual([plan.arenaBytes, total])
    // Constants of the model's functions, such as zeros to begin with, are there for each shape.
    const other = step.plan(shapesOf(batches[1]))
    await run(1)
    await run(1)
    await run(0)
    const again = step.plan(shapesOf(batches[0])) // what a budget made necessary for the other holds for it, too
    const most = Math.max(total, other.bytes.total, again.bytes.total)
    const constants = plan.bytes.parameters + other.bytes.parameters - 2 * own
    expect(memory().peak - before).toBeGreaterThanOrEqual(most)
    expect(memory().peak - before).toBeLessThanOrEqual(most + constants)
    expect(losses.every(Number.isFinite)).toBe(true)
    return { losses, state: snapshot(model), bytes: plan.bytes }
  } catch (error) {
    expectRefusal(error)
    step.close()
    const plain = compile({ model, loss: lossOf(model), optimizer: new optim.SGD({ lr: 0.01 }), memory: [] })
    try {
      await plain.run(batches[0])
    } catch (error) {
      expectRefusal(error)
    }
    plain.close()
    return undefined
  } finally {
    step.close()
    optimizer.dispose()
    model.dispose()
    expect(memory().live).toBe(before)
  }
}

/** What a plan takes without a budget; undefined where there is none. */
function bytesOf(model: RandomModel, w: Way, batch: ReturnType<typeof batchOf>): number | undefined {
  const optimizer = optimizers[w.optimizer]()
  const step = stepOf(model, w, optimizer)
  try {
    return step.plan(shapesOf(batch)).bytes.total
  } catch (error) {
    expectRefusal(error)
    return undefined
  } finally {
    step.close()
    optimizer.dispose()
  }
}

test(
  'planned bytes are measured bytes, nothing is left, and what is refused is refused by name',
  async () => {
    let [done, refused] = [0, 0]
    await check(25 * times, description, way(...Object.keys(policies)), async (d, w) => {
      if (await trained(d, w)) done++
      else refused++
    })
    expect(done).toBeGreaterThan(refused)
  },
  limit,
)

test('constants of a forward are counted once, also where runs are summed up and shapes change', async () => {
  const before = memory().live
  const cells = new nn.GRU(3, 5, { layers: 2, bidirectional: true })
  const optimizer = new optim.SGD({ lr: 0.1 })
  const loss = ({ x }: Record<string, Tensor>): Tensor => cells.forward(x).output.mean()
  const step = compile({ model: cells, loss, optimizer, accumulate: 2 })
  resetPeakMemory()
  const { total } = step.plan({ x: [2, 7, 3] }).bytes
  for (const length of [7, 7, 5, 5, 1, 1, 7])
    await step.run({ x: { data: new Float32Array(6 * length).fill(0.5), shape: [2, length, 3], dtype: 'f32' } })
  expect(memory().peak - before).toBe(total)
  step.close()
  cells.dispose()
  expect(memory().live).toBe(before)
})

test.each<[string, () => nn.Module, (m: never, x: Record<string, Tensor>) => Tensor, Record<string, ShapedArray>]>([
  [
    'ConvTranspose3d',
    () => new nn.ConvTranspose3d(1, 2, 1, { stride: 2 }),
    (m: nn.ConvTranspose3d, { x }) => m.forward(x).mean(),
    { x: { data: new Float32Array(8), shape: [1, 2, 2, 2, 1] } },
  ],
  [
    'EmbeddingBag',
    () => new nn.EmbeddingBag(5, 3),
    (m: nn.EmbeddingBag, { x, at }) => m.forward(x, at).mean(),
    { x: { data: Int32Array.of(0, 4, 2, 1), shape: [4] }, at: { data: Int32Array.of(0, 3), shape: [2] } },
  ],
  [
    'bincount',
    () => new nn.Linear(5, 2),
    (m: nn.Linear, { x }) => m.forward(bincount(x, { classes: 5 }).unsqueeze(0)).mean(),
    { x: { data: Int32Array.of(0, 4, 2, 1), shape: [4] } },
  ],
])('constants of %s are counted once', async (_, made, loss, batch) => {
  const before = memory().live
  const model = made()
  const optimizer = new optim.SGD({ lr: 0.1 })
  const step = compile({ model, loss: (x) => loss(model as never, x), optimizer, accumulate: 2 })
  resetPeakMemory()
  const { total } = step.plan(batch).bytes
  for (let i = 0; i < 4; i++) await step.run(batch)
  expect(memory().peak - before).toBe(total)
  step.close()
  model.dispose()
  expect(memory().live).toBe(before)
})

test(
  'checkpoints, a budget, the indicator and threads change no bit',
  async () => {
    await check(10 * times, description, way(...exact), async (d, w) => {
      const plain = await trained(d, { ...w, memory: [], budget: 0, indicator: false, threads: 1 })
      const other = await trained(d, w)
      if (!plain || !other) return
      expect([other.losses, other.state]).toEqual([plain.losses, plain.state])
    })
  },
  limit,
)

/** Copies of parameters and buffers. */
const stateOf = (model: nn.Module) => new Map([...model.state()].map(([name, t]) => [name, t.clone()]))

/** What a policy makes of forward, with the gradients of backpropagation. */
const exactly = (h: (x: Tensor, graph: Graph) => Tensor): MemoryPolicy => ({
  name: 'exactly',
  at: () => ({
    layer: ({ graph, op, inputs, attrs }) => ({
      node: graph.add(op, [h(inputs[0]!, graph), ...inputs.slice(1)], attrs),
    }),
  }),
})
/** Not shared: gradients of layers that read the same are then added up in the same order. */
const withSigns = (alphabet: '01' | 'pm1'): MemoryPolicy =>
  exactly((x, graph) => graph.apart(() => addSign(x, 0.01, alphabet)))
const forwardOf: Record<string, () => MemoryPolicy> = {
  asa: () => withSigns('pm1'),
  'asa 01': () => withSigns('01'),
  q2: backprop,
  ara: policies.ara, // leaves other layers to the policies around it
  half: () => exactly((x) => x.add(x.mul(-0.25).detach())),
  checkpoint: policies.checkpoint,
}

test(
  'auxiliary activations: input gradients, biases and all outside are those of backpropagation, bit for bit',
  async () => {
    await check(
      20 * times,
      description,
      assignment(...Object.keys(forwardOf)),
      fc.integer({ min: 1, max: 4 }),
      async (d, to, n) => {
        native().setThreads(n)
        const model = make(d)
        const start = stateOf(model)
        try {
          const batch = batchOf(model, d.rows, 1)
          const under = assigned(model, to)
          const reference = under.map(([where], i) => [where, forwardOf[to[i].policy]()] as const)
          const own = await gradientsOf(model, lossOf(model), batch, under)
          model.loadState(start)
          const before = await gradientsOf(model, lossOf(model), batch, reference)
          expect(own.result.loss).toBe(before.result.loss)
          const inside = (name: string): boolean =>
            name.endsWith('.g') || under.some(([where]) => where === '' || name.startsWith(`${where}.`))
          for (const name of Object.keys(before.gradients))
            if (name === 'shift' || name.endsWith('bias') || !inside(name))
              expect([name, same(own.gradients[name], before.gradients[name])]).toEqual([name, true])
        } catch (error) {
          expectRefusal(error)
        } finally {
          for (const t of start.values()) t.dispose()
          model.dispose()
        }
      },
    )
  },
  limit,
)

/** Parameters whose gradient along a direction is not that of differences, with both; a kink may make it so. */
async function apart(d: Description): Promise<Map<string, number[]>> {
  const model = make(d)
  for (const [, m] of model.namedModules()) if (m instanceof nn.SpectralNorm) m.eval() // its vectors follow the weight
  const saved = stateOf(model)
  const batch = batchOf(model, d.rows, 1)
  const step = compile({
    model,
    loss: ({ x, r }) => {
      const y = model.forward(x)
      return { loss: y.mul(r).mean(), y }
    },
    optimizer: new optim.SGD({ lr: 0 }),
  })
  const random = generator(d.seed)
  const found = new Map<string, number[]>()
  try {
    const { gradients } = await gradientsOf(model, lossOf(model), batch)
    for (const [name, p] of model.namedParameters()) {
      const g = gradients[name]
      if (!g) continue
      const size = Math.sqrt(g.reduce((sum, v) => sum + v * v, 0) / g.length)
      const padding = name === 'table.weight' // has a row that does not learn
      const direction = g.map((v) => (padding && !v ? 0 : (size && v / size) + 2 * random() - 1))
      const moved = async (h: number): Promise<number> => {
        model.loadState(saved)
        step.runs = 0
        p.assign((saved.get(name)!.dataSync() as Float32Array).map((v, i) => v + h * direction[i]))
        const { y } = await step.run(batch)
        return (y.data as Float32Array).reduce((sum, v, i) => sum + v * batch.r.data[i], 0) / y.data.length
      }
      const slope = async (h: number): Promise<number> => ((await moved(h)) - (await moved(-h))) / (2 * h)
      const own = g.reduce((sum, v, i) => sum + v * direction[i], 0)
      const near = await slope(1e-3)
      const curved = 3 * Math.abs(near - (await slope(2e-3)))
      const tolerance = 2e-4 * Math.sqrt(g.length) + 0.01 * Math.abs(own) + curved
      if (!(Math.abs(own - near) < tolerance)) found.set(name, [own, near])
    }
  } catch (error) {
    expectRefusal(error)
  } finally {
    step.close()
    for (const t of saved.values()) t.dispose()
    model.dispose()
  }
  return found
}

test(
  'gradients are those of finite differences',
  async () => {
    await check(15 * times, description, async (d) => {
      if (JSON.stringify(d).includes('"lsh"')) return // buckets jump
      let found = await apart(d)
      for (let other = 1; found.size && other <= 3; other++) {
        const again = await apart({ ...d, seed: d.seed + 1000 * other })
        found = new Map([...found].filter(([name]) => again.has(name)))
      }
      expect([...found]).toEqual([])
    })
  },
  limit,
)

test(
  'eager and planned: values and gradients are the same, also of stored weights',
  async () => {
    await check(15 * times, description, fc.constantFrom('bf16', 'q8', 'q4'), async (d, format) => {
      if (JSON.stringify(d).includes('"lsh"')) return // draws its rotations in evaluation, too
      const model = make(d).eval()
      const forward = compile({ model, forward: ({ x }) => model.forward(x) })
      try {
        const batch = batchOf(model, d.rows, 1)
        const x = tensor(batch.x)
        const r = tensor(batch.r)
        const eager = (): Float32Array => tidy(() => model.forward(x).dataSync() as Float32Array)
        const planned = async (): Promise<Float32Array> => (await forward.run({ x: batch.x })).data as Float32Array
        expect(distance(await planned(), eager())).toBeLessThan(1e-6)
        if (model.dtype === 'f32' && model.shift) {
          const { result, gradients } = await gradientsOf(model, lossOf(model), batch)
          const { value, grads } = valueAndGrad((x) => lossOf(model)({ x, r }))(x)
          expect(Math.abs(value.item() - result.loss)).toBeLessThan(1e-6)
          const summed = tidy(() => grads[0].sum(0, true).dataSync())
          expect(distance(summed, gradients.shift)).toBeLessThan(1e-5)
          for (const t of [value, ...grads]) t.dispose()
        }
        model.freeze().store(format as 'q8')
        const stored = snapshotOf(model)
        expect(distance(await planned(), eager())).toBeLessThan(1e-6)
        model.store('f32')
        expect(snapshotOf(model)).toEqual(stored)
        expect(distance(await planned(), eager())).toBeLessThan(1e-6)
        for (const t of [x, r]) t.dispose()
      } catch (error) {
        expectRefusal(error)
      } finally {
        forward.close()
        model.dispose()
      }
    })
  },
  limit,
)

const snapshotOf = (model: nn.Module): Record<string, number[]> =>
  Object.fromEntries([...model.state()].map(([name, t]) => [name, [...t.dataSync()]]))

/** Everything that training changes, bit for bit. */
const everything = (model: nn.Module, step: ReturnType<typeof stepOf>) => ({
  ...snapshot(model),
  ...Object.fromEntries([...step.stateTensors()].map(([name, t]) => [name, [...t.rawSync()].join()])),
  runs: `${step.runs}`,
})

const interruption = fc.record(
  {
    /** Steps done when it is saved, and what the other run has done before it loads. */
    after: fc.integer({ min: 1, max: 6 }),
    used: fc.nat(2),
    batchSize: fc.integer({ min: 1, max: 9 }),
    weighted: fc.boolean(),
    threads: fc.integer({ min: 1, max: 4 }),
    /** What is done to a copy of the file, and where. */
    damage: fc.constantFrom('flip', 'cut', 'extend'),
    at: fc.nat(1e6),
  },
  { noNullPrototype: true },
)

test(
  'a run that is saved and loaded goes on as if it had never stopped; damaged files and those of others change nothing',
  async () => {
    let resumed = 0
    await check(10 * times, description, way(...Object.keys(policies)), interruption, async (d, w, o) => {
      const file = path.join(folder, 'run')
      const models = [make(d, w.sparse), make({ ...d, seed: d.seed + 1 }, w.sparse)]
      models.push(make({ ...d, size: d.size + 1 }, w.sparse))
      const used = models.map(() => optimizers[w.optimizer]())
      const steps = models.map((model, i) => stepOf(model, w, used[i]))
      const rows = data.fromArrays(batchOf(models[0], 12, 1))
      const weights = Array.from({ length: 12 }, (_, i) => i % 3)
      const loaders = models.map(
        () =>
          new data.DataLoader(rows, { batchSize: o.batchSize, shuffle: true, seed: 3, ...(o.weighted && { weights }) }),
      )
      const [a, b, other] = steps
      const reading: (AsyncIterator<data.Batch> | undefined)[] = []
      /** Trains until so many steps are done; the loop over the loader stays open. */
      const until = async (i: number, runs: number): Promise<number[]> => {
        const losses: number[] = []
        while (steps[i].runs < runs) {
          const { value, done } = await (reading[i] ??= loaders[i][Symbol.asyncIterator]()).next()
          if (done) reading[i] = undefined
          else losses.push((await steps[i].run(value as data.Batch)).loss)
        }
        return losses
      }
      try {
        native().setThreads(w.threads)
        await until(0, o.after)
        await a.save(path.join(folder, 'plan'), await rows.batch([0, 3]))
        await train.saveTraining(file, { step: a, loader: loaders[0] })
        native().setThreads(o.threads)
        await until(1, o.used)
        const bytes = readFileSync(file)
        const place = o.at % bytes.length
        const damaged = {
          flip: () => Buffer.from(bytes).fill(bytes[place] ^ 1, place, place + 1),
          cut: () => bytes.subarray(0, place),
          extend: () => Buffer.concat([bytes, Buffer.alloc(1 + (place % 9))]),
        }[o.damage]()
        writeFileSync(`${file}.damaged`, damaged)
        const before = [1, 2].map((i) => ({ ...everything(models[i], steps[i]), loader: loaders[i].state() }))
        const refused = { code: 'AUX_BAD_FILE', message: expect.stringMatching(/run(\.damaged)?: /) as string }
        const load = (name: string, i: number) =>
          train.loadTraining(name, { step: steps[i], loader: loaders[i] }).then(() => 'loaded')
        await expect(load(`${file}.damaged`, 1)).rejects.toMatchObject(refused)
        const shapes = (i: number): string =>
          JSON.stringify([...models[i].state(), ...steps[i].stateTensors()].map(([name, t]) => [name, t.shape]))
        if (shapes(2) !== shapes(0)) await expect(load(file, 2)).rejects.toMatchObject(refused)
        expect([1, 2].map((i) => ({ ...everything(models[i], steps[i]), loader: loaders[i].state() }))).toEqual(before)
        await load(file, 1)
        reading[1] = undefined
        expect(everything(models[1], b)).toEqual(everything(models[0], a))
        seed(d.seed + 5)
        const ends = [await until(0, o.after + 4), await until(1, o.after + 4)]
        expect(ends[1]).toEqual(ends[0])
        expect(everything(models[1], b)).toEqual(everything(models[0], a))
        resumed++
      } catch (error) {
        expectRefusal(error)
      } finally {
        for (const step of [a, b, other]) step.close()
        for (const t of [...used, ...models]) t.dispose()
      }
    })
    expect(resumed).toBeGreaterThan(2 * times)
  },
  limit,
)

test(
  'an allocation that fails anywhere is an error of memory, leaves nothing and changes nothing',
  async () => {
    let met = 0
    const fault = fc.record({ at: fc.nat(1e6), on: fc.boolean() }, { noNullPrototype: true })
    await check(10 * times, description, way(...Object.keys(policies)), fault, async (d, w, { at, on }) => {
      const before = memory().live
      native().setThreads(w.threads)
      const models = [make(d, w.sparse), make(d, w.sparse)]
      const used = models.map(() => optimizers[w.optimizer]())
      const [twin, step] = models.map((model, i) => stepOf(model, w, used[i]))
      const batch = batchOf(models[0], d.rows, 1)
      try {
        const { allocations } = native().memory()
        const losses: number[] = []
        for (let i = 0; i < 3; i++) losses.push((await twin.run(batch)).loss)
        // Of the first run nearly all; some are of native code alone.
        const k = 1 + (at % (native().memory().allocations - allocations + 3))
        const start = snapshot(models[1])
        native().setFault(k, on)
        let error: unknown
        try {
          expect((await step.run(batch)).loss).toBe(losses[0])
        } catch (caught) {
          error = caught
        }
        native().setFault(0, false)
        if (error) {
          if (!(error instanceof AuxgradError) || error.code !== 'AUX_OUT_OF_MEMORY') throw error
          met++
          expect(snapshot(models[1])).toEqual(start)
        }
        for (let i = error ? 0 : 1; i < 3; i++) expect((await step.run(batch)).loss).toBe(losses[i])
        expect(everything(models[1], step)).toEqual(everything(models[0], twin))
      } catch (error) {
        expectRefusal(error)
      } finally {
        native().setFault(0, false)
        for (const s of [twin, step]) s.close()
        for (const t of [...used, ...models]) t.dispose()
      }
      expect(memory().live).toBe(before)
    })
    expect(met).toBeGreaterThan(times)
  },
  limit,
)

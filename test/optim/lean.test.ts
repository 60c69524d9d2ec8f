import fc from 'fast-check'
import { compile, hostArray, models, nn, optim, seed, train, type Tensor } from '../../src'
import { native } from '../../src/native'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { check } from '../support/property'
import { bytes, generator } from '../support/run'
import { withCode } from '../support/refusals'
import { scratchFolder } from '../support/folder'

/** A matrix and a vector whose gradients are the batch: loss = sum(w g) + sum(b h). */
class Two extends nn.Module {
  readonly w: nn.Parameter
  readonly b: nn.Parameter
  constructor(w: Float32Array, rows: number, b: Float32Array) {
    super()
    this.w = new nn.Parameter(Eager.from(w, [rows, w.length / rows], 'f32'))
    this.b = new nn.Parameter(Eager.from(b, [b.length], 'f32'))
  }
  forward(g: Tensor, h: Tensor): Tensor {
    return this.w.mul(g).sum().add(this.b.mul(h).sum())
  }
}

/** The next w of a matrix with `columns` columns (1 column: a vector), in float64. */
type Rule = (
  w: Float64Array,
  g: Float64Array,
  columns: number,
  step: number,
  memory: Record<string, Float64Array>,
) => void

const rms = (x: Float64Array): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length)
const lr = (step: number): number => 0.05 / (1 + step / 10)

const lion: Rule = (w, g, _, step, memory) => {
  const m = (memory.m ??= new Float64Array(w.length))
  const rate = lr(step - 1)
  for (let i = 0; i < w.length; i++) {
    const u = 0.8 * m[i] + (1 - 0.8) * g[i]
    w[i] = w[i] * (1 - rate * 0.1) - rate * Math.sign(u)
    m[i] = 0.95 * m[i] + (1 - 0.95) * g[i]
  }
}

const adafactor =
  (relative: boolean): Rule =>
  (w, g, columns, step, memory) => {
    const rows = w.length / columns
    const fresh = step ** -0.8
    const u = new Float64Array(w.length)
    if (rows > 1 && columns > 1) {
      const r = (memory.r ??= new Float64Array(rows))
      const c = (memory.c ??= new Float64Array(columns))
      const sumR = new Float64Array(rows)
      const sumC = new Float64Array(columns)
      g.forEach((v, i) => {
        sumR[Math.floor(i / columns)] += v * v + 1e-30
        sumC[i % columns] += v * v + 1e-30
      })
      r.forEach((v, i) => (r[i] = (1 - fresh) * v + fresh * sumR[i]))
      c.forEach((v, j) => (c[j] = (1 - fresh) * v + fresh * sumC[j]))
      const total = r.reduce((a, b) => a + b)
      g.forEach((v, i) => (u[i] = v / Math.sqrt((r[Math.floor(i / columns)] * c[i % columns]) / total)))
    } else {
      const v = (memory.v ??= new Float64Array(w.length))
      g.forEach((x, i) => {
        v[i] = (1 - fresh) * v[i] + fresh * (x * x + 1e-30)
        u[i] = x / Math.sqrt(v[i])
      })
    }
    const rate = relative ? Math.min(1e-2, 1 / Math.sqrt(step)) * Math.max(1e-3, rms(w)) : lr(step - 1)
    const excess = Math.max(1, rms(u))
    w.forEach((x, i) => (w[i] = x - (rate * u[i]) / excess))
  }

const sm3 =
  (momentum: number): Rule =>
  (w, g, columns, step, memory) => {
    const matrix = columns > 1 && w.length > columns
    const a = (memory.a ??= new Float64Array(matrix ? w.length / columns : w.length))
    const b = (memory.b ??= new Float64Array(columns))
    const m = (memory.m ??= new Float64Array(w.length))
    const [oldA, oldB] = [a.slice(), b.slice()]
    a.fill(0)
    b.fill(0)
    g.forEach((x, i) => {
      const [row, column] = matrix ? [Math.floor(i / columns), i % columns] : [i, 0]
      const square = (matrix ? Math.min(oldA[row], oldB[column]) : oldA[row]) + x * x
      a[row] = Math.max(a[row], square)
      b[column] = Math.max(b[column], square)
      const u = square > 0 ? x / Math.sqrt(square) : 0
      m[i] = momentum * m[i] + (1 - momentum) * u
      w[i] = w[i] * (1 - lr(step - 1) * 0.1) - lr(step - 1) * m[i]
    })
  }

const cases: [string, () => optim.Base, Rule][] = [
  ['Lion', () => new optim.Lion({ lr, betas: [0.8, 0.95], weightDecay: 0.1 }), lion],
  ['Adafactor, its own rate', () => new optim.Adafactor(), adafactor(true)],
  ['Adafactor, a rate that is given', () => new optim.Adafactor({ lr }), adafactor(false)],
  ['SM3', () => new optim.SM3({ lr, weightDecay: 0.1 }), sm3(0)],
  ['SM3 with momentum', () => new optim.SM3({ lr, momentum: 0.9, weightDecay: 0.1 }), sm3(0.9)],
]

const size = fc.integer({ min: 1, max: 12 })
test.each(cases)('%s over 30 steps, in float64', async (_, make, rule) => {
  await check(8, fc.nat(), size, size, fc.integer({ min: 2, max: 40 }), async (start, rows, columns, n) => {
    const random = generator(start)
    const values = (k: number): Float32Array => Float32Array.from({ length: k }, () => 2 * random() - 1)
    const model = new Two(values(rows * columns), rows, values(n))
    const optimizer = make()
    const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
    const expected = [model.w, model.b].map((p) => Float64Array.from(p.dataSync()))
    const memory: Record<string, Float64Array>[] = [{}, {}]
    for (let i = 0; i < 30; i++) {
      const gradients = [values(rows * columns), values(n)]
      await step.run({ g: hostArray(gradients[0], [rows, columns]), h: hostArray(gradients[1]) })
      expected.forEach((p, k) => rule(p, Float64Array.from(gradients[k]), k ? 1 : columns, i + 1, memory[k]))
    }
    ;[model.w, model.b].forEach((p, k) =>
      p.dataSync().forEach((v, j) => expect(Math.abs(v - expected[k][j])).toBeLessThan(2e-5)),
    )
    step.close()
    model.dispose()
    optimizer.dispose()
  })
})

test('Adafactor: a row that has no gradient beside one whose squares are large stays as it is', async () => {
  const model = new Two(Float32Array.of(1, 2, 3, 4), 2, Float32Array.of(5))
  const optimizer = new optim.Adafactor({ lr: 0.5 })
  const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
  await step.run({ g: hostArray(Float32Array.of(0, 0, 1e6, -1e6), [2, 2]), h: Float32Array.of(0) })
  // Each element over the root of its row times its column over the mean of both: 1, and the mean square is 1/2.
  expect([...model.w.dataSync(), ...model.b.dataSync()]).toEqual([1, 2, 2.5, 4.5, 5])
  step.close()
})

const all: [string, () => optim.Base, bytesOfTwo: number][] = [
  ['AdamW', () => new optim.AdamW({ lr: 1e-3 }), 8 * (300 * 200 + 300)],
  [
    'AdamW, 8 bits',
    () => new optim.AdamW({ lr: 1e-3, bits: 8 }),
    2 * 300 * 200 + 8 * Math.ceil((300 * 200) / 256) + 8 * 300,
  ],
  ['Lion', () => new optim.Lion({ lr: 1e-4 }), 4 * (300 * 200 + 300)],
  ['Lion, bf16', () => new optim.Lion({ lr: 1e-4, momentum: 'bf16' }), 2 * (300 * 200 + 300)],
  ['Adafactor', () => new optim.Adafactor({ lr: 1e-3 }), 4 * (300 + 200 + 300)],
  ['RMSprop', () => new optim.RMSprop({ lr: 1e-3 }), 4 * (300 * 200 + 300)],
  [
    'RMSprop, centered, with momentum',
    () => new optim.RMSprop({ lr: 1e-3, centered: true, momentum: 0.9 }),
    12 * (300 * 200 + 300),
  ],
  ['Adagrad', () => new optim.Adagrad({ lr: 1e-2, lrDecay: 0.1 }), 4 * (300 * 200 + 300)],
  ['SM3', () => new optim.SM3({ lr: 1e-1 }), 4 * (300 + 200 + 300)],
]
test.each(all)(
  '%s: the plan says what it remembers; the same bits on any number of threads',
  async (_, make, state) => {
    const random = generator(4)
    const values = (k: number): Float32Array => Float32Array.from({ length: k }, () => 2 * random() - 1)
    const [w, b, g, h] = [values(60000), values(300), values(60000), values(300)]
    const { threads } = native().info()
    const seen = new Set<string>()
    try {
      for (const n of [1, 2, 3]) {
        native().setThreads(n)
        const model = new Two(w, 300, b)
        const optimizer = make()
        const step = compile({ model, loss: (x) => model.forward(x.g, x.h), optimizer })
        const planned = step.plan({ g: [300, 200], h: [300] }).bytes.optimizer
        expect(planned).toBeGreaterThanOrEqual(state)
        expect(planned - state).toBeLessThan(64 * 6) // blocks of whole cache lines
        for (let i = 0; i < 3; i++) await step.run({ g: hostArray(g, [300, 200]), h: hostArray(h) })
        seen.add(
          [model.w, model.b, ...Array.from(step.stateTensors(), ([, t]) => t)].map((t) => bytes(t.dataSync())).join(),
        )
        step.close()
        model.dispose()
        optimizer.dispose()
      }
    } finally {
      native().setThreads(threads)
    }
    expect(seen.size).toBe(1)
  },
)

test('tables of embeddings and small parameters keep whole moments', () => {
  const optimizer = new optim.AdamW({ lr: 1e-3, bits: 8 })
  const [table, linear] = [new nn.Embedding(200, 64), new nn.Linear(64, 80)]
  const kinds = (p: nn.Parameter): string[] => Object.values(optimizer.state('p', p)).map((t) => t.dtype)
  expect(kinds(table.weight)).toEqual(['f32', 'f32'])
  expect(kinds(linear.weight)).toEqual(['u8', 'u8', 'f32'])
  expect(kinds(linear.bias!)).toEqual(['f32', 'f32'])
})

/** The loss of a small network after some steps on a fixed problem, and what a run leaves. */
async function learn(optimizer: optim.Base, steps: number, file?: string): Promise<{ loss: number; left: string }> {
  seed(7)
  const model = new models.MLP([16, 128, 64, 3])
  const random = generator(11)
  const x = Float32Array.from({ length: 96 * 16 }, () => 2 * random() - 1)
  const y = Int32Array.from(
    { length: 96 },
    (_, i) => (x[16 * i] > 0 ? 1 : 0) + (x[16 * i + 1] * x[16 * i + 2] > 0 ? 1 : 0),
  )
  const step = compile({ model, loss: (b) => nn.crossEntropy(model.forward(b.x), b.y), optimizer })
  if (file) await train.loadTraining(file, { step })
  let loss = NaN
  while (step.runs < steps) ({ loss } = await step.run({ x: hostArray(x, [96, 16]), y }))
  const left = Array.from(step.stateTensors(), ([name, t]) => `${name} ${bytes(t.dataSync())}`).join()
  if (!file) await train.saveTraining(`${folder}/${optimizer.name}`, { step })
  step.close()
  model.dispose()
  optimizer.dispose()
  return { loss, left }
}

const folder = scratchFolder()

const learners: [string, () => optim.Base][] = [
  ['AdamW, 8 bits', () => new optim.AdamW({ lr: 3e-3, bits: 8 })],
  ['Lion, bf16', () => new optim.Lion({ lr: 1e-3, momentum: 'bf16' })],
  ['Adafactor', () => new optim.Adafactor({ lr: 3e-3 })],
  ['SM3', () => new optim.SM3({ lr: 0.05, momentum: 0.9 })],
  ['RMSprop', () => new optim.RMSprop({ lr: 2e-3, momentum: 0.5, centered: true })],
  ['Adagrad', () => new optim.Adagrad({ lr: 0.05 })],
  ['AdamW, amsgrad', () => new optim.AdamW({ lr: 3e-3, amsgrad: true })],
  ['Adamax', () => new optim.Adamax({ lr: 5e-3 })],
  ['NAdam', () => new optim.NAdam({ lr: 3e-3 })],
  ['RAdam', () => new optim.RAdam({ lr: 5e-3 })],
  ['SGD, dampening', () => new optim.SGD({ lr: 0.3, momentum: 0.9, dampening: 0.3 })],
]
test.each(learners)('%s learns as Adam does, and a resumed run is bit-identical', async (_, make) => {
  const { loss: adam } = await learn(new optim.AdamW({ lr: 3e-3 }), 120)
  const { loss, left } = await learn(make(), 120)
  expect(adam).toBeLessThan(0.1)
  expect(loss).toBeLessThan(0.15)
  await learn(make(), 50)
  expect(await learn(make(), 120, `${folder}/${make().name}`)).toEqual({ loss, left })
})

test.each([...learners, ['Adagrad whose rate decays', () => new optim.Adagrad({ lr: 0.05, lrDecay: 0.1 })]] as [
  string,
  () => optim.Base,
][])('%s: what begins to learn late learns as if from the first update', async (_, make) => {
  const file = `${folder}/late-${make().name}`
  const begin = () => {
    const model = new Two(Float32Array.from({ length: 4096 }, Math.sin), 64, Float32Array.of(1, 2))
    const optimizer = make()
    return { model, optimizer, step: compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer }) }
  }
  const random = generator(5)
  const batches = Array.from({ length: 8 }, () => ({
    g: hostArray(
      Float32Array.from({ length: 4096 }, () => 2 * random() - 1),
      [64, 64],
    ),
    h: hostArray(Float32Array.of(random(), -random())),
  }))
  const run = async ({ step }: ReturnType<typeof begin>, from: number, to: number): Promise<void> => {
    for (const batch of batches.slice(from, to)) await step.run(batch)
  }
  const [early, late, resumed] = [begin(), begin(), begin()]
  late.model.freeze('w')
  for (let i = 0; i < 5; i++) await run(late, 0, 8)
  late.model.unfreeze('w')
  await run(early, 0, 8)
  await run(late, 0, 4)
  await train.saveTraining(file, late)
  await run(late, 4, 8)
  expect(bytes(late.model.w.dataSync())).toBe(bytes(early.model.w.dataSync()))
  await run(resumed, 0, 3) // a plan of before counts otherwise
  await train.loadTraining(file, resumed)
  await run(resumed, 4, 8)
  for (const name of ['w', 'b'] as const)
    expect(bytes(resumed.model[name].dataSync())).toBe(bytes(late.model[name].dataSync()))
  for (const { step } of [early, late, resumed]) step.close()
})

test('eight bits follow whole moments closely', async () => {
  for (const steps of [1, 10, 40]) {
    const [whole, coded] = [
      await learn(new optim.Adam({ lr: 2e-3 }), steps),
      await learn(new optim.Adam({ lr: 2e-3, bits: 8 }), steps),
    ]
    expect(Math.abs(coded.loss - whole.loss)).toBeLessThan(0.03 * whole.loss)
  }
})

test('options that make no sense are refused', () => {
  const refused = withCode('AUX_INVALID_ARGUMENT')
  expect(() => new optim.Adam({ lr: 1, bits: 16 as 8 })).toThrow(refused)
  expect(() => new optim.Lion({ lr: 1, betas: [1, 0.9] })).toThrow(refused)
  expect(() => new optim.Lion({ lr: 1, momentum: 'f16' as 'f32' })).toThrow(refused)
  expect(() => new optim.Adafactor({ eps: 0 })).toThrow(refused)
  expect(() => new optim.Adafactor({ lr: NaN })).toThrow(refused)
  expect(() => new optim.Adafactor({ limit: -1 })).toThrow(refused)
  expect(() => new optim.SM3({ lr: 1, momentum: 1 })).toThrow(refused)
  expect(() => new optim.Adam({ lr: 1, bits: 8, amsgrad: true })).toThrow(withCode('AUX_INVALID_ARGUMENT', /amsgrad/))
  expect(() => new optim.Adamax({ lr: 1, eps: 0 })).toThrow(withCode('AUX_INVALID_ARGUMENT', /^eps: .* > 0, got 0/))
  expect(() => new optim.NAdam({ lr: 1, momentumDecay: -1 })).toThrow(withCode('AUX_INVALID_ARGUMENT', /momentumDecay/))
  expect(() => new optim.RAdam({ lr: 1, betas: [0.9, 1] })).toThrow(withCode('AUX_INVALID_ARGUMENT', /^betas/))
  for (const bad of [
    { dampening: 0.5 },
    { dampening: 0.5, momentum: 0.9, nesterov: true },
    { dampening: 1, momentum: 0.9 },
  ])
    expect(() => new optim.SGD({ lr: 1, ...bad })).toThrow(withCode('AUX_INVALID_ARGUMENT', /^dampening/))
})

test('optimizers that are traced operation by operation: clipped, in plans whose bytes are measured', async () => {
  const makes = [
    () => new optim.Adam({ lr: 0.1, amsgrad: true }),
    () => new optim.Adamax({ lr: 0.1 }),
    () => new optim.NAdam({ lr: 0.1 }),
    () => new optim.RAdam({ lr: 0.1, betas: [0.9, 0.9] }),
    () => new optim.SGD({ lr: 0.1, momentum: 0.9, dampening: 0.3 }),
  ]
  const batch = (scale: number, k: number) => ({
    g: hostArray(
      Float32Array.from({ length: 6 }, (_, i) => scale * Math.sin(i + k)),
      [3, 2],
    ),
    h: hostArray(
      Float32Array.from({ length: 2 }, (_, i) => scale * Math.cos(i + k)),
      [2],
    ),
  })
  const run = async (optimizer: optim.Base, scale: number, clip: number): Promise<number[]> => {
    const model = new Two(Float32Array.of(1, 2, 3, 4, 5, 6), 3, Float32Array.of(1, 2))
    const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer, clip: { norm: clip } })
    for (let k = 0; k < 8; k++) await step.run(batch(scale, k))
    expect(step.measuredArenaBytes).toBe(step.plan({ g: [3, 2], h: [2] }).arenaBytes)
    step.close()
    return [...model.w.dataSync(), ...model.b.dataSync()]
  }
  for (const make of makes) {
    // Gradients of any length beyond the limit are the same after clipping.
    const [small, large] = [await run(make(), 10, 1), await run(make(), 1000, 1)]
    small.forEach((w, i) => expect(large[i]).toBeCloseTo(w, 4))
  }
})

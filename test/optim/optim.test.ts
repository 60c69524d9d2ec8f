import fc from 'fast-check'
import { compile, hostArray, nn, optim, type Tensor } from '../../src'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { check } from '../support/property'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

/** Two parameters whose gradients are the batch: loss = sum(w g) + sum(b h). */
class Two extends nn.Module {
  readonly w: nn.Parameter
  readonly b: nn.Parameter
  constructor(w: Float32Array, b: Float32Array) {
    super()
    this.w = new nn.Parameter(Eager.from(w, [w.length], 'f32'))
    this.b = new nn.Parameter(Eager.from(b, [b.length], 'f32'))
  }
  forward(g: Tensor, h: Tensor): Tensor {
    return this.w.mul(g).sum().add(this.b.mul(h).sum())
  }
}

interface Settings {
  lr: (step: number) => number
  decay: number
}
type Rule = (w: number, g: number, step: number, lr: number, decay: number, memory: Record<string, number>) => number

const sgd =
  (momentum: number, nesterov: boolean): Rule =>
  (w, g, _, lr, decay, memory) => {
    g += decay * w
    if (momentum) {
      memory.v = momentum * (memory.v ?? 0) + g
      g = nesterov ? g + momentum * memory.v : memory.v
    }
    return w - lr * g
  }
const adam =
  (b1: number, b2: number, eps: number, decoupled: boolean): Rule =>
  (w, g, step, lr, decay, memory) => {
    if (decoupled) w -= lr * decay * w
    else g += decay * w
    memory.m = b1 * (memory.m ?? 0) + (1 - b1) * g
    memory.v = b2 * (memory.v ?? 0) + (1 - b2) * g * g
    return w - (lr * (memory.m / (1 - b1 ** step))) / (Math.sqrt(memory.v / (1 - b2 ** step)) + eps)
  }

const rmsprop =
  (alpha: number, eps: number, momentum: number, centered: boolean): Rule =>
  (w, g, _, lr, decay, memory) => {
    g += decay * w
    memory.v = alpha * (memory.v ?? 0) + (1 - alpha) * g * g
    memory.m = alpha * (memory.m ?? 0) + (1 - alpha) * g
    const spread = Math.max(0, memory.v - (centered ? memory.m * memory.m : 0))
    memory.u = momentum * (memory.u ?? 0) + g / (Math.sqrt(spread) + eps)
    return w - lr * memory.u
  }
const adagrad =
  (lrDecay: number, start: number, eps: number): Rule =>
  (w, g, step, lr, decay, memory) => {
    g += decay * w
    memory.v = (memory.v ?? start) + g * g
    return w - ((lr / (1 + (step - 1) * lrDecay)) * g) / (Math.sqrt(memory.v) + eps)
  }

const lr = (step: number): number => 0.05 / (1 + step / 10)
const cases: [string, () => optim.Base, Rule, Settings][] = [
  ['SGD', () => new optim.SGD({ lr }), sgd(0, false), { lr, decay: 0 }],
  [
    'SGD with momentum and weight decay',
    () => new optim.SGD({ lr, momentum: 0.9, weightDecay: 0.1 }),
    sgd(0.9, false),
    { lr, decay: 0.1 },
  ],
  [
    'SGD, Nesterov',
    () => new optim.SGD({ lr, momentum: 0.8, nesterov: true, weightDecay: 0.01 }),
    sgd(0.8, true),
    { lr, decay: 0.01 },
  ],
  ['Adam', () => new optim.Adam({ lr }), adam(0.9, 0.999, 1e-8, false), { lr, decay: 0 }],
  [
    'Adam with weight decay',
    () => new optim.Adam({ lr, betas: [0.8, 0.95], eps: 1e-4, weightDecay: 0.1 }),
    adam(0.8, 0.95, 1e-4, false),
    { lr, decay: 0.1 },
  ],
  ['AdamW', () => new optim.AdamW({ lr, weightDecay: 0.2 }), adam(0.9, 0.999, 1e-8, true), { lr, decay: 0.2 }],
  [
    'AdamW, its own weight decay',
    () => new optim.AdamW({ lr: 0.01, weightDecay: undefined }),
    adam(0.9, 0.999, 1e-8, true),
    { lr: () => 0.01, decay: 0.01 },
  ],
  ['RMSprop', () => new optim.RMSprop({ lr, alpha: 0.9, eps: 1e-2 }), rmsprop(0.9, 1e-2, 0, false), { lr, decay: 0 }],
  [
    'RMSprop, centered, with momentum and weight decay',
    () => new optim.RMSprop({ lr, alpha: 0.8, eps: 0.1, momentum: 0.5, centered: true, weightDecay: 0.1 }),
    rmsprop(0.8, 0.1, 0.5, true),
    { lr, decay: 0.1 },
  ],
  ['Adagrad', () => new optim.Adagrad({ lr }), adagrad(0, 0, 1e-10), { lr, decay: 0 }],
  [
    'Adagrad with decays',
    () => new optim.Adagrad({ lr, lrDecay: 0.2, weightDecay: 0.1, initialAccumulatorValue: 0.3, eps: 1e-3 }),
    adagrad(0.2, 0.3, 1e-3),
    { lr, decay: 0.1 },
  ],
]

test.each(cases)('%s over 50 steps, in float64', async (_, make, rule, settings) => {
  await check(5, fc.nat(), fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 9 }), async (start, n, m) => {
    const random = generator(start)
    const values = (k: number): Float32Array => Float32Array.from({ length: k }, () => 2 * random() - 1)
    const model = new Two(values(n), values(m))
    const optimizer = make()
    const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
    const expected = [model.w, model.b].map((p) => Float64Array.from(p.dataSync()))
    const memory = expected.map((p) => Array.from(p, () => ({}) as Record<string, number>))
    for (let i = 0; i < 50; i++) {
      const gradients = [values(n), values(m)]
      await step.run({ g: hostArray(gradients[0]), h: hostArray(gradients[1]) })
      expected.forEach((p, k) =>
        p.forEach((w, j) => (p[j] = rule(w, gradients[k][j], i + 1, settings.lr(i), settings.decay, memory[k][j]))),
      )
    }
    expect(optimizer.steps).toBe(50)
    ;[model.w, model.b].forEach((p, k) =>
      p.dataSync().forEach((v, j) => expect(Math.abs(v - expected[k][j])).toBeLessThan(2e-5)),
    )
    step.close()
    model.dispose()
    optimizer.dispose()
  })
})

test('groups: the first that matches gives its rate factor and weight decay', async () => {
  const model = new Two(Float32Array.of(1, 1), Float32Array.of(1))
  const optimizer = new optim.SGD({
    lr: 0.1,
    weightDecay: 0.5,
    groups: [
      { match: 'b', lrScale: 10, weightDecay: 0 },
      { match: () => true, lrScale: 2 },
    ],
  })
  const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
  await step.run({ g: Float32Array.of(1, 2), h: Float32Array.of(0.5) })
  expect(model.w.dataSync()[0]).toBeCloseTo(1 - 0.2 * 1.5, 6)
  expect(model.w.dataSync()[1]).toBeCloseTo(1 - 0.2 * 2.5, 6)
  expect(model.b.dataSync()[0]).toBeCloseTo(1 - 0.5, 6)
})

test('a group that matches no parameter is an error when the step is planned', async () => {
  const model = new Two(Float32Array.of(1, 1), Float32Array.of(1))
  const plan = (match: optim.ParameterGroup['match']) => {
    const optimizer = new optim.SGD({ lr: 0.1, groups: [{ match: '**' }, { match, lrScale: 2 }] })
    const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
    step.plan({ g: [2], h: [1] })
    return step
  }
  const refused = (what: RegExp) => withCode('AUX_INVALID_ARGUMENT', what)
  // Of modules inside, of which there are none.
  expect(() => plan('*.b')).toThrow(refused(/^SGD: group \*\.b matches no parameter; there are w, b$/))
  expect(() => plan(/^c/)).toThrow(refused(/group \/\^c\/ matches/))
  expect(() => plan((_, t) => t.rank > 1)).toThrow(refused(/rank > 1 matches/))
  // One that another comes before, and one of a parameter that is frozen, match.
  const step = plan('b')
  model.b.trainable = false
  await step.run({ g: Float32Array.of(1, 2), h: Float32Array.of(1) })
  expect([...model.b.dataSync()]).toEqual([1])
  const other = compile({
    model,
    loss: ({ g, h }) => model.forward(g, h),
    optimizer: new optim.SGD({ lr: 0.1, groups: [{ match: 'bias' }] }),
  })
  await expect(other.run({ g: Float32Array.of(1, 2), h: Float32Array.of(1) })).rejects.toEqual(refused(/bias matches/))
  model.b.trainable = true
})

test('clipping by norm and by value', async () => {
  const model = new Two(Float32Array.of(0, 0), Float32Array.of(0))
  const run = async (clip: object): Promise<{ w: number[]; norm?: number }> => {
    model.w.assign([0, 0])
    model.b.assign([0])
    const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer: new optim.SGD({ lr: 1 }), clip })
    const { gradNorm } = await step.run({ g: Float32Array.of(3, -4), h: Float32Array.of(12) })
    step.close()
    return { w: [...model.w.dataSync(), ...model.b.dataSync()].map((v) => -v), norm: gradNorm }
  }
  const near = (got: number[], expected: number[]): void => got.forEach((v, i) => expect(v).toBeCloseTo(expected[i], 4))
  const clipped = await run({ norm: 1.3 })
  expect(clipped.norm).toBeCloseTo(13, 5)
  near(clipped.w, [0.3, -0.4, 1.2])
  near((await run({ norm: 100 })).w, [3, -4, 12])
  const value = await run({ value: 3.5 })
  near(value.w, [3, -3.5, 3.5])
  expect(value.norm).toBeUndefined()
  for (const clip of [{ norm: 0 }, { value: -1 }, { norm: NaN }])
    expect(() =>
      compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer: new optim.SGD({ lr: 1 }), clip }),
    ).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

test('schedules', () => {
  const { constant, stepDecay, linear, cosine, oneCycle, inverseSquareRoot } = optim.schedule
  const at = (f: (step: number) => number, ...steps: number[]): number[] => steps.map((s) => Number(f(s).toFixed(9)))
  expect(at(constant(2), 0, 7)).toEqual([2, 2])
  expect(at(constant(2, { warmUp: 4 }), 0, 1, 3, 4, 9)).toEqual([0.5, 1, 2, 2, 2])
  expect(at(stepDecay(1, { every: 10, gamma: 0.5 }), 0, 9, 10, 25)).toEqual([1, 1, 0.5, 0.25])
  expect(at(linear(1, { steps: 10 }), 0, 5, 10, 99)).toEqual([1, 0.5, 0, 0])
  expect(at(linear(1, { steps: 12, warmUp: 2, end: 0.5 }), 0, 1, 2, 7, 12)).toEqual([0.5, 1, 1, 0.75, 0.5])
  expect(at(cosine(1, { steps: 10 }), 0, 5, 10, 11)).toEqual([1, 0.5, 0, 0])
  expect(at(cosine(2, { steps: 12, warmUp: 2, end: 1 }), 0, 2, 7, 12)).toEqual([1, 2, 1.5, 1])
  expect(at(inverseSquareRoot(2, { warmUp: 4 }), 0, 1, 3, 15, 63)).toEqual([0.5, 1, 2, 1, 0.5])
  for (const t of [1, 17, 4000, 9000])
    expect(inverseSquareRoot((512 * 4000) ** -0.5, { warmUp: 4000 })(t - 1)).toBeCloseTo(
      512 ** -0.5 * Math.min(t ** -0.5, t * 4000 ** -1.5),
      12,
    )
  const cycle = oneCycle(1, { steps: 100 })
  expect(at(cycle, 0, 29, 99, 200)).toEqual([0.04, 1, 0.000004, 0.000004])
  expect(cycle(14.5)).toBeCloseTo(0.52, 6)
  expect(() => stepDecay(1, { every: 0 })).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

test('options that make no sense are refused', () => {
  const refused = withCode('AUX_INVALID_ARGUMENT')
  for (const bad of [-1, NaN, Infinity]) expect(() => new optim.SGD({ lr: bad })).toThrow(refused)
  expect(() => new optim.Adam({ lr: 1, weightDecay: -0.1 })).toThrow(refused)
  expect(() => new optim.SGD({ lr: 1, momentum: 1.5 })).toThrow(refused)
  expect(() => new optim.SGD({ lr: 1, nesterov: true })).toThrow(refused)
  expect(() => new optim.Adam({ lr: 1, betas: [0.9, 1] })).toThrow(refused)
  expect(() => new optim.Adam({ lr: 1, eps: -1 })).toThrow(refused)
  expect(() => new optim.Adam({ lr: 1, betas: 0.9 as never })).toThrow(refused)
  const named = (name: string) => expect.objectContaining({ message: expect.stringMatching(name) })
  expect(() => new optim.RMSprop({ lr: 1, alpha: 1 })).toThrow(refused)
  expect(() => new optim.RMSprop({ lr: 1, momentum: -0.1 })).toThrow(refused)
  expect(() => new optim.Adagrad({ lr: 1, lrDecay: -1 })).toThrow(refused)
  expect(() => new optim.Adagrad({ lr: 1, initialAccumulatorValue: NaN })).toThrow(refused)
  for (const Kind of [
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.Lion,
    optim.SM3,
    optim.Adafactor,
    optim.RMSprop,
    optim.Adagrad,
  ]) {
    expect(() => new Kind({ lr: 1, learningRate: 1 } as never)).toThrow(named(`${Kind.name}: .*learningRate.*lr`))
    expect(() => new Kind({ lr: 1, groups: [{ pattern: 'b' }] } as never)).toThrow(
      named(`${Kind.name}: group.*pattern`),
    )
  }
  expect(() => new optim.SGD(undefined as never)).toThrow(named('SGD.*undefined'))
})

test('a schedule without its length, and one that gives no rate', async () => {
  const refused = withCode('AUX_INVALID_ARGUMENT')
  const { cosine, linear, oneCycle, constant, inverseSquareRoot } = optim.schedule
  for (const make of [cosine, linear, oneCycle, inverseSquareRoot] as ((lr: number, o?: object) => unknown)[]) {
    expect(() => make(1)).toThrow(refused)
    expect(() => make(1, {})).toThrow(refused)
    expect(() => make(NaN, { steps: 3 })).toThrow(refused)
  }
  expect(() => constant(-1)).toThrow(refused)
  const model = new Two(Float32Array.of(1), Float32Array.of(1))
  const optimizer = new optim.SGD({ lr: (step) => (step === 1 ? NaN : 0.1) })
  const step = compile({ model, loss: ({ g, h }) => model.forward(g, h), optimizer })
  const batch = { g: Float32Array.of(1), h: Float32Array.of(1) }
  await step.run(batch)
  const before = [...model.w.dataSync()]
  await expect(step.run(batch)).rejects.toEqual(
    expect.objectContaining({ message: expect.stringMatching(/NaN after 1/) }),
  )
  optimizer.lr = 'fast' as never
  await expect(step.run(batch)).rejects.toEqual(refused)
  expect([...model.w.dataSync()]).toEqual(before)
})

import { readFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import {
  AuxgradError,
  compile,
  data,
  memory,
  nn,
  optim,
  seed,
  tensor,
  tidy,
  train,
  type RunOptions,
  type Tensor,
} from '../../src'
import { native } from '../../src/native'
import { scratchFolder } from '../support/folder'
import { check, liveBytes } from '../support/property'
import { snapshot } from '../support/record'
import { generator } from '../support/run'

// Random schedules of what a program may ask for at the same time of two models: runs of several steps and evaluations,
// aborted or not, saving, planning, closing, eager work. Each model must become what the same requests, one after
// the other, make of another one; what is refused changes nothing. AUXGRAD_FUZZ=n runs n times as many, AUXGRAD_SEED
// others.
const times = Number(process.env.AUXGRAD_FUZZ ?? (process.env.AUXGRAD_LONG === '1' ? 30 : 1))

class Net extends nn.Module {
  first = new nn.Linear(6, 40)
  norm = new nn.BatchNorm1d(40)
  dropout = new nn.Dropout(0.2)
  last = new nn.Linear(40, 3)
  forward(x: Tensor): Tensor {
    return this.last.forward(this.dropout.forward(this.norm.forward(this.first.forward(x)).relu()))
  }
}

/** A model with all that runs it. */
function begin(start: number) {
  seed(start)
  const model = new Net()
  const optimizers = [new optim.Adam({ lr: 0.01 }), new optim.SGD({ lr: 0.01, momentum: 0.9 })]
  const loss = ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y)
  const steps = [
    compile({ model, loss, optimizer: optimizers[0], seed: start, accumulate: 2 }),
    compile({ model, loss, optimizer: optimizers[1], seed: start, clip: { norm: 0.5 } }),
  ]
  const forward = compile({ model, forward: ({ x }) => model.forward(x) })
  const end = async (): Promise<void> => {
    await steps[0].idle().catch(() => {})
    for (const s of [...steps, forward]) s.close()
    for (const t of [...optimizers, model]) t.dispose()
  }
  return { model, loss, optimizers, steps, forward, end }
}
type World = ReturnType<typeof begin>

function batchFor(a: number) {
  const rows = [1, 2, 7, 30, 300][a % 5]
  const random = generator(a)
  return {
    x: { data: Float32Array.from({ length: rows * 6 }, () => 2 * random() - 1), shape: [rows, 6] },
    y: Int32Array.from({ length: rows }, () => Math.floor(3 * random())),
  }
}

/** A request on a model: what it is, and what it does to a world. */
interface Request {
  readonly what: string
  readonly redo: (world: World, name: string) => unknown
  outcome?: { value?: unknown; error?: unknown }
}

const comparable = (value: unknown): unknown =>
  JSON.stringify(value, (_, v: unknown) => (ArrayBuffer.isView(v) ? Array.from(v as Float32Array) : v))

/** A world whose requests are written down in the order in which they were asked for. */
class Journal {
  readonly requests: Request[] = []
  readonly #pending: Promise<unknown>[] = []
  readonly #runs: ((batch: never, options?: RunOptions) => Promise<unknown>)[]

  constructor(
    readonly world: World,
    readonly name: string,
  ) {
    // Whoever asks for a run, also fit and evaluate, asks here.
    const runners = [...world.steps, world.forward]
    this.#runs = runners.map((own) => own.run.bind(own) as never)
    runners.forEach((own, i) => {
      own.run = ((batch: never, options?: RunOptions) => this.run(i, () => batch, options)) as never
    })
  }

  /** A run of one of the steps or, with 2, the evaluation; only the first one is aborted. */
  run(i: number, batch: () => unknown, options?: RunOptions): Promise<unknown> {
    return this.ask(`run of ${i}`, (w) =>
      w === this.world ? this.#runs[i](batch() as never, options) : [...w.steps, w.forward][i].run(batch() as never),
    )
  }

  /** Asks for something and writes it down; resolves or rejects as it does. */
  ask<T>(what: string, redo: (world: World, name: string) => T | Promise<T>): Promise<T> {
    const request: Request = { what, redo }
    this.requests.push(request)
    const asked = (async () => redo(this.world, this.name))()
    const noted = asked.then(
      (value) => void (request.outcome = { value: comparable(value) }),
      (error) => void (request.outcome = { error }),
    )
    this.#pending.push(noted)
    return asked
  }

  /** Something whose requests are written down as it makes them. */
  begin(body: () => Promise<unknown>): void {
    this.#pending.push(body().catch(expectRefusal))
  }

  async settled(): Promise<void> {
    while (this.#pending.length) await Promise.all(this.#pending.splice(0))
  }
}

const enough = new Error('enough')
function expectRefusal(error: unknown): void {
  if (error !== enough && !(error instanceof AuxgradError)) throw error
}

const tick = (n: number): Promise<void> =>
  new Promise((resolve) => void (n % 3 ? setTimeout(resolve, n % 3) : setImmediate(resolve)))

/** What a schedule is made of; `a` is a number to vary it. */
const kinds: Record<string, (journal: Journal, a: number, folder: string) => unknown> = {
  run: ({ world }, a) => void world.steps[a % 2].run(batchFor(a)).catch(expectRefusal),
  'three runs': ({ world }, a) => {
    for (let i = 0; i < 3; i++) void world.steps[(a + i) % 2].run(batchFor(a + i)).catch(expectRefusal)
  },
  aborted: ({ world }, a) => {
    const controller = new AbortController()
    void world.steps[a % 2].run(batchFor(a), { signal: controller.signal }).catch(expectRefusal)
    void tick(a >> 1).then(() => controller.abort(enough))
  },
  forward: ({ world }, a) => void world.forward.run({ x: batchFor(a).x }).catch(expectRefusal),
  synchronous: (journal, a) =>
    void journal.ask('runSync', (w) => w.steps[a % 2].runSync(batchFor(a))).catch(expectRefusal),
  fit: (journal, a) => {
    const set = data.fromArrays(batchFor(5 * a + 3))
    const loader = new data.DataLoader(set, { batchSize: 4 + (a % 9), shuffle: true, seed: a })
    const controller = new AbortController()
    if (a % 3 === 0) void tick(a).then(() => controller.abort())
    journal.begin(async () => {
      const { signal } = controller
      for await (const _ of train.fit({ step: journal.world.steps[a % 2], loader, epochs: 1, signal }));
    })
  },
  evaluate: (journal, a) => {
    const loader = new data.DataLoader(data.fromArrays({ x: batchFor(5 * a + 2).x }), { batchSize: 3 })
    journal.begin(async () => {
      for await (const batch of loader) await journal.world.forward.run(batch)
    })
  },
  'wrong batch': ({ world }, a) => void world.steps[a % 2].run({ x: [[1, 2]], z: [0] }).catch(expectRefusal),
  'lost batch': (journal, a) => {
    const { x, y } = batchFor(a)
    const given = (): unknown => {
      const t = tensor(x.data, x.shape)
      setImmediate(() => t.dispose()) // which may be before its turn
      return { x: t, y }
    }
    void journal.run(a % 2, given).catch(expectRefusal)
  },
  'batch given away': (journal, a) => {
    const { x, y } = batchFor(a)
    const given = (): unknown => {
      const values = x.data.slice()
      queueMicrotask(() => structuredClone(values, { transfer: [values.buffer] }))
      return { x: { ...x, data: values }, y }
    }
    void journal.run(a % 2, given).catch(expectRefusal)
  },
  save: (journal, a, folder) => {
    const n = journal.requests.length
    const saving = (w: World, name: string): Promise<void> =>
      train.saveTraining(path.join(folder, `${name}.${n}`), { step: w.steps[a % 2] })
    void journal.ask(`save ${n}`, saving).catch(expectRefusal)
  },
  plan: (journal, a) => {
    const rows = 1 + (a % 40) // more shapes than plans are kept
    void journal.ask('plan', (w) => void w.steps[a % 2].plan({ x: [rows, 6], y: [rows] })).catch(expectRefusal)
  },
  'another step': (journal, a) =>
    void journal
      .ask('another step', async (w) => {
        const optimizer = new optim.SGD({ lr: 0.1 })
        const step = compile({ model: w.model, loss: w.loss, optimizer, seed: a })
        try {
          return await step.run(batchFor(a))
        } finally {
          step.close()
          optimizer.dispose()
        }
      })
      .catch(expectRefusal),
  close: ({ world }, a) => void (a % 4 === 0 && world.steps[a % 2].close()),
  eager: (_, a) => {
    const sum = tidy(() => {
      const t = tensor(batchFor(a).x.data)
      return t.sub(t).add(2).sum().item()
    })
    expect(sum).toBe(2 * batchFor(a).x.data.length)
  },
  threads: (_, a) => native().setThreads(1 + (a % 4)),
  wait: (_, a) => tick(a),
  'change when settled': async (journal, a) => {
    await journal.settled()
    await journal.ask('change', ({ model, optimizers }) => {
      if (a % 2) model.freeze('first')
      else model.unfreeze('first')
      optimizers[a % 2].lr = 0.001 * (1 + (a % 7))
    })
  },
}

const schedules = fc.array(
  fc.record({ kind: fc.constantFrom(...Object.keys(kinds)), of: fc.nat(1), a: fc.nat(999) }, { noNullPrototype: true }),
  { minLength: 2, maxLength: 16 },
)

const folder = scratchFolder()
const { threads } = native().info()
beforeEach(liveBytes)
afterEach(() => native().setThreads(threads))

/** What was asked for makes the same of a twin, one after the other. */
async function expectAlike({ world, name, requests }: Journal, twin: World, twinName: string): Promise<void> {
  for (const { what, redo, outcome } of requests) {
    if (outcome!.error) {
      expectRefusal(outcome!.error)
      continue
    }
    expect([what, comparable(await redo(twin, twinName))]).toEqual([what, outcome!.value])
    const saved = /^save (.*)/.exec(what)?.[1]
    const files = [name, twinName].map((n) => path.join(folder, `${n}.${saved}`))
    if (saved) expect(readFileSync(files[0]).equals(readFileSync(files[1]))).toBe(true)
  }
  expect(snapshot(world.model)).toEqual(snapshot(twin.model))
  expect(world.steps.map(({ runs }) => runs)).toEqual(twin.steps.map(({ runs }) => runs))
}

test(
  'whatever is asked for at the same time, each model is what the same requests make of it one by one',
  async () => {
    await check(12 * times, schedules, async (schedule) => {
      const before = memory().live
      const worlds = [1, 1, 2, 2].map(begin)
      const [, twin0, , twin1] = worlds
      const journals = [worlds[0], worlds[2]].map((world, i) => new Journal(world, `own${i}`))
      try {
        for (const { kind, of, a } of schedule) await kinds[kind](journals[of], a, folder)
        for (const journal of journals) await journal.settled()
        native().setThreads(1)
        for (const [i, twin] of [twin0, twin1].entries()) await expectAlike(journals[i], twin, `twin${i}`)
      } finally {
        for (const w of worlds) await w.end()
      }
      await tick(2) // what is lost is lost by then
      expect(memory().live).toBe(before)
    })
  },
  60000 + 60000 * times,
)

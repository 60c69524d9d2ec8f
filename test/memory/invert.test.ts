import fc from 'fast-check'
import {
  asa,
  backprop,
  couple,
  hostArray,
  invert,
  models,
  nn,
  seed,
  tensor,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { distance, host, same } from '../support/arrays'
import { check } from '../support/property'
import { gradientsOf } from '../support/record'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

/** A residual branch with what recomputation has to repeat: statistics, random numbers, masks. */
class Branch extends nn.Module {
  norm: nn.Module & { forward(x: Tensor): Tensor }
  fc1: nn.Linear
  dropout = new nn.Dropout(0.2)
  fc2: nn.Linear
  constructor(features: number, batch: boolean) {
    super()
    this.norm = batch ? new nn.BatchNorm1d(features) : new nn.LayerNorm(features)
    this.fc1 = new nn.Linear(features, 2 * features)
    this.fc2 = new nn.Linear(2 * features, features)
  }
  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.dropout.forward(this.fc1.forward(this.norm.forward(x)).relu()))
  }
}

type Options = { depth: number; batch?: boolean; twice?: boolean }

class Net extends nn.Module {
  stem: nn.Linear
  blocks: nn.Reversible[]
  head: nn.Linear
  readonly #twice: boolean
  constructor(features: number, { depth, batch = false, twice = false }: Options) {
    super()
    this.#twice = twice
    this.stem = new nn.Linear(features, twice ? features : 2 * features)
    const branch = (): Branch => new Branch(features, batch)
    this.blocks = Array.from({ length: depth }, () => new nn.Reversible(branch(), branch()))
    this.head = new nn.Linear(features, 3)
  }
  forward(x: Tensor): Tensor {
    const y = this.stem.forward(x).relu()
    const half = this.head.weight.shape[1]
    let [a, b] = this.#twice ? [y, y] : [y.narrow(1, 0, half), y.narrow(1, half, half)]
    for (const block of this.blocks) [a, b] = block.forward(a, b)
    return this.head.forward(a.mul(b).add(a))
  }
}

async function run(options: Options, memory?: MemoryAssignment, start = 3, rows = 24, features = 8) {
  seed(start)
  const random = generator(start)
  const model = new Net(features, options)
  const x = host(random, [rows, features])
  const r = host(random, [rows, 3])
  const result = await gradientsOf(model, (b) => model.forward(b.x).mul(b.r).sum(), { x, r }, memory)
  model.dispose()
  return result
}

type Run = Awaited<ReturnType<typeof run>>

function expectNear(a: Run, b: Run, tolerance: number): void {
  expect(a.result.loss).toBe(b.result.loss) // forward is the same
  const all = ({ gradients }: Run): number[] => Object.keys(b.gradients).flatMap((name) => [...gradients[name]])
  expect(distance(all(a), all(b))).toBeLessThan(tolerance)
  expect(a.measured).toBe(a.plan.arenaBytes)
}

const everywhere = { 'blocks.*': invert() }
test('gradients of reversible blocks are those of backpropagation to within rounding', async () => {
  await check(
    12,
    fc.nat(),
    fc.integer({ min: 1, max: 6 }),
    fc.boolean(),
    fc.boolean(),
    fc.integer({ min: 4, max: 20 }),
    fc.integer({ min: 4, max: 9 }),
    async (start, depth, batch, twice, rows, features) => {
      const options = { depth, batch, twice }
      const plain = await run(options, undefined, start, rows, features)
      for (const memory of [everywhere, invert()] as MemoryAssignment[])
        expectNear(await run(options, memory, start, rows, features), plain, 1e-4)
    },
  )
})

test.each([false, true])(
  'what is kept does not grow with the number of blocks (one stream twice: %s)',
  async (twice) => {
    const kept = async (depth: number, memory?: MemoryAssignment): Promise<number> =>
      (await run({ depth, twice }, memory, 3, 256, 16)).plan.bytes.kept
    const [few, many] = [await kept(3, everywhere), await kept(12, everywhere)]
    // Layer norm's two numbers a row are kept, and are all that is.
    expect(many - few).toBeLessThanOrEqual(9 * 2 * (2 * 256 * 4 + 128))
    expect(await kept(12)).toBeGreaterThan(8 * many)
  },
)

test('layers inside with policies of their own keep what those say', async () => {
  const own: MemoryAssignment = { 'blocks.*.f.fc1': asa() }
  const plain = await run({ depth: 4 }, own)
  const inverted = await run({ depth: 4 }, { ...everywhere, ...own })
  expectNear(inverted, plain, 1e-4)
  expect(inverted.plan.kept.filter((row) => row.policy === 'asa')).toHaveLength(4)
  expectNear(await run({ depth: 4 }, { ...everywhere, 'blocks.1': backprop() }), await run({ depth: 4 }), 1e-4)
})

test('a model without couplings is left alone, to the last bit', async () => {
  seed(2)
  const model = new nn.Sequential(new nn.Linear(4, 6), new nn.LayerNorm(6), new nn.Linear(6, 2))
  const x = host(generator(8), [5, 4])
  const loss = (b: Record<string, Tensor>): Tensor => model.forward(b.x).mul(2).sum()
  const [plain, inverted] = [await gradientsOf(model, loss, { x }), await gradientsOf(model, loss, { x }, invert())]
  expect(inverted.plan.bytes).toEqual(plain.plan.bytes)
  for (const name of Object.keys(plain.gradients))
    expect(same(inverted.gradients[name], plain.gradients[name])).toBe(true)
})

/** A block of one's own: the second stream is added to the first as it is, and read outside too. */
class Own extends nn.Module {
  fc = new nn.Linear(3, 3)
  forward(a: Tensor, b: Tensor): [Tensor, Tensor] {
    a = couple(a, this.fc.forward(b).gelu())
    return [a, couple(b, a.maximum(0.1))]
  }
}
class OwnNet extends nn.Module {
  blocks = [new Own(), new Own(), new Own()]
  forward(x: Tensor): Tensor {
    let [a, b] = [x, x.mul(x)]
    let sum = x.mean()
    for (const block of this.blocks) {
      ;[a, b] = block.forward(a, b)
      sum = sum.add(a.tanh().mul(b).mean())
    }
    return sum
  }
}
test("blocks of one's own, whose streams are read from outside", async () => {
  const x = host(generator(9), [10, 3])
  const under = (memory?: MemoryAssignment): Promise<Run> => {
    seed(6)
    const model = new OwnNet()
    return gradientsOf(model, (b) => model.forward(b.x), { x }, memory)
  }
  expectNear(await under({ 'blocks.*': invert() }), await under(), 1e-5)
})

class MomentumNet extends nn.Module {
  blocks: nn.Momentum[]
  head: nn.Linear
  readonly #velocity: boolean
  constructor(features: number, depth: number, { gamma = 0.9, batch = false, velocity = false }) {
    super()
    this.#velocity = velocity
    this.blocks = Array.from({ length: depth }, () => new nn.Momentum(new Branch(features, batch), { gamma }))
    this.head = new nn.Linear(features, 3)
  }
  forward(x: Tensor): Tensor {
    let v: Tensor | undefined
    for (const block of this.blocks) [x, v] = block.forward(x, v)
    return this.head.forward(this.#velocity ? x.add(v!) : x)
  }
}

async function momentum(
  depth: number,
  options: { gamma?: number; batch?: boolean; velocity?: boolean } = {},
  memory?: MemoryAssignment,
  [start, rows, features] = [3, 24, 8],
): Promise<Run> {
  seed(start)
  const random = generator(start)
  const model = new MomentumNet(features, depth, options)
  const batch = { x: host(random, [rows, features]), r: host(random, [rows, 3]) }
  const result = await gradientsOf(model, (b) => model.forward(b.x).mul(b.r).sum(), batch, memory)
  model.dispose()
  return result
}

test('momentum blocks: gradients near those of backpropagation, the error within that of rounding times gamma to the -depth', async () => {
  await check(
    12,
    fc.nat(),
    fc.integer({ min: 1, max: 20 }),
    fc.constantFrom(0.7, 0.8, 0.9, 0.95),
    fc.record({ batch: fc.boolean(), velocity: fc.boolean() }),
    fc.integer({ min: 4, max: 20 }),
    fc.integer({ min: 4, max: 9 }),
    async (start, depth, gamma, flags, rows, features) => {
      const options = { gamma, ...flags }
      const sizes = [start, rows, features] as [number, number, number]
      const plain = await momentum(depth, options, undefined, sizes)
      const inverted = await momentum(depth, options, start % 2 ? everywhere : invert(), sizes)
      // 1e-7 is usual; few rows and features may lie near a kink of ReLU or a small variance.
      expectNear(inverted, plain, 3e-6 * gamma ** -depth)
    },
  )
})

test('momentum blocks compute what the paper says; what is kept does not grow with their number', async () => {
  const block = new nn.Momentum(new nn.Linear(3, 3), { gamma: 0.75 })
  const [x, v] = [tensor([[1, -2, 3]]), tensor([[0.5, 4, -1]])]
  const f = block.f.forward(x).dataSync()
  for (const before of [undefined, v]) {
    const [y, w] = block.forward(x, before).map((t) => t.dataSync())
    const expected = [...f].map((change, i) => 0.75 * (before ? v.dataSync()[i] : 0) + 0.25 * change)
    expected.forEach((change, i) => {
      expect(w[i]).toBeCloseTo(change, 6)
      expect(y[i]).toBeCloseTo(x.dataSync()[i] + change, 6)
    })
  }
  const kept = async (depth: number, memory?: MemoryAssignment): Promise<number> =>
    (await momentum(depth, {}, memory, [3, 256, 16])).plan.bytes.kept
  for (const memory of [everywhere, invert()] as MemoryAssignment[]) {
    const [few, many] = [await kept(3, memory), await kept(12, memory)]
    // Layer norm's two numbers a row.
    expect(many - few).toBeLessThanOrEqual(9 * (2 * 256 * 4 + 128))
    expect(await kept(12)).toBeGreaterThan(4 * many)
  }
  // A block that is left out is where a chain begins anew.
  const chains: MemoryAssignment = [[/^blocks\.(?!6$)\d+$/, invert()]]
  const [one, two] = [await kept(12, everywhere), await kept(12, chains)]
  expect(two).toBeGreaterThan(one)
  expect(two).toBeLessThan(one + 8 * 256 * 16 * 4)
  for (const gamma of [0, 1, NaN])
    expect(() => new nn.Momentum(new nn.Linear(3, 3), { gamma })).toThrow(/gamma between 0 and 1/)
})

test('couple wants two tensors of one shape', () => {
  const [x, y] = [tensor([1, 2, 3]), tensor([[1, 2, 3]])]
  expect(() => couple(x, y)).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  expect(() => couple(x, x)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  expect([...couple(x, tensor([4, 5, 6])).dataSync()]).toEqual([5, 7, 9])
})

test('a reversible transformer: near to backpropagation, what is kept does not grow with its depth', async () => {
  const tokens = hostArray(
    Int32Array.from({ length: 4 * 32 }, (_, i) => (i * 7) % 20),
    [4, 32],
  )
  const under = (layers: number, memory?: MemoryAssignment): Promise<Run> => {
    seed(4)
    const options = { vocabulary: 20, length: 32, layers, features: 32, heads: 2, dropout: 0.1, reversible: true }
    const model = new models.GPT(options)
    return gradientsOf(model, (b) => nn.crossEntropy(model.forward(b.tokens), b.tokens), { tokens }, memory)
  }
  const [few, many] = [await under(2, invert()), await under(6, invert())]
  expectNear(few, await under(2), 1e-5)
  expectNear(many, await under(6), 1e-5)
  const growth = many.plan.bytes.kept - few.plan.bytes.kept
  expect(growth).toBeLessThan(0.1 * (await under(6)).plan.bytes.kept)
  expect(
    () => new models.ViT({ image: 8, patch: 4, layers: 1, features: 8, heads: 2, classes: 2, reversible: true }),
  ).not.toThrow()
  expect(
    () =>
      new models.GPT({ vocabulary: 4, length: 4, layers: 1, features: 8, heads: 2, norm: 'after', reversible: true }),
  ).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

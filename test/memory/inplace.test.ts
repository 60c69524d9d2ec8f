import fc from 'fast-check'
import { asa, inPlaceBatchNorm, nn, quantized, seed, type MemoryAssignment, type Tensor } from '../../src'
import { distance, host, same } from '../support/arrays'
import { check } from '../support/property'
import { gradientsOf } from '../support/record'
import { generator } from '../support/run'

/** Convolutions, each with a batch norm and an activation behind it. */
class Net extends nn.Module {
  convs: nn.Conv2d[]
  norms: nn.BatchNorm2d[]
  fc: nn.Linear
  readonly #activation: (x: Tensor) => Tensor
  constructor(width: number, depth: number, activation: (x: Tensor) => Tensor) {
    super()
    this.convs = Array.from(
      { length: depth },
      (_, i) => new nn.Conv2d(i ? width : 2, width, 3, { padding: 1, bias: false }),
    )
    this.norms = this.convs.map(() => new nn.BatchNorm2d(width))
    this.fc = new nn.Linear(width, 3)
    this.#activation = activation
    const random = generator(width + depth)
    // Scales of either sign, not near 0.
    for (const { weight, bias } of this.norms) {
      weight!.assign(Array.from({ length: width }, () => (random() < 0.3 ? -1 : 1) * (0.5 + random())))
      bias!.assign(Array.from({ length: width }, () => random() - 0.5))
    }
  }
  forward(x: Tensor): Tensor {
    this.convs.forEach((conv, i) => (x = this.#activation(this.norms[i].forward(conv.forward(x)))))
    return this.fc.forward(x.mean([1, 2]))
  }
}

const leaky = (x: Tensor): Tensor => x.leakyRelu()
async function run(
  memory?: MemoryAssignment,
  { start = 1, width = 4, depth = 3, rows = 3, side = 5, activation = leaky } = {},
) {
  seed(start)
  const random = generator(start)
  const model = new Net(width, depth, activation)
  const [x, r] = [host(random, [rows, side, side, 2]), host(random, [rows, 3])]
  const result = await gradientsOf(model, (b) => model.forward(b.x).mul(b.r).sum(), { x, r }, memory)
  model.dispose()
  return result
}

type Run = Awaited<ReturnType<typeof run>>
const all = ({ gradients }: Run): number[] => Object.values(gradients).flatMap((g) => [...g])

test('gradients are those of backpropagation to within rounding, and inputs of norms are not kept', async () => {
  const size = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max })
  await check(15, fc.nat(), size(1, 9), size(1, 4), size(2, 5), size(3, 7), async (start, width, depth, rows, side) => {
    const options = { start, width, depth, rows, side }
    const [plain, inPlace] = [await run(undefined, options), await run(inPlaceBatchNorm(), options)]
    expect(inPlace.result.loss).toBe(plain.result.loss)
    expect(distance(all(inPlace), all(plain))).toBeLessThan(2e-4)
    expect(inPlace.measured).toBe(inPlace.plan.arenaBytes)
    const saved = plain.plan.bytes.kept - inPlace.plan.bytes.kept
    expect(saved).toBeGreaterThanOrEqual((depth - 1) * rows * side * side * width * 4)
  })
})

test('half of what convolutions and norms keep goes', async () => {
  const options = { width: 16, depth: 6, rows: 8, side: 12 }
  const [plain, inPlace] = [await run(undefined, options), await run(inPlaceBatchNorm(), options)]
  expect(inPlace.plan.bytes.kept).toBeLessThan(0.55 * plain.plan.bytes.kept)
})

test('it goes with what convolutions keep of the results', async () => {
  for (const own of [asa(), quantized()] as const) {
    const apart = await run([['convs.*', own]])
    const both = await run([
      [/^$/, inPlaceBatchNorm()],
      ['convs.*', own],
    ])
    expect(distance(all(both), all(apart))).toBeLessThan(1e-4)
  }
})

test('norms before other activations are left alone, to the last bit', async () => {
  for (const activation of [
    (x: Tensor) => x.relu(),
    (x: Tensor) => x.gelu(),
    (x: Tensor) => x.leakyRelu(0),
    (x: Tensor) => x,
  ]) {
    const [plain, inPlace] = [await run(undefined, { activation }), await run(inPlaceBatchNorm(), { activation })]
    expect(inPlace.plan.bytes).toEqual(plain.plan.bytes)
    for (const name of Object.keys(plain.gradients))
      expect(same(inPlace.gradients[name], plain.gradients[name])).toBe(true)
  }
})

test('a scale of 0 gives no NaN', async () => {
  const model = new Net(3, 1, leaky)
  model.norms[0].weight!.assign([1, 0, -1])
  const x = host(generator(2), [4, 5, 5, 2])
  const { gradients } = await gradientsOf(model, (b) => model.forward(b.x).sum(), { x }, inPlaceBatchNorm())
  for (const g of Object.values(gradients)) expect(g.every((v) => Number.isFinite(v))).toBe(true)
})

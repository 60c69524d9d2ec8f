import {
  asa,
  backprop,
  batchNorm,
  checkpoint,
  compile,
  grad,
  groupNorm,
  layerNorm,
  nn,
  optim,
  quantized,
  rmsNorm,
  seed,
  tensor,
  valueAndGrad,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

// A loss that contains a gradient: a critic whose slope at its inputs is held near 1 (Gulrajani et al. 2017).

class Critic extends nn.Module {
  readonly fc1 = new nn.Linear(3, 8)
  readonly fc2 = new nn.Linear(8, 8)
  readonly out = new nn.Linear(8, 1)
  forward(x: Tensor): Tensor {
    x = this.fc1.forward(x).tanh()
    return this.out.forward(this.fc2.forward(x).silu())
  }
}
const random = generator(5)
const x = Array.from({ length: 6 }, () => [random(), random(), random()])

const penalised = (critic: Critic, x: Tensor): Tensor => {
  const { value, grads } = valueAndGrad((x) => critic.forward(x).sum())(x)
  return grads[0].norm(1).sub(1).square().mean().add(value.mul(0.1))
}
const make = (memory?: MemoryAssignment) => {
  seed(1)
  const critic = new Critic()
  const step = compile({
    model: critic,
    loss: ({ x }) => penalised(critic, x),
    optimizer: new optim.SGD({ lr: 1 }),
    memory,
  })
  return { critic, step }
}

test('its gradients are those of differences', async () => {
  const { critic, step } = make()
  const before = new Map([...critic.state()].map(([name, t]) => [name, t.dataSync()]))
  const { loss } = await step.run({ x })
  const moved = new Map([...critic.state()].map(([name, t]) => [name, t.dataSync()]))
  for (const [name, t] of critic.state()) t.assign(before.get(name)!)
  const evaluate = compile({ model: critic, forward: ({ x }) => penalised(critic, x) })
  const at = async (): Promise<number> => (await evaluate.run({ x })).data[0]
  expect(await at()).toBeCloseTo(loss, 6)
  for (const [name, t] of critic.state()) {
    const values = before.get(name)!
    for (let i = 0; i < values.length; i += 3) {
      const h = 2e-2
      const shifted = async (by: number): Promise<number> => {
        t.assign(values.map((v, k) => (k === i ? v + by : v)))
        return at()
      }
      const [a, b, c, d] = [await shifted(2 * h), await shifted(h), await shifted(-h), await shifted(-2 * h)]
      t.assign(values)
      const slope = (8 * (b - c) - (a - d)) / (12 * h)
      expect([name, i, values[i] - moved.get(name)![i]]).toEqual([name, i, expect.closeTo(slope, 3)])
    }
  }
})

test('under policies', async () => {
  const state = async (memory?: MemoryAssignment) => {
    const { critic, step } = make(memory)
    for (let i = 0; i < 3; i++) expect(Number.isFinite((await step.run({ x })).loss)).toBe(true)
    return [...critic.state()].map(([, t]) => [...t.dataSync()])
  }
  const plain = await state()
  expect(await state(backprop())).toEqual(plain)
  expect(await state(checkpoint())).toEqual(plain)
  expect(await state({ fc2: checkpoint() })).toEqual(plain)
  await state(quantized())
  await state({ fc2: asa() })
})

test('derivatives of derivatives, by tensors and by inputs nobody reads', () => {
  const third = grad((x) => grad((x) => grad((x) => x.pow(4).sum())(x)[0].sum())(x)[0].sum())
  expect(third(tensor([2, 3]))[0].dataSync()).toEqual(Float32Array.of(48, 72))
  const weight = tensor([3])
  const mixed = grad((x) =>
    grad((w) => w.square().mul(x).sum())(weight)[0]
      .mul(x)
      .sum(),
  )
  expect(mixed(tensor([2]))[0].dataSync()).toEqual(Float32Array.of(24)) // d(2 w x · x)/dx
  expect(grad((x) => grad((y) => y.mul(2).sum())(x)[0].sum())(tensor([1, 2]))[0].dataSync()).toEqual(
    Float32Array.of(0, 0),
  )
  expect(grad((x) => grad(() => weight.mul(2).sum())(x)[0].sum())(tensor([1]))[0].dataSync()).toEqual(
    Float32Array.of(0),
  )
})

const running = { runningMean: tensor([0.3, -0.2, 0.1, 0]), runningVar: tensor([0.5, 1, 2, 1.5]), momentum: 0 }
type Norm = (x: Tensor, weight: Tensor, bias: Tensor) => Tensor
test.each<[string, number[], Norm]>([
  ['layerNorm', [3, 2, 4], layerNorm],
  ['rmsNorm', [3, 2, 4], (x, weight, bias) => rmsNorm(x, weight).add(bias)],
  ['groupNorm', [3, 2, 1, 4], (x, weight, bias) => groupNorm(x, 2, weight, bias)],
  ['batchNorm', [3, 2, 4], (x, weight, bias) => batchNorm(x, weight, bias, running, true)],
  ['batchNorm, running', [3, 2, 4], (x, weight, bias) => batchNorm(x, weight, bias, running, false)],
])('the gradient of the gradient of %s, by input, weight and bias', (_, shape, norm) => {
  const some = (shape: number[]): Tensor => {
    const size = shape.reduce((n, d) => n * d, 1)
    return tensor(
      Float32Array.from({ length: size }, () => 2 * random() - 0.7),
      shape,
    )
  }
  const [q, r, s, t] = [some(shape), some(shape), some([4]), some([4])]
  const slope = (...inputs: Tensor[]): Tensor => {
    const [dx, dweight, dbias] = grad((x, weight, bias) => norm(x, weight, bias).tanh().mul(q).sum())(...inputs)
    return dx.mul(r).sum().add(dweight.mul(s).sum()).add(dbias.mul(t).sum())
  }
  const inputs = [some(shape), some([4]), some([4])]
  const gradients = grad(slope)(...inputs)
  gradients.forEach((gradient, k) => {
    const values = inputs[k].dataSync()
    gradient.dataSync().forEach((slopeHere, i) => {
      const at = (by: number): number => {
        const moved = values.slice()
        moved[i] += by
        return slope(...inputs.map((t, j) => (j === k ? tensor(moved, t.shape) : t))).item()
      }
      const h = 1e-2
      const expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
      expect(Math.abs(slopeHere - expected)).toBeLessThan(2e-3 * (1 + Math.abs(expected)))
    })
  })
})

test('what has no second gradient says so', () => {
  const peak = (x: Tensor): Tensor => x.reshape([1, 2, 2, 1]).maxPool2d(2).square().sum()
  expect(() => grad((x) => grad(peak)(x)[0].sum())(tensor([1, 2, 3, 4]))).toThrow(
    withCode('AUX_NO_GRADIENT', /max_pool.*_grad/),
  )
  expect(() => compile(({ x }) => grad((x) => x)(x)[0]).plan({ x: [2] })).toThrow(withCode('AUX_SHAPE_MISMATCH'))
})

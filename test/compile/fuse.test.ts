import { checkpoint, compile, hostArray, nn, optim, seed, type MemoryAssignment, type Tensor } from '../../src'
import type { Plan } from '../../src/compile/plan'
import { generator } from '../support/run'

/** Convolutions with norms; `apart`: with something between, so that the norms read their inputs themselves. */
class Net extends nn.Module {
  readonly stem = new nn.Conv2d(3, 24, 3, { padding: 1, bias: false })
  readonly norm1 = new nn.BatchNorm2d(24)
  readonly wide = new nn.Conv2d(24, 40, 1)
  readonly norm2 = new nn.BatchNorm2d(40, { eps: 1e-3 })
  readonly depthwise = new nn.Conv2d(40, 40, 3, { stride: 2, groups: 40 })
  readonly norm3 = new nn.BatchNorm2d(40)
  readonly fc = new nn.Linear(40, 3)
  readonly norm4 = new nn.BatchNorm1d(3)
  constructor(readonly apart: boolean) {
    super()
  }
  forward(x: Tensor): Tensor {
    const between = (y: Tensor): Tensor => (this.apart ? y.mul(1) : y)
    x = this.norm1.forward(between(this.stem.forward(x))).relu()
    x = this.norm2.forward(between(this.wide.forward(x))).relu()
    x = this.norm3.forward(between(this.depthwise.forward(x))).relu()
    return this.norm4.forward(this.fc.forward(x.mean([1, 2])))
  }
}

const shape = [6, 13, 11, 3]
const image = hostArray(
  Float32Array.from({ length: 6 * 13 * 11 * 3 }, (_, i) => Math.sin(7 * i) + 0.5),
  shape,
)

async function train(apart: boolean, memory?: MemoryAssignment) {
  seed(3)
  const model = new Net(apart)
  const optimizer = new optim.SGD({ lr: 0.05 })
  const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer, memory })
  const plan = step.plan({ x: shape, y: [6] })
  const random = generator(2)
  const losses: number[] = []
  for (let i = 0; i < 4; i++)
    losses.push((await step.run({ x: image, y: Int32Array.from({ length: 6 }, () => Math.floor(random() * 3)) })).loss)
  const state = Object.fromEntries(
    [...model.state()].map(([name, t]) => [name, Array.from(t.rawSync() as Float32Array)]),
  )
  const evaluate = compile({ model, forward: ({ x }) => model.forward(x) })
  const evaluation = Array.from((await evaluate.run({ x: image })).data)
  const measured = step.measuredArenaBytes
  const { kept } = plan.bytes
  const evaluated = evaluate.plan({ x: shape }).ops.map((o) => o.kernel)
  evaluate.close()
  step.close()
  model.dispose()
  optimizer.dispose()
  return { kernels: plan.ops.map((o) => o.kernel), plan, kept, measured, losses, state, evaluation, evaluated }
}
const count = (kernels: string[], name: string): number => kernels.filter((k) => k === name).length

test('batch statistics come from the convolution before a norm: same losses, state and evaluation to within rounding', async () => {
  const [fused, apart] = [await train(false), await train(true)]
  expect(count(apart.kernels, 'batch_norm_stats')).toBe(4)
  expect(count(fused.kernels, 'batch_norm_stats')).toBe(1) // that behind the linear layer
  const forward = (plan: Plan): string[] =>
    plan.ops.filter((o) => o.layer === 'norm2' && o.phase === 'forward').map((o) => o.kernel)
  expect(forward(apart.plan)).toEqual(['batch_norm_stats', 'batch_norm_apply'])
  expect(forward(fused.plan)).toEqual(['batch_norm_apply'])
  expect(count(fused.kernels, 'running_update')).toBe(8)
  expect(fused.kept).toBe(apart.kept)
  expect(fused.measured).toBe(fused.plan.arenaBytes)
  fused.losses.forEach((loss, i) => expect(Math.abs(loss - apart.losses[i])).toBeLessThan(3e-5))
  expect(Object.keys(fused.state)).toContain('norm1.runningMean')
  for (const [name, values] of Object.entries(fused.state))
    values.forEach((v, i) => expect(Math.abs(v - apart.state[name][i])).toBeLessThan(5e-5))
  expect(count(fused.evaluated, 'batch_norm_stats')).toBe(0)
  fused.evaluation.forEach((v, i) => expect(Math.abs(v - apart.evaluation[i])).toBeLessThan(1e-4))
})

test('recomputation reads the statistics that the convolution gave, and keeps no more for it', async () => {
  const plain = await train(false)
  const policies: MemoryAssignment[] = [
    checkpoint(),
    checkpoint({ recompute: 'cheap' }),
    { stem: checkpoint(), norm1: checkpoint() },
    { norm2: checkpoint() },
  ]
  for (const memory of policies) {
    const [fused, apart] = [await train(false, memory), await train(true, memory)]
    expect(fused.losses).toEqual(plain.losses)
    expect(fused.state).toEqual(plain.state)
    expect(fused.measured).toBe(fused.plan.arenaBytes)
    expect(fused.kept).toBe(apart.kept)
    expect(count(fused.kernels, 'batch_norm_stats')).toBe(1)
    expect(count(fused.kernels, 'running_update')).toBe(8)
  }
})

test('ReLU and statistics behind a view of a layer with the same channels go into its kernel too', async () => {
  const run = async (apart: boolean) => {
    seed(4)
    const first = new nn.Conv1d(3, 8, 3)
    const second = new nn.Conv1d(8, 8, 3)
    const norm = new nn.BatchNorm1d(8)
    const model = new nn.Sequential(first, second, norm)
    const between = (y: Tensor): Tensor => (apart ? y.mul(1) : y)
    const step = compile({
      model,
      loss: ({ x }) =>
        norm
          .forward(between(second.forward(between(first.forward(x)).relu())))
          .relu()
          .square()
          .mean(),
      optimizer: new optim.SGD({ lr: 0.1 }),
    })
    const x = hostArray(image.data.slice(0, 6 * 13 * 3), [6, 13, 3])
    const kernels = step.plan({ x: x.shape }).ops.map((o) => o.kernel)
    const losses: number[] = []
    for (let i = 0; i < 3; i++) losses.push((await step.run({ x })).loss)
    step.close()
    return { kernels, losses }
  }
  const [fused, apart] = [await run(false), await run(true)]
  expect(fused.kernels.filter((k) => ['relu', 'batch_norm_stats', 'sign_pack'].includes(k))).toEqual([])
  expect(apart.kernels).toContain('batch_norm_stats')
  expect(apart.kernels).toContain('relu')
  fused.losses.forEach((loss, i) => expect(loss).toBeCloseTo(apart.losses[i], 5))
})

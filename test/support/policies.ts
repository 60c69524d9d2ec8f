import {
  asa,
  checkpoint,
  compile,
  nn,
  optim,
  q2,
  quantized,
  seed,
  type MemoryAssignment,
  type ShapedArray,
  type Tensor,
} from '../../src'

type Model = nn.Module & { forward(x: Tensor): Tensor }
type Batch = { x: ShapedArray; y: ShapedArray }

/** Thirty steps on one batch, always from the same weights: losses, plan and state. */
export async function trained(build: () => Model, batch: Batch, memory?: MemoryAssignment) {
  seed(2)
  const model = build()
  const step = compile({
    model,
    loss: ({ x, y }) => nn.mse(model.forward(x), y),
    optimizer: new optim.Adam({ lr: 1e-2 }),
    memory,
  })
  const plan = step.plan({ x: [...batch.x.shape], y: [...batch.y.shape] })
  const losses: number[] = []
  for (let i = 0; i < 30; i++) losses.push((await step.run(batch)).loss)
  step.close()
  return { losses, plan, state: [...model.state()].map(([, t]) => [...t.dataSync()]) }
}

/** It learns; the same to the last bit under checkpointing; and with less kept where one layer has a policy of its own. */
export async function expectLearnsUnderPolicies(build: () => Model, batch: Batch, layer: string): Promise<void> {
  const plain = await trained(build, batch)
  expect(plain.losses[29]).toBeLessThan(0.5 * plain.losses[0])
  expect((await trained(build, batch, checkpoint())).state).toEqual(plain.state)
  for (const policy of [asa(), q2(), quantized()]) {
    const { losses, plan } = await trained(build, batch, { [layer]: policy })
    expect(losses[29]).toBeLessThan(0.7 * losses[0])
    expect(plan.bytes.kept).toBeLessThan(plain.plan.bytes.kept)
  }
}

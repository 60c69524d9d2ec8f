import os from 'node:os'
import { compile, models, nn, optim } from '../../src'
import { native } from '../../src/native'

const { threads } = native().info()
beforeAll(() => native().setThreads(Math.max(1, os.availableParallelism() - 1)))
afterAll(() => native().setThreads(threads))

test('the event loop turns while a step runs', async () => {
  const model = new models.MLP([1024, 2048, 2048, 10])
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 1e-3 }),
  })
  const batch = { x: { data: new Float32Array(512 * 1024).fill(0.5), shape: [512, 1024] }, y: new Int32Array(512) }
  await step.run(batch)
  const gaps: number[] = []
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    gaps.push(now - last)
    last = now
  }, 1)
  const began = performance.now()
  let runs = 0
  for (; runs < 3 || performance.now() - began < 500; runs++) await step.run(batch)
  const each = (performance.now() - began) / runs
  clearInterval(timer)
  expect(each).toBeGreaterThan(20) // long enough to tell; a loop that waits for steps would turn once in each
  expect(gaps.sort((a, b) => a - b)[Math.floor(0.5 * gaps.length)]).toBeLessThan(10)
  expect(gaps.length).toBeGreaterThan(4 * runs)
  step.close()
  model.dispose()
})

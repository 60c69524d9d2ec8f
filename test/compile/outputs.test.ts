import { compile, nn, optim, type Tensor } from '../../src'
import { snapshot } from '../support/record'
import { withCode } from '../support/refusals'

// What a step returns beside the loss.

let longest = Infinity
jest.mock('../../src/tensor/dtype', () => {
  const real = jest.requireActual<typeof import('../../src/tensor/dtype')>('../../src/tensor/dtype')
  return {
    ...real,
    // As where JavaScript has no room for more.
    typedArray: (...[dtype, length]: Parameters<typeof real.typedArray>) =>
      real.typedArray(dtype, length > longest ? Infinity : length),
  }
})

function begin<R extends Record<string, Tensor>>(more: (y: Tensor) => R) {
  const model = new nn.Linear(2, 3)
  const optimizer = new optim.SGD({ lr: 0.1 })
  const loss = ({ x }: Record<string, Tensor>) => ({ loss: model.forward(x).mean(), ...more(model.forward(x)) })
  return { model, optimizer, step: compile({ model, loss, optimizer }) }
}
const batch = { x: { data: Float32Array.of(1, 2), shape: [1, 2] } }

test('no memory for what a step returns: it is refused, nothing has changed, the next one works', async () => {
  const { model, optimizer, step } = begin((y) => ({ large: y.expand([100, 3]) }))
  const before = snapshot(model)
  longest = 200
  const refused = withCode('AUX_OUT_OF_MEMORY', /JavaScript has no room for/)
  try {
    await expect(step.run(batch)).rejects.toEqual(refused)
    expect(() => step.runSync(batch)).toThrow(refused)
  } finally {
    longest = Infinity
  }
  expect(snapshot(model)).toEqual(before)
  expect([step.runs, optimizer.steps]).toEqual([0, 0])
  const { large } = await step.run(batch)
  expect(large.shape).toEqual([100, 3])
  expect(step.runs).toBe(1)
})

test.each(['gradNorm', 'indicators'])(
  'a loss function that returns %s, which a step has itself, is refused',
  (name) => {
    const { step } = begin((y) => ({ [name]: y }))
    expect(() => step.plan({ x: [1, 2] })).toThrow(
      withCode('AUX_INVALID_ARGUMENT', new RegExp(`"${name}".*another name`)),
    )
  },
)

import * as one from '../../src'

// Two versions of auxgrad in a process, or one that a test runner has loaded anew: what is of one of them is refused by
// the other, and the error says why, where "expected a tensor, got Tensor" would leave one helpless.
jest.resetModules()
const other = require('../../src') as typeof one

const x = one.tensor([[1, 2]])
const linear = (): InstanceType<typeof other.nn.Linear> => new other.nn.Linear(2, 2)
const ofTheOther = (name: string): RegExp => new RegExp(`got a ${name} of another copy of auxgrad, .*npm ls auxgrad`)

class Mixed extends other.nn.Module {
  inner = new one.nn.Linear(2, 2)
  forward(input: one.Tensor): one.Tensor {
    return this.inner.forward(input)
  }
}

test.each<[string, string, () => unknown]>([
  ['an operand', 'Tensor', () => other.matmul(x, x)],
  ['values', 'Tensor', () => other.tensor(x as never)],
  ['assigned values', 'Tensor', () => linear().weight.assign(x)],
  ['an input of a layer', 'Tensor', () => linear().forward(x)],
  ['a layer', 'Tensor', () => new Mixed().forward(other.tensor([[1, 2]]))],
  ['a state', 'Parameter', () => linear().loadState(new one.nn.Linear(2, 2).state())],
  ['a batch', 'Tensor', () => other.compile(({ a }: one.Inputs<'a'>) => a).runSync({ a: x })],
  ['a captured tensor', 'Tensor', () => other.compile(({ a }: one.Inputs<'a'>) => a.add(x)).plan({ a: [2] })],
  ['a result', 'Tensor', () => other.compile(() => x).plan({})],
  ['a data set', 'ArrayDataset', () => new other.data.DataLoader(one.data.fromArrays({ a: [1] }), { batchSize: 1 })],
  ['an average', 'Linear', () => new other.train.WeightAverage(linear(), new one.nn.Linear(2, 2), { decay: 0.5 })],
])('%s', (_, name, use) => {
  expect(use).toThrow(
    expect.objectContaining({ code: 'AUX_INVALID_ARGUMENT', message: expect.stringMatching(ofTheOther(name)) }),
  )
})

test.each<[string, one.MemoryAssignment]>([
  ['for all', one.invert()],
  ['by name', { '': one.checkpoint() }],
  ['by test', [[/^$/, one.auxiliary({ name: 'own', keep: (x) => x })]]],
])('a policy, %s', (_, memory) => {
  const model = linear()
  const optimizer = new other.optim.SGD({ lr: 1 })
  const step = other.compile({ model, loss: ({ a }: one.Inputs<'a'>) => model.forward(a).sum(), optimizer, memory })
  expect(() => step.plan({ a: [1, 2] })).toThrow(
    expect.objectContaining({ code: 'AUX_INVALID_ARGUMENT', message: expect.stringMatching(ofTheOther('Policy')) }),
  )
})

test('an optimizer', () => {
  const model = linear()
  const loss = ({ a }: one.Inputs<'a'>) => model.forward(a).sum()
  const optimizer = new one.optim.SGD({ lr: 1 })
  expect(() => other.compile({ model, loss, optimizer }).plan({ a: [1, 2] })).toThrow(ofTheOther('Parameter'))
})

test('what is not of the other copy is described as ever', () => {
  expect(() => other.tensor(linear() as never)).toThrow(/got Linear$/)
  expect(() => one.tensor(new Map() as never)).toThrow(/got Map$/)
})

import { asa, ara, checkpoint, compile, crossEntropy, nn, optim, type MemoryAssignment, type Tensor } from '../../src'

class Net extends nn.Module {
  a = new nn.Linear(6, 8)
  b = new nn.Linear(8, 8)
  c = new nn.Linear(8, 3)
  forward(x: Tensor): Tensor {
    return this.c.forward(this.b.forward(this.a.forward(x).relu()).relu())
  }
}

/** Layers whose weight gradient the plan takes from signs. */
function signed(memory: MemoryAssignment): string[] {
  const model = new Net()
  const step = compile({
    model,
    loss: ({ x, y }) => crossEntropy(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory,
  })
  const plan = step.plan({ x: [5, 6], y: { shape: [5], dtype: 'i32' } })
  const layers = plan.ops.filter((o) => o.kernel === 'linear_sign_weight_grad').map((o) => o.layer)
  step.close()
  model.dispose()
  return layers.sort()
}

describe('memory assignment', () => {
  test.each<[string, MemoryAssignment, string[]]>([
    ['one policy', asa(), ['a', 'b', 'c']],
    ['by name', { b: asa() }, ['b']],
    ['by pattern', { '*': asa() }, ['a', 'b', 'c']],
    ['pairs with a name', [['c', asa()]], ['c']],
    ['pairs with a regular expression', [[/^[bc]$/, asa()]], ['b', 'c']],
    ['a regular expression that remembers', [[/[bc]/g, asa()]], ['b', 'c']],
    ['pairs with a test', [[(path, m) => m instanceof nn.Linear && path !== 'a', asa()]], ['b', 'c']],
  ])('%s', (_, memory, layers) => expect(signed(memory)).toEqual(layers))

  test('refuses what is no policy, and names that match nothing', () => {
    expect(() => signed({ b: [] as never })).toThrow(/memory: expected a policy such as asa\(\) for b, got Array/)
    expect(() => signed([['b', 3 as never]])).toThrow(/memory: expected a policy such as asa\(\) for b, got 3/)
    expect(() => signed({ b: asa as never })).toThrow(/for b, got a function/)
    expect(() => signed([['d', ara()]])).toThrow(/memory: d names no module; there are a, b, c/)
  })

  test('a range holds for its modules and what their caller does behind them', () => {
    const model = new Net()
    const makers = (memory?: MemoryAssignment): string[] => {
      using step = compile({
        model,
        loss: ({ x, y }) => crossEntropy(model.forward(x), y),
        optimizer: new optim.SGD({ lr: 0.1 }),
        memory,
      })
      const { kept } = step.plan({ x: [5, 6], y: { shape: [5], dtype: 'i32' } })
      return kept.map(({ maker }) => maker).filter(Boolean)
    }
    expect(makers().sort()).toEqual(['a', 'b', 'c']) // relu is part of the layer in front of it
    expect(makers({ 'a..b': checkpoint() }).sort()).toEqual(['b', 'c'])
    expect(makers({ 'a..a': checkpoint() }).sort()).toEqual(['a', 'b', 'c'])
    expect(makers({ 'b..c': checkpoint() }).sort()).toEqual(['a', 'c'])
    model.dispose()
  })

  test('refuses ranges of what is no module, in the wrong order, and under policies that compute nothing again', () => {
    expect(() => signed({ 'a..d': checkpoint() })).toThrow(/memory: a\.\.d names no module; there are a, b, c/)
    expect(() => signed({ 'c..a': checkpoint() })).toThrow(/memory: c\.\.a: a runs before c; name it first/)
    expect(() => signed({ 'a..c': asa() })).toThrow(
      /expected checkpoint\(\) for the modules a\.\.c, got asa; name each/,
    )
  })
})

import { inspect } from 'node:util'
import { backprop, compile, models, nn, optim, seed, tensor, zeros, type Tensor, type TrainingStep } from '../../src'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { liveBytes } from '../support/property'
import { withCode } from '../support/refusals'

class Parts extends nn.Module {
  readonly first = new nn.Linear(2, 3)
  readonly list = [new nn.Linear(3, 3, { bias: false }), [new nn.BatchNorm1d(3)]]
  readonly chain = new nn.Sequential(new nn.ReLU(), new nn.Linear(3, 1))
  readonly tied = this.first
  readonly scale = new nn.Parameter(tensor([1]))
  readonly count = 3
  readonly maybe = undefined
  forward(x: Tensor): Tensor {
    return x
  }
}

test('a structured clone of tensors, which would be without their memory, is refused in words', () => {
  const linear = new nn.Linear(2, 2)
  for (const value of [linear, linear.weight, { x: tensor([1]) }, linear.state()])
    expect(() => structuredClone(value)).toThrow(/tensors are not cloned: send their values, dataSync\(\)/)
  const sent = new Map(Array.from(linear.state(), ([name, t]) => [name, t.dataSync()]))
  expect(structuredClone(sent).get('weight')).toEqual(linear.weight.dataSync())
})

test.each([[[5, 5]], [[3, 20]], [[20, 3]], [[16, 3, 3, 8]], [[1, 4]]])('orthogonal weights of shape %j', (shape) => {
  seed(4)
  const gain = Math.SQRT2
  const w = nn.init.orthogonal(shape, gain)
  expect(w.shape).toEqual(shape)
  const values = Float64Array.from(w.dataSync())
  const [rows, columns] = [shape[0], values.length / shape[0]]
  const tall = rows > columns
  const at = (i: number, k: number): number => values[tall ? k * columns + i : i * columns + k]
  for (let i = 0; i < Math.min(rows, columns); i++)
    for (let j = 0; j <= i; j++) {
      let dot = 0
      for (let k = 0; k < Math.max(rows, columns); k++) dot += at(i, k) * at(j, k)
      expect(Math.abs(dot - (i === j ? gain ** 2 : 0))).toBeLessThan(4e-7)
    }
})

test('names are paths of properties, in the order of definition, each part once', () => {
  const model = new Parts()
  expect([...model.namedModules()].map(([n]) => n)).toEqual([
    '',
    'first',
    'list.0',
    'list.1.0',
    'chain',
    'chain.0',
    'chain.1',
  ])
  expect([...model.namedParameters()].map(([n]) => n)).toEqual([
    'scale',
    'first.weight',
    'first.bias',
    'list.0.weight',
    'list.1.0.weight',
    'list.1.0.bias',
    'chain.1.weight',
    'chain.1.bias',
  ])
  expect([...model.namedBuffers()].map(([n]) => n)).toEqual(['list.1.0.runningMean', 'list.1.0.runningVar'])
  expect(model.parameters().length).toBe(8)
  const resnet = new models.ResNet({ depth: 18, classes: 2, width: 4 })
  expect(resnet.state().has('stage2.0.shortcut.norm.runningVar')).toBe(true)
  resnet.dispose()
})

test('modes and freezing reach all inside', () => {
  const model = new Parts()
  model.eval()
  expect([...model.namedModules()].some(([, m]) => m.training)).toBe(false)
  model.train()
  expect([...model.namedModules()].every(([, m]) => m.training)).toBe(true)
  model.freeze('first', 'chain.1.bias')
  expect([...model.namedParameters()].filter(([, p]) => !p.trainable).map(([n]) => n)).toEqual([
    'first.weight',
    'first.bias',
    'chain.1.bias',
  ])
  model.unfreeze('first.weight')
  expect(model.first.weight.trainable).toBe(true)
  expect(() => model.freeze('chain.1.bia')).toThrow(withCode('AUX_INVALID_ARGUMENT', /chain\.1\.bia"/))
  const learning = (): string[] => [...model.namedParameters()].filter(([, p]) => p.trainable).map(([n]) => n)
  const all = [...model.namedParameters()].map(([n]) => n)
  model.freeze().unfreeze('**.bias')
  expect(learning()).toEqual(all.filter((n) => n.endsWith('.bias')))
  model.unfreeze().freeze('chain.*', 'f*.weight')
  expect(learning()).toEqual(all.filter((n) => !n.startsWith('chain.') && n !== 'first.weight'))
  expect(() => model.freeze('chain.*.bia')).toThrow(withCode('AUX_INVALID_ARGUMENT', /chain\.\*\.bia"/))
  model.freeze()
  const step = compile({ model, loss: ({ x }) => model.first.forward(x).sum(), optimizer: new optim.SGD({ lr: 1 }) })
  expect(() => step.plan({ x: [1, 2] })).toThrow(withCode('AUX_NO_GRADIENT'))
})

test('loadState copies all or nothing', () => {
  const [a, b] = [new Parts(), new Parts()]
  b.loadState(a.state())
  for (const [name, t] of a.state()) expect(b.state().get(name)!.dataSync()).toEqual(t.dataSync())
  a.first.weight.assign([9, 9, 9, 9, 9, 9])
  expect(b.first.weight.dataSync()[0]).not.toBe(9)
  const before = [...b.state()].map(([, t]) => [...t.dataSync()])
  const other = (name: string, value: Eager | undefined): Map<string, Tensor> => {
    const state = new Map(a.state() as Map<string, Tensor>)
    if (value) state.set(name, value)
    else state.delete(name)
    return state
  }
  expect(() => b.loadState(other('chain.1.bias', undefined))).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /missing chain\.1\.bias/),
  )
  expect(() => b.loadState(other('more', tensor([1])))).toThrow(withCode('AUX_INVALID_ARGUMENT', /unexpected more/))
  expect(() => b.loadState(other('chain.1.bias', tensor([1, 2])))).toThrow(
    withCode('AUX_SHAPE_MISMATCH', /chain\.1\.bias.*\[1\].*\[2\]/),
  )
  expect(() => b.loadState(other('chain.1.bias', tensor(Int32Array.of(1))))).toThrow(
    withCode('AUX_DTYPE_MISMATCH', /chain\.1\.bias.*f32.*i32/),
  )
  const gone = tensor([1])
  gone.dispose()
  expect(() => b.loadState(other('chain.1.bias', gone))).toThrow(withCode('AUX_DISPOSED'))
  expect([...b.state()].map(([, t]) => [...t.dataSync()])).toEqual(before)
  b.loadState(other('more', tensor([1])), { strict: false })
  expect(b.first.weight.dataSync()[0]).toBe(9)
})

test('a model gives all its memory back', async () => {
  const start = await liveBytes()
  const model = new models.CNN()
  expect(await liveBytes()).toBeGreaterThan(start)
  model.dispose()
  model.dispose()
  expect(await liveBytes()).toBe(start)
})

test('layers refuse what cannot be', () => {
  expect(() => new nn.Conv2d(3, 4, 3, { groups: 2 })).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  for (const bad of [0, -1, 1.5, NaN]) {
    expect(() => new nn.Linear(bad, 3)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
    expect(() => new nn.Linear(3, bad)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
    expect(() => new nn.Conv2d(3, 3, bad)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
    expect(() => new nn.Conv2d(3, 3, 3, { groups: bad })).toThrow(withCode('AUX_INVALID_ARGUMENT'))
    expect(() => new nn.Conv2d(3, 3, 3, { stride: bad })).toThrow(withCode('AUX_INVALID_ARGUMENT', /stride/))
    expect(() => new nn.Embedding(bad, 3)).toThrow(withCode('AUX_INVALID_ARGUMENT', /Embedding/))
    expect(() => new nn.RMSNorm(bad)).toThrow(withCode('AUX_INVALID_ARGUMENT', /RMSNorm/))
    expect(() => new nn.GroupNorm(1, bad)).toThrow(withCode('AUX_INVALID_ARGUMENT', /GroupNorm/))
    expect(() => new nn.MultiHeadAttention(8, bad)).toThrow(withCode('AUX_INVALID_ARGUMENT', /MultiHeadAttention/))
  }
  for (const [options, named] of [
    [{ padding: -1 }, /padding.*-1/],
    [{ padding: 'valid' }, /padding.*valid/],
    [{ padding: 'same', stride: 2 }, /stride 1.*2x2/],
    [{ dilation: [1, 0] }, /dilation.*\[1, 0\]/],
  ] as const)
    expect(() => new nn.Conv2d(3, 3, 3, options as never)).toThrow(withCode('AUX_INVALID_ARGUMENT', named))
  expect(() => new nn.Conv2d(3, 3, 2, { padding: 'same' })).toThrow(withCode('AUX_INVALID_ARGUMENT', /odd kernel/))
  expect(() => new (nn.Conv2d as never as new (...n: number[]) => object)(3, 3)).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /kernel.*undefined/),
  )
  for (const wrong of [[new nn.ReLU()], (x: Tensor) => x, nn.ReLU, undefined])
    expect(() => new nn.Sequential(new nn.ReLU(), wrong as never)).toThrow(
      withCode('AUX_INVALID_ARGUMENT', /Sequential: expected modules.*number 1/),
    )
  expect(() => new nn.Parameter([1] as never)).toThrow(withCode('AUX_INVALID_ARGUMENT', /Array/))
})

test('parts in plain objects are found, trained and noticed when they come later', async () => {
  class Heads extends nn.Module {
    readonly heads: Record<string, nn.Linear> = { a: new nn.Linear(2, 1), b: new nn.Linear(2, 1) }
    readonly options = { around: undefined as unknown, list: [1, 2] }
    constructor() {
      super()
      this.options.around = this.options
    }
    forward(x: Tensor): Tensor {
      return Object.values(this.heads)
        .map((head) => head.forward(x))
        .reduce((a, b) => a.add(b))
    }
  }
  const model = new Heads()
  const names = () => [...model.namedParameters()].map(([name]) => name)
  expect(names()).toEqual(['heads.a.weight', 'heads.a.bias', 'heads.b.weight', 'heads.b.bias'])
  const step = compile({
    model,
    loss: ({ x }) => model.forward(x).square().sum(),
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory: { 'heads.b': backprop() },
  })
  await step.run({ x: [[1, 2]] })
  model.heads.c = new nn.Linear(2, 1)
  const before = model.heads.c.weight.dataSync()
  await step.run({ x: [[1, 2]] })
  expect(model.heads.c.weight.dataSync()).not.toEqual(before)
  expect(nn.adapt(model, 'heads.*', { rank: 1 })).toEqual(['heads.a', 'heads.b', 'heads.c'])
  expect(names().filter((name) => name.endsWith('down.weight')).length).toBe(3)
})

test('what layers are given is refused by name', () => {
  expect(() => new nn.LoRA(new nn.ReLU() as never)).toThrow(withCode('AUX_INVALID_ARGUMENT', /LoRA.*ReLU/))
  expect(() => new nn.MultiHeadAttention(4, 2).forward(tensor([[1, 2, 3, 4]]))).toThrow(
    withCode('AUX_SHAPE_MISMATCH', /MultiHeadAttention.*\[N, T, features\].*\[1, 4\]/),
  )
  expect(() => new nn.LayerNorm(2).forward(tensor([[1, 2, 3]]))).toThrow(
    withCode('AUX_SHAPE_MISMATCH', /layerNorm: expected input of shape \[..., 2\], got \[1, 3\]/),
  )
  expect(() => new nn.ReLU().loadState({} as never)).toThrow(withCode('AUX_INVALID_ARGUMENT', /Map.*Object/))
  const gpt = new models.GPT({ vocabulary: 4, length: 2, layers: 1, features: 4, heads: 1 })
  expect(() => gpt.forward(tensor(new Int32Array(3), [1, 3]))).toThrow(
    withCode('AUX_SHAPE_MISMATCH', /GPT.*T at most 2.*\[1, 3\]/),
  )
})

test('a step with nothing to learn says whether that is frozen', () => {
  const model = new nn.Linear(2, 1)
  const step = (loss: (x: Tensor) => Tensor): TrainingStep =>
    compile({ model, loss: ({ x }) => loss(x).sum(), optimizer: new optim.SGD({ lr: 1 }) })
  model.freeze()
  expect(() => step((x) => model.forward(x)).plan({ x: [1, 2] })).toThrow(
    withCode('AUX_NO_GRADIENT', /are frozen; model\.unfreeze\(\)/),
  )
  expect(() => step((x) => x).plan({ x: [1, 2] })).toThrow(withCode('AUX_NO_GRADIENT', /reads no parameter/))
})

test('a layer may read the weight of another one: one parameter, trained by both', async () => {
  class Tied extends nn.Module {
    tokens = new nn.Embedding(5, 3)
    out = new nn.Linear(3, 5, { bias: false })
    constructor() {
      super()
      this.out.weight = this.tokens.weight
    }
    forward(x: Tensor): Tensor {
      return this.out.forward(this.tokens.forward(x))
    }
  }
  class ByHand extends nn.Module {
    tokens = new nn.Embedding(5, 3)
    forward(x: Tensor): Tensor {
      return this.tokens.forward(x).matmul(this.tokens.weight.transpose())
    }
  }
  const [tied, byHand] = [new Tied(), new ByHand()]
  expect([...tied.state().keys()]).toEqual(['tokens.weight'])
  byHand.loadState(tied.state())
  for (const model of [tied, byHand]) {
    const step = compile({
      model,
      loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
      optimizer: new optim.SGD({ lr: 0.5 }),
    })
    for (let i = 0; i < 5; i++) await step.run({ x: [0, 1, 4], y: [1, 2, 0] })
  }
  tied.tokens.weight.dataSync().forEach((v, i) => expect(v).toBeCloseTo(byHand.tokens.weight.dataSync()[i], 5))
})

test('freezing knows patterns', () => {
  const gpt = new models.GPT({ vocabulary: 4, length: 4, layers: 2, features: 4, heads: 1 })
  gpt.freeze().unfreeze('blocks.*.fc1', '**.norm.bias')
  expect([...gpt.namedParameters()].filter(([, p]) => p.trainable).map(([n]) => n)).toEqual([
    'blocks.0.fc1.weight',
    'blocks.0.fc1.bias',
    'blocks.1.fc1.weight',
    'blocks.1.fc1.bias',
    'norm.bias',
  ])
  expect(() => gpt.unfreeze('blocks.*.fc3')).toThrow(withCode('AUX_INVALID_ARGUMENT', /unfreeze.*fc3"/))
})

test('a model in words: its modules by path, what they hold, and how much of it learns', () => {
  class Net extends nn.Module {
    conv = new nn.Conv2d(1, 4, 3)
    blocks = [new nn.Sequential(new nn.Linear(64, 64), new nn.ReLU())]
    norm = new nn.BatchNorm1d(4)
    scales = [new nn.Parameter(zeros([2]))]
    override forward(): void {}
  }
  const model = new Net()
  model.freeze('blocks.0.0.weight', 'conv.bias').store('bf16', 'blocks.0.0.weight')
  expect(String(model).split('\n')).toEqual([
    'Net, 4210 parameters in 8.45 KiB, 110 of them learn',
    '            Net          scales.0 [2]                                                            2',
    'conv        Conv2d       weight [4, 3, 3, 1], bias [4] frozen                                   40',
    'blocks.0    Sequential',
    'blocks.0.0  Linear       weight [64, 64] bf16 frozen, bias [64]                               4160',
    'blocks.0.1  ReLU',
    'norm        BatchNorm1d  weight [4], bias [4], runningMean [4] buffer, runningVar [4] buffer     8',
  ])
  expect(inspect(model)).toBe(String(model))
  model.dispose()
  expect(String(model)).toMatch(/^Net, 4210 parameters/)
  expect(String(new nn.ReLU())).toBe('ReLU, 0 parameters in 0 bytes')
})

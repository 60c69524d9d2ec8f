import { compile, data, grad, models, nn, normal, optim, tensor, uniform, where, zeros, type Tensor } from '../../src'
import { withCode } from '../support/refusals'

const invalid = (message: RegExp) => withCode('AUX_INVALID_ARGUMENT', message)

class Net extends nn.Module {
  readonly body = new nn.Sequential(new nn.Linear(2, 4), new nn.ReLU(), new nn.Linear(4, 3))
  forward(x: Tensor): Tensor {
    return this.body.forward(x)
  }
}
const training = (options: object = {}) => {
  const model = new Net()
  const loss = ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y)
  return compile({ model, loss, optimizer: new optim.SGD({ lr: 0.1 }), ...options })
}

test.each([
  [{ optimiser: 1 }, /no option optimiser; there are model, loss, optimizer/],
  [{ optimizer: undefined }, /optimizer.*undefined/],
  [{ optimizer: optim.SGD }, /optimizer.*a function/],
  [{ loss: 'mse' }, /loss.*"mse"/],
  [{ model: { forward: 1 } }, /model.*Object/],
  [{ memory: 'asa' }, /memory.*"asa"/],
  [{ clip: 1 }, /clip.*1/],
  [{ clip: { norms: 1 } }, /no option norms; there are norm, value/],
  [{ seed: -1.5 }, /seed.*-1\.5/],
])('options that cannot be: %p', (options, message) => {
  expect(() => training(options)).toThrow(invalid(message))
})

test('a function may say in its type which inputs it reads', async () => {
  const model = new nn.Linear(1, 1)
  const sum = compile(({ x, y }: { x: Tensor; y: Tensor }) => x.add(y))
  expect((await sum.run({ x: [1], y: [2] })).data[0]).toBe(3)
  const step = compile({
    model,
    loss: ({ x }: { x: Tensor }) => ({ loss: model.forward(x).sum(), x }),
    optimizer: new optim.SGD({ lr: 0.1 }),
  })
  expect((await step.run({ x: [[2]] })).x.data[0]).toBe(2)
  const forward = compile({ model, forward: ({ x }: { x: Tensor }) => model.forward(x) })
  expect((await forward.run({ x: [[2]] })).shape).toEqual([1, 1])
  // @ts-expect-error inputs are tensors
  compile((batch: { x: number }) => zeros([batch.x]))
})

test('neither a function, a training step nor an evaluation', () => {
  for (const nothing of [undefined, null, {}, { model: new Net() }, 3])
    expect(() => compile(nothing as never)).toThrow(invalid(/\{ model, loss, optimizer \}/))
  const model = new Net()
  expect(() => compile({ model, forward: ({ x }: Record<string, Tensor>) => x, budget: 1 } as never)).toThrow(
    invalid(/no option budget/),
  )
})

test('an error names the innermost module, in its message and its stack', () => {
  const error = (f: () => unknown): Error => {
    try {
      f()
    } catch (caught) {
      return caught as Error
    }
    throw new Error('expected an error')
  }
  const caught = error(() => training().plan({ x: [5, 3], y: [5] }))
  expect(caught.message).toBe('linear: expected input of shape [..., 2], got [5, 3] (in body.0)')
  expect(caught.stack).toContain(caught.message)
  const vit = new models.CNN()
  expect(
    error(() => compile({ model: vit, forward: ({ x }) => vit.forward(x) }).plan({ x: [1, 1, 28, 28] })).message,
  ).toMatch(/\[N, H, W, 1\].*got \[1, 1, 28, 28\]; channels come last.*\(in stem/)
})

test('what a traced function returns', () => {
  const plan = (f: unknown) => compile(f as (x: Record<string, Tensor>) => Tensor).plan({ x: [2] })
  expect(() => plan(async ({ x }: Record<string, Tensor>) => x)).toThrow(invalid(/promise/))
  expect(() => plan(() => undefined)).toThrow(invalid(/undefined/))
  expect(() => plan(({ x }: Record<string, Tensor>) => ({ x, n: 1 }))).toThrow(invalid(/got 1 as "n"/))
})

test('operators of JavaScript', () => {
  const untyped = (t: Tensor) => t as unknown as number
  expect(() => untyped(tensor([1, 2])) * 2).toThrow(invalid(/operators.*\[2\].*mul\(\)/))
  expect(untyped(tensor([3])) > 2).toBe(true)
  expect(`${tensor([3])}`).toBe(tensor([3]).toString())
  expect(() => compile(({ x }) => (untyped(x.sum()) > 0 ? x : x.neg())).plan({ x: [2] })).toThrow(
    withCode('AUX_TRACED_VALUE'),
  )
})

test('what is no tensor is refused by name', () => {
  const not = (value: unknown) => value as Tensor
  for (const [run, message] of [
    [() => zeros([2]).add(not([1, 2])), /add: expected a tensor, got Array/],
    [() => zeros([2]).pow(not('x')), /pow.*"x"/],
    [() => zeros([2]).sub(not(undefined)), /sub.*undefined/],
    [() => new Net().forward(not([1, 2])), /linear.*Array/],
    [() => new nn.LayerNorm(2).forward(not([1, 2])), /layer_norm.*Array/],
    [() => nn.mse(zeros([1]), not([1])), /mse.*Array/],
    [() => grad((x) => x.sum())(not(3)), /grad.*3/],
    [() => tensor(not('abc') as never), /tensor.*"abc"/],
    [() => zeros([2, 3]).reshape(3 as never), /reshape: expected an array, got 3/],
    [() => zeros([2, 3]).permute(1 as never), /permute/],
    [() => zeros([2]).clamp({} as never), /clamp.*Object/],
    [() => normal([2], 0.1 as never), /normal: expected an object of options, got 0\.1/],
    [() => uniform([2], { max: 1 } as never), /uniform: there is no option max/],
    [() => compile(({ x }) => x).plan(undefined as never), /plan: expected \{ name: shapes \}, got undefined/],
  ] as const)
    expect(run).toThrow(invalid(message))
  for (const run of [
    () => zeros([2], 'float' as never),
    () => zeros([2]).cast('int' as never),
    () => tensor([1], [1], 'f' as never),
  ])
    expect(run).toThrow(withCode('AUX_DTYPE_MISMATCH', /one of f32, bf16/))
})

test('whole numbers are indices where such are wanted', async () => {
  const step = training({ seed: 3 })
  const other = training({ seed: 3 })
  for (const [name, t] of other.model.state()) t.assign(step.model.state().get(name)!)
  const x = [
    [1, 2],
    [3, 4],
  ]
  const { loss } = await step.run({ x, y: [2, 0] })
  expect((await other.run({ x, y: Int32Array.of(2, 0) })).loss).toBe(loss)
  await expect(step.run({ x, y: [2, 0.5] })).rejects.toEqual(invalid(/input y.*i32.*0\.5/))
  await expect(step.run({ x, y: [2, 3] })).rejects.toEqual(withCode('AUX_INDEX_OUT_OF_RANGE'))
  const twice = [await other.run({ x, y: tensor([1, 0]) }), await step.run({ x, y: Uint8Array.of(1, 0) })]
  expect(twice[0].loss).toBe(twice[1].loss)
  expect(() => step.plan({ x: [2, 2], y: { shape: [2], dtype: 'f32' } })).toThrow(
    withCode('AUX_DTYPE_MISMATCH', /labels.*give y as an Int32Array/),
  )
  const batch = await data.fromArrays({ x, y: [1, 1] }).batch([0, 1])
  expect((await step.run(batch)).loss).toBe((await other.run({ x, y: Int32Array.of(1, 1) })).loss)
  const both = compile(({ x }) => x.add(where(x.gt(1), 1, 0)))
  expect((await both.run({ x: [1, 2] })).data).toEqual(Float32Array.of(1, 3))
  await expect(step.run([1] as never)).rejects.toEqual(invalid(/run: expected \{ name: values \}, got Array/))
})

test('a prediction and a target whose difference would be all pairs', () => {
  for (const loss of [nn.mse, nn.l1, nn.huber, nn.smoothL1] as ((p: Tensor, t: Tensor) => Tensor)[]) {
    expect(() => loss(zeros([4, 1]), zeros([4]))).toThrow(withCode('AUX_SHAPE_MISMATCH', /\[4, 1\].*\[4\]/))
    expect(() => loss(zeros([4]), zeros([4, 1]))).toThrow(withCode('AUX_SHAPE_MISMATCH'))
    expect(loss(zeros([4, 1]), zeros([1])).item()).toBe(0)
  }
})

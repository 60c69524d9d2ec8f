import * as aux from '../../src'
import { compile, data, io, models, nn, optim, train, type Tensor } from '../../src'

// What TypeScript must refuse, one way or more for each public function, and what it must take. Nothing of it runs: the
// types are the test (`npm run check types`). Strict about both sides: an error that is expected and does not come is one.

/** Exactly the same type, not only one that may be assigned. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
declare function same<A, B>(...different: Same<A, B> extends true ? [] : [A, B]): void

declare const x: Tensor
declare const model: nn.Linear
declare const sgd: optim.SGD
declare const rows: data.Dataset<{ x: aux.HostArray; y: aux.HostArray }>

export async function right(): Promise<void> {
  const step = compile({
    model,
    loss: ({ x, y }) => ({ loss: nn.mse(model.forward(x), y), y }),
    optimizer: sgd,
    memory: { 'blocks.*': aux.asa(), '**': aux.checkpoint() },
    budget: { bytes: '64MiB', methods: [aux.q2()] },
    clip: { norm: 1 },
  })
  const result = await step.run({ x: [[1, 2]], y: Float32Array.of(1) }, { signal: AbortSignal.timeout(1) })
  same<typeof result.loss, number>()
  same<typeof result.y, aux.HostArray>()
  same<typeof result.gradNorm, number | undefined>()
  const plain = compile({ model, loss: ({ x }) => model.forward(x).mean(), optimizer: sgd })
  same<Awaited<ReturnType<typeof plain.run>>['loss'], number>()
  const forward = compile({ model, forward: ({ x }) => model.forward(x) })
  same<Awaited<ReturnType<typeof forward.run>>, aux.HostArray>()
  const two = compile(({ x }: { x: Tensor }) => ({ a: x, b: x }))
  same<ReturnType<typeof two.runSync>, { a: aux.HostArray; b: aux.HostArray }>()
  const { value, grads } = aux.valueAndGrad((a: Tensor, b: Tensor) => a.mul(b).sum())(x, x)
  same<typeof value, Tensor>()
  same<typeof grads, Tensor[]>()
  same<number, Awaited<ReturnType<typeof train.evaluate<Tensor>>>>()
  const loader = new data.DataLoader(rows, { batchSize: 2, transform: ({ x }) => ({ z: x }) })
  for await (const batch of loader) same<typeof batch, { z: aux.HostArray }>()
  for await (const event of train.fit({ step: plain, loader, epochs: 1 })) {
    if (event.type === 'step') same<typeof event.result.loss, number>()
    else same<typeof event.validation, number | undefined>()
  }
  same<ReturnType<typeof aux.tidy<[Tensor, number]>>, [Tensor, number]>()
  const kept = aux.tidy(() => ({ a: x.add(1).slice([0, 1], null), n: x.item() }))
  same<typeof kept, { a: Tensor; n: number }>()
  new models.GPT({ vocabulary: 5, length: 4, layers: 1, features: 4, heads: 2 })
  await train.saveTraining('file', { step, loader }, { keep: 2, extra: { note: [1, null] } })
  try {
    x.item()
  } catch (error) {
    if (error instanceof aux.AuxgradError) same<typeof error.code, aux.ErrorCode>()
  }
}

export async function wrong(): Promise<void> {
  const step = compile({ model, loss: ({ x }) => model.forward(x).mean(), optimizer: sgd })
  const forward = compile({ model, forward: ({ x }) => model.forward(x) })
  const loader = new data.DataLoader(rows, { batchSize: 2 })
  const loss = (): Tensor => x

  // @ts-expect-error a loss is a tensor
  compile({ model, loss: () => 3, optimizer: sgd })
  // @ts-expect-error results are tensors
  compile({ model, loss: () => ({ loss: x, note: 'x' }), optimizer: sgd })
  // @ts-expect-error no optimizer
  compile({ model, loss })
  // @ts-expect-error an optimizer, not its class
  compile({ model, loss, optimizer: optim.SGD })
  // @ts-expect-error no model
  compile({ model: {}, loss, optimizer: sgd })
  // @ts-expect-error there is no such option
  compile({ model, loss, optimizer: sgd, epochs: 3 })
  // @ts-expect-error a policy is called
  compile({ model, loss, optimizer: sgd, memory: { fc: aux.asa } })
  // @ts-expect-error a number of bytes, or one with its unit
  compile({ model, loss, optimizer: sgd, budget: true })
  // @ts-expect-error norm or value
  compile({ model, loss, optimizer: sgd, clip: { max: 1 } })
  // @ts-expect-error it is an evaluation, which has no budget
  compile({ model, forward: loss, budget: 1 })
  // @ts-expect-error promises are not traced
  compile(async () => x)
  // @ts-expect-error batches have names
  await step.run([1, 2])
  // @ts-expect-error a string is no value
  await step.run({ x: 'text' })
  // @ts-expect-error the signal is an option
  await step.run({ x: [1] }, AbortSignal.timeout(1))
  // @ts-expect-error of functions no loss is known
  void (await forward.run({ x: [1] })).loss
  // @ts-expect-error not a result of this step
  void (await step.run({ x: [1] })).accuracy
  // @ts-expect-error shapes are lists of numbers
  step.plan({ x: ['2'] })
  // @ts-expect-error no such dtype
  step.plan({ x: { shape: [2], dtype: 'f64' } })
  // @ts-expect-error what is read is read only
  step.model = model
  // @ts-expect-error differentiated functions are of tensors
  aux.grad((n: number) => n)
  // @ts-expect-error and give one
  aux.grad((t: Tensor) => t.item())
  // @ts-expect-error numbers are no inputs
  aux.grad((t: Tensor) => t)(3)
  // @ts-expect-error a body
  aux.tidy(x)
  // @ts-expect-error a tensor
  aux.keep(3)

  // @ts-expect-error numbers, not words
  aux.tensor(['a'])
  // @ts-expect-error an array, not numbers
  aux.zeros(2, 3)
  // @ts-expect-error no such dtype
  aux.ones([2], 'float32')
  // @ts-expect-error a value
  aux.full([2])
  // @ts-expect-error numbers
  aux.arange('3')
  // @ts-expect-error how many
  aux.linspace(0, 1)
  // @ts-expect-error an array of tensors
  aux.concat(x, x)
  // @ts-expect-error an array of tensors
  aux.stack([x, 3])
  // @ts-expect-error tensors follow one by one
  aux.einsum('ij->ji', [x])
  // @ts-expect-error a condition is a tensor
  aux.where(true, x, x)
  // @ts-expect-error how many classes
  aux.oneHot(x)
  // @ts-expect-error padding, in small letters
  aux.conv2d(x, x, x, { Padding: 1 })
  // @ts-expect-error no such mode
  aux.interpolate(x, { scale: 2, mode: 'cubic' })
  // @ts-expect-error no such option
  aux.scaledDotProductAttention(x, x, x, { isCausal: true })
  // @ts-expect-error a probability
  aux.dropout(x, true)
  // @ts-expect-error no such reduction
  aux.crossEntropy(x, x, { reduction: 'average' })
  // @ts-expect-error bits are 2, 4 or 8
  aux.quantized({ bits: 3 })
  // @ts-expect-error what a set bit stands for
  aux.asa({ alphabet: '10' })
  // @ts-expect-error no such option
  aux.ara({ every: 2 })
  // @ts-expect-error cheap, or nothing said
  aux.checkpoint({ recompute: 'some' })
  // @ts-expect-error how it is read
  aux.auxiliary({ name: 'half' })

  // @ts-expect-error a number or a tensor
  x.add('1')
  // @ts-expect-error tensors have no operators
  void (x + 1)
  // @ts-expect-error an array
  x.reshape(2, 3)
  // @ts-expect-error an array
  x.permute(1, 0)
  // @ts-expect-error ranges, or null
  x.slice(1)
  // @ts-expect-error pairs
  x.pad([1, 1])
  // @ts-expect-error no such mode
  x.pad([[1, 1]], 'symmetric')
  // @ts-expect-error keep is true or false
  x.sum(0, { keep: true })
  // @ts-expect-error sizes are numbers
  x.split('2')
  // @ts-expect-error an index is a tensor
  x.gather(0, [1])
  // @ts-expect-error indices are a tensor
  x.indexSelect(0, [1])
  // @ts-expect-error both of them
  x.scatterAdd(0, x)
  // @ts-expect-error no such dtype
  x.cast('int32')
  // @ts-expect-error an object of options
  x.sort(true)
  // @ts-expect-error options have names
  x.topk(2, true)
  // @ts-expect-error no such norm
  x.norm(0, { order: 1 })
  // @ts-expect-error it has values, not a value
  x.shape = [2]
  // @ts-expect-error there is no backward
  x.backward()

  // @ts-expect-error two sizes
  new nn.Linear(3)
  // @ts-expect-error the third are options
  new nn.Linear(3, 2, false)
  // @ts-expect-error a kernel
  new nn.Conv2d(1, 2)
  // @ts-expect-error options have names
  new nn.Dropout({ p: 0.5 })
  // @ts-expect-error layers follow one by one
  new nn.Sequential([model])
  // @ts-expect-error forward has a tensor
  model.forward([1, 2])
  // @ts-expect-error no such format
  model.store('q3')
  // @ts-expect-error no such device
  model.to(3)
  // @ts-expect-error forward is missing
  new (class extends nn.Module {})()
  // @ts-expect-error a rate
  new optim.SGD({ learningRate: 0.1 })
  // @ts-expect-error a number or a schedule
  new optim.Adam({ lr: '0.1' })
  // @ts-expect-error 8 or 32
  new optim.Adam({ lr: 0.1, bits: 16 })
  // @ts-expect-error how many steps
  optim.schedule.cosine(0.1)
  // @ts-expect-error what heads there are
  new models.GPT({ vocabulary: 5, length: 4, layers: 1, features: 4 })

  // @ts-expect-error fields have names
  data.fromArrays([1, 2])
  // @ts-expect-error samples have fields
  data.fromSamples([1, 2])
  // @ts-expect-error a batch size
  new data.DataLoader(rows, {})
  // @ts-expect-error a data set
  new data.DataLoader([1], { batchSize: 1 })
  // @ts-expect-error a transform gives a batch
  new data.DataLoader(rows, { batchSize: 1, transform: () => 3 })
  // @ts-expect-error a place is not a number
  loader.restore(3)
  // @ts-expect-error size and read are missing
  new (class extends data.Dataset {})()
  // @ts-expect-error epochs
  train.fit({ step, loader })
  // @ts-expect-error an evaluation is no step
  train.fit({ step: forward, loader, epochs: 1 })
  // @ts-expect-error nor a step an evaluation
  await train.evaluate(step, loader)
  // @ts-expect-error a step
  await train.saveTraining('file', { model })
  // @ts-expect-error what is put back into
  await train.loadTraining('file')
  // @ts-expect-error no such layout
  await train.saveWeights('file', model, { layout: 'keras' })
  // @ts-expect-error a map
  await io.saveCheckpoint('file', { tensors: { x }, state: null })
  // @ts-expect-error functions are no JSON
  await train.saveTraining('file', { step }, { extra: () => 1 })
}

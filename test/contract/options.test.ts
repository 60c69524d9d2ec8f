import {
  ara,
  asa,
  auxiliary,
  bincount,
  checkpoint,
  compile,
  concat,
  conv2d,
  data,
  embedding,
  grad,
  interpolate,
  io,
  meshgrid,
  models,
  nn,
  optim,
  quantized,
  randint,
  scaledDotProductAttention,
  searchsorted,
  stack,
  tensor,
  tidy,
  train,
  truncatedNormal,
  unfold,
  zeros,
  type Tensor,
} from '../../src'
import { withCode } from '../support/refusals'

// What TypeScript refuses and JavaScript does not: options that are misspelled, or given by position as in PyTorch.
const x = zeros([1, 4, 4, 2])
const q = zeros([1, 1, 2, 4])
const rows = data.fromArrays({ x: [1, 2] })
const model = new nn.Linear(2, 2)
const optimizer = new optim.SGD({ lr: 0.1 })
const loss = ({ x }: { x: Tensor }) => model.forward(x).mean()
const step = compile({ model, loss, optimizer })
const wrong: Record<string, (bad: never) => unknown> = {
  Linear: (bad) => new nn.Linear(2, 2, bad),
  Embedding: (bad) => new nn.Embedding(2, 2, bad),
  Conv1d: (bad) => new nn.Conv1d(2, 2, 3, bad),
  Conv2d: (bad) => new nn.Conv2d(2, 2, 3, bad),
  Conv3d: (bad) => new nn.Conv3d(2, 2, 3, bad),
  maxPool3d: (bad) => zeros([1, 2, 2, 2, 1]).maxPool3d(2, bad),
  ConvTranspose2d: (bad) => new nn.ConvTranspose2d(2, 2, 3, bad),
  ConvTranspose1d: (bad) => new nn.ConvTranspose1d(2, 2, 3, bad),
  ConvTranspose3d: (bad) => new nn.ConvTranspose3d(2, 2, 3, bad),
  WeightNorm: (bad) => new nn.WeightNorm(new nn.Linear(2, 2), bad),
  SpectralNorm: (bad) => new nn.SpectralNorm(new nn.Linear(2, 2), bad),
  EmbeddingBag: (bad) => new nn.EmbeddingBag(2, 2, bad),
  Bilinear: (bad) => new nn.Bilinear(2, 2, 2, bad),
  unfold: (bad) => unfold(x, 2, bad),
  multiMargin: (bad) => nn.multiMargin(zeros([1, 2]), tensor(new Int32Array(1)), bad),
  multilabelSoftMargin: (bad) => nn.multilabelSoftMargin(x, x, bad),
  bincount: (bad) => bincount(tensor(new Int32Array(1)), bad),
  meshgrid: (bad) => meshgrid([], bad),
  searchsorted: (bad) => searchsorted(zeros([1]), zeros([1]), bad),
  Adadelta: (bad) => new optim.Adadelta(bad),
  Adamax: (bad) => new optim.Adamax(bad),
  NAdam: (bad) => new optim.NAdam(bad),
  RAdam: (bad) => new optim.RAdam(bad),
  maxPool2d: (bad) => new nn.MaxPool2d(2, bad).forward(x),
  avgPool1d: (bad) => zeros([1, 4, 2]).avgPool1d(2, bad),
  gelu: (bad) => x.gelu(bad),
  GELU: (bad) => new nn.GELU(bad),
  BatchNorm: (bad) => new nn.BatchNorm2d(2, bad),
  LayerNorm: (bad) => new nn.LayerNorm(2, bad),
  GroupNorm: (bad) => new nn.GroupNorm(1, 2, bad),
  RMSNorm: (bad) => new nn.RMSNorm(2, bad),
  embedding: (bad) => embedding(tensor(Int32Array.of(0)), zeros([2, 2]), bad),
  Momentum: (bad) => new nn.Momentum(new nn.Linear(2, 2), bad),
  LiteResidual: (bad) => new nn.LiteResidual(new nn.Linear(2, 2), 2, 2, bad),
  Parameter: (bad) => new nn.Parameter(zeros([2]), bad),
  TransformerBlock: (bad) => new models.TransformerBlock(bad),
  ReversibleTransformerBlock: (bad) => new models.ReversibleTransformerBlock(bad),
  MixerBlock: (bad) => new models.MixerBlock(4, bad),
  ReformerBlock: (bad) => new models.ReformerBlock(bad),
  InvertedResidual: (bad) => new models.InvertedResidual(2, 2, bad),
  LSTMCell: (bad) => new nn.LSTMCell(2, 2, bad),
  GRUCell: (bad) => new nn.GRUCell(2, 2, bad),
  RNNCell: (bad) => new nn.RNNCell(2, 2, bad),
  LSTM: (bad) => new nn.LSTM(2, 2, bad),
  GRU: (bad) => new nn.GRU(2, 2, bad),
  RNN: (bad) => new nn.RNN(2, 2, bad),
  MultiHeadAttention: (bad) => new nn.MultiHeadAttention(4, 2, bad),
  LSHAttention: (bad) => new nn.LSHAttention(4, 2, bad),
  LoRA: (bad) => new nn.LoRA(new nn.Linear(2, 2), bad),
  conv2d: (bad) => conv2d(x, zeros([2, 3, 3, 2]), undefined, bad),
  interpolate: (bad) => interpolate(x, bad),
  scaledDotProductAttention: (bad) => scaledDotProductAttention(q, q, q, bad),
  crossEntropy: (bad) => nn.crossEntropy(zeros([1, 2]), zeros([1, 2]), bad),
  ctc: (bad) => nn.ctc(zeros([1, 2, 2]), tensor(new Int32Array(1), [1, 1]), bad),
  focal: (bad) => nn.focal(x, x, bad),
  gaussianNll: (bad) => nn.gaussianNll(x, x, x, bad),
  tripletMargin: (bad) => nn.tripletMargin(x, x, x, bad),
  InstanceNorm: (bad) => new nn.InstanceNorm2d(2, bad),
  PReLU: (bad) => new nn.PReLU(1, bad),
  mse: (bad) => nn.mse(x, x, bad),
  l1: (bad) => nn.l1(x, x, bad),
  huber: (bad) => nn.huber(x, x, bad),
  smoothL1: (bad) => nn.smoothL1(x, x, bad),
  bceWithLogits: (bad) => nn.bceWithLogits(x, x, bad),
  klDivergence: (bad) => nn.klDivergence(x, x, bad),
  asa: (bad) => asa(bad),
  ara: (bad) => ara(bad),
  checkpoint: (bad) => checkpoint(bad),
  quantized: (bad) => quantized(bad),
  DataLoader: (bad) => new data.DataLoader(rows, bad),
  auxiliary: (bad) => auxiliary(bad),
  'Dataset.split': (bad) => rows.split([1], bad),
  fromArrays: (bad) => data.fromArrays({ x: [1] }, bad),
  fromSamples: (bad) => data.fromSamples([{ x: 1 }], bad),
  randomCrop: (bad) => data.randomCrop(2, bad),
  randomFlip: (bad) => data.randomFlip(bad),
  normalize: (bad) => data.normalize(0, 1, bad),
  toFloat: (bad) => data.toFloat(bad),
  constant: (bad) => optim.schedule.constant(1, bad),
  stepDecay: (bad) => optim.schedule.stepDecay(1, bad),
  linear: (bad) => optim.schedule.linear(1, bad),
  cosine: (bad) => optim.schedule.cosine(1, bad),
  inverseSquareRoot: (bad) => optim.schedule.inverseSquareRoot(1, bad),
  cosineRestarts: (bad) => optim.schedule.cosineRestarts(1, bad),
  cyclic: (bad) => optim.schedule.cyclic(1, bad),
  polynomial: (bad) => optim.schedule.polynomial(1, bad),
  oneCycle: (bad) => optim.schedule.oneCycle(1, bad),
  kaimingNormal: (bad) => nn.init.kaimingNormal([2, 2], bad),
  kaimingUniform: (bad) => nn.init.kaimingUniform([2, 2], bad),
  truncatedNormal: (bad) => truncatedNormal([2], bad),
  norm: (bad) => x.norm(-1, bad),
  var: (bad) => x.var(-1, bad),
  sort: (bad) => x.sort(bad),
  argsort: (bad) => x.argsort(bad),
  topk: (bad) => x.topk(1, bad),
  loadState: (bad) => model.loadState(model.state(), bad),
  WeightAverage: (bad) => new train.WeightAverage(new nn.Linear(2, 2), new nn.Linear(2, 2), bad),
}

test.each(Object.entries(wrong))('%s names an option that it has not, and wants options by name', (name, make) => {
  expect(() => make({ shuffel: 1 } as never)).toThrow(new RegExp(`^${name}: there is no option shuffel; there are `))
  expect(() => make(1 as never)).toThrow(new RegExp(`^${name}: expected an object of options, got 1`))
})

const late: Record<string, (bad: never) => Promise<unknown>> = {
  run: (bad) => step.run({ x: [[1, 2]] }, bad),
  save: (bad) => step.save('none', { x: [[1, 2]] }, bad),
  'Dataset.batch': (bad) => rows.batch([0], bad),
  collect: (bad) => data.collect([{ x: 1 }], bad),
  mnist: (bad) => data.mnist(bad),
  saveTraining: (bad) => train.saveTraining('none', { step }, bad),
  loadTraining: (bad) => train.loadTraining('none', { step }, bad),
  saveWeights: (bad) => train.saveWeights('none', model, bad),
  loadWeights: (bad) => train.loadWeights('none', model, bad),
  readSafetensors: (bad) => io.readSafetensors('none', bad),
  loadCheckpoint: (bad) => io.loadCheckpoint('none', bad),
}

test.each(Object.entries(late))(
  '%s rejects an option that it has not, and wants options by name',
  async (name, make) => {
    await expect(make({ shuffel: 1 } as never)).rejects.toThrow(
      new RegExp(`^${name}: there is no option shuffel; there`),
    )
    await expect(make(1 as never)).rejects.toThrow(new RegExp(`^${name}: expected an object of options, got 1`))
  },
)

test('what stands for something of another kind is an error that says so, not one of JavaScript or of later', async () => {
  class Sizeless extends data.Dataset {
    declare size: number
    read = () => ({})
  }
  const wrong: [() => unknown, RegExp][] = [
    [() => compile({ model, loss, optimizer, budget: { bytes: 1, method: [] } as never }), /no option method/],
    [
      () => compile({ model, loss, optimizer, memory: { '': 'asa' as never } }).plan({ x: [1, 2] }),
      /policy such as asa/,
    ],
    [() => auxiliary({ name: 'a' } as never), /expected a function keep/],
    [() => new optim.SGD({ lr: 1, groups: [{ lrScale: 1 } as never] }), /expected match to be a pattern/],
    [
      () => new optim.SGD({ lr: 1, groups: [{ match: '**', lrScale: NaN }] }),
      /group: lrScale: expected a number >= 0, got NaN/,
    ],
    [
      () => model.loadState(new Map([...model.state()].map(([n, t]) => [n, t.toArray() as never]))),
      /weight to be a tensor/,
    ],
    [() => new nn.LeakyReLU({ slope: 0.1 } as never).forward(x), /leakyRelu: expected a number, got Object/],
    [() => nn.crossEntropy(zeros([1, 2]), tensor(Int32Array.of(1)), { labelSmoothing: 2 }), /from 0 to 1, got 2/],
    [() => new data.DataLoader(new Sizeless(), { batchSize: 1 }), /size of the data set/],
    [() => tensor([1n] as never), /got 1n/],
    [() => new nn.Linear('4' as never, 1), /inputs to be a whole number >= 1, got "4"/],
    [() => new optim.SGD({ lr: NaN }), /lr: expected .*, got NaN/],
    [() => new optim.SGD({ lr: 1, weightDecay: '0.1' as never }), /weightDecay: expected a number >= 0, got "0.1"/],
    [() => new optim.Adam({ lr: 1, eps: '1' as never }), /eps: expected a number > 0, got "1"/],
    [() => zeros(2 as never), /zeros: expected a shape \(array of sizes\), got 2/],
    [() => concat(x as never, x as never), /concat: expected an array of at least one tensor, got Tensor/],
    [() => x.slice(...([1, 2, 3, 4, 5] as never[])), /slice: expected \[start, end\] or null for each axis, got 1/],
    [() => x.split(undefined as never), /split: expected a size or an array of sizes, got undefined/],
    [() => x.sum(1, { keep: true } as never), /sum: expected keep to be true or false, got Object/],
    [() => x.flatten(2, 1), /flatten: expected axes in order, got 2 and 1/],
    [() => stack([x, [1]] as never), /stack: expected a tensor, got Array/],
    [
      () => scaledDotProductAttention(q, undefined as never, q),
      /scaledDotProductAttention: expected a tensor, got undefined/,
    ],
    [() => tidy(x as never), /tidy: expected a function, got Tensor/],
    [() => grad(x as never), /grad: expected a function of tensors, got Tensor/],
    [() => nn.adapt(undefined as never, '**', { rank: 1 }), /adapt: expected a module, got undefined/],
    [
      () => new nn.LayerNorm({ features: 2 } as never),
      /LayerNorm: expected features to be a whole number >= 1, got Object/,
    ],
    [
      () => data.randomCrop({ padding: 2 } as never),
      /randomCrop: expected height to be a whole number >= 1, got Object/,
    ],
    [() => rows.select(1 as never), /Dataset.select: expected an array of indices, got 1/],
    [() => x.pad(1 as never), /pad: expected a pair \[before, after\] for each of 4 axes, got 1/],
    [() => new nn.Conv2d(1, 1, 3, { padding: 'some' as never }), /padding: .*, got "some"/],
    [() => tensor([3e9], [1], 'i32'), /tensor: expected values that i32 can hold, got 3000000000 at 0/],
    [() => randint(5, [2] as never, [1]), /got 5 and Array/],
    [() => asa({ alphabet: '0/1' as never }), /asa: expected alphabet to be 'pm1', '01' or 'auto', got 0\/1/],
    [() => nn.init.kaimingNormal([2, 2], { mode: 'fan_in' as never }), /expected mode to be 'in' or 'out', got fan_in/],
    [() => new models.ResNet({ depth: 18, classes: 2, stem: 'x' as never }), /ResNet: expected stem to be 'small', /],
    [() => new models.TransformerBlock({ features: 4, heads: 2, norm: 'pre' as never }), /norm to be 'before' or 'aft/],
    [
      () => new nn.LayerNorm(2, { eps: 'x' as never }).forward(x),
      /layerNorm: expected eps to be a number >= 0, got "x"/,
    ],
    [() => new nn.RMSNorm(2, { eps: NaN }).forward(x), /rmsNorm: expected eps/],
    [() => new nn.GroupNorm(1, 2, { eps: -1 }).forward(x), /groupNorm: expected eps to be a number >= 0, got -1/],
    [() => new nn.BatchNorm2d(2, { eps: Infinity }).forward(x), /batchNorm: expected eps/],
    [() => new nn.BatchNorm2d(2, { momentum: 2 }), /BatchNorm: expected momentum in \[0, 1\] or null, got 2/],
    [
      () => compile({ model, loss, optimizer, clip: { norm: '1' as never } }),
      /clip.norm: expected a number > 0, got "1"/,
    ],
  ]
  for (const [make, message] of wrong) expect(make).toThrow(withCode('AUX_INVALID_ARGUMENT', message))
  class Wrong extends data.Dataset {
    size = 1
    read = () => ({ x: [[1, 2]] }) as never
  }
  const loader = new data.DataLoader(rows, { batchSize: 2 })
  const fit = (options: object) => train.fit({ step, loader, epochs: 1, ...options } as never).next()
  const predict = compile({ model, forward: ({ x }) => model.forward(x).argmax() })
  const late: [Promise<unknown>, RegExp][] = [
    [step.run({ x: [[1, 2]] }, new AbortController().signal as never), /got the signal alone/],
    [step.run({ x: [[1, 2]] }, { signal: 'x' as never }), /run: expected signal to be an AbortSignal, got "x"/],
    [fit({ signal: 'x' }), /fit: expected signal to be an AbortSignal/],
    [fit({ step: {} }), /fit: expected step to be a training step/],
    [new Wrong().batch([0]), /Dataset.read: expected field x to be/],
    [
      new data.DataLoader(new Wrong(), { batchSize: 1 })[Symbol.asyncIterator]().next(),
      /Dataset.read: expected field x/,
    ],
    [train.saveTraining('none', step as never), /saveTraining: expected { step }/],
    [train.saveWeights('none', step as never), /saveWeights: expected a module/],
    [train.saveWeights('none', model, { layout: 'pytorch' as never }), /expected layout 'auxgrad' or 'torch'/],
    [train.accuracy(predict, loader), /expected batches with labels as the field y/],
    [train.accuracy(predict, []), /accuracy: expected at least one row/],
  ]
  for (const [promise, message] of late)
    await expect(promise).rejects.toThrow(withCode('AUX_INVALID_ARGUMENT', message))
})

test('a run that refuses its signal has not begun', async () => {
  const before = model.weight.toArray()
  const refused = step.run({ x: [[1, 2]] }, { signal: {} as never })
  await expect(refused).rejects.toThrow(/AbortSignal/)
  await step.idle()
  expect([model.weight.toArray(), step.runs]).toEqual([before, 0])
})

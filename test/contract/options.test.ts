import {
  ara,
  asa,
  checkpoint,
  conv2d,
  data,
  interpolate,
  nn,
  quantized,
  scaledDotProductAttention,
  train,
  zeros,
} from '../../src'

// What TypeScript refuses and JavaScript does not: options that are misspelled, or given by position as in PyTorch.
const x = zeros([1, 4, 4, 2])
const q = zeros([1, 1, 2, 4])
const rows = data.fromArrays({ x: [1, 2] })
const wrong: Record<string, (bad: never) => unknown> = {
  Linear: (bad) => new nn.Linear(2, 2, bad),
  Embedding: (bad) => new nn.Embedding(2, 2, bad),
  Conv1d: (bad) => new nn.Conv1d(2, 2, 3, bad),
  Conv2d: (bad) => new nn.Conv2d(2, 2, 3, bad),
  ConvTranspose2d: (bad) => new nn.ConvTranspose2d(2, 2, 3, bad),
  maxPool2d: (bad) => new nn.MaxPool2d(2, bad).forward(x),
  avgPool1d: (bad) => zeros([1, 4, 2]).avgPool1d(2, bad),
  gelu: (bad) => x.gelu(bad),
  GELU: (bad) => new nn.GELU(bad),
  BatchNorm: (bad) => new nn.BatchNorm2d(2, bad),
  LayerNorm: (bad) => new nn.LayerNorm(2, bad),
  LSTM: (bad) => new nn.LSTM(2, 2, bad),
  GRU: (bad) => new nn.GRU(2, 2, bad),
  MultiHeadAttention: (bad) => new nn.MultiHeadAttention(4, 2, bad),
  LSHAttention: (bad) => new nn.LSHAttention(4, 2, bad),
  LoRA: (bad) => new nn.LoRA(new nn.Linear(2, 2), bad),
  conv2d: (bad) => conv2d(x, zeros([2, 3, 3, 2]), undefined, bad),
  interpolate: (bad) => interpolate(x, bad),
  scaledDotProductAttention: (bad) => scaledDotProductAttention(q, q, q, bad),
  crossEntropy: (bad) => nn.crossEntropy(zeros([1, 2]), zeros([1, 2]), bad),
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
  WeightAverage: (bad) => new train.WeightAverage(new nn.Linear(2, 2), new nn.Linear(2, 2), bad),
}

test.each(Object.entries(wrong))('%s names an option that it has not, and wants options by name', (name, make) => {
  expect(() => make({ shuffel: 1 } as never)).toThrow(new RegExp(`^${name}: there is no option shuffel; there are `))
  expect(() => make(1 as never)).toThrow(new RegExp(`^${name}: expected an object of options, got 1`))
})

import fc from 'fast-check'
import { models, nn, zeros, type DType, type Tensor } from '../../src'
import { Module } from '../../src/nn'
import { generator } from './run'

// Small random models, each described by data that fast-check can shrink: a layer that does not fit where it stands is
// left out, so that every description is one of a model.

/** A layer: what it is, two numbers from which its sizes follow, and what stands inside. */
export interface Gene {
  readonly is: string
  readonly a: number
  readonly b: number
  readonly inside: readonly Gene[]
}

/** A model and its batch. */
export interface Description {
  readonly input: 'rows' | 'sequences' | 'images' | 'volumes' | 'tokens'
  readonly rows: number
  readonly size: number
  readonly seed: number
  readonly layers: readonly Gene[]
}

type Part = { readonly layer: nn.Layer; readonly shape: readonly number[] }
type Maker = (shape: readonly number[], a: number, b: number, inside: readonly Gene[]) => Part | undefined

const widths = [1, 2, 3, 4, 5, 7, 8, 13, 16, 33]
const most = 3000

/** A function as a module. */
class Apply extends Module {
  readonly #f: (x: Tensor) => Tensor
  constructor(f: (x: Tensor) => Tensor) {
    super()
    this.#f = f
  }
  forward(x: Tensor): Tensor {
    return this.#f(x)
  }
}

/** A module with others inside, and what it makes of a tensor by them. */
class Around<M extends readonly Module[]> extends Module {
  readonly parts: M
  readonly #f: (x: Tensor, ...parts: M) => Tensor
  constructor(f: (x: Tensor, ...parts: M) => Tensor, ...parts: M) {
    super()
    this.parts = parts
    this.#f = f
  }
  forward(x: Tensor): Tensor {
    return this.#f(x, ...this.parts)
  }
}

const divisor = (n: number, wanted: number): number => {
  while (n % wanted) wanted--
  return wanted
}
const sized = (shape: readonly number[]): boolean =>
  shape.every((n) => n >= 1) && shape.reduce((p, n) => p * n, 1) <= most
const same = (a: readonly number[], b: readonly number[]): boolean => `${a}` === `${b}`
const last = (shape: readonly number[]): number => shape[shape.length - 1]

/** Any shape to itself. */
const keeps =
  (make: (channels: number, a: number, b: number) => nn.Layer, least = 1, largest = 4): Maker =>
  (shape, a, b) =>
    shape.length >= least && shape.length <= largest ? { layer: make(last(shape), a, b), shape } : undefined

/** Of sequences, images or volumes, by the number of their axes. */
function spatial(
  sizeOf: (n: number, o: { kernel: number; stride: number; padding: number }) => number,
  make: (
    axes: number,
    channels: number,
    o: { kernel: number; stride: number; padding: number },
    a: number,
  ) => [nn.Layer, number] | undefined,
): Maker {
  return (shape, a, b) => {
    const axes = shape.length - 1
    if (axes < 1 || axes > 3) return undefined
    const o = { kernel: 1 + (b % 3), stride: 1 + ((b >> 1) % 2), padding: (b >> 2) % 2 }
    if (o.padding > o.kernel / 2) o.padding = 0
    const sizes = shape.slice(0, -1).map((n) => sizeOf(n, o))
    const made = sizes.every((n) => n >= 1) ? make(axes, last(shape), o, a) : undefined
    if (!made) return undefined
    const out = [...sizes, made[1]]
    if (sized(out)) return { layer: made[0], shape: out }
    made[0].dispose()
    return undefined
  }
}

const window = (n: number, o: { kernel: number; stride: number; padding: number }): number =>
  Math.floor((n + 2 * o.padding - o.kernel) / o.stride) + 1

/** What stands inside, one after the other, if it keeps the shape. */
function branch(shape: readonly number[], inside: readonly Gene[]): nn.Sequential | undefined {
  const made = chain(shape, inside)
  if (made.layers.length && same(made.shape, shape)) return new nn.Sequential(...made.layers)
  for (const layer of made.layers) layer.dispose()
  return undefined
}

const tokens = (
  f: (channels: number, a: number, b: number, length: number) => [nn.Layer, number] | undefined,
): Maker => {
  return (shape, a, b) => {
    const made = shape.length === 2 ? f(shape[1], a, b, shape[0]) : undefined
    return made && { layer: made[0], shape: [shape[0], made[1]] }
  }
}

const activations: Record<string, () => nn.Layer> = {
  relu: () => new nn.ReLU(),
  gelu: () => new nn.GELU(),
  geluTanh: () => new nn.GELU({ approximate: 'tanh' }),
  silu: () => new nn.SiLU(),
  tanh: () => new nn.Tanh(),
  sigmoid: () => new nn.Sigmoid(),
  leakyRelu: () => new nn.LeakyReLU(0.1),
  elu: () => new nn.ELU(),
  softplus: () => new nn.Softplus(),
  relu6: () => new nn.ReLU6(),
  selu: () => new nn.SELU(),
}

const makers: Record<string, Maker> = {
  linear: (shape, a, b) => {
    const out = [...shape.slice(0, -1), widths[a]]
    return sized(out) ? { layer: new nn.Linear(last(shape), widths[a], { bias: b % 3 > 0 }), shape: out } : undefined
  },
  conv: spatial(window, (axes, c, o, a) => {
    const outputs = widths[a % 6]
    const groups = divisor(c, divisor(outputs, 1 + (a % 3)))
    const options = { stride: o.stride, padding: o.padding, groups: outputs % groups ? 1 : groups, bias: a % 2 === 0 }
    const Conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
    return [new Conv(c, outputs, o.kernel, options), outputs]
  }),
  depthwise: spatial(window, (axes, c, o, a) => {
    const outputs = c * (1 + (a % 2))
    const Conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
    return [new Conv(c, outputs, o.kernel, { stride: o.stride, padding: o.padding, groups: c }), outputs]
  }),
  transposed: spatial(
    (n, o) => (n - 1) * o.stride - 2 * o.padding + o.kernel,
    (axes, c, o, a) => {
      const outputs = widths[a % 5]
      const Conv = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][axes - 1]
      const groups = c % 2 || outputs % 2 ? 1 : 2
      return [new Conv(c, outputs, o.kernel, { stride: o.stride, padding: o.padding, groups }), outputs]
    },
  ),
  maxPool: spatial(window, (axes, c, o) => {
    const Pool = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d][axes - 1]
    return [new Pool(o.kernel, { stride: o.stride, padding: o.padding }), c]
  }),
  avgPool: spatial(window, (axes, c, o) => {
    const Pool = [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d][axes - 1]
    return [new Pool(o.kernel, { stride: o.stride, padding: o.padding }), c]
  }),
  adaptiveAvg: spatial(
    () => 2,
    (axes, c) => [new [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d][axes - 1](2), c],
  ),
  adaptiveMax: spatial(
    () => 2,
    (axes, c) => [new [nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d][axes - 1](2), c],
  ),
  upsample: (shape, a) => {
    const out = [2 * shape[0], 2 * shape[1], shape[2]]
    if (shape.length !== 3 || !sized(out)) return undefined
    return { layer: new nn.Upsample({ scale: 2, mode: a % 2 ? 'bilinear' : 'nearest' }), shape: out }
  },
  pad: (shape, a) => {
    const out = [shape[0] + 2, shape[1] + 2, shape[2]]
    if (shape.length !== 3 || !sized(out) || shape[0] < 2 || shape[1] < 2) return undefined
    const Pad = [nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d][a % 4]
    return { layer: new Pad(1), shape: out }
  },
  batchNorm: (shape, a) => {
    if (shape.length > 4) return undefined
    const Norm = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][shape.length - 1]
    return { layer: new Norm(last(shape), { affine: a % 2 === 0, momentum: a % 3 ? 0.1 : null }), shape }
  },
  batchNormLeaky: keeps(
    (c, a) => new nn.Sequential(new nn.BatchNorm2d(c, { affine: a % 3 > 0 }), new nn.LeakyReLU(0.1)),
    3,
    3,
  ),
  layerNorm: keeps((c, a) => new nn.LayerNorm(c, { affine: a % 4 > 0, bias: a % 2 === 0 })),
  groupNorm: keeps((c, a) => new nn.GroupNorm(divisor(c, 1 + (a % 3)), c, { affine: a % 2 === 0 })),
  instanceNorm: keeps((c, a) => new nn.InstanceNorm2d(c, { affine: a % 2 === 0 }), 2),
  rmsNorm: keeps((c, a) => new nn.RMSNorm(c, { affine: a % 2 === 0 })),
  prelu: keeps((c, a) => new nn.PReLU(a % 2 ? c : 1)),
  dropout: keeps((_, a) => new nn.Dropout(a / 10)),
  dropout2d: keeps((_, a) => new nn.Dropout2d(a / 10), 2),
  alphaDropout: keeps((_, a) => new nn.AlphaDropout(a / 10)),
  flatten: (shape) => ({ layer: new Apply((x) => x.flatten(1)), shape: [shape.reduce((p, n) => p * n, 1)] }),
  tokens: (shape) =>
    shape.length < 3
      ? undefined
      : {
          layer: new Apply((x) => x.reshape([x.shape[0], -1, x.shape[x.rank - 1]])),
          shape: [shape.slice(0, -1).reduce((p, n) => p * n, 1), last(shape)],
        },
  transpose: (shape) =>
    shape.length === 2 ? { layer: new Apply((x) => x.permute([0, 2, 1])), shape: [shape[1], shape[0]] } : undefined,
  mean: (shape) => (shape.length === 1 ? undefined : { layer: new Apply((x) => x.mean(1)), shape: shape.slice(1) }),
  crop: (shape) =>
    shape[0] < 2
      ? undefined
      : { layer: new Apply((x) => x.narrow(1, 1, x.shape[1] - 1)), shape: [shape[0] - 1, ...shape.slice(1)] },
  softmax: keeps(() => new Apply((x) => x.softmax(-1))),
  gate: keeps((c) => new Around((x, gate) => x.mul((gate as nn.Linear).forward(x).sigmoid()), new nn.Linear(c, c))),
  weightNorm: keeps((c) => new nn.WeightNorm(new nn.Linear(c, c))),
  spectralNorm: keeps((c) => new nn.SpectralNorm(new nn.Linear(c, c))),
  lora: keeps((c, a) => new nn.LoRA(new nn.Linear(c, c), { rank: 1 + (a % 3) })),
  frozen: keeps((c) => new nn.Linear(c, c).freeze()),
  bilinear: keeps((c) => new Around((x, f) => (f as nn.Bilinear).forward(x, x), new nn.Bilinear(c, c, c)), 1, 1),
  attention: tokens((c, a, b) => [
    new nn.MultiHeadAttention(c, divisor(c, 1 + (a % 4)), { causal: b % 2 === 0, dropout: b % 3 ? 0 : 0.2 }),
    c,
  ]),
  transformer: tokens((c, a, b) => [
    new models.TransformerBlock({
      features: c,
      heads: divisor(c, 1 + (a % 4)),
      hidden: 1 + a,
      causal: b % 2 === 0,
      norm: b % 3 ? 'before' : 'after',
      dropout: b % 4 ? 0 : 0.1,
      activation: (['gelu', 'geluTanh', 'relu'] as const)[a % 3],
    }),
    c,
  ]),
  lsh: tokens((c, a, b) => [
    new nn.LSHAttention(c, divisor(c, 1 + (a % 3)), { rounds: 1 + (b % 2), causal: a % 2 === 0 }),
    c,
  ]),
  recurrent: tokens((c, a, b) => {
    const hidden = widths[a % 6]
    const Cell = [nn.LSTM, nn.GRU, nn.RNN][b % 3]
    const options = { layers: 1 + (b % 2), bidirectional: a % 2 === 0, dropout: b % 4 ? 0 : 0.3 }
    const layer = new Cell(c, hidden, options)
    return [new Around((x, cells) => (cells as nn.LSTM).forward(x).output, layer), hidden * (a % 2 === 0 ? 2 : 1)]
  }),
  residual: (shape, _a, _b, inside) => {
    const f = branch(shape, inside)
    return f && { layer: new Around((x, g) => x.add((g as nn.Sequential).forward(x)), f), shape }
  },
  twice: (shape, _a, _b, inside) => {
    const f = branch(shape, inside)
    return f && { layer: new Around((x, g) => (g as nn.Sequential).forward((g as nn.Sequential).forward(x)), f), shape }
  },
  sequential: (shape, _a, _b, inside) => {
    const made = chain(shape, inside)
    return made.layers.length ? { layer: new nn.Sequential(...made.layers), shape: made.shape } : undefined
  },
  reversible: (shape, a, _b, inside) => {
    const f = branch(shape, inside)
    if (!f) return undefined
    const g = a % 2 ? branch(shape, inside) : undefined
    const block = new nn.Reversible(f, g ?? new nn.Tanh())
    const layer = new Around((x, r) => {
      const [u, v] = (r as nn.Reversible).forward(x, x)
      return u.add(v)
    }, block)
    return { layer, shape }
  },
  momentum: (shape, _a, _b, inside) => {
    const f = branch(shape, inside)
    return f && { layer: new Around((x, m) => (m as nn.Momentum).forward(x)[0], new nn.Momentum(f)), shape }
  },
  lite: (shape, _a, _b, inside) => {
    const f = shape.length === 3 ? branch(shape, inside) : undefined
    return f && { layer: new nn.LiteResidual(f, last(shape), last(shape), { kernel: 3 }), shape }
  },
}
for (const [name, make] of Object.entries(activations)) makers[name] = keeps(make, 1, 9)

const nesting = ['residual', 'twice', 'sequential', 'reversible', 'momentum', 'lite']
const flat = Object.keys(makers).filter((name) => !nesting.includes(name))

/** As many of the layers as fit, one after the other. */
function chain(shape: readonly number[], genes: readonly Gene[]): { layers: nn.Layer[]; shape: readonly number[] } {
  const layers: nn.Layer[] = []
  for (const { is, a, b, inside } of genes) {
    const made = makers[is](shape, a, b, inside)
    if (!made) continue
    layers.push(made.layer)
    shape = made.shape
  }
  return { layers, shape }
}

/** The model of a description. */
export class RandomModel extends Module {
  /** Rows of a table for tokens. */
  readonly table: nn.Embedding | undefined
  /** Zeros added to each row of the input: their gradient is the sum of the rows' gradients. */
  readonly shift: nn.Parameter | undefined
  readonly layers: nn.Layer[]
  /** Shape of a row of the input and of the result. */
  readonly row: readonly number[]
  readonly out: readonly number[]
  readonly dtype: DType

  constructor({ input, size, layers }: Description, sparse = false) {
    super()
    const width = widths[size % 6]
    const length = 1 + (size % 5)
    this.dtype = input === 'tokens' ? 'i32' : 'f32'
    this.row = {
      rows: [width],
      sequences: [length, width],
      images: [2 + length, 3 + (size % 3), widths[size % 4]],
      volumes: [2, 3, 1 + length, widths[size % 3]],
      tokens: [length],
    }[input]
    let shape = this.row
    if (input === 'tokens') {
      this.table = new nn.Embedding(11, width, { sparse, paddingIdx: size % 2 ? 0 : undefined })
      shape = [length, width]
    } else this.shift = new nn.Parameter(zeros([1, ...this.row]))
    const made = chain(shape, layers)
    this.layers = made.layers
    this.out = made.shape
  }

  forward(x: Tensor): Tensor {
    let y = this.table ? this.table.forward(x) : x.add(this.shift!)
    for (const layer of this.layers) y = layer.forward(y)
    return y
  }
}

/** Values for a batch of a model. */
export function batchOf(model: RandomModel, rows: number, start: number) {
  const random = generator(start)
  const shape = [rows, ...model.row]
  const size = shape.reduce((p, n) => p * n, 1)
  const x =
    model.dtype === 'i32'
      ? { data: Int32Array.from({ length: size }, () => Math.floor(11 * random())), shape, dtype: 'i32' as const }
      : { data: Float32Array.from({ length: size }, () => 2 * random() - 1), shape, dtype: 'f32' as const }
  const out = [rows, ...model.out]
  const r = Float32Array.from({ length: out.reduce((p, n) => p * n, 1) }, () => 2 * random() - 1)
  return { x, r: { data: r, shape: out, dtype: 'f32' as const } }
}

const plain = { noNullPrototype: true }

/** A gene, with genes inside of some. */
const gene: fc.Arbitrary<Gene> = fc.letrec<{ gene: Gene }>((tie) => {
  const digit = fc.nat(9)
  const one = fc.record({ is: fc.constantFrom(...flat), a: digit, b: digit, inside: fc.constant([]) }, plain)
  const inside = fc.array(tie('gene'), { minLength: 1, maxLength: 4 })
  const nested = fc.record({ is: fc.constantFrom(...nesting), a: digit, b: digit, inside }, plain)
  return {
    gene: fc.oneof(
      { maxDepth: 2, depthSize: 'small' },
      { arbitrary: one, weight: 3 },
      { arbitrary: nested, weight: 1 },
    ),
  }
}).gene

/** A description of a model and its batch. */
export const description: fc.Arbitrary<Description> = fc
  .record(
    {
      input: fc.constantFrom('rows', 'sequences', 'images', 'volumes', 'tokens'),
      rows: fc.constantFrom(1, 2, 3, 5, 7, 13, 33),
      size: fc.nat(29),
      seed: fc.nat(1000),
      layers: fc.array(gene, { minLength: 1, maxLength: 6 }),
    },
    plain,
  )
  .filter(({ rows, layers }) => rows > 1 || !JSON.stringify(layers).includes('batchNorm')) // one value has no deviation

import fc from 'fast-check'
import {
  asa,
  checkpoint,
  compile,
  hostArray,
  models,
  nn,
  optim,
  quantized,
  seed,
  tensor,
  tidy,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { check, liveBlocks } from '../support/property'
import {
  add,
  attention,
  crossEntropy,
  expectDefinition,
  gelu,
  layerNorm,
  linear,
  relu,
  unsettle,
  type Weights,
} from '../support/networks'
import { gradientsOf } from '../support/record'
import * as ref from '../support/reference'
import { withCode } from '../support/refusals'
import { generator } from '../support/run'

const sizes = { layers: 2, features: 12, heads: 3, hidden: 16, vocabulary: 11 } as const
const i32 = (rows: number[][]) => hostArray(Int32Array.from(rows.flat()), [rows.length, rows[0].length])

/** Logits by the definition, in doubles. */
function logitsOf(
  p: Weights,
  source: number[][],
  target: number[][],
  norm: 'before' | 'after',
  active = relu,
): ref.Arr {
  const { features: f, heads } = sizes
  const embedded = (rows: number[][]): ref.Arr =>
    ref.make([rows.length, rows[0].length, f], ([n, t, c]) => {
      const angle = t / 10000 ** ((c - (c % 2)) / f)
      return p['tokens.weight'].data[rows[n][t] * f + c] * Math.sqrt(f) + (c % 2 ? Math.cos(angle) : Math.sin(angle))
    })
  const mask = ([n, , , s]: number[]): number => (source[n][s] === 0 ? -Infinity : 0)
  const branch = (x: ref.Arr, name: string, f: (x: ref.Arr) => ref.Arr): ref.Arr =>
    norm === 'before' ? add(x, f(layerNorm(x, p, name, 1e-5))) : layerNorm(add(x, f(x)), p, name, 1e-5)
  const feed =
    (name: string) =>
    (x: ref.Arr): ref.Arr =>
      linear(active(linear(x, p, `${name}.fc1`)), p, `${name}.fc2`)
  const last = (x: ref.Arr, name: string): ref.Arr => (norm === 'before' ? layerNorm(x, p, name, 1e-5) : x)
  let context = embedded(source)
  for (const b of ['encoder.0', 'encoder.1'].filter((b) => `${b}.fc1.weight` in p)) {
    context = branch(context, `${b}.norm1`, (x) => attention(x, x, p, `${b}.attention`, heads, { mask }))
    context = branch(context, `${b}.norm2`, feed(b))
  }
  context = last(context, 'encoderNorm')
  let y = embedded(target)
  for (const b of ['decoder.0', 'decoder.1'].filter((b) => `${b}.fc1.weight` in p)) {
    y = branch(y, `${b}.norm1`, (x) => attention(x, x, p, `${b}.attention`, heads, { causal: true }))
    y = branch(y, `${b}.norm3`, (x) => attention(x, context, p, `${b}.cross`, heads, { mask }))
    y = branch(y, `${b}.norm2`, feed(b))
  }
  return ref.matmul(last(y, 'decoderNorm'), ref.permute(p['tokens.weight'], [1, 0]))
}

test.each(['after', 'before'] as const)('norms %s: loss and gradients are those of the definition', async (norm) => {
  const activation = norm === 'after' ? 'relu' : 'gelu'
  const layers = norm === 'after' ? 2 : 1
  const model = unsettle(new models.Transformer({ ...sizes, layers, norm, activation }), generator(5))
  const source = [
    [3, 1, 7, 10, 2],
    [4, 4, 9, 0, 0],
  ]
  const target = [
    [1, 5, 6, 2],
    [1, 8, 0, 0],
  ]
  const next = [
    [5, 6, 2, 9],
    [8, 2, 0, 0],
  ]
  const soft = { labelSmoothing: 0.1, ignoreIndex: 0 }
  await expectDefinition(
    model,
    (b) => nn.crossEntropy(model.forward(b.source, b.target), b.next, soft),
    { source: i32(source), target: i32(target), next: i32(next) },
    (p) =>
      crossEntropy(logitsOf(p, source, target, norm, activation === 'relu' ? relu : gelu), next.flat(), {
        ignored: 0,
        smooth: 0.1,
      }),
  )
  model.dispose()
})

test('the base model of the paper has 63 million weights', () => {
  const model = new models.Transformer({ layers: 6, features: 512, heads: 8, vocabulary: 37000 })
  // Six blocks of 12 f² + 13 f and six of 16 f² + 19 f (weights, biases, norms), and the table.
  expect(model.parameters().reduce((n, p) => n + p.size, 0)).toBe(6 * (28 * 512 ** 2 + 32 * 512) + 37000 * 512)
  model.dispose()
})

/** Texts of 3 to 6 tokens between 3 and 10, filled up with 0, and the same in order, begun by 1 and ended by 2. */
function sorting(random: () => number, rows: number) {
  const texts = Array.from({ length: rows }, () =>
    Array.from({ length: 3 + Math.floor(4 * random()) }, () => 3 + Math.floor(8 * random())),
  )
  const filled = (row: number[]): number[] => [...row, ...new Array<number>(7 - row.length).fill(0)]
  const sorted = texts.map((row) => [...row].sort((a, b) => a - b))
  return {
    texts,
    sorted,
    batch: {
      source: i32(texts.map(filled)),
      target: i32(sorted.map((row) => filled([1, ...row]))),
      next: i32(sorted.map((row) => filled([...row, 2]))),
    },
  }
}

async function learnt(memory?: (m: models.Transformer) => MemoryAssignment) {
  seed(4)
  const model = new models.Transformer({ ...sizes, features: 32, heads: 4, hidden: 64, layers: 1 })
  const optimizer = new optim.Adam({
    lr: optim.schedule.inverseSquareRoot(6e-3, { warmUp: 50 }),
    betas: [0.9, 0.98],
    eps: 1e-9,
  })
  const loss = (b: Record<string, Tensor>): Tensor =>
    nn.crossEntropy(model.forward(b.source, b.target), b.next, { labelSmoothing: 0.1, ignoreIndex: 0 })
  const step = compile({ model, loss, optimizer, memory: memory?.(model) })
  const random = generator(8)
  for (let i = 0; i < 400; i++) await step.run(sorting(random, 32).batch)
  step.close()
  optimizer.dispose()
  return model
}

async function all(tokens: AsyncIterable<number>): Promise<number[]> {
  const made: number[] = []
  for await (const token of tokens) made.push(token)
  return made
}

test.each([
  ['backpropagation', undefined],
  ['ASA4', (m: models.Transformer) => models.asaPlacement(m, 4)],
] as const)('%s learns to sort', async (_, placed) => {
  const model = await learnt(placed)
  const { texts, sorted } = sorting(generator(99), 20)
  const decoded = (text: number[]): Promise<number[]> =>
    all(models.translate(model, text, { begin: 1, end: 2, length: 8 }))
  await decoded(texts[0]) // the arena, which plans share
  const before = await liveBlocks()
  let right = 0
  for (const [i, text] of texts.entries()) if ((await decoded(text)).join() === sorted[i].join()) right++
  expect(right).toBeGreaterThanOrEqual(17)
  expect(await liveBlocks()).toBe(before)
  model.dispose()
})

test('recomputation changes no gradient, and eight bits of everything little', async () => {
  seed(6)
  const model = new models.Transformer({ ...sizes, dropout: 0.1 })
  const { batch } = sorting(generator(2), 8)
  const loss = (b: Record<string, Tensor>): Tensor =>
    nn.crossEntropy(model.forward(b.source, b.target), b.next, { ignoreIndex: 0 })
  const of = async (m?: MemoryAssignment) => {
    seed(1)
    return gradientsOf(model, loss, batch, m)
  }
  const plain = await of()
  const again = await of({ 'encoder.*': checkpoint(), 'decoder.*': checkpoint() })
  expect(again.gradients).toEqual(plain.gradients)
  expect(again.plan.bytes.kept).toBeLessThan(0.4 * plain.plan.bytes.kept)
  const packed = await of(quantized())
  let [gap, norm] = [0, 0]
  for (const [name, g] of Object.entries(plain.gradients))
    g.forEach((v, i) => {
      gap += (v - packed.gradients[name][i]) ** 2
      norm += v * v
    })
  expect(Math.sqrt(gap / norm)).toBeLessThan(0.02)
  model.dispose()
})

test('decoding is what the whole model says is likeliest, token by token, whatever fills the source up', async () => {
  await check(
    10,
    fc.nat(),
    fc.constantFrom('before', 'after') as fc.Arbitrary<'before' | 'after'>,
    fc.integer({ min: 1, max: 40 }),
    async (start, norm, length) => {
      const random = generator(start)
      seed(start)
      const model = new models.Transformer({ ...sizes, norm, padding: 4 }).eval()
      const source = Array.from({ length: 1 + Math.floor(20 * random()) }, () => 5 + Math.floor(6 * random()))
      const made = await all(models.translate(model, source, { begin: 1, length }))
      expect(made.length).toBe(length)
      const logits = tidy(() => {
        const target = Int32Array.of(1, ...made)
        const fill = [...source, 4, 4, 4]
        const of = (row: Int32Array): Tensor => tensor(row).reshape([1, row.length])
        return model.forward(of(Int32Array.from(fill)), of(target)).dataSync()
      })
      made.forEach((token, t) => {
        const row = [...logits.slice(t * 11, (t + 1) * 11)]
        expect(row[token]).toBeGreaterThan(Math.max(...row) - 1e-4)
      })
      model.dispose()
    },
  )
})

test('keys and values of a source stand for it', () => {
  seed(2)
  const model = new models.Transformer(sizes).eval()
  const row = (...tokens: number[]): Tensor => tensor(Int32Array.from(tokens)).reshape([1, tokens.length])
  const [source, target] = [row(3, 9, 4, 0), row(1, 5, 6)]
  const context = model.encode(source)
  const projected = model.decoder.map((block) => block.cross.project(context))
  const expected = model.decode(target, context, source).dataSync()
  expect(model.decode(target, projected, source).dataSync()).toEqual(expected)
  const { cross } = model.decoder[0]
  expect(() => cross.forward(context, { context: [context] as never })).toThrow(/MultiHeadAttention: .*tensor/)
  expect(() => cross.forward(context, { context: 3 as never })).toThrow(/MultiHeadAttention: .*tensor/)
  expect(() => cross.project(target)).toThrow(/expected input \[N, T, features\], got \[1, 3\]/)
  model.dispose()
})

test('mistakes are named', async () => {
  expect(() => new models.Transformer({ ...sizes, causal: true } as never)).toThrow(/^Transformer: .*no option causal/)
  expect(() => new models.Transformer({ ...sizes, padding: 11 })).toThrow(/padding to be a whole number from 0 to 10/)
  expect(() => new models.Transformer({ ...sizes, activation: 'tanh' as never })).toThrow(
    /'gelu', 'geluTanh' or 'relu', got tanh/,
  )
  const model = new models.Transformer({ ...sizes, layers: 1 })
  const made = (source: number[], options: object): Promise<unknown> =>
    models.translate(model, source, options as never).next()
  await expect(made([], { begin: 1, length: 3 })).rejects.toEqual(
    withCode('AUX_INVALID_ARGUMENT', /at least one token/),
  )
  await expect(made([3], { begin: 1 })).rejects.toThrow(/length/)
  await expect(made([3], { begin: 1, length: 3, beams: 3 })).rejects.toThrow(/no option beams/)
  await expect(made([11], { begin: 1, length: 3 })).rejects.toEqual(withCode('AUX_INDEX_OUT_OF_RANGE'))
  expect(() => model.forward(tensor([1, 2]), tensor([1, 2]))).toThrow(/expected tokens \[N, T\], got \[2\]/)
  const policy = models.asaPlacement(model, 4, asa())
  expect(Object.keys(policy).filter((k) => k.startsWith('decoder.0')).length).toBe(2 + 2 * 4)
  model.dispose()
})

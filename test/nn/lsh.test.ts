import { compile, hostArray, invert, models, nn, optim, seed, tensor, tidy, type Tensor } from '../../src'
import { attend } from '../../src/ops/attention'
import { expectDefinition, linear, unsettle, weightsOf, type Weights } from '../support/networks'
import { gradientsOf } from '../support/record'
import * as ref from '../support/reference'
import { generator, gradients } from '../support/run'

test('the gradient of log-sum-exp: that of both results by differences', () => {
  const random = generator(4)
  const of = (...shape: number[]): Tensor =>
    tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => 2 * random() - 1)).reshape(shape)
  const inputs = [of(2, 2, 5, 4), of(2, 2, 6, 4), of(2, 2, 6, 3)]
  const weights = [of(2, 2, 5, 3), of(2, 2, 5)]
  for (const causal of [false, true])
    for (const which of [0, 1, 2]) {
      const f = (...[q, k, v]: Tensor[]): Tensor => {
        const [y, sum] = attend(q, k, v, { causal })
        const parts = [y.mul(weights[0]).sum(), sum.mul(weights[1]).sum()]
        return which === 2 ? parts[0].add(parts[1]) : parts[which]
      }
      const grads = gradients(f, inputs, [0, 1, 2], tensor([1]).reshape([]))
      const arrs = inputs.map((t): ref.Arr => ({ shape: [...t.shape], data: Float64Array.from(t.dataSync()) }))
      const [w, u] = weights.map((t) => t.dataSync())
      const value = (): number => {
        const [q, k, v] = arrs
        const scores = ref.make([2, 2, 5, 6], ([b, h, t, s]) => {
          let dot = 0
          for (let d = 0; d < 4; d++) dot += ref.get(q, [b, h, t, d]) * ref.get(k, [b, h, s, d])
          return causal && s > t ? -Infinity : dot / 2
        })
        const y = ref.matmul(ref.lines(scores, 3, ref.softmax), v)
        const sum = ref.lines(scores, 3, (row) => [ref.logSumExp(row)])
        const parts = [y.data.reduce((a, x, i) => a + x * w[i], 0), sum.data.reduce((a, x, i) => a + x * u[i], 0)]
        return which === 2 ? parts[0] + parts[1] : parts[which]
      }
      arrs.forEach(({ data }, i) =>
        data.forEach((x, at) => {
          data[at] = x + 1e-6
          const up = value()
          data[at] = x - 1e-6
          const down = value()
          data[at] = x
          expect(Math.abs(grads[i][at] - (up - down) / 2e-6)).toBeLessThan(2e-6)
        }),
      )
    }
})

/** Attention with shared queries and keys by its definition: a position sees itself only where it sees nothing else. */
function reference(x: ref.Arr, m: nn.LSHAttention, heads: number, causal: boolean): ref.Arr {
  const p = weightsOf(m)
  const [n, length, features] = x.shape
  const split = (t: ref.Arr): ref.Arr => ref.permute(ref.reshape(t, [n, length, heads, features / heads]), [0, 2, 1, 3])
  const q = split(linear(x, p, 'q'))
  const k = ref.lines(q, 3, (row) => row.map((v) => v / Math.hypot(...row)))
  const mask = ([, , t, s]: number[]): number => (t === s ? -1e5 : causal && s > t ? -Infinity : 0)
  const y = ref.attention(q, k, split(linear(x, p, 'v')), { mask })
  return linear(ref.reshape(ref.permute(y, [0, 2, 1, 3]), x.shape), p, 'out')
}

test.each([
  [1, true],
  [1, false],
  [3, true],
] as const)('with one chunk it is full attention: %d rounds, causal %s', (rounds, causal) => {
  seed(3)
  const random = generator(rounds)
  const m = new nn.LSHAttention(12, 3, { chunk: 10, rounds, causal, ...(rounds === 1 && { buckets: 1 }) })
  const x: ref.Arr = { shape: [2, 10, 12], data: Float64Array.from({ length: 240 }, () => 2 * random() - 1) }
  const expected = reference(x, m, 3, causal)
  const y = tidy(() => m.forward(tensor(Float32Array.from(x.data)).reshape([2, 10, 12])).dataSync())
  y.forEach((v, i) => expect(Math.abs(v - expected.data[i])).toBeLessThan(2e-6))
  m.dispose()
})

/** Hashed attention by its definition, in doubles, with these rotations, one a round. */
function hashed(p: Weights, x: ref.Arr, heads: number, chunk: number, causal: boolean, rotations: ref.Arr[]): ref.Arr {
  const [n, length, features] = x.shape
  const d = features / heads
  const split = (t: ref.Arr): ref.Arr => ref.permute(ref.reshape(t, [n, length, heads, d]), [0, 2, 1, 3])
  const [q, v] = [split(linear(x, p, 'layer.q')), split(linear(x, p, 'layer.v'))]
  const row = (t: ref.Arr, b: number, h: number, i: number): number[] =>
    Array.from({ length: d }, (_, c) => ref.get(t, [b, h, i, c]))
  const dot = (a: number[], b: number[]): number => a.reduce((s, u, i) => s + u * b[i], 0)
  const y = ref.make([n, heads, length, d], () => 0)
  for (let b = 0; b < n; b++)
    for (let h = 0; h < heads; h++) {
      const results = rotations.map((rotation) => {
        const half = rotation.shape[1]
        const bucket = Array.from({ length }, (_, i) => {
          const turned = Array.from({ length: half }, (_, r) =>
            dot(
              row(q, b, h, i),
              Array.from({ length: d }, (_, c) => ref.get(rotation, [c, r])),
            ),
          )
          const all = [...turned, ...turned.map((u) => -u)]
          return all.indexOf(Math.max(...all))
        })
        const order = Array.from({ length }, (_, i) => i).sort((i, j) => bucket[i] - bucket[j] || i - j)
        const out: [number[], number][] = []
        order.forEach((i, place) => {
          const own = Math.floor(place / chunk)
          const chunks = length / chunk
          const near = chunks > 1 ? [(own + chunks - 1) % chunks, own] : [own]
          const seen = near
            .flatMap((c) => order.slice(c * chunk, (c + 1) * chunk))
            .filter((j) => (causal ? j < i : j !== i))
          const scores = seen.map((j) => {
            const key = row(q, b, h, j)
            return dot(row(q, b, h, i), key) / Math.hypot(...key) / Math.sqrt(d)
          })
          const w = seen.length ? ref.softmax(scores) : []
          const mixed = Array.from({ length: d }, (_, c) =>
            seen.reduce((s, j, k) => s + w[k] * ref.get(v, [b, h, j, c]), 0),
          )
          out[i] = [mixed, seen.length ? ref.logSumExp(scores) : -Infinity]
        })
        return out
      })
      for (let i = 0; i < length; i++) {
        const sums = results.map((r) => r[i][1])
        const w = sums.every((s) => s === -Infinity) ? [] : ref.softmax(sums)
        for (let c = 0; c < d; c++)
          y.data[((b * heads + h) * length + i) * d + c] = w.length
            ? w.reduce((s, u, r) => s + u * results[r][i][0][c], 0)
            : ref.get(v, [b, h, i, c])
      }
    }
  return linear(ref.reshape(ref.permute(y, [0, 2, 1, 3]), x.shape), p, 'layer.out')
}

/** With rotations that the test knows. */
class Known extends nn.LSHAttention {
  drawn: ref.Arr[] = []
  protected override rotations(features: number, count: number): Tensor {
    const random = generator(100 + this.drawn.length)
    const data = Float32Array.from({ length: features * count }, () => 2 * random() - 1)
    this.drawn.push({ shape: [features, count], data: Float64Array.from(data) })
    return tensor(data).reshape([features, count])
  }
}

class Net extends nn.Module {
  constructor(readonly layer: Known) {
    super()
  }
  forward(x: Tensor): Tensor {
    return this.layer.forward(x)
  }
}

test.each([
  [1, 4, true],
  [2, 4, true],
  [3, 3, false],
] as const)(
  '%d rounds, chunks of %d, causal %s: results and gradients are those of the definition',
  async (rounds, chunk, causal) => {
    seed(8)
    const random = generator(6)
    const model = unsettle(new Net(new Known(8, 2, { chunk, rounds, causal })), random)
    const make = (): Float32Array => Float32Array.from({ length: 2 * 12 * 8 }, () => 2 * random() - 1)
    const [x, r] = [make(), make()]
    await expectDefinition(
      model,
      (b) => model.forward(b.x).mul(b.r).sum().mul(0.02),
      { x: hostArray(x, [2, 12, 8]), r: hostArray(r, [2, 12, 8]) },
      (p) => {
        const input: ref.Arr = { shape: [2, 12, 8], data: Float64Array.from(x) }
        const y = hashed(p, input, 2, chunk, causal, model.layer.drawn.slice(0, rounds))
        return 0.02 * y.data.reduce((s, v, i) => s + v * r[i], 0)
      },
    )
    model.dispose()
  },
)

const sizes = { vocabulary: 9, length: 64, features: 16, heads: 2, chunk: 16 } as const

test('a Reformer learns to repeat what came half a text before, with and without inversion', async () => {
  for (const memory of [undefined, { 'blocks.*': invert() }]) {
    seed(5)
    const model = new models.Reformer({ ...sizes, features: 32, layers: 2, rounds: 2, length: 32, feed: 8 })
    const optimizer = new optim.Adam({ lr: 1e-2 })
    const step = compile({ model, loss: (b) => nn.crossEntropy(model.forward(b.x), b.y), optimizer, memory })
    const random = generator(1)
    const losses: number[] = []
    for (let i = 0; i < 150; i++) {
      const rows = Array.from({ length: 16 }, () => {
        const half = Array.from({ length: 4 }, () => Math.floor(9 * random()))
        return Array.from({ length: 33 }, (_, t) => half[t % 4])
      })
      losses.push((await step.run({ x: rows.map((q) => q.slice(0, 32)), y: rows.map((q) => q.slice(1)) })).loss)
    }
    // The first four tokens of 33 cannot be known: 3 of 32 positions cost log 9.
    expect(losses.at(-1)!).toBeLessThan(0.8)
    expect(losses[0]).toBeGreaterThan(2)
    step.close()
    optimizer.dispose()
    model.dispose()
  }
})

test('memory grows with the length, not with its square, and with inversion hardly with the blocks', async () => {
  const bytes = (length: number, layers: number, inverse: boolean): { arena: number; kept: number } => {
    seed(5)
    const model = new models.Reformer({ ...sizes, layers, length, rounds: 2, feed: 64 })
    using step = compile({
      model,
      loss: (b) => nn.crossEntropy(model.forward(b.x), b.y),
      optimizer: new optim.SGD({ lr: 0.1 }),
      memory: inverse ? { 'blocks.*': invert() } : undefined,
    })
    const plan = step.plan({ x: { shape: [2, length], dtype: 'i32' }, y: { shape: [2, length], dtype: 'i32' } })
    model.dispose()
    return { arena: plan.arenaBytes, kept: plan.bytes.kept }
  }
  expect(bytes(1024, 2, false).arena / bytes(512, 2, false).arena).toBeLessThan(2.1)
  expect(bytes(2048, 2, false).arena / bytes(1024, 2, false).arena).toBeLessThan(2.1)
  const [two, six] = [bytes(512, 2, true), bytes(512, 6, true)]
  // Four blocks more keep their hashes: two rounds of 2 · 2 · 512 numbers.
  expect(six.kept - two.kept).toBeLessThanOrEqual(4 * 2 * (4 * 2 * 2 * 512) + 4096)
  expect(bytes(512, 6, false).kept).toBeGreaterThan(3 * six.kept)
})

test('gradients under inversion are those without, but for rounding; pieces of the feed-forward part change nothing', async () => {
  const of = async (feed: number | undefined, inverse: boolean) => {
    seed(5)
    const model = new models.Reformer({ ...sizes, layers: 3, rounds: 2, ...(feed && { feed }) })
    const x = hostArray(
      Int32Array.from({ length: 128 }, (_, i) => (i * i) % 9),
      [2, 64],
    )
    seed(6)
    const { gradients: all } = await gradientsOf(
      model,
      (b) => nn.crossEntropy(model.forward(b.x), b.x),
      { x },
      inverse ? { 'blocks.*': invert() } : undefined,
    )
    model.dispose()
    return all
  }
  const plain = await of(undefined, false)
  for (const other of [await of(undefined, true), await of(20, false), await of(20, true)])
    for (const [name, g] of Object.entries(plain)) {
      const scale = Math.max(...g.map(Math.abs))
      expect(Math.max(...g.map((v, i) => Math.abs(v - other[name][i])))).toBeLessThan(2e-4 * scale + 1e-9)
    }
})

test('mistakes are named', () => {
  expect(() => new nn.LSHAttention(4, 2, { chunks: 3 } as never)).toThrow(/^LSHAttention: there is no option chunks/)
  expect(() => new nn.LSHAttention(4, 3)).toThrow(/features that 3 heads divide, got 4/)
  expect(() => new nn.LSHAttention(4, 2, { buckets: 5 })).toThrow(/an even number of buckets, got 5/)
  expect(() => new models.Reformer({ ...sizes, layers: 1, norm: 'after' } as never)).toThrow(/no option norm/)
  const m = new nn.LSHAttention(4, 2, { chunk: 8 })
  expect(() => m.forward(tensor(new Float32Array(40)).reshape([1, 10, 4]))).toThrow(
    /chunks of 8 in T, got \[1, 10, 4\]/,
  )
  m.dispose()
})

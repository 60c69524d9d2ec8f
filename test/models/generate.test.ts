import fc from 'fast-check'
import { compile, models, nn, optim, seed, tensor, tidy, type Tensor } from '../../src'
import { check, liveBlocks } from '../support/property'

/** A model that has learnt to count modulo 7. */
async function counter() {
  seed(1)
  const model = new models.GPT({ vocabulary: 7, length: 24, features: 32, heads: 2, layers: 1 })
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.Adam({ lr: 1e-2 }),
  })
  const row = (from: number): number[] => Array.from({ length: 24 }, (_, i) => (from + i) % 7)
  const starts = Array.from({ length: 7 }, (_, i) => i)
  const x = starts.map(row)
  const y = starts.map((i) => row(i + 1))
  for (let i = 0; i < 60; i++) await step.run({ x, y })
  step.close()
  return model
}

async function all(tokens: AsyncIterable<number>): Promise<number[]> {
  const made: number[] = []
  for await (const token of tokens) made.push(token)
  return made
}

test('a text goes on beyond the window, as the model has learnt it', async () => {
  const model = await counter()
  const expected = Array.from({ length: 40 }, (_, i) => (i + 5) % 7)
  expect(await all(models.generate(model, [2, 3, 4], { window: 24, count: 40, temperature: 0 }))).toEqual(expected)
  expect(await all(models.generate(model, Int32Array.of(4), { window: 24, count: 40, topK: 1 }))).toEqual(expected)
  const draw = async (): Promise<number[]> => {
    seed(3)
    return all(models.generate(model, [0], { window: 24, count: 20, temperature: 50 }))
  }
  expect(await draw()).toEqual(await draw())
  expect(new Set(await draw()).size).toBeGreaterThan(3)
  model.dispose()
})

test('a loop that is left frees its plans', async () => {
  const model = new models.GPT({ vocabulary: 5, length: 64, features: 8, heads: 1, layers: 1 })
  const evaluation = compile({ model, forward: ({ x }) => model.forward(x) })
  await evaluation.run({ x: { data: new Int32Array(64), shape: [1, 64] } }) // the arena, which plans share
  const before = await liveBlocks()
  let made = 0
  for await (const token of models.generate(model, [1], { window: 64 })) {
    expect(token).toBeLessThan(5)
    if (++made === 70) break
  }
  expect(await liveBlocks()).toBe(before)
})

/** A model of which nothing is known but that it takes tokens. */
class Plain extends nn.Module {
  constructor(readonly inner: models.GPT) {
    super()
  }
  forward(tokens: Tensor): Tensor {
    return this.inner.forward(tokens)
  }
}

test('a text is the same with and without what attention remembers, within the window and beyond', async () => {
  await check(
    8,
    fc.record({ layers: fc.integer({ min: 1, max: 3 }), heads: fc.constantFrom(1, 2, 3), reversible: fc.boolean() }),
    fc.integer({ min: 1, max: 45 }),
    fc.integer({ min: 1, max: 60 }),
    fc.constantFrom(0, 1),
    fc.nat(),
    async (sizes, window, length, temperature, start) => {
      seed(start)
      const model = new models.GPT({ vocabulary: 11, length: 45, features: 12, ...sizes })
      if (start % 2) nn.adapt(model, 'blocks.*.attention.*', { rank: 2 })
      for (const p of model.parameters()) p.assign(p.dataSync().map((v) => 2 * v))
      const prompt = Array.from({ length }, (_, i) => (i * i + start) % 11)
      const write = (m: models.GPT | Plain): Promise<number[]> => {
        seed(start)
        return all(models.generate(m, prompt, { window, count: 50, temperature }))
      }
      expect(await write(model)).toEqual(await write(new Plain(model)))
      model.dispose()
    },
  )
})

test('logits that go on from a past are those of the whole text', () => {
  seed(2)
  const model = new models.GPT({ vocabulary: 11, length: 20, features: 24, heads: 3, layers: 2 }).eval()
  for (const p of model.parameters()) p.assign(p.dataSync().map((v) => 3 * v))
  const tokens = Int32Array.from({ length: 20 }, (_, i) => (7 * i * i + 3) % 11)
  const whole = tidy(() => model.forward(tensor(tokens).reshape([1, 20])).dataSync())
  const blocks = [0, 1].map(() => new nn.Past(20, 24))
  let worst = 0
  let start = 0
  for (const count of [5, 1, 9, 2, 3]) {
    tidy(() => {
      const entries = Math.min(20, start + 3) // more than there are
      const seen = tensor(Float32Array.from({ length: entries }, (_, i) => (i < start ? 0 : -Infinity)))
      for (const p of blocks) p.seen = start ? seen : undefined
      const positions = tensor(Int32Array.from({ length: count }, (_, i) => start + i))
      const some = tensor(tokens.slice(start, start + count)).reshape([1, count])
      const logits = model.forward(some, { positions, blocks }).dataSync()
      logits.forEach((v, i) => (worst = Math.max(worst, Math.abs(v - whole[start * 11 + i]))))
      for (const p of blocks) {
        const [keys, values] = p.made!.map((t) => t.dataSync() as Float32Array)
        p.add(start, count, keys, values)
      }
    })
    start += count
  }
  expect(worst / Math.max(...whole.map(Math.abs))).toBeLessThan(2e-6)
  for (const p of blocks) p.dispose()
  model.dispose()
})

test('mistakes are named', async () => {
  const model = new models.GPT({ vocabulary: 5, length: 8, features: 8, heads: 1, layers: 1 })
  const next = (...[prompt, options]: [number[], object]): Promise<unknown> =>
    models.generate(model, prompt, options as never).next()
  await expect(next([], { window: 8 })).rejects.toThrow(/at least one token/)
  await expect(next('hello' as never, { window: 8 })).rejects.toThrow(/whole numbers, got "h"/)
  await expect(next([1], {})).rejects.toThrow(/window/)
  await expect(next([1], { window: 8, length: 3 })).rejects.toThrow(/length/)
  await expect(next([1], { window: 9 })).rejects.toThrow(/T at most 8/)
  await expect(next([7], { window: 8 })).rejects.toThrow(/index 7/)
})

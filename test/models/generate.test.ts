import { compile, memory, models, nn, optim, seed } from '../../src'

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
  const before = memory().tensors
  let made = 0
  for await (const token of models.generate(model, [1], { window: 64 })) {
    expect(token).toBeLessThan(5)
    if (++made === 70) break
  }
  expect(memory().tensors).toBe(before)
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

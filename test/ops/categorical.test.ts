import { categorical, compile, seed, tensor, zeros } from '../../src'

const logits = [0, Math.log(2), Math.log(5), -Infinity]

/** Shares of the categories in many draws. */
function shares(options: Parameters<typeof categorical>[1], rows = 40000): number[] {
  seed(7)
  const counts = logits.map(() => 0)
  const drawn = categorical(tensor(logits).expand([rows, logits.length]), options)
  expect(drawn.shape).toEqual([rows])
  expect(drawn.dtype).toBe('i32')
  for (const c of drawn.dataSync()) counts[c]++
  return counts.map((n) => n / rows)
}
const expectShares = (got: number[], weights: number[]): void => {
  const sum = weights.reduce((a, b) => a + b)
  got.forEach((share, i) => {
    const p = weights[i] / sum
    expect(Math.abs(share - p)).toBeLessThanOrEqual(5 * Math.sqrt((p * (1 - p)) / 40000)) // exactly, where p is 0 or 1
  })
}

test('categories come with the probabilities of softmax, at any temperature', () => {
  expectShares(shares({}), [1, 2, 5, 0])
  expectShares(shares({ temperature: 0.5 }), [1, 4, 25, 0])
  expectShares(shares({ temperature: 0 }), [0, 0, 1, 0])
})

test('topK and topP leave the most probable', () => {
  expectShares(shares({ topK: 2 }), [0, 2, 5, 0])
  expectShares(shares({ topK: 1 }), [0, 0, 1, 0])
  expectShares(shares({ topK: 100 }), [1, 2, 5, 0])
  expectShares(shares({ topP: 0.62 }), [0, 0, 1, 0])
  expectShares(shares({ topP: 0.64 }), [0, 2, 5, 0])
  expectShares(shares({ topP: 1 }), [1, 2, 5, 0])
  expectShares(shares({ topK: 2, topP: 0.7 }), [0, 0, 1, 0])
  expectShares(shares({ temperature: 0.5, topP: 0.8 }), [0, 0, 1, 0])
})

test('any shape, with the seed; new numbers at each run of a plan', async () => {
  const draw = (): number[] => {
    seed(1)
    return [...categorical(zeros([2, 3, 1000])).dataSync()]
  }
  expect(draw()).toEqual(draw())
  expect(new Set(draw()).size).toBeGreaterThan(3)
  expect(categorical(tensor([1, 2])).shape).toEqual([])
  const f = compile(({ x }) => categorical(x, { topK: 900, topP: 0.9 }))
  const x = { data: new Float32Array(1000), shape: [1, 1000] }
  const [a, b] = [await f.run({ x }), await f.run({ x })]
  expect(a.data[0]).not.toBe(b.data[0])
})

test('mistakes are named', () => {
  expect(() => categorical(zeros([2]), { temperature: -1 })).toThrow(/temperature >= 0/)
  expect(() => categorical(zeros([2]), { topK: 0 })).toThrow(/topK/)
  expect(() => categorical(zeros([2]), { topP: 90 })).toThrow(/topP in \(0, 1\]/)
  expect(() => categorical(zeros([2]), { top_k: 3 } as never)).toThrow(/top_k/)
  expect(() => categorical(zeros([2, 0]))).toThrow(/without classes/)
  expect(() => categorical(tensor(Int32Array.of(1, 2)))).toThrow(/f32/)
})

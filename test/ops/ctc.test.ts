import fc from 'fast-check'
import { compile, ctc, nn, optim, tensor, valueAndGrad, type Tensor } from '../../src'
import { check } from '../support/property'
import { pytorch } from '../support/pytorch'
import { withCode } from '../support/refusals'
import { generator } from '../support/run'

const { losses } = pytorch<{
  losses: Record<string, { loss: (number | string)[]; gradient: (number | string)[] }>
}>()

const ints = (rows: number[] | number[][]): Tensor => tensor(Int32Array.from(rows.flat()), shapeOf(rows))
const shapeOf = (rows: number[] | number[][]): number[] =>
  Array.isArray(rows[0]) ? [rows.length, rows[0].length] : [rows.length]

/** The loss, and its gradient by the logits. */
function run(x: Tensor, y: Tensor, options: nn.CtcOptions = {}): { loss: number[]; gradient: number[] } {
  let loss: number[] = []
  const { value, grads } = valueAndGrad((x: Tensor) => ctc(x.logSoftmax(), y, options).sum())(x)
  value.dispose()
  loss = [...ctc(x.logSoftmax(), y, options).dataSync()]
  return { loss, gradient: [...grads[0].dataSync()] }
}

const cases: [string, number, number, number[][], nn.CtcOptions][] = [
  [
    'ctc',
    6,
    4,
    [
      [1, 2, 2],
      [3, 1, 3],
    ],
    {},
  ],
  [
    'ctc, lengths',
    7,
    3,
    [
      [1, 1, 2],
      [2, 0, 0],
      [0, 0, 0],
    ],
    { inputLengths: ints([7, 4, 2]), targetLengths: ints([3, 1, 0]), reduction: 'sum' },
  ],
  [
    'ctc, blank',
    5,
    3,
    [
      [0, 1],
      [1, 1],
    ],
    { blank: 2, reduction: 'none' },
  ],
  [
    'ctc, impossible',
    2,
    3,
    [
      [1, 1],
      [1, 2],
    ],
    { reduction: 'none' },
  ],
  [
    'ctc, zeroed',
    2,
    3,
    [
      [1, 1],
      [1, 2],
    ],
    { zeroInfinity: true },
  ],
]
test.each(cases)("%s: loss and gradient are PyTorch's", (name, frames, classes, targets, options) => {
  const n = targets.length
  const wave = Float32Array.from({ length: n * frames * classes }, (_, i) => 2 * Math.sin(1.3 * i + 0.3))
  const { loss, gradient } = run(tensor(wave, [n, frames, classes]), ints(targets), options)
  const near = (got: number[], expected: (number | string)[]): void => {
    expect(got.length).toBe(expected.length)
    got.forEach((v, i) => {
      const e = expected[i] === 'inf' ? Infinity : Number(expected[i])
      if (Number.isFinite(e)) expect(Math.abs(v - e)).toBeLessThan(2e-6)
      else expect(v).toBe(e)
    })
  }
  near(loss, losses[name].loss)
  near(gradient, losses[name].gradient)
})

test('what any text and frames have in common', async () => {
  const size = fc.integer({ min: 1, max: 6 })
  await check(
    40,
    fc.nat(),
    size,
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 2, max: 9 }),
    async (start, n, t, c) => {
      const random = generator(start)
      const labels = Math.ceil(t / 3)
      const blank = Math.floor(random() * c)
      const text = Array.from({ length: n }, () =>
        Array.from({ length: labels }, () => (blank + 1 + Math.floor(random() * (c - 1))) % c),
      )
      const [inputLengths, targetLengths] = [t, labels].map((most) =>
        ints(Array.from({ length: n }, () => Math.floor(random() * (most + 1)))),
      )
      const x = tensor(
        Float32Array.from({ length: n * t * c }, () => 20 * random() - 10),
        [n, t, c],
      )
      const options = { inputLengths, targetLengths, blank, zeroInfinity: true, reduction: 'none' } as const
      const { loss, gradient } = run(x, ints(text), options)
      const raw = run(x, ints(text), { ...options, zeroInfinity: false })
      for (let i = 0; i < n; i++) {
        const [frames, length] = [inputLengths.dataSync()[i], targetLengths.dataSync()[i]]
        const said = text[i].slice(0, length)
        const least = length + said.filter((label, k) => k > 0 && label === said[k - 1]).length
        expect(Number.isFinite(raw.loss[i])).toBe(frames >= least)
        expect(loss[i]).toBe(frames >= least ? raw.loss[i] : 0)
        expect(loss[i]).toBeGreaterThanOrEqual(-1e-5)
        for (let k = 0; k < t; k++) {
          const row = gradient.slice((i * t + k) * c, (i * t + k + 1) * c)
          if (k >= frames || frames < least) expect(row.every((g) => g === 0)).toBe(true)
          else expect(Math.abs(row.reduce((a, b) => a + b, 0))).toBeLessThan(1e-5)
          row.forEach((g) => expect(Math.abs(g)).toBeLessThan(1 + 1e-5)) // a probability less another
        }
      }
    },
  )
})

test('a thousand frames keep their digits', () => {
  const [t, c, n] = [1000, 30, 60]
  const x = tensor(
    Float32Array.from({ length: t * c }, (_, i) => 5 * Math.sin(i * i)),
    [1, t, c],
  )
  const y = ints([Array.from({ length: n }, (_, i) => 1 + ((i * i) % (c - 1)))])
  const { gradient } = run(x, y, { reduction: 'sum' })
  for (let k = 0; k < t; k++)
    expect(Math.abs(gradient.slice(k * c, (k + 1) * c).reduce((a, b) => a + b, 0))).toBeLessThan(1e-4)
})

test('a network learns where its labels are', async () => {
  const model = new nn.Sequential(new nn.Conv1d(4, 32, 3, { padding: 1 }), new nn.ReLU(), new nn.Linear(32, 5))
  const step = compile({
    model,
    loss: ({ x, y, length }) => ctc(model.forward(x).logSoftmax(), y, { targetLengths: length }),
    optimizer: new optim.Adam({ lr: 1e-2 }),
  })
  // Each label shows for two frames, and silence between.
  const texts = [
    [1, 2, 2, 4],
    [3, 3, 1, 0],
    [2, 4, 0, 0],
  ]
  const x = texts.map((text) =>
    Array.from({ length: 12 }, (_, t) =>
      Array.from({ length: 4 }, (_, k) => Number(t % 3 < 2 && text[(t / 3) | 0] === k + 1)),
    ),
  )
  let loss = Infinity
  for (let i = 0; i < 150; i++) ({ loss } = await step.run({ x, y: texts, length: [4, 3, 2] }))
  expect(loss).toBeLessThan(0.05)
  const predict = compile({ model, forward: ({ x }) => model.forward(x).argmax() })
  const { data } = await predict.run({ x })
  const read = texts.map((_, i) =>
    [...data.slice(12 * i, 12 * i + 12)].filter((label, t, all) => label !== 0 && label !== all[t - 1]),
  )
  expect(read).toEqual([
    [1, 2, 2, 4],
    [3, 3, 1],
    [2, 4],
  ])
})

test('mistakes are named', () => {
  const x = tensor(new Float32Array(24), [2, 3, 4])
  const y = ints([
    [1, 2],
    [3, 1],
  ])
  const shape = (what: RegExp) => withCode('AUX_SHAPE_MISMATCH', what)
  expect(() => ctc(x, ints([[1, 2]]))).toThrow(shape(/^ctc: expected targets \[2, labels\], got \[1, 2\]/))
  expect(() => ctc(x, ints([1, 2]))).toThrow(shape(/targets with 2 axes/))
  expect(() => ctc(x.reshape([6, 4]), y)).toThrow(shape(/log-probabilities with 3 axes/))
  expect(() => ctc(x, y, { inputLengths: ints([3]) })).toThrow(shape(/inputLengths of shape \[2\], got \[1\]/))
  expect(() => ctc(x, x.select(2, 0))).toThrow(withCode('AUX_DTYPE_MISMATCH', /targets/))
  expect(() => ctc(x, y, { blank: 4 })).toThrow(withCode('AUX_INVALID_ARGUMENT', /blank.*from 0 to 3, got 4/))
  expect(() => ctc(x, y, { reduction: 'max' as 'sum' })).toThrow(withCode('AUX_INVALID_ARGUMENT', /reduction/))
  const outside = (what: RegExp) => withCode('AUX_INDEX_OUT_OF_RANGE', what)
  expect(() =>
    ctc(
      x,
      ints([
        [1, 2],
        [4, 1],
      ]),
    ),
  ).toThrow(outside(/^ctc: label 4 of row 1 is not in \[0, 4\)/))
  expect(() => ctc(x, y, { inputLengths: ints([3, 4]) })).toThrow(outside(/input length 4 of row 1/))
  expect(() => ctc(x, y, { targetLengths: ints([-1, 0]) })).toThrow(outside(/target length -1 of row 0/))
})

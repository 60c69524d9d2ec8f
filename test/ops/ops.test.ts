import { AuxgradError, concat, tensor, tidy, type Tensor } from '../../src/index'
import { native } from '../../src/native'
import { bytes, compiled, eachSetting, generator, gradients } from '../support/run'
import { sizeOf, type Arr } from '../support/reference'
import { rows, type Row, type Sample } from './cases'

function values(sample: Sample, random: () => number): Float64Array {
  const { shape, low = -2, high = 2, dtype = 'f32' } = sample
  if (sample.values) return Float64Array.from(sample.values)
  const draw = (): number => low + (high - low) * random()
  return Float64Array.from({ length: sizeOf(shape) }, () =>
    dtype === 'f32' ? Math.fround(draw()) : Math.floor(draw()),
  )
}

interface Inputs {
  tensors: Tensor[]
  arrays: Arr[]
}

function inputsOf(samples: Sample[], seed: number): Inputs {
  const random = generator(seed)
  const arrays = samples.map((s) => ({ shape: s.shape, data: values(s, random) }))
  return { arrays, tensors: arrays.map((a, i) => tensor(a.data, a.shape, samples[i].dtype ?? 'f32')) }
}

const wantedOf = (row: Row, samples: Sample[]): number[] =>
  row.wanted ?? samples.flatMap((s, i) => ((s.dtype ?? 'f32') === 'f32' ? [i] : []))
const shapesOf = (samples: Sample[]): string => samples.map((s) => `[${s.shape.join()}]`).join(' ')

/** Equal, or both NaN, or the same infinity once rounded to f32, or within the tolerance. */
function expectClose(row: Row, actual: ArrayLike<number>, expected: Float64Array, what: string, factor = 1): void {
  const { rtol = 1e-6, atol = 1e-6 } = row
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i], expected[i]]
    if (Object.is(a, e) || a === Math.fround(e) || (Number.isNaN(a) && Number.isNaN(e))) continue
    if (!(Math.abs(a - e) <= factor * (atol + rtol * Math.abs(e))))
      throw new Error(
        `${row.name} ${what}: element ${i} is ${a}, expected ${e} (off by ${Math.abs(a - e).toExponential(2)})`,
      )
  }
  expect(actual.length).toBe(expected.length)
}

/** The same values with other strides: axes in reverse in memory, or every other element of a larger tensor. */
function layouts(t: Tensor): Tensor[] {
  if (t.rank === 0) return [t.expand([2]).select(0, 1)]
  const reverse = t.shape.map((_, i) => t.rank - 1 - i)
  const turned = t.permute(reverse).clone().permute(reverse)
  const doubled = t.repeatInterleave(2, t.rank - 1)
  const spread = concat([doubled, doubled], 0).slice([t.shape[0], null], ...t.shape.slice(1).map(() => null))
  const all = t.shape.map((n, i): [number, number, number] =>
    i === t.rank - 1 ? [i ? 0 : t.shape[0] * 2, 4 * n, 2] : [0, n, 1],
  )
  return [turned, t.rank === 1 ? concat([doubled, doubled], 0).slice([t.shape[0] * 2, null, 2]) : spread.slice(...all)]
}

describe.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => {
  test.each(row.samples.map((s) => [shapesOf(s), s] as const))('forward of %s', (_shapes, samples) => {
    const { tensors, arrays } = inputsOf(samples, 1)
    const expected = row.reference(...arrays)
    const eager = row.f(...tensors)
    expect(eager.shape).toEqual(expected.shape)
    expectClose(row, eager.dataSync(), expected.data, 'forward')
    const planned = compiled(row.f, tensors)
    expect(planned.shape).toEqual(expected.shape)
    expect(bytes(planned.data)).toBe(bytes(eager.rawSync()))
  })

  const differentiable = row.samples.filter(
    (s) => wantedOf(row, s).length && s.reduce((n, x) => n + sizeOf(x.shape), 0) < 400,
  )
  if (differentiable.length)
    test.each(differentiable.map((s) => [shapesOf(s), s] as const))('gradient of %s', (_shapes, samples) => {
      const { tensors, arrays } = inputsOf(samples, 2)
      const shape = row.reference(...arrays).shape
      const random = generator(3)
      const weights = Float64Array.from({ length: sizeOf(shape) }, () => Math.fround(random() * 2 - 1))
      const wanted = wantedOf(row, samples)
      const actual = gradients(row.f, tensors, wanted, tensor(weights, shape))
      const loss = (): number => row.reference(...arrays).data.reduce((total, v, i) => total + v * weights[i], 0)
      wanted.forEach((input, k) => {
        const { data } = arrays[input]
        const expected = new Float64Array(data.length)
        // All elements of small inputs, a sample of large ones.
        const stride = Math.max(1, Math.floor(data.length / 40))
        let scale = 1
        for (let i = 0; i < data.length; i += stride) {
          const x = data[i]
          const h = 1e-5 * Math.max(1, Math.abs(x))
          data[i] = x + h
          const up = loss()
          data[i] = x - h
          expected[i] = (up - loss()) / (2 * h)
          data[i] = x
          scale = Math.max(scale, Math.abs(expected[i]))
        }
        for (let i = 0; i < data.length; i += stride)
          if (!(Math.abs(actual[k][i] - expected[i]) <= (row.gtol ?? 1e-5) * scale))
            throw new Error(
              `${row.name}: gradient of input ${input} at ${i} is ${actual[k][i]}, expected ${expected[i]} (scale ${scale})`,
            )
        expect(actual[k].length).toBe(data.length)
      })
    })

  test('any strides', () => {
    for (const samples of row.samples) {
      const { tensors, arrays } = inputsOf(samples, 4)
      const expected = bytes(row.f(...tensors).rawSync())
      const variants = tensors.map(layouts)
      tensors.forEach((t, i) => variants[i].forEach((v) => expect(bytes(v.rawSync())).toBe(bytes(t.rawSync()))))
      for (let v = 0; v < 2; v++) {
        const strided = row.f(...tensors.map((t, i) => variants[i][v] ?? t))
        if (row.twoPaths) expectClose(row, strided.dataSync(), row.reference(...arrays).data, 'strided')
        else expect(bytes(strided.rawSync())).toBe(expected)
      }
    }
  })

  test('the same bits for every number of threads and instruction set', () => {
    for (const samples of row.samples) {
      const { tensors, arrays } = inputsOf(samples, 5)
      const wanted = wantedOf(row, samples)
      const { shape, data } = row.reference(...arrays)
      const random = generator(6)
      const weights = tensor(Float32Array.from({ length: sizeOf(shape) }, random), shape)
      const first = new Map<string, string>()
      eachSetting((isa) => {
        const results = [
          row.f(...tensors).rawSync(),
          ...(wanted.length && sizeOf(shape) ? gradients(row.f, tensors, wanted, weights) : []),
        ]
        const key = row.fused ? isa : ''
        const got = results.map(bytes).join()
        if (!first.has(key)) first.set(key, got)
        expect(got === first.get(key)).toBe(true)
        if (row.fused) expectClose(row, results[0], data, isa)
      })
    }
  })

  if (row.special)
    test('NaN, infinities and zero go through', () => {
      const special = [NaN, Infinity, -Infinity, 0, 1.5]
      const two = row.samples[0].length === 2
      const lists = two ? [special.flatMap((a) => special.map(() => a)), special.flatMap(() => special)] : [special]
      const arrays = lists.map((v) => ({ shape: [v.length], data: Float64Array.from(v) }))
      expectClose(
        row,
        row.f(...arrays.map((a) => tensor(a.data))).dataSync(),
        row.reference(...arrays).data,
        'special',
        2,
      )
    })

  if (row.bad?.length)
    test.each(row.bad.map((b) => [b.what, b] as const))('bad input: %s', (_what, bad) => {
      const before = native().memory().live
      let error: unknown
      try {
        tidy(bad.run)
      } catch (e) {
        error = e
      }
      expect(error).toBeInstanceOf(AuxgradError)
      expect((error as AuxgradError).code).toBe(bad.code)
      expect((error as AuxgradError).message).toMatch(bad.message ?? /\w+: /)
      expect(native().memory().live).toBe(before)
    })
})

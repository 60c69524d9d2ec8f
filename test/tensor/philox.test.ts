import fc from 'fast-check'
import { philox, Random } from '../../src/tensor/philox'
import { withCode } from '../support/refusals'

const hex = (counter: number[], key: number[]): string => {
  const out = new Uint32Array(4)
  philox(counter, key, out)
  return [...out].map((w) => w.toString(16).padStart(8, '0')).join(' ')
}

test('Philox4x32-10 gives its known answers', () => {
  const ones = 0xffffffff
  expect(hex([0, 0, 0, 0], [0, 0])).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8')
  expect(hex([ones, ones, ones, ones], [ones, ones])).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd')
  expect(hex([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toBe(
    'd16cfe09 94fdcceb 5001e420 24126ea1',
  )
})

test('Philox agrees with 64-bit arithmetic everywhere', () => {
  const reference = (counter: number[], key: number[]): number[] => {
    let [c0, c1, c2, c3] = counter.map(BigInt)
    let [k0, k1] = key.map(BigInt)
    const low = (n: bigint): bigint => n & 0xffffffffn
    for (let i = 0; i < 10; i++) {
      const p0 = 0xd2511f53n * c0
      const p1 = 0xcd9e8d57n * c2
      ;[c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, low(p1), (p0 >> 32n) ^ c3 ^ k1, low(p0)]
      k0 = low(k0 + 0x9e3779b9n)
      k1 = low(k1 + 0xbb67ae85n)
    }
    return [c0, c1, c2, c3].map(Number)
  }
  const word = fc.integer({ min: 0, max: 0xffffffff })
  fc.assert(
    fc.property(
      fc.array(word, { minLength: 4, maxLength: 4 }),
      fc.array(word, { minLength: 2, maxLength: 2 }),
      (c, k) => {
        const out = new Uint32Array(4)
        philox(c, k, out)
        expect([...out]).toEqual(reference(c, k))
      },
    ),
    { numRuns: 500 },
  )
})

test('numbers belong to a place, streams differ, below() is even', () => {
  const a = new Random(2 ** 53 - 1).seek(1, 2, 3)
  const first = Array.from({ length: 9 }, () => a.bits())
  a.seek(1, 2, 4)
  expect(Array.from({ length: 9 }, () => a.bits())).not.toEqual(first)
  a.seek(1, 2, 3)
  expect(Array.from({ length: 9 }, () => a.bits())).toEqual(first)
  expect(new Random(2 ** 32).seek(1, 2, 3).bits()).not.toBe(new Random(0).seek(1, 2, 3).bits())
  const counts = new Array<number>(7).fill(0)
  const random = new Random(5).seek(0)
  for (let i = 0; i < 70000; i++) counts[random.below(7)]++
  // Chi-squared with 6 degrees of freedom: above 22.5 once in a thousand seeds.
  expect(counts.reduce((sum, n) => sum + (n - 10000) ** 2 / 10000, 0)).toBeLessThan(22.5)
  expect(random.below(1)).toBe(0)
  for (let i = 0; i < 1000; i++) {
    const u = random.uniform()
    expect(u >= 0 && u < 1 && Number.isInteger(u * 2 ** 24)).toBe(true)
  }
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) expect(() => new Random(seed)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

import { isDeepStrictEqual } from 'node:util'
import { inspect } from 'node:util'
import v8 from 'node:v8'
import vm from 'node:vm'
import * as aux from '../../src/index'
import { codeOf, withCode } from '../support/refusals'

const { tensor, memory, tidy } = aux

describe('values in and out', () => {
  test('nested arrays', () => {
    expect(
      tensor([
        [1, 2],
        [3, 4],
      ]).toArray(),
    ).toEqual([
      [1, 2],
      [3, 4],
    ])
    expect(
      tensor([
        [1, 2, 3],
        [4, 5, 6],
      ])
        .transpose()
        .toArray(),
    ).toEqual([
      [1, 4],
      [2, 5],
      [3, 6],
    ])
    expect(tensor(7).toArray()).toBe(7)
    expect(tensor([[true], [false]]).toArray()).toEqual([[true], [false]])
    expect(tensor([[], []]).toArray()).toEqual([[], []])
    expect(JSON.stringify({ w: tensor([[1, 2.5]]), flag: tensor(true) })).toBe('{"w":[[1,2.5]],"flag":true}')
  })

  test('typed arrays of other kinds are converted, unknown ones refused', () => {
    expect(tensor(Float64Array.of(0.5, 1)).dtype).toBe('f32')
    expect(tensor(Uint8ClampedArray.of(1, 255)).dtype).toBe('u8')
    expect(tensor(Float32Array.of(1.7, -2), [2], 'i32').toArray()).toEqual([1, -2])
    for (const [value, dtype] of [
      [3e9, 'i32'],
      [-1, 'u8'],
      [NaN, 'i32'],
    ] as const)
      expect(codeOf(() => tensor([value], [1], dtype))).toBe('AUX_INVALID_ARGUMENT')
    expect(codeOf(() => tensor([1], [1], 'i32').assign([3e9]))).toBe('AUX_INVALID_ARGUMENT')
    expect(codeOf(() => tensor(BigInt64Array.of(1n) as never))).toBe('AUX_DTYPE_MISMATCH')
    expect(codeOf(() => tensor([[1, 2], [3]]))).toBe('AUX_SHAPE_MISMATCH')
    expect(codeOf(() => tensor([1, 2, 3], [2]))).toBe('AUX_SHAPE_MISMATCH')
  })

  test('typed arrays may lie in memory that threads share', () => {
    const shared = new Float32Array(new SharedArrayBuffer(16), 4, 2)
    shared.set([1, 2])
    const x = tensor(shared)
    expect(x.toArray()).toEqual([1, 2])
    x.mul(3).copyTo(shared)
    expect([...shared]).toEqual([3, 6])
    expect(x.assign(shared).toArray()).toEqual([3, 6])
  })

  test('bf16 is rounded to nearest even on the way in and reads as floats', () => {
    const x = tensor([1.0000001, 3.14159, -1e-40, 1.00390625, 1.01171875, Infinity, NaN], undefined, 'bf16')
    expect(x.dtype).toBe('bf16')
    expect(x.toArray()).toEqual([1, 3.140625, -9.183549615799121e-41, 1, 1.015625, Infinity, NaN])
    const f = Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i) * 10 ** (i % 20))
    const [js, kernel] = [tensor(f, [5000], 'bf16'), tensor(f).cast('bf16')]
    expect(Buffer.from(js.rawSync().buffer).equals(Buffer.from(kernel.rawSync().buffer))).toBe(true)
    expect([...js.dataSync()]).toEqual([...kernel.cast('f32').dataSync()])
    expect(aux.arange(0, 2, 0.5, 'bf16').toArray()).toEqual([0, 0.5, 1, 1.5])
    expect(aux.full([1], 0.1, 'bf16').item()).toBe(0.10009765625)
    const y = aux.zeros([2], 'bf16').assign([0.1, 2])
    expect(y.toArray()).toEqual([0.10009765625, 2])
    expect(aux.zeros([2], 'bf16').assign(y).toArray()).toEqual([0.10009765625, 2])
  })

  test('tensors of other values are not found equal field by field', () => {
    const x = tensor([1, 2])
    expect(isDeepStrictEqual(x, tensor([1, 3]))).toBe(false)
    expect(x).not.toEqual(tensor([1, 3]))
    expect(x).toEqual(x.detach())
  })

  test('copyTo fills arrays and tensors', () => {
    const x = tensor([
      [1, 2],
      [3, 4],
    ]).transpose()
    const out = new Float32Array(4)
    x.copyTo(out)
    expect([...out]).toEqual([1, 3, 2, 4])
    const y = aux.zeros([2, 2])
    x.copyTo(y)
    expect(y.toArray()).toEqual([
      [1, 3],
      [2, 4],
    ])
    expect(codeOf(() => x.copyTo(new Float32Array(3)))).toBe('AUX_SHAPE_MISMATCH')
    expect(codeOf(() => x.copyTo(aux.zeros([4])))).toBe('AUX_SHAPE_MISMATCH')
  })
})

describe('printing', () => {
  test('small tensors are shown whole and aligned', () => {
    expect(
      String(
        tensor([
          [1, -2.5],
          [100, 0.125],
        ]),
      ),
    ).toBe('Tensor f32 [2, 2]\n[[      1, -2.5000],\n [    100,  0.1250]]')
    expect(inspect(tensor([true, false]))).toBe('Tensor bool [2]\n[ true, false]')
    expect(String(tensor(3))).toBe('Tensor f32 []\n3')
    expect(String(aux.zeros([0, 3]))).toBe('Tensor f32 [0, 3]\n[]')
    expect(String(tensor([NaN, 1e20, 1e-7]))).toBe('Tensor f32 [3]\n[       NaN, 1.0000e+20,  1.0000e-7]')
  })

  test('large ones are cut', () => {
    const text = String(aux.arange(2000).reshape([2, 1000]))
    expect(text).toBe(
      'Tensor f32 [2, 1000]\n[[   0,    1,    2, ...,  997,  998,  999],\n [1000, 1001, 1002, ..., 1997, 1998, 1999]]',
    )
    expect(String(aux.zeros([100, 100])).split('\n').length).toBe(8)
  })

  test('traced and disposed ones say so', () => {
    let seen = ''
    const f = aux.compile(({ x }) => {
      const y = x.relu()
      seen = inspect(y)
      return y
    })
    f.runSync({ x: [1, 2] })
    f.close()
    expect(seen).toBe('Tensor f32 [2] (traced by relu)')
    const x = tensor([1])
    x.dispose()
    expect(String(x)).toBe('Tensor f32 [1] (disposed)')
    expect(codeOf(() => x.dataSync())).toBe('AUX_DISPOSED')
  })
})

describe('memory', () => {
  test('tidy, keep, using and dispose free at once', () => {
    const start = memory()
    {
      using a = tensor([1, 2, 3])
      expect(memory().tensors).toBe(start.tensors + 1)
      const [kept, result] = tidy(() => {
        const k = aux.keep(a.add(1))
        a.mul(a).sum()
        return [k, a.add(1)]
      })
      expect(memory().tensors).toBe(start.tensors + 3)
      for (const t of [kept, result, result]) t.dispose()
    }
    expect(memory().live).toBe(start.live)
    expect(() =>
      tidy(() =>
        tensor([1])
          .add(tensor([1, 2]))
          .reshape([5]),
      ),
    ).toThrow()
    expect(memory().live).toBe(start.live)
  })

  test('tidy refuses what goes on after it', () => {
    const start = memory().live
    const later = async (): Promise<unknown> => {
      const t = aux.zeros([3])
      await Promise.resolve()
      return t.add(1)
    }
    expect(() => tidy(later)).toThrow(withCode('AUX_INVALID_ARGUMENT', /^tidy: expected .* got a promise/))
    expect(memory().live).toBe(start)
  })

  test('a view keeps its memory alive, and only that', () => {
    const start = memory().live
    const x = aux.zeros([1000])
    const view = x.narrow(0, 0, 10)
    x.dispose()
    expect(view.toArray()).toEqual(new Array(10).fill(0))
    view.dispose()
    expect(memory().live).toBe(start)
  })

  test('peak is the highest of live', () => {
    aux.resetPeakMemory()
    const before = memory()
    expect(before.peak).toBe(before.live)
    aux.zeros([25_000]).dispose()
    expect(memory().peak).toBeGreaterThanOrEqual(before.live + 100_000)
    expect(memory().live).toBe(before.live)
  })

  test('1000 rounds of ops leave nothing, without tidy around them', () => {
    const x = aux.normal([2, 3])
    const turned = x.transpose()
    const labels = tensor(Int32Array.of(0, 2))
    const index = tensor(Int32Array.of(0, 2), [2, 1])
    const bytes = tensor(Uint8Array.of(0, 2))
    const [q, k] = [aux.normal([1, 2, 3, 4]), aux.normal([1, 2, 5, 4])]
    const positive = x.gt(0)
    const mask = tensor([true, false, true, true, true])
    const refused = new Set<number>()
    const ops: (() => aux.Tensor | aux.Tensor[])[] = [
      () => x.add(1),
      () => x.lt(0),
      () => x.mul(index),
      () => turned.reshape([6]),
      () => x.softmax(0),
      () => x.std(1),
      () => x.any(),
      () => x.norm(1, { p: 1 }),
      () => x.argmin(),
      () => x.isFinite(),
      () => x.slice([0, 1]),
      () => x.slice(),
      () => x.select(0, 1),
      () => x.split(2, 1),
      () =>
        x.pad([
          [1, 1],
          [0, 2],
        ]),
      () => x.roll(1, 1),
      () => x.tile([2, 2]),
      () => x.repeatInterleave(2),
      () => x.flip(0),
      () => aux.stack([x, x]),
      () => aux.concat(new Array<aux.Tensor>(30).fill(x)),
      () => Object.values(x.sort()),
      () => x.argsort(),
      () => Object.values(turned.topk(1)),
      () => x.gather(1, index),
      () => aux.embedding(bytes, turned),
      () => aux.oneHot(bytes, 3),
      () => aux.crossEntropy(x, labels, { ignoreIndex: 2 }),
      () => aux.nll(x, bytes, { ignoreIndex: 2 }),
      () => aux.mse(x, x),
      () => aux.huber(x, x, { reduction: 'none' }),
      () => aux.bceWithLogits(x, x),
      () => aux.klDivergence(x, x),
      () => aux.uniform([3]),
      () => aux.bernoulli([3]),
      () => aux.permutation(4),
      () => aux.shuffle(x),
      () => aux.dropout(x, 0.5),
      () => aux.dropout(x, 0.5, false),
      () => aux.dot(labels, labels),
      () => x.clone(),
      () => x.detach(),
      () => aux.where(positive, x, x),
      () => aux.scaledDotProductAttention(q, k, k, { mask, dropoutP: 0.1 }),
      () => aux.linear(x, x),
      () => turned.cumsum(0),
    ].map((op, i) => () => {
      try {
        return op()
      } catch (error) {
        if (!(error instanceof aux.AuxgradError)) throw error
        refused.add(i) // it must leave nothing either
        return []
      }
    })
    const start = memory()
    for (let i = 0; i < 1000; i++) {
      for (const t of [ops[i % ops.length]()].flat()) t.dispose()
      if (memory().tensors !== start.tensors)
        throw new Error(`op ${i % ops.length} left ${memory().tensors - start.tensors} tensors`)
    }
    expect(memory().live).toBe(start.live)
    expect([...refused]).toEqual([2]) // f32 times i32
  })

  test('a forgotten tensor is freed with its wrapper', async () => {
    v8.setFlagsFromString('--expose-gc')
    const gc = vm.runInNewContext('gc') as () => void
    const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5))
    const collect = async (): Promise<number> => {
      for (let i = 0; i < 5; i++) {
        gc()
        await turn() // finalisers run in a later turn
      }
      return memory().live
    }
    const start = await collect()
    const forget = (): void => {
      for (let i = 0; i < 100; i++) aux.zeros([1000]).add(1).sum()
    }
    forget()
    expect(memory().live).toBeGreaterThan(start + 100 * 4000)
    expect(await collect()).toBeLessThanOrEqual(start)
  })
})

import fc from 'fast-check'
import { compile, nn, optim, seed, tensor, type Tensor } from '../../src'
import { native } from '../../src/native'
import type { Base, BaseOptions } from '../../src/optim/base'
import { check } from '../support/property'
import { withCode } from '../support/refusals'

/** Two look-ups of one table, one with an output layer behind it. */
class Pairs extends nn.Module {
  readonly table: nn.Embedding
  readonly out: nn.Linear
  constructor(rows: number, sparse: boolean, paddingIdx?: number) {
    super()
    seed(1)
    this.table = new nn.Embedding(rows, 6, { sparse, paddingIdx })
    this.out = new nn.Linear(6, 1)
  }
  forward(left: Tensor, right: Tensor): Tensor {
    const [a, b] = [left, right].map((t) => this.table.forward(t).mean(1))
    return this.out.forward(a.mul(b)).squeeze(1)
  }
}

type Make = (options: BaseOptions) => Base
const step = (model: Pairs, make: Make, clip?: { norm?: number; value?: number }) =>
  compile({
    model,
    loss: ({ left, right, y }) => nn.mse(model.forward(left, right), y),
    optimizer: make({ lr: 0.01 }),
    clip,
  })

const batch = (left: readonly number[], right: readonly number[], y: readonly number[]) => ({
  left: { data: Int32Array.from(left), shape: [y.length, left.length / y.length] },
  right: { data: Int32Array.from(right), shape: [y.length, right.length / y.length] },
  y: Float32Array.from(y),
})

const values = (t: Tensor): number[] => Array.from(t.rawSync())

describe('sparse tables', () => {
  const same: Record<string, Make> = {
    SGD: (o) => new optim.SGD(o),
    Adagrad: (o) => new optim.Adagrad(o),
  }
  test.each(Object.keys(same))('%s gives what it gives with a dense gradient', (name) =>
    check(
      20,
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 5 }),
      fc.boolean(),
      fc.constantFrom(undefined, { norm: 0.1 }, { value: 0.01 }),
      fc.infiniteStream(fc.nat()),
      async (rows, count, padded, clip, stream) => {
        const next = (n: number): number[] => Array.from({ length: n }, () => stream.next().value! % rows)
        const models = [false, true].map((sparse) => new Pairs(rows, sparse, padded ? rows - 1 : undefined))
        const steps = models.map((model) => step(model, same[name], clip))
        for (let i = 0; i < 3; i++) {
          const given = batch(next(2 * count), next(3 * count), next(count))
          const [a, b] = [await steps[0].run(given), await steps[1].run(given)]
          expect(Math.abs(b.loss - a.loss)).toBeLessThanOrEqual(1e-5 * (1 + a.loss))
        }
        const [a, b] = models.map((m) => values(m.table.weight))
        // Sums of two look-ups are added in another order.
        b.forEach((v, i) => expect(Math.abs(v - a[i])).toBeLessThanOrEqual(2e-6 * (1 + Math.abs(a[i]))))
        for (const s of steps) s.close()
      },
    ),
  )

  const lazy: Record<string, Make> = {
    momentum: (o) => new optim.SGD({ ...o, momentum: 0.9, weightDecay: 0.1 }),
    AdamW: (o) => new optim.AdamW(o),
    'Adam with 8 bits': (o) => new optim.Adam({ ...o, bits: 8 }),
    RMSprop: (o) => new optim.RMSprop({ ...o, momentum: 0.5, centered: true }),
    Lion: (o) => new optim.Lion(o),
    'momentum with dampening': (o) => new optim.SGD({ ...o, momentum: 0.9, dampening: 0.5 }),
    AMSGrad: (o) => new optim.AdamW({ ...o, amsgrad: true }),
    RAdam: (o) => new optim.RAdam(o),
    Adadelta: (o) => new optim.Adadelta(o),
  }
  test.each(Object.keys(lazy))(
    '%s changes the rows of the batch as a table of these rows alone would',
    async (name) => {
      const [all, few] = [new Pairs(5000, true), new Pairs(3, false)]
      const rows = [4999, 17, 1024]
      const before = values(all.table.weight)
      few.table.weight.assign(rows.flatMap((r) => before.slice(6 * r, 6 * r + 6)))
      few.out.weight.assign(all.out.weight)
      few.out.bias!.assign(all.out.bias!)
      const [a, b] = [step(all, lazy[name]), step(few, lazy[name])]
      for (let i = 0; i < 4; i++) {
        const [left, right, y] = [
          [0, 1, 2, 0],
          [2, 1, 1, 1],
          [1, -1],
        ]
        await a.run(
          batch(
            left.map((r) => rows[r]),
            right.map((r) => rows[r]),
            y,
          ),
        )
        await b.run(batch(left, right, y))
      }
      const after = values(all.table.weight)
      rows.forEach((r, i) => {
        const expected = values(few.table.weight).slice(6 * i, 6 * i + 6)
        after.slice(6 * r, 6 * r + 6).forEach((v, k) => expect(v).toBeCloseTo(expected[k], 5))
      })
      const resting = (_: number, i: number): boolean => !rows.includes(Math.floor(i / 6))
      expect(after.filter(resting)).toEqual(before.filter(resting))
      const state = [...a.stateTensors()].filter(([path]) => path.endsWith('table.weight'))
      expect(state.length).toBeGreaterThan(0)
      for (const [, t] of state)
        values(t).forEach((v, i) => !rows.includes(Math.floor(i / 6)) && v !== 0 && expect([i, v]).toEqual([i, 0]))
      a.close()
      b.close()
    },
  )

  test('what a step takes does not depend on the size of the table, and the planned peak is measured', async () => {
    const given = batch([1, 2, 3, 4], [5, 6, 7, 8], [1, 0])
    const bytes = []
    for (const rows of [100, 100000]) {
      const model = new Pairs(rows, true)
      const s = step(model, (o) => new optim.AdamW(o), { norm: 1 })
      const plan = s.plan(given)
      await s.run(given)
      expect(s.measuredArenaBytes).toBe(plan.arenaBytes)
      bytes.push(plan.arenaBytes)
      s.close()
    }
    expect(bytes[1]).toBe(bytes[0])
  })

  test('rows are put back whatever the threads, bit for bit', async () => {
    const before = native().info().threads
    const results = []
    for (const threads of [1, 2, 3]) {
      native().setThreads(threads)
      const model = new Pairs(400, true)
      const s = step(model, (o) => new optim.Adam(o))
      const many = Array.from({ length: 4000 }, (_, i) => (i * 7919) % 400)
      await s.run(batch(many, many.slice().reverse(), [1, 2, 3, 4]))
      results.push(values(model.table.weight))
      s.close()
    }
    native().setThreads(before)
    expect(results[1]).toEqual(results[0])
    expect(results[2]).toEqual(results[0])
  })

  test('of bags, in rows or by offsets, it is the dense gradient too', async () => {
    for (const offsets of [undefined, tensor(Int32Array.of(0, 1, 4))]) {
      const [dense, sparse] = await Promise.all(
        [false, true].map(async (sparse) => {
          seed(1)
          const bag = new nn.EmbeddingBag(50, 4, { sparse, paddingIdx: 7 })
          const s = compile({
            model: bag,
            loss: ({ x }) => bag.forward(x, offsets).square().sum(),
            optimizer: new optim.SGD({ lr: 0.1 }),
          })
          const x = tensor(Int32Array.of(3, 7, 49, 3, 0, 3), offsets ? [6] : [2, 3])
          await s.run({ x })
          const plan = s.plan({ x })
          expect(s.measuredArenaBytes).toBe(plan.arenaBytes)
          expect(plan.ops.some((op) => op.kernel === 'put_rows')).toBe(sparse)
          s.close()
          return values(bag.weight)
        }),
      )
      sparse.forEach((v, i) => expect(v).toBeCloseTo(dense[i], 6))
    }
  })

  test('what cannot be is refused by name', async () => {
    const given = batch([1, 2], [0, 3], [1])
    const model = new Pairs(10, true)
    for (const make of [
      (o: BaseOptions) => new optim.Adafactor({ ...o, lr: 0.1 }),
      (o: BaseOptions) => new optim.SM3(o),
      (o: BaseOptions) => new optim.NAdam(o),
    ])
      expect(() => step(model, make).plan(given)).toThrow(
        withCode('AUX_INVALID_ARGUMENT', /sparse table table\.weight/),
      )
    const loss = ({ left, right, y }: Record<string, Tensor>): Tensor => nn.mse(model.forward(left, right), y)
    const optimizer = new optim.SGD({ lr: 0.1 })
    expect(() => compile({ model, loss, optimizer, accumulate: 2 }).plan(given)).toThrow(
      withCode('AUX_INVALID_ARGUMENT', /accumulate.*table\.weight/),
    )
    const tied = (fields: Record<string, Tensor>): Tensor => loss(fields).add(model.table.weight.square().sum())
    expect(() => compile({ model, loss: tied, optimizer }).plan(given)).toThrow(
      withCode('AUX_INVALID_ARGUMENT', /table\.weight to be read by embedding alone/),
    )
  })
})

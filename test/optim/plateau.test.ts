import { optim } from '../../src'

/** Learning rates after each observation. */
function rates(values: number[], options: ConstructorParameters<typeof optim.Plateau>[1], lr = 1): number[] {
  const optimizer = new optim.SGD({ lr })
  const plateau = new optim.Plateau(optimizer, options)
  return values.map((v) => {
    const before = optimizer.lr
    expect(plateau.observe(v)).toBe(optimizer.lr !== before)
    return optimizer.lr as number
  })
}

test('the rate falls when nothing better has come for longer than patience', () => {
  expect(rates([5, 4, 4, 4, 4, 4, 3], { factor: 0.5, patience: 1 })).toEqual([1, 1, 1, 0.5, 0.5, 0.25, 0.25])
  expect(rates([5, 6, 4.9999, 4], { factor: 0.5, patience: 0 })).toEqual([1, 0.5, 0.25, 0.25])
  expect(rates([5, 6, 4.9999, 4], { factor: 0.5, patience: 0, threshold: 0 })).toEqual([1, 0.5, 0.5, 0.5])
  expect(rates([-5, -4, -6], { factor: 0.5, patience: 0 })).toEqual([1, 0.5, 0.5]) // of a value below 0 too
  expect(rates([1, NaN, NaN], { factor: 0.5, patience: 0 })).toEqual([1, 0.5, 0.25])
})

test('cooldown and least', () => {
  expect(rates([1, 2, 2, 2, 2], { factor: 0.5, patience: 0, cooldown: 2 })).toEqual([1, 0.5, 0.5, 0.5, 0.25])
  expect(rates([1, 2, 2, 2], { factor: 0.5, patience: 0, least: 0.3 })).toEqual([1, 0.5, 0.3, 0.3])
})

test('a schedule is scaled; a run that is resumed goes on', () => {
  const make = () => {
    const optimizer = new optim.SGD({ lr: optim.schedule.linear(1, { steps: 10 }) })
    return { optimizer, plateau: new optim.Plateau(optimizer, { factor: 0.1, patience: 0 }) }
  }
  const rate = ({ optimizer }: ReturnType<typeof make>) => (optimizer.lr as (n: number) => number)(5)
  const a = make()
  a.plateau.observe(1)
  a.plateau.observe(1)
  expect(rate(a)).toBeCloseTo(0.05, 12)
  const b = make()
  b.plateau.restore(JSON.parse(JSON.stringify(a.plateau.state())))
  expect(rate(b)).toBe(rate(a))
  expect(b.plateau.observe(0.5)).toBe(false)
  expect(b.plateau.observe(0.6)).toBe(true)
  expect(rate(b)).toBeCloseTo(0.005, 12)
  const fresh = make()
  fresh.plateau.restore(JSON.parse(JSON.stringify(make().plateau.state())))
  expect(fresh.plateau.observe(3)).toBe(false)
})

test('mistakes are named', () => {
  const optimizer = new optim.SGD({ lr: 1 })
  expect(() => new optim.Plateau(undefined as never)).toThrow(/an optimizer/)
  expect(() => new optim.Plateau(optimizer, { factor: 2 })).toThrow(/factor in \(0, 1\), got 2/)
  expect(() => new optim.Plateau(optimizer, { patience: -1 })).toThrow(/patience/)
  expect(() => new optim.Plateau(optimizer, { mode: 'min' } as never)).toThrow(/mode/)
  expect(() => new optim.Plateau(optimizer).observe(undefined as never)).toThrow(/a number, got undefined/)
  expect(() => new optim.Plateau(optimizer).restore(null as never)).toThrow(/state/)
})

import { grad } from '../../src/compile'
import { crossEntropy, tensor, linear, conv2d, full, zeros } from '../../src/ops'
import * as nn from '../../src/nn'
import { memory } from '../../src/tensor/memory'
import type { Tensor } from '../../src/tensor/tensor'
import { withCode } from '../support/refusals'

test('eager ops compute', () => {
  const x = tensor([
    [1, 2],
    [3, 4],
  ])
  expect([...x.matmul(x).dataSync()]).toEqual([7, 10, 15, 22])
  expect([
    ...x
      .add(tensor([10, 20]))
      .sum(1)
      .dataSync(),
  ]).toEqual([33, 37])
  expect([...linear(x, x, tensor([1, 1])).dataSync()]).toEqual([6, 12, 12, 26])
  expect(
    conv2d(
      tensor(new Float32Array(16).fill(1), [1, 4, 4, 1]),
      tensor(new Float32Array(9).fill(1), [1, 3, 3, 1]),
      undefined,
      { padding: 1 },
    ).dataSync()[5],
  ).toBe(9)
  expect(crossEntropy(tensor([[0, 0]]), tensor(Int32Array.of(1))).item()).toBeCloseTo(Math.log(2), 6)
})

test('the sum of conditions counts those that hold', () => {
  const held = tensor([
    [1, 2, 3],
    [3, 2, 1],
  ]).ge(2)
  expect(held.sum().dtype).toBe('i32')
  expect(held.sum().item()).toBe(4)
  expect(held.sum(0, true).toArray()).toEqual([[1, 2, 1]])
})

test('powers of 0 and to 0 have the gradients of PyTorch', () => {
  const of = (x: number, y: number): unknown =>
    grad((a, b) => a.pow(b).sum())(tensor([x]), tensor([y])).map((g) => g.item())
  expect(of(0, 0)).toEqual([0, 0])
  expect(of(0, 1)).toEqual([1, 0])
  expect(of(0, 2)).toEqual([0, 0])
  expect(of(2, 0)).toEqual([0, Math.fround(Math.log(2))])
  expect(of(-2, 2)).toEqual([-4, NaN])
  expect(of(0, -1)).toEqual([-Infinity, -Infinity])
})

test('a number that a dtype cannot hold is refused, not taken for another one', () => {
  const u8 = tensor(Uint8Array.of(44))
  const i32 = tensor(Int32Array.of(1))
  const refused = (values: string) => withCode('AUX_INVALID_ARGUMENT', `values that ${values}`)
  expect(() => u8.eq(300)).toThrow(refused('u8 can hold, got 300'))
  expect(() => i32.add(2 ** 32)).toThrow(refused('i32 can hold, got 4294967296'))
  expect(() => u8.pad([[1, 1]], -1)).toThrow(refused('u8 can hold, got -1'))
  expect(() => full([2], 2 ** 40, 'i32')).toThrow(refused('i32 can hold, got 1099511627776'))
  expect(full([2], 1.5, 'i32').toArray()).toEqual([1, 1])
  expect(
    full([1], 2, 'bool')
      .eq(tensor([true]))
      .toArray(),
  ).toEqual([true]) // of bool 1, which is true
  expect([u8.eq(44), u8.gt(0), i32.ge(-(2 ** 31))].map((t) => t.toArray())).toEqual([[true], [true], [true]])
})

test('what is not compared by value is not compared', () => {
  const refused = withCode(
    'AUX_DTYPE_MISMATCH',
    /^eq: expected first operand of dtype f32 or i32 or u8 or bool, got (bf16|u32)/,
  )
  for (const x of [tensor([1, 1], undefined, 'bf16'), tensor(Uint32Array.of(256, 5))])
    expect(() => x.eq(x)).toThrow(refused)
})

test('an op that refuses its input leaves nothing of it behind', () => {
  const x = zeros([100, 100], 'i32').transpose()
  const { live } = memory() // at once: garbage collection would free it later
  for (let i = 0; i < 3; i++) expect(() => x.cumsum(0)).toThrow(withCode('AUX_DTYPE_MISMATCH'))
  expect(memory().live).toBe(live)
})

test('eager ops leave their results and nothing else', () => {
  const layers: [nn.Module & { forward(x: Tensor): Tensor }, number[]][] = [
    [new nn.Linear(4, 3), [2, 5, 4]],
    [new nn.Linear(4, 3), [4]],
    [new nn.LayerNorm(4), [2, 4]],
    [new nn.RMSNorm(4), [2, 4]],
    [new nn.GroupNorm(2, 4), [2, 3, 4]],
    [new nn.BatchNorm1d(4), [2, 4]],
    [new nn.BatchNorm1d(4).eval(), [2, 4]],
    [new nn.MaxPool2d(2), [1, 4, 4, 2]],
  ]
  for (const [layer, shape] of layers) {
    const { live } = memory()
    const x = zeros(shape)
    layer.forward(x).dispose()
    x.dispose()
    expect([layer.constructor.name, memory().live - live]).toEqual([layer.constructor.name, 0])
  }
  const { live } = memory()
  const [a, b] = [zeros([2, 3, 4]), zeros([4, 5])]
  for (const t of [a.matmul(b), a, b]) t.dispose() // b lies in memory once, for both products
  expect(memory().live).toBe(live)
})

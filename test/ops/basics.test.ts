import { grad } from '../../src/compile'
import { crossEntropy, tensor, linear, conv2d } from '../../src/ops'

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

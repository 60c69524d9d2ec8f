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

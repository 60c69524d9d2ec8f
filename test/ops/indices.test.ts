import { compile, crossEntropy, embedding, grad, ones, tensor } from '../../src/index'

test('an input of undeclared dtype becomes i32 where it is read as indices, through views too', () => {
  for (const loss of [
    compile(({ x, y }) => crossEntropy(x, y)),
    compile(({ x, y }) => crossEntropy(x, y.unsqueeze(0).reshape([4]))),
    compile(({ x, y }) => embedding(y, x).sum()),
    compile(({ x, y }) => embedding(y.reshape([2, 2]).select(1, 1), x).sum()),
    compile(({ x, y }) => embedding(y.reshape([2, 2]).transpose().flatten(), x).sum()),
  ]) {
    expect(loss.plan({ x: [4, 5], y: [4] }).inputs.get('y')!.dtype).toBe('i32')
    expect(loss.plan({ x: [4, 5], y: { shape: [4], dtype: 'u8' } }).inputs.get('y')!.dtype).toBe('u8')
    expect(() => loss.plan({ x: [4, 5], y: { shape: [4], dtype: 'f32' } })).toThrow(
      /expected (labels|indices) of dtype i32 or u8, got f32/,
    )
    loss.close()
  }
})

test('an input read as f32 elsewhere and then as indices is refused', () => {
  const f = compile(({ x, y }) => crossEntropy(x.add(y.exp().unsqueeze(1)), y.exp()))
  expect(() => f.plan({ x: [4, 5], y: [4] })).toThrow(/i32 or u8, got f32/)
  f.close()
  const g = compile(({ x, y }) => crossEntropy(x.add(y.unsqueeze(1)), y))
  expect(() => g.plan({ x: [4, 5], y: [4] })).toThrow(/add has read input y as f32; declare its dtype/)
  g.close()
})

test('the padding row of an embedding gets no gradient', () => {
  const indices = tensor(Int32Array.of(0, 2, 2, 1))
  const [g] = grad((w) => embedding(indices, w, { paddingIdx: -1 }).sum())(ones([3, 2]))
  expect(g.toArray()).toEqual([
    [1, 1],
    [1, 1],
    [0, 0],
  ])
})

import {
  atan2,
  bincount,
  compile,
  einsum,
  meshgrid,
  nn,
  searchsorted,
  stack,
  tensor,
  unique,
  valueAndGrad,
  where,
  zeros,
  type Tensor,
} from '../../src'
import { near, pytorch, wave } from '../support/pytorch'
import { withCode } from '../support/refusals'

const { tensors, counts } = pytorch<{
  tensors: Record<string, { loss: number[]; gradient: number[] }>
  counts: Record<string, number[]>
}>()

const labels = Int32Array.of(1, 3, 0, 2, 0, 3, 3)

/** x where that is below y, to the last bit, else y; the gradient is y's. */
const equal = (x: Tensor, y: Tensor): Tensor => where(x.lt(y), y.sub(y.detach()).add(x.detach()), y)

const cases: [string, (...x: Tensor[]) => Tensor, number[][]][] = [
  ['clamp', (x, low, high) => x.clamp(low, high), [[4, 3], [3], [4, 1]]],
  ['clamp, equal', (x, y) => x.clamp(equal(x, y)), [[4, 3], [4, 3]]], // prettier-ignore
  ['maximum, equal', (x, y) => x.maximum(equal(x, y)), [[4, 3], [4, 3]]], // prettier-ignore
  ['minimum, equal', (x, y) => x.minimum(equal(x, y)), [[4, 3], [4, 3]]], // prettier-ignore
  ['where, infinite', (x, y) => where(x.gt(y), x.sub(y), 0).sqrt(), [[4, 3], [4, 3]]], // prettier-ignore
  ['maximum, infinite', (x) => zeros([]).maximum(x.abs().neg()).sqrt(), [[4, 3]]],
  ['remainder', (x, y) => x.mul(7).remainder(y), [[4, 3], [4, 3]]], // prettier-ignore
  ['atan2', (x, y) => atan2(x, y), [[4, 3], [3]]],
  ['asin, ends', (x) => x.clamp(-1, 1).asin(), [[4, 3]]],
  ['acos, ends', (x) => x.clamp(-1, 1).acos(), [[4, 3]]],
  ['quantile', (x) => x.quantile([0.1, 0.75], 0), [[5, 3]]],
  ['quantile of all', (x) => x.quantile(0.4), [[4, 3]]],
  ['median', (x) => x.median(1), [[3, 4]]],
  ['cumprod', (x) => x.cumprod(1), [[2, 5]]],
  ['cumprod, zeros', (x) => x.mul(tensor([1, 0, 1, 0, 1])).cumprod(1), [[2, 5]]],
  ['diagonal', (x) => x.diagonal(-1), [[2, 4, 3]]],
  ['diagEmbed', (x) => x.diagEmbed(2).cumsum(1), [[2, 3]]],
  ['indexAdd', (x, y) => x.indexAdd(0, tensor(labels), y), [[4, 3], [7, 3]]], // prettier-ignore
  ['einsum', (x, y) => einsum('...ij,kj->...ik', x, y), [[2, 3, 4, 2], [3, 2]]], // prettier-ignore
  ['meshgrid', (x, y) => stack(meshgrid([x, y], { indexing: 'xy' })), [[3], [2]]],
]
test.each(cases)("%s: values and gradients are PyTorch's", (name, f, shapes) => {
  const xs = shapes.map((shape, k) => wave(shape, 0.5 + k, 1.5))
  const { grads } = valueAndGrad((...x: Tensor[]) => f(...x).sum())(...xs)
  near(f(...xs).dataSync(), tensors[name].loss)
  near(
    grads.flatMap((g) => [...g.dataSync()]),
    tensors[name].gradient,
  )
})

test("what is counted and searched for is PyTorch's", async () => {
  const sorted = tensor([-1, 0, 0, 0.5, 2])
  const asked = tensor([
    [-2, -1, 0],
    [0.1, 2, 3],
  ])
  expect([...searchsorted(sorted, asked).dataSync()]).toEqual(counts.searchsorted)
  const right = compile(({ x }) => searchsorted(sorted, x, { right: true }))
  expect([...(await right.run({ x: asked })).data]).toEqual(counts['searchsorted, right'])
  expect([...searchsorted(sorted, tensor([NaN])).dataSync()]).toEqual([5])
  const numbers = [tensor([1, 2, NaN, NaN]), tensor([0, 2, 5, NaN, Infinity])] as const // NumPy
  expect([...searchsorted(...numbers).dataSync()]).toEqual([0, 1, 2, 2, 2])
  expect([...searchsorted(...numbers, { right: true }).dataSync()]).toEqual([0, 2, 2, 4, 2])
  const ids = tensor(labels)
  expect([...bincount(ids).dataSync()]).toEqual(counts.bincount)
  near(bincount(ids, { weights: wave([7], 0.3) }).dataSync(), counts['bincount, weights'])
  const { values, inverse, counts: times } = unique(ids.mul(3).reshape([7, 1]))
  expect([...values.dataSync()]).toEqual(counts.values)
  expect(inverse.shape).toEqual([7, 1])
  expect([...inverse.dataSync()]).toEqual(counts.inverse)
  expect([...times.dataSync()]).toEqual(counts.counts)
  expect(unique(tensor([NaN, 1, NaN])).values.toArray()).toEqual([1, NaN, NaN])
  const traced = (f: (x: Tensor) => Tensor) => () => compile(({ x }) => f(x)).plan({ x: { shape: [3], dtype: 'i32' } })
  expect(traced((x) => unique(x).values)).toThrow(withCode('AUX_TRACED_VALUE'))
  expect(traced((x) => bincount(x))).toThrow(withCode('AUX_TRACED_VALUE'))
  expect(() => unique(tensor([true]))).toThrow(withCode('AUX_DTYPE_MISMATCH', /^sort: .*got bool/))
})

test("parameters as a vector are PyTorch's, and go back", () => {
  const parameters = [wave([3, 1], 0.1), wave([2], 0.2)].map((t) => new nn.Parameter(t))
  const vector = nn.parametersToVector(parameters)
  near(vector.dataSync(), counts.vector)
  nn.vectorToParameters(vector.mul(2), parameters)
  near(
    parameters.flatMap((p) => [...p.dataSync()]),
    counts.vector.map((v) => 2 * v),
  )
  expect(() => nn.vectorToParameters(wave([4], 0), parameters)).toThrow(
    withCode('AUX_SHAPE_MISMATCH', /^vectorToParameters: expected the vector of shape \[5\], got \[4\]/),
  )
})

import {
  addSign,
  codePack,
  codeUnpack,
  conv2dCodeWeightGrad,
  conv2dSignWeightGrad,
  dequantize,
  linearCodeWeightGrad,
  linearSignWeightGrad,
  maskApply,
  ones,
  quantize,
  signPack,
  signUnpack,
  zeros,
  type Tensor,
} from '../../src'
import { codeOf } from '../support/refusals'

// Kernels trust the shapes they are given: what does not fit together would be read beyond its end.
const x = ones([40, 3])
const image = ones([2, 5, 4, 3])
const delta = ones([2, 3, 2, 6])
const attrs = { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 } as const
const weight = [6, 3, 3, 3]
const signs = signPack(x)
const bits = signPack(image)
const { codes, ranges } = codePack(x)
const coded = codePack(image)
const eight = quantize(x, 8, 'nearest')
const nothing = undefined as unknown as Tensor

const right: (() => Tensor)[] = [
  () => maskApply(x, signs),
  () => signUnpack(signs, [40, 3], 'pm1'),
  () => linearSignWeightGrad(ones([40, 2]), signs, 1, 'pm1'),
  () => conv2dSignWeightGrad(delta, bits, attrs, weight, image.shape, 1, 'pm1'),
  () => codeUnpack(codes, ranges, [40, 3]),
  () => linearCodeWeightGrad(ones([40, 2]), codes, ranges),
  () => conv2dCodeWeightGrad(delta, coded.codes, coded.ranges, attrs, weight, image.shape),
  () => dequantize(eight, 8, [40, 3]),
]
const wrong: (() => unknown)[] = [
  () => signPack(zeros([])),
  () => signPack(zeros([2], 'i32')),
  () => addSign(nothing, 1, 'pm1'),
  () => maskApply(x, nothing),
  () => maskApply(ones([80, 3]), signs),
  () => maskApply(x, zeros(signs.shape)),
  () => signUnpack(signs, [80, 3], 'pm1'),
  () => signUnpack(nothing, [40, 3], 'pm1'),
  () => linearSignWeightGrad(ones([80, 2]), signs, 1, 'pm1'),
  () => linearSignWeightGrad(nothing, signs, 1, 'pm1'),
  () => conv2dSignWeightGrad(delta, signPack(ones([80, 3])), attrs, weight, image.shape, 1, 'pm1'),
  () => conv2dSignWeightGrad(ones([2, 5, 4, 6]), bits, attrs, weight, image.shape, 1, 'pm1'),
  () => conv2dSignWeightGrad(delta, bits, attrs, [6, 3, 3, 9], image.shape, 1, 'pm1'),
  () => codePack(ones([4])),
  () => codeUnpack(codes, nothing, [40, 3]),
  () => codeUnpack(codes, ranges, [20, 2, 3]),
  () => linearCodeWeightGrad(ones([80, 2]), codes, ranges),
  () => conv2dCodeWeightGrad(delta, coded.codes, ranges, attrs, weight, image.shape),
  () => dequantize(eight, 4, [40, 3]),
  () => dequantize(eight, 8, [400, 3]),
  () => dequantize({} as never, 8, [40, 3]),
  () => dequantize(eight, 3 as never, [40, 3]),
]

test('packed signs and codes are read in the shape that they were packed from, and in no other', () => {
  for (const f of right) expect(f().dataSync().every(Number.isFinite)).toBe(true)
  for (const f of wrong) expect([codeOf(f), String(f)]).toEqual([expect.stringMatching(/^AUX_/), String(f)])
})

test('axes and ranges by position, as elsewhere, are errors that say what is expected', () => {
  expect(() => x.slice(0 as never, 2 as never)).toThrow(/slice: expected \[start, end\] or null for each axis, got 0/)
  expect(() => x.sum('x' as never)).toThrow(/sum: expected an axis or an array of axes, got "x"/)
})

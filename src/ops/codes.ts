import { fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape } from '../graph/op'
import { checkShape, sizeOf, type Shape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import { convNumbers, expectConvGradient, type ConvAttrs } from './geometry'

// Two bits an element (spec section 15b): words of 16 tokens, [ceil(T/16), C], T the product of the leading axes, and
// for each index of the first axis a range [minimum, width]; code q stands for q · width / 3 + minimum.

const packed = (shape: Shape): [codes: number[], ranges: number[]] => [
  [Math.ceil(sizeOf(shape.slice(0, -1)) / 16), shape[shape.length - 1]],
  [shape[0], 2],
]

function expectPacked(op: string, codes: Spec | undefined, ranges: Spec | undefined, shape: Shape): void {
  checkShape(op, shape)
  expectDType(op, 'codes', codes, 'u32')
  expectDType(op, 'ranges', ranges, 'f32')
  expectShape(op, 'codes', codes, packed(shape)[0])
  expectShape(op, 'ranges', ranges, packed(shape)[1])
}

const packOp = defineOp<undefined>({
  name: 'code2_pack',
  infer: ([x]) => {
    expectDType('codePack', 'input', x, 'f32')
    if (x!.shape.length < 2) fail('AUX_SHAPE_MISMATCH', 'codePack: expected an input [G, ..., C] of two axes or more')
    const [codes, ranges] = packed(x!.shape)
    return [
      { shape: codes, dtype: 'u32' },
      { shape: ranges, dtype: 'f32' },
    ]
  },
  kernel: () => ({ name: 'code2_pack' }),
  constant: true,
})

/**
 * Codes of x [G, ..., C], the nearest of four levels between the least and the largest of each x[g]:
 * u32 [ceil(T/16), C] and f32 ranges [G, 2]. What holds a NaN has the range NaN.
 */
export function codePack(x: Tensor): {
  /** u32 [ceil(T/16), C], two bits an element. */
  codes: Tensor
  /** Minimum and width, f32 [G, 2]. */
  ranges: Tensor
} {
  const [codes, ranges] = apply(packOp, [x], undefined)
  return { codes, ranges }
}

const unpackOp = defineOp<{ shape: Shape }>({
  name: 'code2_unpack',
  infer: ([codes, ranges], { shape }) => {
    expectPacked('codeUnpack', codes, ranges, shape)
    return [{ shape, dtype: 'f32' }]
  },
  kernel: () => ({ name: 'code2_unpack' }),
  constant: true,
})

/** The values that codes stand for, in the shape they were packed from. */
export const codeUnpack = (codes: Tensor, ranges: Tensor, shape: Shape): Tensor =>
  apply(unpackOp, [codes, ranges], { shape })[0]

const linearOp = defineOp<undefined>({
  name: 'linear_code2_weight_grad',
  infer: ([delta, codes, ranges]) => {
    expectDType('linearCodeWeightGrad', 'delta', delta, 'f32')
    expectRank('linearCodeWeightGrad', 'delta', delta, 2)
    expectRank('linearCodeWeightGrad', 'codes', codes, 2)
    expectPacked('linearCodeWeightGrad', codes, ranges, [delta!.shape[0], codes!.shape[1]])
    return [{ shape: [delta!.shape[1], codes!.shape[1]], dtype: 'f32' }]
  },
  kernel: () => ({ name: 'linear_code2_weight_grad', numbers: [1] }),
})

/** dW [O, I] = deltaᵀ x̂ for delta [T, O] and the codes of an input [T, I]. */
export const linearCodeWeightGrad = (delta: Tensor, codes: Tensor, ranges: Tensor): Tensor =>
  apply(linearOp, [delta, codes, ranges], undefined)[0]

const convOp = defineOp<ConvAttrs & { shape: Shape; image: Shape }>({
  name: 'conv2d_code2_weight_grad',
  infer: ([delta, codes, ranges], a) => {
    expectConvGradient('conv2dCodeWeightGrad', delta, a)
    expectPacked('conv2dCodeWeightGrad', codes, ranges, a.image)
    return [{ shape: a.shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({
    name: 'conv2d_code2_weight_grad',
    numbers: [...convNumbers(a), a.image[1], a.image[2], 1],
  }),
})

/** dW of a convolution from the codes of its unpadded input of shape `image`; padding contributes 0. */
export const conv2dCodeWeightGrad = (
  delta: Tensor,
  codes: Tensor,
  ranges: Tensor,
  attrs: ConvAttrs,
  shape: Shape,
  image: Shape,
): Tensor => apply(convOp, [delta, codes, ranges], { ...attrs, shape, image })[0]

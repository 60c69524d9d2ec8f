import { apply, defineOp } from '../graph/op'
import { sizeOf, type Shape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { convNumbers, type ConvAttrs } from './geometry'

// Two bits an element (spec section 15b): words of 16 tokens, [ceil(T/16), C], T the product of the leading axes, and
// for each index of the first axis a range [minimum, width]; code q stands for q · width / 3 + minimum.

const packOp = defineOp<undefined>({
  name: 'code2_pack',
  infer: ([x]) => {
    const { shape } = x!
    return [
      { shape: [Math.ceil(sizeOf(shape.slice(0, -1)) / 16), shape[shape.length - 1]], dtype: 'u32' },
      { shape: [shape[0], 2], dtype: 'f32' },
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
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: () => ({ name: 'code2_unpack' }),
  constant: true,
})

/** The values that codes stand for, in the shape they were packed from. */
export const codeUnpack = (codes: Tensor, ranges: Tensor, shape: Shape): Tensor =>
  apply(unpackOp, [codes, ranges], { shape })[0]

const linearOp = defineOp<undefined>({
  name: 'linear_code2_weight_grad',
  infer: ([delta, codes]) => [{ shape: [delta!.shape[1], codes!.shape[1]], dtype: 'f32' }],
  kernel: () => ({ name: 'linear_code2_weight_grad', numbers: [1] }),
})

/** dW [O, I] = deltaᵀ x̂ for delta [T, O] and the codes of an input [T, I]. */
export const linearCodeWeightGrad = (delta: Tensor, codes: Tensor, ranges: Tensor): Tensor =>
  apply(linearOp, [delta, codes, ranges], undefined)[0]

const convOp = defineOp<ConvAttrs & { shape: Shape; image: Shape }>({
  name: 'conv2d_code2_weight_grad',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
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

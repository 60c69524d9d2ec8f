import { apply, defineOp } from '../graph/op'
import { sizeOf, type Shape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { convNumbers, type ConvAttrs } from './conv'

// One bit an element (spec section 4): words of 32 tokens, [ceil(T/32), C], T the product of the leading axes.

/** What a set and an unset bit stand for: +1 and -1, or 1 and 0. */
export type Alphabet = 'pm1' | '01'
const code = (a: Alphabet): number => (a === '01' ? 1 : 0)

const packedShape = (shape: Shape): number[] => [Math.ceil(sizeOf(shape.slice(0, -1)) / 32), shape[shape.length - 1]]

const packOp = defineOp<undefined>({
  name: 'sign_pack',
  infer: ([x]) => [{ shape: packedShape(x!.shape), dtype: 'u32' }],
  kernel: () => ({ name: 'sign_pack' }),
  constant: true,
})

/** The bits of x > 0, packed along tokens: u32 [ceil(T/32), C]. */
export const signPack = (x: Tensor): Tensor => apply(packOp, [x], undefined)[0]

const addOp = defineOp<{ epsilon: number; alphabet: Alphabet }>({
  name: 'add_sign',
  infer: ([x]) => [{ shape: x!.shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'add_sign', numbers: [a.epsilon, code(a.alphabet)] }),
  derive: (d) => [d.grad()], // the signs are constants to differentiation
})

/** h = x + epsilon s, s the signs of x. */
export const addSign = (x: Tensor, epsilon: number, alphabet: Alphabet): Tensor => apply(addOp, [x], { epsilon, alphabet })[0]

const unpackOp = defineOp<{ shape: Shape; alphabet: Alphabet; scale: number }>({
  name: 'sign_unpack',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'sign_unpack', numbers: [code(a.alphabet), a.scale] }),
  constant: true,
})

/** The signs as floats times `scale`, in the shape they were packed from. */
export const signUnpack = (signs: Tensor, shape: Shape, alphabet: Alphabet, scale = 1): Tensor =>
  apply(unpackOp, [signs], { shape, alphabet, scale })[0]

const maskOp = defineOp<undefined>({
  name: 'mask_apply',
  infer: ([dy]) => [{ shape: dy!.shape, dtype: 'f32' }],
  kernel: () => ({ name: 'mask_apply' }),
  inplace: [0],
})

/** dy where the bit is set, else 0. */
export const maskApply = (dy: Tensor, mask: Tensor): Tensor => apply(maskOp, [dy, mask], undefined)[0]

const linearOp = defineOp<{ scale: number; alphabet: Alphabet }>({
  name: 'linear_sign_weight_grad',
  infer: ([delta, signs]) => [{ shape: [delta!.shape[1], signs!.shape[1]], dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'linear_sign_weight_grad', numbers: [a.scale, code(a.alphabet)] }),
})

/** dW [O, I] = scale · deltaᵀ s for delta [T, O] and packed signs of an input [T, I]. */
export const linearSignWeightGrad = (delta: Tensor, signs: Tensor, scale: number, alphabet: Alphabet): Tensor =>
  apply(linearOp, [delta, signs], { scale, alphabet })[0]

const convOp = defineOp<ConvAttrs & { shape: Shape; image: Shape; scale: number; alphabet: Alphabet }>({
  name: 'conv2d_sign_weight_grad',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({
    name: 'conv2d_sign_weight_grad',
    numbers: [...convNumbers(a), a.image[1], a.image[2], a.scale, code(a.alphabet)],
  }),
})

/** dW of a convolution from the packed signs of its unpadded input of shape `image`; padding contributes 0. */
export const conv2dSignWeightGrad = (
  delta: Tensor, signs: Tensor, attrs: ConvAttrs, shape: Shape, image: Shape, scale: number, alphabet: Alphabet,
): Tensor => apply(convOp, [delta, signs], { ...attrs, shape, image, scale, alphabet })[0]

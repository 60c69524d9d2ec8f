import { fail } from '../errors'
import { sameValues } from '../graph/graph'
import { apply, defineOp, expectDType, expectRank, expectShape, type Alphabet } from '../graph/op'
import { checkShape, sizeOf, type Shape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import { convNumbers, expectConvGradient, type ConvAttrs } from './geometry'

// One bit an element (spec section 4): words of 32 tokens, [ceil(T/32), C], T the product of the leading axes.

/** @internal An alphabet as kernels take it. */
const code = (a: Alphabet): number => (a === '01' ? 1 : 0)

/** @internal Shape of the packed signs of a tensor. */
const packedShape = (shape: Shape): number[] => [Math.ceil(sizeOf(shape.slice(0, -1)) / 32), shape[shape.length - 1]]

function expectPacked(op: string, name: string, bits: Spec | undefined, shape: Shape): void {
  checkShape(op, shape)
  expectDType(op, name, bits, 'u32')
  expectShape(op, name, bits, packedShape(shape))
}

/** @internal */
export const packOp = defineOp<undefined>({
  name: 'sign_pack',
  infer: ([x]) => {
    expectDType('signPack', 'input', x, 'f32')
    if (!x!.shape.length) fail('AUX_SHAPE_MISMATCH', 'signPack: expected an input [..., C], got shape []')
    return [{ shape: packedShape(x!.shape), dtype: 'u32' }]
  },
  kernel: () => ({ name: 'sign_pack' }),
  constant: true,
})

/** The bits of x > 0, packed along tokens: u32 [ceil(T/32), C]. */
export const signPack = (x: Tensor): Tensor => apply(packOp, [x], undefined)[0]

// Signs that the kernel reading x has packed on the way: traced tensors only, so keyed by identity.
const packedAlready = new WeakMap<Tensor, Tensor>()

/** @internal The tensor that x is a view of, where it has the same values and channels ([N, T, C] as [N T, C]): the same bits. */
export const canonical = (x: Tensor): Tensor =>
  x.base && sameValues(x, x.base) && x.shape[x.rank - 1] === x.base.shape[x.base.rank - 1] ? x.base : x

/** @internal Says that `signs` are the packed signs of x; the first claim stands. Returns the one that does. */
export function claimSigns(x: Tensor, signs: Tensor): Tensor {
  const before = claimedSigns(x)
  if (before) return before
  packedAlready.set(canonical(x), signs)
  return signs
}

/** @internal The packed signs of a traced tensor, if a kernel makes them anyway. */
export const claimedSigns = (x: Tensor): Tensor | undefined => packedAlready.get(canonical(x))

const addOp = defineOp<{ epsilon: number; alphabet: Alphabet }>({
  name: 'add_sign',
  infer: ([x]) => {
    expectDType('addSign', 'input', x, 'f32')
    return [{ shape: x!.shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'add_sign', numbers: [a.epsilon, code(a.alphabet)] }),
  derive: (d) => [d.grad()], // the signs are constants to differentiation
})

/** h = x + epsilon s, s the signs of x. */
export const addSign = (x: Tensor, epsilon: number, alphabet: Alphabet): Tensor =>
  apply(addOp, [x], { epsilon, alphabet })[0]

const unpackOp = defineOp<{ shape: Shape; alphabet: Alphabet; scale: number }>({
  name: 'sign_unpack',
  infer: ([signs], { shape }) => {
    expectPacked('signUnpack', 'signs', signs, shape)
    return [{ shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'sign_unpack', numbers: [code(a.alphabet), a.scale] }),
  constant: true,
})

/** The signs as floats times `scale`, in the shape they were packed from. */
export const signUnpack = (signs: Tensor, shape: Shape, alphabet: Alphabet, scale = 1): Tensor =>
  apply(unpackOp, [signs], { shape, alphabet, scale })[0]

/** @internal */
export const maskOp = defineOp<undefined>({
  name: 'mask_apply',
  infer: ([dy, mask]) => {
    expectDType('maskApply', 'input', dy, 'f32')
    expectPacked('maskApply', 'mask', mask, dy!.shape)
    return [{ shape: dy!.shape, dtype: 'f32' }]
  },
  kernel: () => ({ name: 'mask_apply' }),
  inplace: [0],
})

/** dy where the bit is set, else 0. */
export const maskApply = (dy: Tensor, mask: Tensor): Tensor => apply(maskOp, [dy, mask], undefined)[0]

const linearOp = defineOp<{ scale: number; alphabet: Alphabet }>({
  name: 'linear_sign_weight_grad',
  infer: ([delta, signs]) => {
    expectDType('linearSignWeightGrad', 'delta', delta, 'f32')
    expectRank('linearSignWeightGrad', 'delta', delta, 2)
    expectRank('linearSignWeightGrad', 'signs', signs, 2)
    expectPacked('linearSignWeightGrad', 'signs', signs, [delta!.shape[0], signs!.shape[1]])
    return [{ shape: [delta!.shape[1], signs!.shape[1]], dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'linear_sign_weight_grad', numbers: [a.scale, code(a.alphabet)] }),
})

/** dW [O, I] = scale · deltaᵀ s for delta [T, O] and packed signs of an input [T, I]. */
export const linearSignWeightGrad = (delta: Tensor, signs: Tensor, scale: number, alphabet: Alphabet): Tensor =>
  apply(linearOp, [delta, signs], { scale, alphabet })[0]

const convOp = defineOp<ConvAttrs & { shape: Shape; image: Shape; scale: number; alphabet: Alphabet }>({
  name: 'conv2d_sign_weight_grad',
  infer: ([delta, signs], a) => {
    expectConvGradient('conv2dSignWeightGrad', delta, a)
    expectPacked('conv2dSignWeightGrad', 'signs', signs, a.image)
    return [{ shape: a.shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({
    name: 'conv2d_sign_weight_grad',
    numbers: [...convNumbers(a), a.image[1], a.image[2], a.scale, code(a.alphabet)],
  }),
})

/** dW of a convolution from the packed signs of its unpadded input of shape `image`; padding contributes 0. */
export const conv2dSignWeightGrad = (
  delta: Tensor,
  signs: Tensor,
  attrs: ConvAttrs,
  shape: Shape,
  image: Shape,
  scale: number,
  alphabet: Alphabet,
): Tensor => apply(convOp, [delta, signs], { ...attrs, shape, image, scale, alphabet })[0]

/** @internal What a forward kernel with a weight does besides: x + epsilon s as its operand, ReLU on its result. */
export interface Fused {
  epsilon?: number
  alphabet?: Alphabet
  relu?: boolean
}
/** @internal */
export const fusedNumbers = (a: Fused): number[] => [a.epsilon ?? 0, code(a.alphabet ?? 'pm1'), a.relu ? 1 : 0]
/** @internal y, the packed signs of x, the packed mask y > 0. */
export const fusedOutputs = (x: Shape, y: Shape): Spec[] => [
  { shape: y, dtype: 'f32' },
  { shape: packedShape(x), dtype: 'u32' },
  { shape: packedShape(y), dtype: 'u32' },
]

import { fail } from '../errors'
import { apply, defineOp, expectDType, expectShape, expectTensor, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { mulScalar, scalarMul } from './unary'

const coupleOp: Op<undefined> = defineOp({
  name: 'couple',
  infer: ([x, f]) => {
    expectDType('couple', 'x', x!, 'f32')
    expectDType('couple', 'f', f!, 'f32')
    expectShape('couple', 'f', f!, x!.shape)
    return [{ shape: x!.shape, dtype: 'f32' }]
  },
  kernel: () => ({ name: 'add' }),
  derive: (d) => [d.grad(), d.grad()],
  inverse: (y, [f]) => y.sub(f!),
  strided: 'all',
  inplace: [0, 1],
})

/**
 * x + f for an f that does not depend on x: an additive coupling (Dinh et al. 2015, Gomez et al. 2017). Under the policy
 * `invert`, backward computes x from the result instead of keeping it.
 * @throws AUX_SHAPE_MISMATCH unless both have one shape.
 */
export function couple(x: Tensor, f: Tensor): Tensor {
  if (x === f) fail('AUX_INVALID_ARGUMENT', 'couple: expected an f that does not depend on x, got x itself')
  return apply(coupleOp, [x, f], undefined)[0]
}

/** A scaling that policies undo. */
const decayOp: typeof mulScalar = {
  ...mulScalar,
  name: 'decay',
  inverse: (y, _, { value }) => scalarMul(y, 1 / value),
}

/**
 * The velocity of a momentum residual block (Sander et al. 2021): gamma v + (1 − gamma) f, for an f that does not depend
 * on v; without v, which stands for zeros, (1 − gamma) f. Under the policy `invert`, backward computes v from the result:
 * its rounding errors are divided by gamma.
 * @throws AUX_INVALID_ARGUMENT unless 0 < gamma < 1, AUX_SHAPE_MISMATCH unless both have one shape.
 */
export function velocity(v: Tensor | undefined, f: Tensor, gamma: number): Tensor {
  if (!(gamma > 0 && gamma < 1)) fail('AUX_INVALID_ARGUMENT', `velocity: expected gamma between 0 and 1, got ${gamma}`)
  expectTensor('velocity', f)
  return tidy(() => {
    const decay = (x: Tensor, value: number): Tensor => apply(decayOp, [x], { value })[0]
    return v ? couple(decay(v, gamma), f.mul(1 - gamma)) : decay(f, 1 - gamma)
  })
}

/** @internal Nodes by which policies may go back. */
export const isCoupling = ({ op }: { op: Op }): boolean => op === coupleOp || op === decayOp

import { fail } from '../errors'
import { apply, defineOp, expectDType, expectShape, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'

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

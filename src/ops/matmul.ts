import { fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, expectTensor } from '../graph/op'
import { broadcastShapes, showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { linearCodeWeightGrad } from './codes'
import { expand } from './shape'
import { fusedNumbers, fusedOutputs, linearSignWeightGrad, type Fused } from './sign'

/** @internal */
export const matmulOp = defineOp<undefined>({
  name: 'matmul',
  infer: ([a, b]) => {
    expectDType('matmul', 'left operand', a!, 'f32')
    expectDType('matmul', 'right operand', b!, 'f32')
    return [{ shape: [...a!.shape.slice(0, -1), b!.shape[b!.shape.length - 1]], dtype: 'f32' }]
  },
  kernel: () => ({ name: 'matmul', numbers: [1] }),
  derive: (d) => [
    d.needs(0) ? matmul(d.grad()!, d.input(1).transpose()) : undefined,
    d.needs(1) ? matmul(d.input(0).transpose(), d.grad()!) : undefined,
  ],
  strided: 'all',
})

/**
 * Matrix product a [..., M, K] · b [..., K, N] with broadcast batch axes; transposed views cost no copy. A vector is a row
 * on the left and a column on the right, and the result lacks its axis.
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  expectTensor('matmul', a)
  expectTensor('matmul', b)
  if (a.rank === 1 && b.rank > 0) return tidy(() => matmul(a.unsqueeze(0), b).squeeze(b.rank === 1 ? 0 : -2))
  if (b.rank === 1 && a.rank > 0) return tidy(() => matmul(a, b.unsqueeze(1)).squeeze(-1))
  if (a.rank < 2 || b.rank < 2 || a.shape[a.rank - 1] !== b.shape[b.rank - 2])
    fail(
      'AUX_SHAPE_MISMATCH',
      `matmul: expected inner sizes to match, got ${showShape(a.shape)} x ${showShape(b.shape)}`,
    )
  const batch = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2))
  return tidy(
    () =>
      apply(
        matmulOp,
        [a, b].map((t) => expand(t, [...batch, ...t.shape.slice(-2)])),
        undefined,
      )[0],
  )
}

/** @internal */
export const linearOp = defineOp<Fused>({
  name: 'linear',
  infer: ([x, w, bias]) => {
    expectDType('linear', 'input', x!, 'f32')
    expectRank('linear', 'weight', w!, 2)
    expectShape('linear', 'input', x!, [x!.shape[0], w!.shape[1]])
    if (bias) expectShape('linear', 'bias', bias, [w!.shape[0]])
    return fusedOutputs(x!.shape, [x!.shape[0], w!.shape[0]])
  },
  kernel: (_, __, a) => ({ name: 'linear', numbers: fusedNumbers(a) }),
  derive: (d) => [
    d.needs(0) ? matmul(d.grad()!, d.input(1)) : undefined,
    d.needs(1) ? matmul(d.grad()!.transpose(), d.input(0)) : undefined,
    d.needs(2) ? d.grad()!.sum(0) : undefined,
  ],
  optional: [1, 2],
  relu: { attrs: (a) => ({ ...a, relu: true }), mask: 2 },
  weighted: {
    index: 1,
    gradient: (delta, x) => matmul(delta.transpose(), x),
    withSigns: (a, epsilon, alphabet) => ({ ...a, epsilon, alphabet }),
    signGradient: (delta, signs, _, __, ___, scale, alphabet) => linearSignWeightGrad(delta, signs, scale, alphabet),
    codeGradient: linearCodeWeightGrad,
  },
})

/** y = x Wᵀ + b: x [..., I], weight [O, I], bias [O]; y [..., O]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  expectTensor('linear', x)
  expectTensor('linear', weight)
  if (x.rank === 0 || x.shape[x.rank - 1] !== weight.shape[1])
    fail('AUX_SHAPE_MISMATCH', `linear: expected input of shape [..., ${weight.shape[1]}], got ${showShape(x.shape)}`)
  return tidy(() => {
    const flat = x.rank === 2 ? x : x.reshape([-1, x.shape[x.rank - 1]])
    const y = apply(linearOp, [flat, weight, bias], {})[0]
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), weight.shape[0]])
  })
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Matrix product with broadcast batch axes. */
    matmul(b: Tensor): Tensor
  }
}

Tensor.prototype.matmul = function (b) {
  return matmul(this, b)
}

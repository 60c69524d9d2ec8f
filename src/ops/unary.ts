import { apply, defineOp, expectDType, type Op } from '../graph/op'
import { Tensor } from '../tensor/tensor'

// Example of an op family: elementwise functions of one tensor. Each row: shape rule, kernel, derivative.

const unary = (name: string, derive: Op<undefined>['derive']): Op<undefined> =>
  defineOp({
    name,
    infer: ([x]) => {
      expectDType(name, 'input', x!, 'f32')
      return [x!]
    },
    kernel: () => ({ name }),
    derive,
    strided: 'all',
    inplace: [0],
  })

const reluGrad = unary('relu_grad', undefined)
const relu = unary('relu', (d) => [apply(reluGrad, [d.grad(), d.output()], undefined)[0]])

declare module '../tensor/tensor' {
  interface Tensor {
    /** max(x, 0), elementwise; NaN stays NaN. */
    relu(): Tensor
  }
}

Tensor.prototype.relu = function () {
  return apply(relu, [this], undefined)[0]
}

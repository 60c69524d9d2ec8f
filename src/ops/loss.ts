import { apply, defineOp, expectDType, expectRank, expectShape, type Op } from '../graph/op'
import { Tensor } from '../tensor/tensor'

const rowwise = (name: string): Op<undefined> => {
  const grad: Op<undefined> = defineOp({
    name: `${name}_grad`,
    infer: ([dy]) => [{ shape: dy!.shape, dtype: 'f32' }],
    kernel: () => ({ name: `${name}_grad` }),
    inplace: [0],
  })
  return defineOp({
    name,
    infer: ([x]) => {
      expectDType(name, 'input', x!, 'f32')
      return [{ shape: x!.shape, dtype: 'f32' }]
    },
    kernel: () => ({ name }),
    derive: (d) => [apply(grad, [d.grad()!, d.output()], undefined)[0]],
    inplace: [0],
  })
}
const softmaxOp = rowwise('softmax')
const logSoftmaxOp = rowwise('log_softmax')

interface EntropyAttrs {
  smoothing: number
  ignore: number
}
const numbers = (a: EntropyAttrs): number[] => [a.smoothing, a.ignore]

const entropyGrad: Op<EntropyAttrs> = defineOp({
  name: 'cross_entropy_grad',
  infer: ([, logits]) => [{ shape: logits!.shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'cross_entropy_grad', numbers: numbers(a) }),
  inplace: [1],
})

const entropyOp: Op<EntropyAttrs> = defineOp({
  name: 'cross_entropy',
  infer: ([logits, labels]) => {
    expectRank('crossEntropy', 'logits', logits!, 2)
    expectDType('crossEntropy', 'labels', labels!, 'i32')
    expectShape('crossEntropy', 'labels', labels!, [logits!.shape[0]])
    const rows = { shape: [logits!.shape[0]], dtype: 'f32' as const }
    return [rows, rows]
  },
  kernel: (_, __, a) => ({ name: 'cross_entropy', numbers: numbers(a) }),
  derive: (d) => [apply(entropyGrad, [d.grad()!, d.input(0), d.input(1), d.output(1)], d.attrs)[0]],
})

export interface CrossEntropyOptions {
  /** Share of the target spread evenly over all classes (Szegedy et al. 2016). */
  labelSmoothing?: number
  /** Rows with this label do not count. */
  ignoreIndex?: number
}

/**
 * Mean softmax cross entropy: logits [rows, classes], labels i32 [rows].
 * @throws AUX_INDEX_OUT_OF_RANGE for a label outside [0, classes).
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const ignore = options.ignoreIndex ?? -100
  const losses = apply(entropyOp, [logits, labels], { smoothing: options.labelSmoothing ?? 0, ignore })[0]
  if (options.ignoreIndex === undefined) return losses.mean()
  return losses.sum().div(labels.ne(ignore).cast('f32').sum())
}

/** Mean squared error. */
export const mse = (prediction: Tensor, target: Tensor): Tensor => prediction.sub(target).square().mean()

declare module '../tensor/tensor' {
  interface Tensor {
    /** Softmax over the last axis. */
    softmax(): Tensor
    /** Logarithm of the softmax over the last axis. */
    logSoftmax(): Tensor
  }
}
Tensor.prototype.softmax = function () { return apply(softmaxOp, [this], undefined)[0] }
Tensor.prototype.logSoftmax = function () { return apply(logSoftmaxOp, [this], undefined)[0] }

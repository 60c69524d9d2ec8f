import { expectIntegers, expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, expectTensor, type Op } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { expectIndices } from './indices'
import { reduced, type Reduction } from './loss'

interface CtcAttrs {
  blank: number
  zeroInfinity: boolean
}
const numbers = (a: CtcAttrs): number[] => [a.blank, a.zeroInfinity ? 1 : 0]

// Backward goes over the frames from both ends: nothing is kept but the log-probabilities.
const gradient: Op<CtcAttrs> = defineOp({
  name: 'ctc_grad',
  infer: ([, x]) => [{ shape: x!.shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'ctc_grad', numbers: numbers(a) }),
})

const ctcOp: Op<CtcAttrs> = defineOp({
  name: 'ctc',
  infer: ([x]) => [{ shape: [x!.shape[0]], dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'ctc', numbers: numbers(a) }),
  derive: (d) => {
    const [x, targets] = [d.input(0), d.input(1)]
    const lengths = [2, 3].map((i) => (d.has(i) ? d.input(i) : undefined))
    return [apply(gradient, [d.grad()!, x, targets, ...lengths], d.attrs)[0]]
  },
  exact: true,
})

/** Options of `ctc`. */
export interface CtcOptions {
  /** Frames of each sample that count, i32 [N]; all unless given. */
  inputLengths?: Tensor
  /** Labels of each target that count, i32 [N]; all unless given. */
  targetLengths?: Tensor
  /** The class that says nothing (0). */
  blank?: number
  /** Whether a target longer than its frames can say has loss and gradient 0 instead of Infinity and NaN (false). */
  zeroInfinity?: boolean
  /** 'mean' unless given: of the losses, each over the length of its target. */
  reduction?: Reduction
}

/**
 * Connectionist temporal classification (Graves et al. 2006): how improbable the targets, i32 [N, labels], are over all
 * their alignments with frames, log-probabilities [N, T, classes] (`logits.logSoftmax()`).
 * @throws AUX_INDEX_OUT_OF_RANGE for a label that is no class, or a length beyond the tensor.
 */
export function ctc(logProbabilities: Tensor, targets: Tensor, options: CtcOptions = {}): Tensor {
  const name = 'ctc'
  expectTensor(name, logProbabilities)
  expectTensor(name, targets)
  expectOptions(name, options, ['inputLengths', 'targetLengths', 'blank', 'zeroInfinity', 'reduction'])
  const { blank = 0, zeroInfinity = false, reduction = 'mean' } = options
  expectRank(name, 'log-probabilities', logProbabilities, 3)
  expectDType(name, 'log-probabilities', logProbabilities, 'f32')
  expectRank(name, 'targets', targets, 2)
  const [n, , classes] = logProbabilities.shape
  if (targets.shape[0] !== n)
    fail('AUX_SHAPE_MISMATCH', `${name}: expected targets [${n}, labels], got ${showShape(targets.shape)}`)
  expectIntegers(name, { blank }, 0, classes - 1)
  return tidy(() => {
    const lengths = (['inputLengths', 'targetLengths'] as const).map((what) => {
      const given = options[what]
      if (given === undefined) return undefined
      expectTensor(name, given)
      expectShape(name, what, given, [n])
      return expectIndices(name, what, given)
    })
    const inputs = [logProbabilities, expectIndices(name, 'targets', targets), ...lengths]
    const losses = apply(ctcOp, inputs, { blank, zeroInfinity })[0]
    if (reduction !== 'mean') return reduced(name, losses, reduction)
    const [, own] = lengths
    return (own ? losses.div(own.cast('f32').maximum(1)) : losses.div(Math.max(1, targets.shape[1]))).mean()
  })
}

import { describe, expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, expectTensor, type Op } from '../graph/op'
import { broadcastShapes, resolveAxis, sameShape, showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { where } from './binary'
import { expectIndices } from './indices'
import { alias } from './shape'
import { huberOf } from './unary'

/** `second`: the gradients of the gradient with respect to dy and y, from the one of its result. */
const rowwise = (name: string, second: (g: Tensor, dy: Tensor, y: Tensor) => Tensor[]): Op<undefined> => {
  const grad: Op<undefined> = defineOp({
    name: `${name}_grad`,
    infer: ([dy]) => [{ shape: dy!.shape, dtype: 'f32' }],
    kernel: () => ({ name: `${name}_grad` }),
    derive: (d) => second(d.grad()!, d.input(0), d.input(1)),
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
const rows = (x: Tensor): Tensor => x.sum(-1, true)
const softmaxOp = rowwise('softmax', (g, dy, y) => {
  const along = rows(g.mul(y))
  return [y.mul(g.sub(along)), g.mul(dy.sub(rows(dy.mul(y)))).sub(dy.mul(along))]
})
const logSoftmaxOp = {
  ...rowwise('log_softmax', (g, dy, y) => {
    const p = y.exp()
    return [g.sub(rows(g.mul(p))), g.mul(p).mul(rows(dy)).neg()]
  }),
  exact: true,
}

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
  exact: true,
})

/** What becomes of the losses of the elements or rows: their mean (the default), their sum, or nothing. */
export type Reduction = 'mean' | 'sum' | 'none'

/** @internal */
export function reduced(name: string, losses: Tensor, reduction: Reduction = 'mean'): Tensor {
  if (reduction === 'none') return alias(losses)
  if (reduction !== 'mean' && reduction !== 'sum')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected reduction 'mean', 'sum' or 'none', got '${String(reduction)}'`)
  return losses[reduction]()
}

/** Options of `nll`. */
export interface NllOptions {
  /** Factor of each class, [classes]; the mean of labels is over the sum of their factors. */
  weight?: Tensor
  /** Rows with this label have loss 0 and do not count in the mean. */
  ignoreIndex?: number
  /** 'mean' unless given. */
  reduction?: Reduction
}

/** Options of `crossEntropy`. */
export interface CrossEntropyOptions extends NllOptions {
  /** Share of the target spread evenly over all classes (Szegedy et al. 2016). */
  labelSmoothing?: number
}

/** Cross entropy of targets that are probabilities, one distribution a row. */
function softEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions): Tensor {
  const { labelSmoothing: s = 0, ignoreIndex, weight, reduction } = options
  if (ignoreIndex !== undefined)
    fail('AUX_INVALID_ARGUMENT', 'crossEntropy: ignoreIndex goes with labels, got probabilities as targets')
  const classes = logits.shape[logits.rank - 1]
  const smooth = s ? targets.mul(1 - s).add(s / classes) : targets
  const shares = weight ? smooth.mul(weight) : smooth
  return reduced('crossEntropy', logits.logSoftmax().mul(shares).sum(-1).neg(), reduction)
}

/** The mean over rows that count; 0 if none does. */
const counted = (name: string, losses: Tensor, labels: Tensor, o: NllOptions): Tensor =>
  o.ignoreIndex === undefined || (o.reduction ?? 'mean') !== 'mean'
    ? reduced(name, losses, o.reduction)
    : losses.sum().div(labels.ne(o.ignoreIndex).cast('f32').sum().maximum(1))

/** Labels with 0 for those that do not count. */
const safe = (labels: Tensor, counts: Tensor | undefined): Tensor => (counts ? labels.mul(counts.cast('i32')) : labels)

/** The weights of safe labels, 0 of those that do not count. */
function factorsOf(weight: Tensor, labels: Tensor, counts: Tensor | undefined): Tensor {
  const factors = weight.indexSelect(0, labels)
  return counts ? factors.mul(counts.cast('f32')) : factors
}

/** The mean over the sum of factors, which losses have been multiplied by. */
const shared = (losses: Tensor, factors: Tensor): Tensor => losses.sum().div(factors.sum().maximum(1e-12))

/**
 * Losses of labels times the weights of these, the share that is smoothed of all classes with the weight of each; an
 * ignored label weighs nothing.
 */
function weighted(
  logits: Tensor,
  labels: Tensor,
  weight: Tensor,
  attrs: EntropyAttrs,
  shape: Shape,
  options: CrossEntropyOptions,
): Tensor {
  const { ignoreIndex, reduction = 'mean' } = options
  const { smoothing } = attrs
  const losses = apply(entropyOp, [logits, labels], { ...attrs, smoothing: 0 })[0]
  const counts = ignoreIndex === undefined ? undefined : labels.ne(ignoreIndex)
  const own = factorsOf(weight, safe(labels, counts), counts)
  let each = losses.mul(own)
  if (smoothing) {
    const all = logits.logSoftmax().mul(weight).mean(-1).mul(-smoothing)
    each = each.mul(1 - smoothing).add(counts ? all.mul(counts.cast('f32')) : all)
  }
  if (reduction === 'mean') return shared(each, own)
  return reduced('crossEntropy', reduction === 'none' ? each.reshape(shape.slice(0, -1)) : each, reduction)
}

/** No label: i32 cannot hold it. */
const nothing = 2 ** 31

/**
 * Softmax cross entropy: logits [..., classes], labels i32 [...]; or targets that are probabilities, f32 [..., classes].
 * @throws AUX_INDEX_OUT_OF_RANGE for a label outside [0, classes) that is not `ignoreIndex`.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  expectTensor('crossEntropy', logits)
  expectTensor('crossEntropy', labels)
  expectOptions('crossEntropy', options, ['labelSmoothing', 'weight', 'ignoreIndex', 'reduction'])
  const { labelSmoothing = 0, weight } = options
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1))
    fail(
      'AUX_INVALID_ARGUMENT',
      `crossEntropy: expected labelSmoothing to be a number from 0 to 1, got ${describe(labelSmoothing)}`,
    )
  if (logits.rank < 1) fail('AUX_SHAPE_MISMATCH', 'crossEntropy: expected logits [..., classes], got shape []')
  if (weight) {
    expectTensor('crossEntropy', weight)
    expectShape('crossEntropy', 'weight', weight, logits.shape.slice(-1))
  }
  return tidy(() => {
    if (labels.dtype === 'f32' && sameShape(labels.shape, logits.shape)) return softEntropy(logits, labels, options)
    const classes = expectIndices('crossEntropy', 'labels', labels)
    expectShape('crossEntropy', 'labels', classes, logits.shape.slice(0, -1))
    const [x, y] =
      logits.rank === 2
        ? [logits, classes]
        : [logits.reshape([-1, logits.shape[logits.rank - 1]]), classes.reshape([classes.size])]
    const attrs = { smoothing: labelSmoothing, ignore: options.ignoreIndex ?? nothing }
    if (weight) return weighted(x, y, weight, attrs, logits.shape, options)
    const losses = apply(entropyOp, [x, y], attrs)[0]
    if (options.reduction === 'none') return losses.reshape(labels.shape)
    return counted('crossEntropy', losses, y, options)
  })
}

/** Negative log-likelihood: log-probabilities [..., classes], labels i32 [...]; otherwise as `crossEntropy`. */
export function nll(logProbabilities: Tensor, labels: Tensor, options: NllOptions = {}): Tensor {
  expectOptions('nll', options, ['weight', 'ignoreIndex', 'reduction'])
  expectTensor('nll', logProbabilities)
  if (logProbabilities.rank < 1)
    fail('AUX_SHAPE_MISMATCH', 'nll: expected log-probabilities [..., classes], got shape []')
  const { weight, ignoreIndex, reduction = 'mean' } = options
  if (weight) {
    expectTensor('nll', weight)
    expectShape('nll', 'weight', weight, logProbabilities.shape.slice(-1))
  }
  return tidy(() => {
    const classes = expectIndices('nll', 'labels', labels)
    expectShape('nll', 'labels', classes, logProbabilities.shape.slice(0, -1))
    const counts = ignoreIndex === undefined ? undefined : classes.ne(ignoreIndex)
    const labelled = safe(classes, counts)
    const picked = logProbabilities.gather(-1, labelled.unsqueeze(-1)).reshape(classes.shape).neg()
    const losses = counts ? where(counts, picked, picked.mul(0).detach()) : picked
    if (!weight) return counted('nll', losses, classes, options)
    const own = factorsOf(weight, labelled.flatten(), counts?.flatten()).reshape(classes.shape)
    const each = losses.mul(own)
    return reduction === 'mean' ? shared(each, own) : reduced('nll', each, reduction)
  })
}

/**
 * The difference of prediction and target. The target may broadcast to the prediction, but not make more of it: of
 * [N, 1] and [N] that would be all N² differences.
 */
function difference(name: string, prediction: Tensor, target: Tensor): Tensor {
  expectTensor(name, prediction)
  expectTensor(name, target)
  const { shape } = prediction
  if (!sameShape(broadcastShapes(name, shape, target.shape), shape))
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected a target of shape ${showShape(shape)}, got ${showShape(target.shape)}`,
    )
  return prediction.sub(target)
}

/** Mean squared error; the target has the shape of the prediction, or broadcasts to it. */
export function mse(prediction: Tensor, target: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  expectOptions('mse', options, ['reduction'])
  return tidy(() => reduced('mse', difference('mse', prediction, target).square(), options.reduction))
}

/** Mean absolute error. */
export function l1(prediction: Tensor, target: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  expectOptions('l1', options, ['reduction'])
  return tidy(() => reduced('l1', difference('l1', prediction, target).abs(), options.reduction))
}

/** Squared up to a distance of delta (halved), straight beyond (Huber 1964). */
export function huber(
  prediction: Tensor,
  target: Tensor,
  options: { delta?: number; reduction?: Reduction } = {},
): Tensor {
  expectOptions('huber', options, ['delta', 'reduction'])
  const { delta = 1, reduction } = options
  if (!(delta > 0)) fail('AUX_INVALID_ARGUMENT', `huber: expected delta > 0, got ${delta}`)
  return tidy(() => reduced('huber', huberOf(difference('huber', prediction, target), delta), reduction))
}

/** huber / beta with delta = beta: the absolute error, rounded off within beta of 0. */
export function smoothL1(
  prediction: Tensor,
  target: Tensor,
  options: { beta?: number; reduction?: Reduction } = {},
): Tensor {
  expectOptions('smoothL1', options, ['beta', 'reduction'])
  const { beta = 1, reduction } = options
  if (!(beta >= 0)) fail('AUX_INVALID_ARGUMENT', `smoothL1: expected beta >= 0, got ${beta}`)
  if (beta === 0) return l1(prediction, target, { reduction })
  return tidy(() =>
    reduced('smoothL1', huberOf(difference('smoothL1', prediction, target), beta).mul(1 / beta), reduction),
  )
}

const bceGrad: Op<{ weight: number }> = defineOp({
  name: 'bce_with_logits_grad',
  infer: ([, x]) => [{ shape: x!.shape, dtype: 'f32' }],
  kernel: (_, __, { weight }) => ({ name: 'bce_with_logits_grad', numbers: [weight] }),
  strided: 'all',
  inplace: [0],
})

const bceOp: Op<{ weight: number }> = defineOp({
  name: 'bce_with_logits',
  infer: ([x, y]) => {
    expectDType('bceWithLogits', 'logits', x!, 'f32')
    expectDType('bceWithLogits', 'targets', y!, 'f32')
    expectShape('bceWithLogits', 'targets', y!, x!.shape)
    return [{ shape: x!.shape, dtype: 'f32' }]
  },
  kernel: (_, __, { weight }) => ({ name: 'bce_with_logits', numbers: [weight] }),
  derive: (d) => {
    if (d.needs(1))
      fail('AUX_NO_GRADIENT', 'bceWithLogits: the targets get no gradient; wrap them in detach() if none is meant')
    return [apply(bceGrad, [d.grad()!, d.input(0), d.input(1)], d.attrs)[0], undefined]
  },
  strided: 'all',
  exact: true,
})

/**
 * Binary cross entropy of sigmoid(logits), stable for logits of any size. `posWeight` multiplies the positive class: one
 * number, or a tensor such as [classes] that broadcasts to the logits.
 */
export function bceWithLogits(
  logits: Tensor,
  targets: Tensor,
  options: { posWeight?: number | Tensor; reduction?: Reduction } = {},
): Tensor {
  const name = 'bceWithLogits'
  expectOptions(name, options, ['posWeight', 'reduction'])
  const { posWeight = 1, reduction } = options
  const each = posWeight instanceof Tensor
  if (!each && !(typeof posWeight === 'number' && posWeight >= 0 && Number.isFinite(posWeight)))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected posWeight to be a number >= 0 or a tensor, got ${describe(posWeight)}`,
    )
  return tidy(() => {
    const losses = apply(bceOp, [logits, targets], { weight: each ? 1 : posWeight })[0]
    if (!each) return reduced(name, losses, reduction)
    if (!sameShape(broadcastShapes(name, posWeight.shape, logits.shape), logits.shape))
      fail(
        'AUX_SHAPE_MISMATCH',
        `${name}: expected posWeight to broadcast to ${showShape(logits.shape)}, got ${showShape(posWeight.shape)}`,
      )
    return reduced(name, losses.add(logits.neg().softplus().mul(targets).mul(posWeight.sub(1))), reduction)
  })
}

/**
 * Kullback-Leibler divergence of the targets from the prediction, given as log-probabilities: t (log t - x), 0 where t
 * is 0. With `logTarget` the targets are log-probabilities too; 'batchmean' divides the sum by the first axis.
 */
export function klDivergence(
  input: Tensor,
  target: Tensor,
  options: { logTarget?: boolean; reduction?: Reduction | 'batchmean' } = {},
): Tensor {
  expectOptions('klDivergence', options, ['logTarget', 'reduction'])
  const { logTarget = false, reduction } = options
  for (const t of [input, target]) expectTensor('klDivergence', t)
  return tidy(() => {
    const tiny = 2 ** -126
    const losses = logTarget ? target.exp().mul(target.sub(input)) : target.mul(target.maximum(tiny).log().sub(input))
    if (reduction === 'batchmean') return losses.sum().div(input.shape[0])
    return reduced('klDivergence', losses, reduction)
  })
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Softmax over an axis (the last by default). */
    softmax(axis?: number): Tensor
    /** Logarithm of the softmax over an axis (the last by default). */
    logSoftmax(axis?: number): Tensor
  }
}

function along(op: Op<undefined>, x: Tensor, axis: number): Tensor {
  const at = resolveAxis(op.name, axis, x.rank)
  if (at === x.rank - 1) return apply(op, [x], undefined)[0]
  return tidy(() => apply(op, [x.transpose(at, -1)], undefined)[0].transpose(at, -1))
}
Tensor.prototype.softmax = function (axis = -1) {
  return along(softmaxOp, this, axis)
}
Tensor.prototype.logSoftmax = function (axis = -1) {
  return along(logSoftmaxOp, this, axis)
}

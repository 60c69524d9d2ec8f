import { expectOptions, fail } from '../errors'
import { expectRank, expectShape, expectTensor } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { where } from './binary'
import { expectIndices, oneHot } from './indices'
import { bceWithLogits, reduced, type Reduction } from './loss'

// Losses of scores of classes, one or several of which are right.

/** Options of `multiMargin`. */
export interface MultiMarginOptions {
  /** Power of what falls short, 1 (the default) or 2. */
  p?: 1 | 2
  /** How much larger the score of the right class should be (1). */
  margin?: number
  /** Factor of each class, [classes]. */
  weight?: Tensor
  /** 'mean' unless given. */
  reduction?: Reduction
}

/**
 * Scores [N, classes], labels i32 [N] (Crammer & Singer 2001): the mean, over classes, of what the score of the right
 * one falls short of each other score and the margin.
 * @throws AUX_INDEX_OUT_OF_RANGE for a label outside [0, classes).
 */
export function multiMargin(scores: Tensor, labels: Tensor, options: MultiMarginOptions = {}): Tensor {
  const name = 'multiMargin'
  expectTensor(name, scores)
  expectRank(name, 'scores', scores, 2)
  expectOptions(name, options, ['p', 'margin', 'weight', 'reduction'])
  const { p = 1, margin = 1, weight, reduction } = options
  const [n, classes] = scores.shape
  if (p !== 1 && p !== 2) fail('AUX_INVALID_ARGUMENT', `${name}: expected p to be 1 or 2, got ${String(p)}`)
  if (!Number.isFinite(margin)) fail('AUX_INVALID_ARGUMENT', `${name}: expected margin to be a number, got ${margin}`)
  if (weight) expectShape(name, 'weight', weight, [classes])
  return tidy(() => {
    const right = expectIndices(name, 'labels', labels)
    expectShape(name, 'labels', right, [n])
    const short = scores
      .sub(scores.gather(1, right.unsqueeze(1)))
      .add(margin)
      .relu()
    const others = oneHot(right, classes).neg().add(1)
    const losses = (p === 2 ? short.square() : short).mul(others).sum(-1).div(classes)
    return reduced(name, weight ? losses.mul(weight.indexSelect(0, right)) : losses, reduction)
  })
}

/**
 * Scores [N, classes]; targets i32 [N, classes], in each row the right classes, up to the first -1: the sum of what the
 * score of each right class falls short of the score of each other one and 1, over the number of classes.
 */
export function multilabelMargin(scores: Tensor, targets: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  const name = 'multilabelMargin'
  expectTensor(name, scores)
  expectRank(name, 'scores', scores, 2)
  expectOptions(name, options, ['reduction'])
  const [, classes] = scores.shape
  return tidy(() => {
    const given = expectIndices(name, 'targets', targets)
    expectShape(name, 'targets', given, scores.shape)
    const counts = given.lt(0).cast('f32').cumsum(1).eq(0)
    const right = where(counts, given, 0)
    const chosen = counts.cast('f32').unsqueeze(2) // [N, targets, 1]
    const others = oneHot(right, classes).mul(chosen).max(1).neg().add(1) // [N, classes]
    const short = scores.unsqueeze(1).sub(scores.gather(1, right).unsqueeze(2)).add(1).relu()
    return reduced(name, short.mul(chosen).mul(others.unsqueeze(1)).sum([1, 2]).div(classes), options.reduction)
  })
}

/** Binary cross entropy of each class, logits and targets [..., classes], averaged over classes; `weight` [classes]. */
export function multilabelSoftMargin(
  logits: Tensor,
  targets: Tensor,
  options: { weight?: Tensor; reduction?: Reduction } = {},
): Tensor {
  const name = 'multilabelSoftMargin'
  expectTensor(name, logits)
  expectTensor(name, targets)
  expectShape(name, 'targets', targets, logits.shape)
  expectOptions(name, options, ['weight', 'reduction'])
  const { weight, reduction } = options
  if (weight) expectShape(name, 'weight', weight, logits.shape.slice(-1))
  return tidy(() => {
    const losses = bceWithLogits(logits, targets, { reduction: 'none' })
    return reduced(name, (weight ? losses.mul(weight) : losses).mean(-1), reduction)
  })
}

/** log(1 + exp(-label · score)) of scores with labels 1 and -1. */
export function softMargin(scores: Tensor, labels: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  const name = 'softMargin'
  expectTensor(name, scores)
  expectTensor(name, labels)
  expectShape(name, 'labels', labels, scores.shape)
  expectOptions(name, options, ['reduction'])
  return tidy(() => reduced(name, scores.mul(labels.cast('f32')).neg().softplus(), options.reduction))
}

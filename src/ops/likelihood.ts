import { expectOptions, fail } from '../errors'
import { expectShape, expectTensor } from '../graph/op'
import { broadcastShapes, sameShape, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { bceWithLogits, reduced, type Reduction } from './loss'

// Losses that are negative log-likelihoods, without what does not depend on the prediction.

/**
 * Of counts under a Poisson distribution whose rate is exp(prediction), or with `logInput: false` the prediction itself:
 * rate - target log(rate). `eps` keeps that logarithm from 0.
 */
export function poissonNll(
  prediction: Tensor,
  target: Tensor,
  options: { logInput?: boolean; eps?: number; reduction?: Reduction } = {},
): Tensor {
  const name = 'poissonNll'
  expectTensor(name, prediction)
  expectTensor(name, target)
  expectOptions(name, options, ['logInput', 'eps', 'reduction'])
  const { logInput = true, eps = 1e-8, reduction } = options
  expectShape(name, 'target', target, prediction.shape)
  return tidy(() => {
    const losses = logInput
      ? prediction.exp().sub(target.mul(prediction))
      : prediction.sub(target.mul(prediction.add(eps).log()))
    return reduced(name, losses, reduction)
  })
}

/**
 * Of a target under a normal distribution with this mean and variance, which has the shape of the mean or broadcasts to it
 * ([N, 1]: one for a sample): (log(variance) + (mean - target)² / variance) / 2. Variances below `eps` count as `eps`.
 */
export function gaussianNll(
  mean: Tensor,
  target: Tensor,
  variance: Tensor,
  options: { eps?: number; reduction?: Reduction } = {},
): Tensor {
  const name = 'gaussianNll'
  for (const t of [mean, target, variance]) expectTensor(name, t)
  expectOptions(name, options, ['eps', 'reduction'])
  const { eps = 1e-6, reduction } = options
  if (!(eps > 0)) fail('AUX_INVALID_ARGUMENT', `${name}: expected eps > 0, got ${eps}`)
  expectShape(name, 'target', target, mean.shape)
  if (!sameShape(broadcastShapes(name, variance.shape, mean.shape), mean.shape))
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected a variance that broadcasts to ${showShape(mean.shape)}, got ${showShape(variance.shape)}`,
    )
  return tidy(() => {
    const spread = variance.maximum(eps)
    return reduced(name, mean.sub(target).square().div(spread).add(spread.log()).mul(0.5), reduction)
  })
}

/**
 * Binary cross entropy of sigmoid(logits) that counts for less where it is small (Lin et al. 2017): times
 * (1 - p)^gamma, p the probability of the target, and times `alpha` for the positive class, 1 - alpha for the other.
 */
export function focal(
  logits: Tensor,
  targets: Tensor,
  options: { alpha?: number; gamma?: number; reduction?: Reduction } = {},
): Tensor {
  const name = 'focal'
  expectOptions(name, options, ['alpha', 'gamma', 'reduction'])
  const { alpha = 0.25, gamma = 2, reduction } = options
  if (!(alpha >= 0 && alpha <= 1))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected alpha to be a number from 0 to 1, got ${alpha}`)
  if (!(gamma >= 0)) fail('AUX_INVALID_ARGUMENT', `${name}: expected gamma >= 0, got ${gamma}`)
  return tidy(() => {
    const losses = bceWithLogits(logits, targets, { reduction: 'none' })
    const p = logits.sigmoid()
    const missed = p.add(targets).sub(p.mul(targets).mul(2)) // 1 - p of the target
    const share = targets.mul(2 * alpha - 1).add(1 - alpha)
    // pow's gradient is infinite at 0 where gamma is below 1.
    return reduced(
      name,
      losses.mul(share).mul(gamma === 2 ? missed.square() : missed.maximum(2 ** -126).pow(gamma)),
      reduction,
    )
  })
}

import { fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, type Op } from '../graph/op'
import { describe } from '../tensor/host'
import { showShape, sizeOf } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'

const f32 = (shape: readonly number[]): { shape: readonly number[]; dtype: 'f32' } => ({ shape, dtype: 'f32' })
const channels = (shape: readonly number[]): number[] => [shape[shape.length - 1]]

/** Throws unless the weight of a norm has an element for each feature of the input. */
function expectFeatures(name: string, x: Spec, gamma: Spec): void {
  expectDType(name, 'input', x, 'f32')
  expectRank(name, 'weight', gamma, 1)
  const { shape } = x
  if (shape[shape.length - 1] !== gamma.shape[0])
    fail('AUX_SHAPE_MISMATCH', `${name}: expected input of shape [..., ${gamma.shape[0]}], got ${showShape(shape)}`)
}

function expectEps(name: string, eps: unknown): void {
  if (typeof eps !== 'number' || !(eps >= 0 && Number.isFinite(eps)))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected eps to be a number >= 0, got ${describe(eps)}`)
}

/** @internal Mean, biased variance and 1 / sqrt(variance + eps) over all but the last axis. */
export const statsOp: Op<{ eps: number }> = defineOp({
  name: 'batch_norm_stats',
  infer: ([x]) => [f32(channels(x!.shape)), f32(channels(x!.shape)), f32(channels(x!.shape))],
  kernel: (_, __, a) => ({ name: 'batch_norm_stats', numbers: [a.eps] }),
  constant: true, // batch_norm_grad differentiates through the statistics
  statistics: true,
})

const gradOp: Op<{ own: boolean }> = defineOp({
  name: 'batch_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape)), f32(channels(dy!.shape))],
  kernel: (_, __, a) => ({ name: 'batch_norm_grad', numbers: [a.own ? 1 : 0] }),
  inplace: [0, 1],
})

/** `own`: mean and rstd are the statistics of this very batch, and gradients flow through them. */
const applyOp: Op<{ own: boolean; relu?: boolean }> = defineOp({
  name: 'batch_norm_apply',
  infer: ([x, , , gamma]) => {
    expectFeatures('batchNorm', x!, gamma!)
    return [f32(x!.shape)]
  },
  kernel: (_, __, a) => ({ name: 'batch_norm_apply', numbers: [a.relu ? 1 : 0] }),
  relu: { attrs: (a) => ({ ...a, relu: true }) },
  derive: (d) => {
    if (!d.attrs.own && !d.needs(3)) {
      // x times a number that does not learn, plus beta: x is not needed.
      const dy = d.grad()!
      const rows = dy.shape.map((_, i) => i).slice(0, -1)
      return [
        d.needs(0) ? dy.mul(d.input(2).mul(d.input(3))) : undefined,
        undefined,
        undefined,
        undefined,
        d.needs(4) ? dy.sum(rows) : undefined,
      ]
    }
    const [dx, dgamma, dbeta] = apply(gradOp, [d.grad()!, d.input(0), d.input(1), d.input(2), d.input(3)], {
      own: d.attrs.own,
    })
    return [dx, undefined, undefined, dgamma, dbeta]
  },
  // A scale of 0 tells nothing of x; then it is taken for the mean.
  inverse: (y, [mean, rstd, gamma, beta]) => {
    const unscale = gamma!.sign().div(gamma!.abs().maximum(1e-12))
    return apply(applyOp, [y, beta, unscale, rstd!.reciprocal(), mean], { own: false })[0]
  },
  inplace: [0],
})

const runningOp: Op<{ momentum: number; factor: number }> = defineOp({
  name: 'running_update',
  infer: () => [],
  kernel: (_, __, a) => ({ name: 'running_update', numbers: [a.momentum, a.factor] }),
  mutates: [0],
  constant: true,
})

/** Running statistics of a batch norm. */
export interface BatchNormState {
  /** [channels], changed in place in training. */
  runningMean: Tensor
  /** [channels], changed in place in training. */
  runningVar: Tensor
  /** Share of the batch in the new value. */
  momentum: number
}

/**
 * Batch normalisation over the last axis (Ioffe & Szegedy 2015). In training the batch's own statistics are used and
 * the running ones updated (variance unbiased); otherwise the running ones are used.
 */
export function batchNorm(
  x: Tensor,
  gamma: Tensor,
  beta: Tensor,
  state: BatchNormState,
  training: boolean,
  eps = 1e-5,
): Tensor {
  expectEps('batchNorm', eps)
  if (!training) {
    const rstd = state.runningVar.add(eps).rsqrt()
    return apply(applyOp, [x, state.runningMean, rstd, gamma, beta], { own: false })[0]
  }
  const [mean, variance, rstd] = apply(statsOp, [x], { eps })
  const rows = sizeOf(x.shape.slice(0, -1))
  apply(runningOp, [state.runningMean, mean], { momentum: state.momentum, factor: 1 })
  apply(runningOp, [state.runningVar, variance], { momentum: state.momentum, factor: rows / Math.max(1, rows - 1) })
  return apply(applyOp, [x, mean, rstd, gamma, beta], { own: true })[0]
}

const layerGradOp: Op<undefined> = defineOp({
  name: 'layer_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape)), f32(channels(dy!.shape))],
  kernel: () => ({ name: 'layer_norm_grad' }),
  inplace: [0, 1],
})

const layerOp: Op<{ eps: number }> = defineOp({
  name: 'layer_norm',
  infer: ([x, gamma]) => {
    expectFeatures('layerNorm', x!, gamma!)
    return [f32(x!.shape), f32(x!.shape.slice(0, -1)), f32(x!.shape.slice(0, -1))]
  },
  kernel: (_, __, a) => ({ name: 'layer_norm', numbers: [a.eps] }),
  derive: (d) => apply(layerGradOp, [d.grad()!, d.input(0), d.output(1), d.output(2), d.input(1)], undefined),
  inplace: [0],
})

/** Layer normalisation over the last axis (Ba et al. 2016). */
export function layerNorm(x: Tensor, gamma: Tensor, beta: Tensor, eps = 1e-5): Tensor {
  expectEps('layerNorm', eps)
  return apply(layerOp, [x, gamma, beta], { eps })[0]
}

const groupGradOp: Op<{ groups: number }> = defineOp({
  name: 'group_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape)), f32(channels(dy!.shape))],
  kernel: (_, __, a) => ({ name: 'group_norm_grad', numbers: [a.groups] }),
  inplace: [0, 1],
})

const groupOp: Op<{ groups: number; eps: number }> = defineOp({
  name: 'group_norm',
  infer: ([x, gamma, beta], { groups }) => {
    expectDType('groupNorm', 'input', x!, 'f32')
    if (x!.shape.length < 2)
      fail('AUX_SHAPE_MISMATCH', `groupNorm: expected input [N, ..., C], got shape ${showShape(x!.shape)}`)
    const [c] = channels(x!.shape)
    if (!Number.isInteger(groups) || groups < 1 || c % groups)
      fail('AUX_INVALID_ARGUMENT', `groupNorm: expected a number of groups that divides ${c} channels, got ${groups}`)
    expectShape('groupNorm', 'weight', gamma!, [c])
    expectShape('groupNorm', 'bias', beta!, [c])
    const statistics = f32([x!.shape[0], groups])
    return [f32(x!.shape), statistics, statistics]
  },
  kernel: (_, __, a) => ({ name: 'group_norm', numbers: [a.groups, a.eps] }),
  derive: (d) =>
    apply(groupGradOp, [d.grad()!, d.input(0), d.output(1), d.output(2), d.input(1)], { groups: d.attrs.groups }),
  inplace: [0],
})

/** Group normalisation of x [N, ..., C]: statistics per sample and group of neighbouring channels (Wu & He 2018). */
export function groupNorm(x: Tensor, groups: number, gamma: Tensor, beta: Tensor, eps = 1e-5): Tensor {
  expectEps('groupNorm', eps)
  return apply(groupOp, [x, gamma, beta], { groups, eps })[0]
}

const rmsGradOp: Op<undefined> = defineOp({
  name: 'rms_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape))],
  kernel: () => ({ name: 'rms_norm_grad' }),
  inplace: [0, 1],
})

const rmsOp: Op<{ eps: number }> = defineOp({
  name: 'rms_norm',
  infer: ([x, gamma]) => {
    expectFeatures('rmsNorm', x!, gamma!)
    return [f32(x!.shape), f32(x!.shape.slice(0, -1))]
  },
  kernel: (_, __, a) => ({ name: 'rms_norm', numbers: [a.eps] }),
  derive: (d) => apply(rmsGradOp, [d.grad()!, d.input(0), d.output(1), d.input(1)], undefined),
  inplace: [0],
})

/** x / √(mean(x²) + eps) · gamma over the last axis (Zhang & Sennrich 2019). */
export function rmsNorm(x: Tensor, gamma: Tensor, eps = 1e-6): Tensor {
  expectEps('rmsNorm', eps)
  return apply(rmsOp, [x, gamma], { eps })[0]
}

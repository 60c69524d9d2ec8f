import { describe, expectOptions, fail } from '../errors'
import {
  apply,
  defineOp,
  expectDType,
  expectRank,
  expectShape,
  expectTensor,
  graphOf,
  type Derivation,
  type Op,
} from '../graph/op'
import { showShape, sizeOf } from '../tensor/shape'
import { Tensor, type Spec } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { fillOp } from './create'

type Specs = Readonly<Record<string, Spec | undefined>>

const f32 = (shape: readonly number[]): { shape: readonly number[]; dtype: 'f32' } => ({ shape, dtype: 'f32' })
const channels = (shape: readonly number[]): number[] => [shape[shape.length - 1]]

/** Throws unless the weight of a norm, and what else it has for each feature, fits the input. */
function expectFeatures(name: string, x: Spec | undefined, gamma: Spec | undefined, others: Specs = {}): void {
  expectDType(name, 'input', x, 'f32')
  expectDType(name, 'weight', gamma, 'f32')
  expectRank(name, 'weight', gamma, 1)
  const { shape } = x!
  if (shape[shape.length - 1] !== gamma!.shape[0])
    fail('AUX_SHAPE_MISMATCH', `${name}: expected input of shape [..., ${gamma!.shape[0]}], got ${showShape(shape)}`)
  for (const [what, t] of Object.entries(others)) {
    expectDType(name, what, t, 'f32')
    expectShape(name, what, t, gamma!.shape)
  }
}

/** What the derivative of a norm's gradient has to know of the norm. */
interface Normalised {
  /** The input behind mean and deviation, before weight and bias. */
  readonly normal: Tensor
  /** 1 / deviation, as it broadcasts to the input. */
  readonly rstd: Tensor
  readonly gamma: Tensor
  /** The gradient of the input, from one of the normalised input. */
  readonly back: (g: Tensor, one: Tensor) => Tensor
  /** The mean over what one deviation is of, as it broadcasts; none where the statistics are constants. */
  readonly mean?: (t: Tensor) => Tensor
}

/**
 * The derivative of a norm's gradient, which is back(dy γ), Σ dy n and Σ dy for the normalised input n. Seen as a map of
 * gradients, `back` is symmetric; it is also how n changes with x, and the deviation's change is that of mean(n δx).
 * All that goes through mean and deviation is counted as x's, so these get no gradient of their own.
 * @returns gradients of dy, x and gamma.
 */
function differentiated(
  d: Derivation<unknown>,
  { normal, rstd, gamma, back, mean }: Normalised,
): [dy: Tensor | undefined, x: Tensor | undefined, gamma: Tensor | undefined] {
  const [dy, u, v, w] = [d.input(0), d.grad(0), d.grad(1), d.grad(2)]
  const one = graphOf([dy])!.add(fillOp, [], { shape: gamma.shape, dtype: 'f32', value: 1 }).outputs[0]
  const sum = (...terms: (Tensor | undefined)[]): Tensor | undefined =>
    terms.reduce((a, b) => (a && b ? a.add(b) : (a ?? b)), undefined)
  const ofInput = u && back(u, one)
  let ofNormal = v && dy.mul(v)
  let ofDeviation: Tensor | undefined
  if (u && mean) {
    const scaled = dy.mul(gamma)
    const mixed = scaled.mul(mean(u.mul(normal))).add(u.mul(mean(scaled.mul(normal))))
    ofNormal = sum(ofNormal, mixed.mul(rstd).neg())
    ofDeviation = normal
      .mul(rstd)
      .mul(mean(u.mul(back(scaled, one))))
      .neg()
  }
  return [
    sum(ofInput?.mul(gamma), v?.mul(normal), w?.expand(dy.shape)),
    sum(ofNormal && back(ofNormal, one), ofDeviation),
    ofInput?.mul(dy).sum(dy.shape.map((_, i) => i).slice(0, -1)),
  ]
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
  derive: (d) => {
    const [x, mean, rstd, gamma] = [d.input(1), d.input(2), d.input(3), d.input(4)]
    const rows = x.shape.map((_, i) => i).slice(0, -1)
    const [ofDy, ofX, ofGamma] = differentiated(d, {
      normal: x.sub(mean).mul(rstd),
      rstd,
      gamma,
      back: (g, one) => apply(gradOp, [g, x, mean, rstd, one], d.attrs)[0],
      mean: d.attrs.own ? (t) => t.mean(rows) : undefined,
    })
    return [ofDy, ofX, undefined, undefined, ofGamma]
  },
  inplace: [0, 1],
})

/** `own`: mean and rstd are the statistics of this very batch, and gradients flow through them. */
const applyOp: Op<{ own: boolean; relu?: boolean }> = defineOp({
  name: 'batch_norm_apply',
  infer: ([x, mean, rstd, gamma, beta]) => {
    expectFeatures('batchNorm', x, gamma, { bias: beta, mean, 'inverse deviation': rstd })
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
  /** Share of the batch in the new value; a tensor [] where it changes from run to run. */
  momentum: number | Tensor
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
  expectOptions('batchNorm: state', state)
  const { runningMean, runningVar, momentum } = state
  const varies = momentum instanceof Tensor
  if (varies) expectShape('batchNorm', 'momentum', momentum, [])
  else if (training && !(typeof momentum === 'number' && momentum >= 0 && momentum <= 1))
    fail('AUX_INVALID_ARGUMENT', `batchNorm: expected momentum in [0, 1], got ${describe(momentum)}`)
  // All is checked before the running statistics change.
  for (const t of [x, gamma, beta, runningMean, runningVar]) expectTensor('batchNorm', t)
  expectFeatures('batchNorm', x, gamma, {
    bias: beta,
    'the running mean': runningMean,
    'the running variance': runningVar,
  })
  const rows = sizeOf(x.shape.slice(0, -1))
  if (training && rows === 1)
    fail(
      'AUX_SHAPE_MISMATCH',
      `batchNorm: expected more than one value a channel in training, got ${showShape(x.shape)}, whose every value is its ` +
        'own mean; a loader with dropLast leaves out a last batch of one row',
    )
  return tidy(() => {
    if (!training) {
      const rstd = runningVar.add(eps).rsqrt()
      return apply(applyOp, [x, runningMean, rstd, gamma, beta], { own: false })[0]
    }
    const [mean, variance, rstd] = apply(statsOp, [x], { eps })
    const learn = (running: Tensor, value: Tensor, factor: number): void => {
      if (varies) running.assign(running.add(value.mul(factor).sub(running).mul(momentum)))
      else apply(runningOp, [running, value], { momentum, factor })
    }
    learn(runningMean, mean, 1)
    learn(runningVar, variance, rows / Math.max(1, rows - 1))
    return apply(applyOp, [x, mean, rstd, gamma, beta], { own: true })[0]
  })
}

const layerGradOp: Op<undefined> = defineOp({
  name: 'layer_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape)), f32(channels(dy!.shape))],
  kernel: () => ({ name: 'layer_norm_grad' }),
  derive: (d) => {
    const [x, mean, rstd, gamma] = [d.input(1), d.input(2), d.input(3), d.input(4)]
    const [ofDy, ofX, ofGamma] = differentiated(d, {
      normal: x.sub(mean.unsqueeze(-1)).mul(rstd.unsqueeze(-1)),
      rstd: rstd.unsqueeze(-1),
      gamma,
      back: (g, one) => apply(layerGradOp, [g, x, mean, rstd, one], undefined)[0],
      mean: (t) => t.mean(-1, true),
    })
    return [ofDy, ofX, undefined, undefined, ofGamma]
  },
  inplace: [0, 1],
})

const layerOp: Op<{ eps: number }> = defineOp({
  name: 'layer_norm',
  infer: ([x, gamma, beta]) => {
    expectFeatures('layerNorm', x, gamma, { bias: beta })
    return [f32(x!.shape), f32(x!.shape.slice(0, -1)), f32(x!.shape.slice(0, -1))]
  },
  kernel: (_, __, a) => ({ name: 'layer_norm', numbers: [a.eps] }),
  derive: (d) => apply(layerGradOp, [d.grad()!, d.input(0), d.output(1), d.output(2), d.input(1)], undefined),
  inplace: [0],
})

/** Layer normalisation over the last axis (Ba et al. 2016). */
export function layerNorm(x: Tensor, gamma: Tensor, beta: Tensor, eps = 1e-5): Tensor {
  expectEps('layerNorm', eps)
  return tidy(() => apply(layerOp, [x, gamma, beta], { eps })[0])
}

const groupGradOp: Op<{ groups: number }> = defineOp({
  name: 'group_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape)), f32(channels(dy!.shape))],
  kernel: (_, __, a) => ({ name: 'group_norm_grad', numbers: [a.groups] }),
  derive: (d) => {
    const [x, mean, rstd, gamma] = [d.input(1), d.input(2), d.input(3), d.input(4)]
    const { groups } = d.attrs
    const [n, [c], inner] = [x.shape[0], channels(x.shape), x.shape.slice(1, -1).map(() => 1)]
    /** A number for each sample and group as it broadcasts to x. */
    const spread = (t: Tensor): Tensor => t.repeatInterleave(c / groups, 1).reshape([n, ...inner, c])
    const [ofDy, ofX, ofGamma] = differentiated(d, {
      normal: x.sub(spread(mean)).mul(spread(rstd)),
      rstd: spread(rstd),
      gamma,
      back: (g, one) => apply(groupGradOp, [g, x, mean, rstd, one], d.attrs)[0],
      mean: (t) => spread(t.reshape([n, -1, groups, c / groups]).mean([1, 3])),
    })
    return [ofDy, ofX, undefined, undefined, ofGamma]
  },
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
    for (const [what, t] of Object.entries({ weight: gamma, bias: beta })) {
      expectDType('groupNorm', what, t, 'f32')
      expectShape('groupNorm', what, t, [c])
    }
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
  return tidy(() => apply(groupOp, [x, gamma, beta], { groups, eps })[0])
}

const rmsGradOp: Op<undefined> = defineOp({
  name: 'rms_norm_grad',
  infer: ([dy]) => [f32(dy!.shape), f32(channels(dy!.shape))],
  kernel: () => ({ name: 'rms_norm_grad' }),
  derive: (d) => {
    const [x, rstd, gamma] = [d.input(1), d.input(2), d.input(3)]
    const [ofDy, ofX, ofGamma] = differentiated(d, {
      normal: x.mul(rstd.unsqueeze(-1)),
      rstd: rstd.unsqueeze(-1),
      gamma,
      back: (g, one) => apply(rmsGradOp, [g, x, rstd, one], undefined)[0],
      mean: (t) => t.mean(-1, true),
    })
    return [ofDy, ofX, undefined, ofGamma]
  },
  inplace: [0, 1],
})

const rmsOp: Op<{ eps: number }> = defineOp({
  name: 'rms_norm',
  infer: ([x, gamma]) => {
    expectFeatures('rmsNorm', x, gamma)
    return [f32(x!.shape), f32(x!.shape.slice(0, -1))]
  },
  kernel: (_, __, a) => ({ name: 'rms_norm', numbers: [a.eps] }),
  derive: (d) => apply(rmsGradOp, [d.grad()!, d.input(0), d.output(1), d.input(1)], undefined),
  inplace: [0],
})

/** x / √(mean(x²) + eps) · gamma over the last axis (Zhang & Sennrich 2019). */
export function rmsNorm(x: Tensor, gamma: Tensor, eps = 1e-6): Tensor {
  expectEps('rmsNorm', eps)
  return tidy(() => apply(rmsOp, [x, gamma], { eps })[0])
}

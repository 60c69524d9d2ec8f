import { expectOptions, fail } from '../errors'
import { expectShape, expectTensor } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { reduced, type Reduction } from './loss'

// Losses of distances and scores: nothing is lost beyond a margin.

/** Options of losses with a margin. */
export interface MarginOptions {
  /** How far is far enough. */
  margin?: number
  /** 'mean' unless given. */
  reduction?: Reduction
}

function expectAll(name: string, shape: readonly number[], tensors: Record<string, Tensor>): void {
  for (const [what, t] of Object.entries(tensors)) {
    expectTensor(name, t)
    expectShape(name, what, t, shape)
  }
}

/** Options with a margin, a number. */
function marginOf(name: string, options: MarginOptions, fallback: number, own: readonly string[] = []): number {
  expectOptions(name, options, ['margin', 'reduction', ...own])
  const { margin = fallback } = options
  if (!Number.isFinite(margin)) fail('AUX_INVALID_ARGUMENT', `${name}: expected margin to be a number, got ${margin}`)
  return margin
}

/** Labels 1 and -1 as f32. */
const signs = (t: Tensor): Tensor => t.cast('f32')

/** x · y / (|x| |y|) along an axis (the last); no length counts as less than `eps`. */
export function cosineSimilarity(x: Tensor, y: Tensor, options: { axis?: number; eps?: number } = {}): Tensor {
  const name = 'cosineSimilarity'
  expectTensor(name, x)
  expectAll(name, x.shape, { 'the second tensor': y })
  expectOptions(name, options, ['axis', 'eps'])
  const { axis = -1, eps = 1e-8 } = options
  return tidy(() => {
    const length = (t: Tensor): Tensor => t.norm(axis).maximum(eps)
    return x
      .mul(y)
      .sum(axis)
      .div(length(x).mul(length(y)))
  })
}

/**
 * Of pairs [..., features] with labels 1 (alike) and -1, of their shape without the last axis: 1 - the cosine of the pair,
 * or how much it exceeds the margin (0).
 */
export function cosineEmbedding(x: Tensor, y: Tensor, labels: Tensor, options: MarginOptions = {}): Tensor {
  const name = 'cosineEmbedding'
  const margin = marginOf(name, options, 0)
  expectTensor(name, x)
  expectAll(name, x.shape, { 'the second tensor': y })
  expectAll(name, x.shape.slice(0, -1), { labels })
  return tidy(() => {
    const cosine = cosineSimilarity(x, y)
    const alike = signs(labels).add(1).mul(0.5)
    const apart = alike.neg().add(1).mul(cosine.sub(margin).relu())
    return reduced(name, alike.mul(cosine.neg().add(1)).add(apart), options.reduction)
  })
}

/**
 * Of anchors, examples that are like them and others that are not, [..., features] each (Schroff et al. 2015): how much
 * farther from its anchor the first is than the second, and the margin (1); `swap`: than the second is from anchor or first.
 * Distances are those of `norm`, p 2 unless given.
 */
export function tripletMargin(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: MarginOptions & { p?: number; swap?: boolean; eps?: number } = {},
): Tensor {
  const name = 'tripletMargin'
  const margin = marginOf(name, options, 1, ['p', 'swap', 'eps'])
  const { p = 2, swap = false, eps = 1e-6 } = options
  expectTensor(name, anchor)
  expectAll(name, anchor.shape, { positive, negative })
  return tidy(() => {
    // As in PyTorch, `eps` is added to each difference: no distance is 0.
    const distance = (x: Tensor, y: Tensor): Tensor => x.sub(y).add(eps).norm(-1, { p })
    const apart = distance(anchor, negative)
    const far = swap ? apart.minimum(distance(positive, negative)) : apart
    return reduced(name, distance(anchor, positive).sub(far).add(margin).relu(), options.reduction)
  })
}

/** Of two scores, the first of which should be the larger one where the label is 1, the smaller where it is -1. */
export function marginRanking(x: Tensor, y: Tensor, labels: Tensor, options: MarginOptions = {}): Tensor {
  const name = 'marginRanking'
  const margin = marginOf(name, options, 0)
  expectTensor(name, x)
  expectAll(name, x.shape, { 'the second scores': y, labels })
  return tidy(() => reduced(name, y.sub(x).mul(signs(labels)).add(margin).relu(), options.reduction))
}

/** Of distances with labels 1 (alike) and -1: the distance, or how much it falls short of the margin (1). */
export function hingeEmbedding(x: Tensor, labels: Tensor, options: MarginOptions = {}): Tensor {
  const name = 'hingeEmbedding'
  const margin = marginOf(name, options, 1)
  expectTensor(name, x)
  expectAll(name, x.shape, { labels })
  return tidy(() => {
    const alike = signs(labels).add(1).mul(0.5)
    const losses = alike.mul(x).add(alike.neg().add(1).mul(x.neg().add(margin).relu()))
    return reduced(name, losses, options.reduction)
  })
}

import { apply, defineOp, expectRank, type Op } from '../graph/op'
import { fail } from '../errors'
import { showShape, type Shape } from '../tensor/shape'
import { Tensor, type Spec } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { pair, windows } from './geometry'

interface PoolAttrs {
  kernel: readonly [number, number]
  stride: readonly [number, number]
  padding: readonly [number, number]
}

function pooledShape(name: string, x: Spec, a: PoolAttrs): number[] {
  expectRank(name, 'input', x, 4)
  const [p, q] = [0, 1].map((i) => windows(x.shape[1 + i], a.kernel[i], a.stride[i], a.padding[i], 1))
  if (p < 1 || q < 1)
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: window ${showShape(a.kernel)} does not fit the padded input ${showShape(x.shape)}`,
    )
  return [x.shape[0], p, q, x.shape[3]]
}

const numbers = (a: PoolAttrs): number[] => [...a.kernel, ...a.stride, ...a.padding]
const gradient = <A extends { shape: Shape }>(name: string, of: (a: A) => number[]): Op<A> =>
  defineOp<A>({
    name,
    infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
    kernel: (_, __, a) => ({ name, numbers: of(a) }),
  })

const maxGrad = gradient<PoolAttrs & { shape: Shape }>('max_pool2d_grad', (a) => [...numbers(a), 1, 1])
const maxPool = defineOp<PoolAttrs>({
  name: 'max_pool2d',
  infer: ([x], a) => {
    const shape = pooledShape('max_pool2d', x!, a)
    return [
      { shape, dtype: 'f32' },
      { shape, dtype: 'u8' },
    ]
  },
  kernel: (_, __, a) => ({ name: 'max_pool2d', numbers: [...numbers(a), 1, 1] }),
  nonNegative: 'as input',
  derive: (d) => [apply(maxGrad, [d.grad()!, d.output(1)], { ...d.attrs, shape: d.spec(0).shape })[0]],
})

const avgGrad = gradient<PoolAttrs & { shape: Shape }>('avg_pool2d_grad', (a) => [...numbers(a), 1])
const avgPool = defineOp<PoolAttrs>({
  name: 'avg_pool2d',
  infer: ([x], a) => [{ shape: pooledShape('avg_pool2d', x!, a), dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'avg_pool2d', numbers: [...numbers(a), 1] }),
  nonNegative: 'as input',
  derive: (d) => [apply(avgGrad, [d.grad()!], { ...d.attrs, shape: d.spec(0).shape })[0]],
})

const adaptiveGrad = gradient<{ shape: Shape }>('adaptive_avg_pool2d_grad', () => [])
const adaptivePool = defineOp<{ size: readonly [number, number] }>({
  name: 'adaptive_avg_pool2d',
  infer: ([x], { size }) => {
    expectRank('adaptive_avg_pool2d', 'input', x!, 4)
    return [{ shape: [x!.shape[0], ...size, x!.shape[3]], dtype: 'f32' }]
  },
  kernel: () => ({ name: 'adaptive_avg_pool2d' }),
  nonNegative: 'as input',
  derive: (d) => [apply(adaptiveGrad, [d.grad()!], { shape: d.spec(0).shape })[0]],
})

/** Each pixel kh · kw times, as a view [N, H, kh, W, kw, C]. */
const spreadOp: Op<{ kernel: readonly [number, number] }> = defineOp({
  name: 'spread',
  infer: () => fail('AUX_INVALID_ARGUMENT', 'a view has no outputs of its own'),
  view: (x, { kernel: [kh, kw] }) => {
    const [n, h, w, c] = x.shape
    const [sn, sh, sw, sc] = x.strides
    return { shape: [n, h, kh, w, kw, c], strides: [sn, sh, 0, sw, 0, sc], offset: x.offset }
  },
  derive: (d) => {
    const [n, h, kh, w, kw, c] = d.grad()!.shape
    if (!d.grad()!.size) return [d.grad()!.sum([2, 4])]
    const image = d.grad()!.reshape([n, h * kh, w * kw, c])
    return [image.avgPool2d([kh, kw]).mul(kh * kw)]
  },
})

/** Window of a pooling; the stride is the kernel's size unless given. */
export interface PoolOptions {
  /** Places between windows (the size of the window). */
  stride?: number | readonly [number, number]
  /** Rows and columns around the image (0). */
  padding?: number | readonly [number, number]
}

const attrsOf = (kernel: number | readonly [number, number], o: PoolOptions): PoolAttrs => ({
  kernel: pair(kernel, 1),
  stride: pair(o.stride ?? kernel, 1),
  padding: pair(o.padding, 0),
})

declare module '../tensor/tensor' {
  interface Tensor {
    /** Maximum over windows: [N, H, W, C] to [N, P, Q, C]. */
    maxPool2d(kernel: number | readonly [number, number], options?: PoolOptions): Tensor
    /** Mean over windows; padding counts as zeros. */
    avgPool2d(kernel: number | readonly [number, number], options?: PoolOptions): Tensor
    /** Mean over bins that divide the image into `size` parts. */
    adaptiveAvgPool2d(size: number | readonly [number, number]): Tensor
    /** Each pixel repeated (nearest neighbour): [N, H, W, C] to [N, kh · H, kw · W, C]. */
    upsample2d(factor: number | readonly [number, number]): Tensor
  }
}

Tensor.prototype.maxPool2d = function (kernel, options = {}) {
  return apply(maxPool, [this], attrsOf(kernel, options))[0]
}
Tensor.prototype.avgPool2d = function (kernel, options = {}) {
  return apply(avgPool, [this], attrsOf(kernel, options))[0]
}
Tensor.prototype.adaptiveAvgPool2d = function (size) {
  return apply(adaptivePool, [this], { size: pair(size, 1) })[0]
}
Tensor.prototype.upsample2d = function (factor) {
  expectRank('upsample2d', 'input', this, 4)
  const kernel = pair(factor, 1)
  if (!kernel.every((k) => Number.isInteger(k) && k >= 1))
    fail('AUX_INVALID_ARGUMENT', `upsample2d: expected whole factors >= 1, got ${showShape(kernel)}`)
  const [n, h, w, c] = this.shape
  return tidy(() => apply(spreadOp, [this], { kernel })[0].reshape([n, kernel[0] * h, kernel[1] * w, c]))
}

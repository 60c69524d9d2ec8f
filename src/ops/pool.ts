import { apply, defineOp, expectRank, type Op } from '../graph/op'
import { expectOptions, fail } from '../errors'
import { showShape, type Shape } from '../tensor/shape'
import { Tensor, type Spec } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { pair, windows, type Pair } from './geometry'

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

const avgGrad: Op<PoolAttrs & { shape: Shape }> = {
  ...gradient<PoolAttrs & { shape: Shape }>('avg_pool2d_grad', (a) => [...numbers(a), 1]),
  derive: (d) => [apply(avgPool, [d.grad()!], d.attrs)[0]],
}
const avgPool: Op<PoolAttrs> = defineOp({
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

/** Window of a pooling; the stride is the kernel's size unless given. */
export interface PoolOptions {
  /** Places between windows (the size of the window). */
  stride?: Pair
  /** Rows and columns around the image (0). */
  padding?: Pair
}

function attrsOf(name: string, kernel: Pair, o: PoolOptions): PoolAttrs {
  expectOptions(name, o, ['stride', 'padding'])
  return {
    kernel: pair(`${name}: window`, kernel, undefined),
    stride: pair(`${name}: stride`, o.stride ?? kernel, 1),
    padding: pair(`${name}: padding`, o.padding, 0, 0),
  }
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Maximum over windows: [N, H, W, C] to [N, P, Q, C]. */
    maxPool2d(kernel: Pair, options?: PoolOptions): Tensor
    /** Mean over windows; padding counts as zeros. */
    avgPool2d(kernel: Pair, options?: PoolOptions): Tensor
    /** Mean over bins that divide the image into `size` parts. */
    adaptiveAvgPool2d(size: Pair): Tensor
  }
}

Tensor.prototype.maxPool2d = function (kernel, options = {}) {
  return tidy(() => apply(maxPool, [this], attrsOf('maxPool2d', kernel, options))[0])
}
Tensor.prototype.avgPool2d = function (kernel, options = {}) {
  return apply(avgPool, [this], attrsOf('avgPool2d', kernel, options))[0]
}
Tensor.prototype.adaptiveAvgPool2d = function (size) {
  return apply(adaptivePool, [this], { size: pair('adaptiveAvgPool2d: size', size, undefined) })[0]
}

import { fail } from '../errors'
import { apply, defineOp, expectRank, expectTensor, type Op } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { convAttrs, pair, windows, type ConvAttrs, type ConvOptions, type Pair } from './geometry'
import { place } from './join'

/** Geometry of the windows of `unfold` and `fold`. */
export type UnfoldOptions = Omit<ConvOptions, 'groups'>

type Attrs = Pick<ConvAttrs, 'stride' | 'dilation'> & { kernel: readonly [number, number]; count: readonly number[] }

/** Windows that slide over an image [N, H, W, C], as a view [N, P, Q, KH, KW, C] in which they overlap. */
const windowsOp: Op<Attrs> = defineOp({
  name: 'windows',
  infer: () => fail('AUX_INVALID_ARGUMENT', 'a view has no outputs of its own'),
  view: ({ shape: [n, , , c], strides: [sn, sh, sw, sc], offset }, { kernel, count, stride, dilation }) => ({
    shape: [n, ...count, ...kernel, c],
    strides: [sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc],
    offset,
  }),
  derive: (d) => [added(d.grad()!, d.spec(0).shape, d.attrs)],
})

/** The sum of windows [N, P, Q, KH, KW, C], each where it lies in the image. */
function added(all: Tensor, shape: readonly number[], { kernel, stride, dilation }: Attrs): Tensor {
  let sum: Tensor | undefined
  for (let u = 0; u < kernel[0]; u++)
    for (let v = 0; v < kernel[1]; v++) {
      const starts = [0, u * dilation[0], v * dilation[1], 0]
      const put = place(all.select(3, u).select(3, v), shape, starts, [1, ...stride, 1], 0)
      sum = sum ? sum.add(put) : put
    }
  return sum!
}

function attrsOf(name: string, image: readonly number[], kernel: Pair, options: UnfoldOptions) {
  const size = pair(`${name}: kernel`, kernel, undefined)
  const { stride, padding, dilation } = convAttrs(name, size, options)
  const count = [0, 1].map((i) => windows(image[i], size[i], stride[i], padding[i], dilation[i]))
  if (count.some((n) => n < 1))
    fail('AUX_SHAPE_MISMATCH', `${name}: kernel ${showShape(size)} does not fit the padded image ${showShape(image)}`)
  return { kernel: size, stride, dilation, count, padding }
}

/** Zeros around an image (cut, if `sign` is -1). */
const around = (x: Tensor, [rows, columns]: readonly [number, number], sign: 1 | -1): Tensor =>
  x.pad([0, sign * rows, sign * columns, 0].map((n): [number, number] => [n, n]))

/**
 * The windows that a convolution sees, as columns: x [N, H, W, C] to [N, P, Q, KH · KW · C]. `linear` with the weight
 * of a `conv2d` as [O, KH · KW · C] makes of them what that makes of x.
 */
export function unfold(x: Tensor, kernel: Pair, options: UnfoldOptions = {}): Tensor {
  expectTensor('unfold', x)
  expectRank('unfold', 'input', x, 4)
  const [n, h, w] = x.shape
  const { padding, ...attrs } = attrsOf('unfold', [h, w], kernel, options)
  return tidy(() => apply(windowsOp, [around(x, padding, 1)], attrs)[0].reshape([n, ...attrs.count, -1]))
}

/**
 * The sum of windows [N, P, Q, KH · KW · C], each where `unfold` took it from: an image [N, H, W, C] of that `size`,
 * height and width. What `unfold` does to gradients.
 */
export function fold(columns: Tensor, size: Pair, kernel: Pair, options: UnfoldOptions = {}): Tensor {
  const name = 'fold'
  expectTensor(name, columns)
  expectRank(name, 'columns', columns, 4)
  const image = pair(`${name}: size`, size, undefined)
  const { padding, ...attrs } = attrsOf(name, image, kernel, options)
  const [n, p, q, all] = columns.shape
  const channels = all / (attrs.kernel[0] * attrs.kernel[1])
  if (p !== attrs.count[0] || q !== attrs.count[1] || !Number.isInteger(channels))
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected columns [N, ${attrs.count.join(', ')}, ${attrs.kernel.join(' · ')} · C], got ${showShape(columns.shape)}`,
    )
  return tidy(() => {
    const padded = image.map((length, i) => length + 2 * padding[i])
    const every = columns.reshape([n, p, q, ...attrs.kernel, channels])
    return around(added(every, [n, ...padded, channels], attrs), padding, -1)
  })
}

import { fail } from '../errors'
import { apply, defineOp, expectDType, expectShape, expectTensor, type Op } from '../graph/op'
import { showShape, type Shape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import { conv2dCodeWeightGrad } from './codes'
import { convAttrs, convNumbers, windows, type ConvAttrs, type ConvOptions } from './geometry'
import { conv2dSignWeightGrad, fusedNumbers, fusedOutputs, type Fused } from './sign'

function outputShape(x: Spec, w: Spec, a: ConvAttrs): number[] {
  const channels = w.shape[3] * a.groups
  if (x.shape.length !== 4 || w.shape.length !== 4 || channels !== x.shape[3] || w.shape[0] % a.groups) {
    const first = x.shape.length === 4 && x.shape[1] === channels // as in PyTorch
    fail(
      'AUX_SHAPE_MISMATCH',
      `conv2d: expected input [N, H, W, ${channels}] for weight ${showShape(w.shape)} in ${a.groups} group(s), got ${showShape(x.shape)}` +
        (first ? '; channels come last here: permute([0, 2, 3, 1])' : ''),
    )
  }
  const [p, q] = [0, 1].map((i) => windows(x.shape[1 + i], w.shape[1 + i], a.stride[i], a.padding[i], a.dilation[i]))
  if (p < 1 || q < 1)
    fail(
      'AUX_SHAPE_MISMATCH',
      `conv2d: kernel ${showShape(w.shape.slice(1, 3))} does not fit the padded input ${showShape(x.shape)}`,
    )
  return [x.shape[0], p, q, w.shape[0]]
}

// The three are bilinear, and each is the gradient of the other two.
const inputGrad: Op<ConvAttrs & { shape: Shape }> = defineOp({
  name: 'conv2d_input_grad',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'conv2d_input_grad', numbers: convNumbers(a) }),
  derive: (d) => [
    d.needs(0) ? apply(conv2dOp, [d.grad()!, d.input(1), undefined], geometry(d.attrs))[0] : undefined,
    d.needs(1) ? convWeightGradient(d.input(0), d.grad()!, geometry(d.attrs), d.spec(1).shape) : undefined,
  ],
})

const weightGrad: Op<ConvAttrs & { shape: Shape }> = defineOp({
  name: 'conv2d_weight_grad',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'conv2d_weight_grad', numbers: convNumbers(a) }),
  derive: (d) => [
    d.needs(0) ? apply(conv2dOp, [d.input(1), d.grad()!, undefined], geometry(d.attrs))[0] : undefined,
    d.needs(1) ? convInputGradient(d.input(0), d.grad()!, geometry(d.attrs), d.spec(1).shape) : undefined,
  ],
})

/** @internal dx from the gradient of y and the weight; what a transposed convolution computes. */
export const convInputGradient = (delta: Tensor, weight: Tensor, attrs: ConvAttrs, shape: Shape): Tensor =>
  apply(inputGrad, [delta, weight], { ...attrs, shape })[0]

/** @internal dW from the gradient of y and x (or a stand-in for it). */
export const convWeightGradient = (delta: Tensor, x: Tensor, attrs: ConvAttrs, shape: Shape): Tensor =>
  apply(weightGrad, [delta, x], { ...attrs, shape })[0]

const conv2dOp = defineOp<ConvAttrs & Fused & { eps?: number }>({
  name: 'conv2d',
  infer: ([x, w, bias], attrs) => {
    expectDType('conv2d', 'input', x!, 'f32')
    if (bias) expectShape('conv2d', 'bias', bias, [w!.shape[0]])
    const moment: Spec = { shape: [w!.shape[0]], dtype: 'f32' }
    return [...fusedOutputs(x!.shape, outputShape(x!, w!, attrs)), moment, moment, moment]
  },
  kernel: (_, __, a) => ({ name: 'conv2d', numbers: [...convNumbers(a), ...fusedNumbers(a), a.eps ?? 0] }),
  derive: (d) => [
    d.needs(0) ? convInputGradient(d.grad()!, d.input(1), geometry(d.attrs), d.spec(0).shape) : undefined,
    d.needs(1) ? convWeightGradient(d.grad()!, d.input(0), geometry(d.attrs), d.spec(1).shape) : undefined,
    d.needs(2) ? d.grad()!.sum([0, 1, 2]) : undefined,
  ],
  optional: [1, 2, 3, 4, 5],
  relu: { attrs: (a) => ({ ...a, relu: true }), mask: 2 },
  moments: { attrs: (a, eps) => ({ ...a, eps }), outputs: [3, 4, 5] },
  weighted: {
    index: 1,
    gradient: (delta, x, a, weight) => convWeightGradient(delta, x, geometry(a), weight.shape),
    withSigns: (a, epsilon, alphabet) => ({ ...a, epsilon, alphabet }),
    signGradient: (delta, signs, a, x, weight, scale, alphabet) =>
      conv2dSignWeightGrad(delta, signs, geometry(a), weight.shape, x.shape, scale, alphabet),
    codeGradient: (delta, codes, ranges, a, x, weight) =>
      conv2dCodeWeightGrad(delta, codes, ranges, geometry(a), weight.shape, x.shape),
  },
})

const geometry = ({ stride, padding, dilation, groups }: ConvAttrs): ConvAttrs => ({
  stride,
  padding,
  dilation,
  groups,
})

/** 2-D convolution, channels-last: x [N, H, W, C], weight [O, KH, KW, C/groups], bias [O]; y [N, P, Q, O]. */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvOptions = {}): Tensor {
  expectTensor('conv2d', weight)
  return apply(conv2dOp, [x, weight, bias], convAttrs('conv2d', weight.shape.slice(1, 3), options))[0]
}

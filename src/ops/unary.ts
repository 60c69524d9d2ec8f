import { describe, expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, type Derivation, type Op } from '../graph/op'
import { checkDType, type DType } from '../tensor/dtype'
import { Tensor } from '../tensor/tensor'
import { alias } from './shape'

// Elementwise functions of one tensor. A row: name, derivative.

const unary = <A = undefined>(
  name: string,
  derive?: (d: Derivation<A>) => Tensor,
  numbers?: (attrs: A) => number[],
): Op<A> =>
  defineOp<A>({
    name,
    infer: ([x]) => {
      expectDType(name, 'input', x!, 'f32')
      return [{ shape: x!.shape, dtype: 'f32' }]
    },
    kernel: (_, __, attrs) => ({ name, numbers: numbers?.(attrs) }),
    derive: derive && ((d) => [derive(d)]),
    strided: 'all',
    inplace: [0],
  })

/** dx from dy and the kept x or y; `second`: the derivative with respect to what was kept, from the gradient of dx. */
const gradient = <A = undefined>(
  name: string,
  numbers?: (attrs: A) => number[],
  second?: (g: Tensor, dy: Tensor, kept: Tensor, attrs: A) => Tensor,
): Op<A> => {
  const op: Op<A> = defineOp<A>({
    name,
    infer: ([dy]) => [{ shape: dy!.shape, dtype: 'f32' }],
    kernel: (_, __, attrs) => ({ name, numbers: numbers?.(attrs) }),
    derive: (d) => [
      d.needs(0) ? one(op, [d.grad()!, d.input(1)], d.attrs) : undefined,
      second && d.needs(1) ? second(d.grad()!, d.input(0), d.input(1), d.attrs) : undefined,
    ],
    strided: 'all',
    inplace: [0],
  })
  return op
}

const one = <A>(op: Op<A>, inputs: Tensor[], attrs: A): Tensor => apply(op, inputs, attrs)[0]

export const reluGrad = gradient('relu_grad')
const sigmoidGrad = gradient('sigmoid_grad', undefined, (g, dy, y) => g.mul(dy).mul(y.mul(-2).add(1)))
const tanhGrad = gradient('tanh_grad', undefined, (g, dy, y) => g.mul(dy).mul(y).mul(-2))
const geluGrad = gradient('gelu_grad', undefined, (g, dy, x) => {
  const square = x.square()
  const density = square
    .mul(-0.5)
    .exp()
    .mul(1 / Math.sqrt(2 * Math.PI))
  return g.mul(dy).mul(density).mul(square.neg().add(2))
})
/** Of the approximation x s(u): u = x (linear + cubic x²), s the sigmoid. */
const [linear, cubic] = [1, 0.044715].map((c) => 2 * Math.sqrt(2 / Math.PI) * c)
const geluTanhGrad = gradient('gelu_tanh_grad', undefined, (g, dy, x) => {
  const square = x.square()
  const s = x.mul(square.mul(cubic).add(linear)).sigmoid()
  const slope = square.mul(3 * cubic).add(linear) // of u
  const bend = slope.square().mul(s.mul(-2).add(1))
  return g
    .mul(dy)
    .mul(s.mul(s.neg().add(1)))
    .mul(
      bend
        .add(x.mul(6 * cubic))
        .mul(x)
        .add(slope.mul(2)),
    )
})
const siluGrad = gradient('silu_grad', undefined, (g, dy, x) => {
  const s = x.sigmoid()
  const slope = s.mul(s.neg().add(1))
  return g
    .mul(dy)
    .mul(slope)
    .mul(x.mul(s.mul(-2).add(1)).add(2))
})
/** Options of `gelu`. */
export interface GeluOptions {
  /** 'tanh' for the approximation 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), with which GPT-2 was trained ('none'). */
  approximate?: 'none' | 'tanh'
}

/** @internal Bounds. */
export type Range = { low: number; high: number }
const range = (a: Range): number[] => [a.low, a.high]
const clampGrad = gradient<Range>('clamp_grad', range)
/** @internal The same of x and of y: what lies strictly between the bounds passes. */
export const hardtanhGrad = gradient<Range>('hardtanh_grad', range)
type Parameter = { value: number }
const value = (a: Parameter): number[] => [a.value]
const leakyReluGrad = gradient<Parameter>('leaky_relu_grad', value)
const eluGrad = gradient<Parameter>('elu_grad', value, (g, dy, x, { value: alpha }) =>
  g.mul(dy).mul(x.clamp(undefined, 0).exp().mul(alpha)).mul(x.le(0).cast('f32')),
)
const softplusGrad = gradient<Parameter>('softplus_grad', value, (g, dy, x, { value: beta }) => {
  const s = x.mul(beta).sigmoid()
  return g
    .mul(dy)
    .mul(s.mul(s.neg().add(1)))
    .mul(beta)
})

const neg = unary('neg', (d) => d.grad()!.neg())
const abs = unary('abs', (d) => d.grad()!.mul(d.input(0).sign()))
const exp = unary('exp', (d) => d.grad()!.mul(d.output()))
const log = unary('log', (d) => d.grad()!.div(d.input(0)))
const sqrt = unary('sqrt', (d) => d.grad()!.div(d.output()).mul(0.5))
const rsqrt = unary('rsqrt', (d) => {
  const y = d.output()
  return d.grad()!.mul(y.mul(y).mul(y)).mul(-0.5)
})
const square = unary('square', (d) => d.grad()!.mul(d.input(0)).mul(2))
const reciprocal = unary('reciprocal', (d) => {
  const y = d.output()
  return d.grad()!.mul(y.mul(y)).neg()
})
const tanh = unary('tanh', (d) => one(tanhGrad, [d.grad()!, d.output()], undefined))
const sigmoid = unary('sigmoid', (d) => one(sigmoidGrad, [d.grad()!, d.output()], undefined))
const erf = unary('erf', (d) =>
  d
    .grad()!
    .mul(d.input(0).square().neg().exp())
    .mul(2 / Math.sqrt(Math.PI)),
)
const gelu = unary('gelu', (d) => one(geluGrad, [d.grad()!, d.input(0)], undefined))
const geluTanh = unary('gelu_tanh', (d) => one(geluTanhGrad, [d.grad()!, d.input(0)], undefined))
const silu = unary('silu', (d) => one(siluGrad, [d.grad()!, d.input(0)], undefined))
/** @internal */
export const relu: Op<undefined> = {
  ...unary('relu', (d) => one(reluGrad, [d.grad()!, d.output()], undefined)),
  nonNegative: 'always',
  exact: true, // one bit of y
}
const sign = { ...unary('sign'), constant: true }
const floor = { ...unary('floor'), constant: true }
const ceil = { ...unary('ceil'), constant: true }
const round = { ...unary('round'), constant: true }
const sin = unary('sin', (d) => d.grad()!.mul(d.input(0).cos()))
const cos = unary('cos', (d) => d.grad()!.mul(d.input(0).sin()).neg())
const expm1 = unary('expm1', (d) => d.grad()!.mul(d.output().add(1)))
const log1p = unary('log1p', (d) => d.grad()!.div(d.input(0).add(1)))
const leakyRelu: Op<Parameter> = {
  ...unary<Parameter>('leaky_relu', (d) => one(leakyReluGrad, [d.grad()!, d.input(0)], d.attrs), value),
  inverse: (y, _, { value: slope }) => y.leakyRelu(1 / slope),
}
const elu = unary<Parameter>('elu', (d) => one(eluGrad, [d.grad()!, d.input(0)], d.attrs), value)
const softplus = unary<Parameter>('softplus', (d) => one(softplusGrad, [d.grad()!, d.input(0)], d.attrs), value)
const huber = unary<Parameter>('huber', (d) => d.grad()!.mul(d.input(0).clamp(-d.attrs.value, d.attrs.value)), value)
const hardtanhOp: Op<Range> = {
  ...unary<Range>('clamp', (d) => one(hardtanhGrad, [d.grad()!, d.output()], d.attrs), range),
  name: 'hardtanh',
  exact: true, // one bit of y
}
const clamp = unary<Range>('clamp', (d) => one(clampGrad, [d.grad()!, d.input(0)], d.attrs), range)
const addScalar = unary<{ value: number }>(
  'add_scalar',
  (d) => d.grad()!,
  (a) => [a.value],
)
/** @internal */
export const mulScalar = unary<{ value: number }>(
  'mul_scalar',
  (d) => d.grad()!.mul(d.attrs.value),
  (a) => [a.value],
)

/** @internal x²/2 within delta of 0, delta (|x| − delta/2) beyond. */
export const huberOf = (x: Tensor, delta: number): Tensor => one(huber, [x], { value: delta })

/** The op that these options ask for. */
function geluOf(options: GeluOptions): Op<undefined> {
  expectOptions('gelu', options, ['approximate'])
  const { approximate = 'none' } = options
  if (approximate !== 'none' && approximate !== 'tanh')
    fail('AUX_INVALID_ARGUMENT', `gelu: expected approximate to be 'none' or 'tanh', got ${String(approximate)}`)
  return approximate === 'tanh' ? geluTanh : gelu
}

/** @internal Elementwise with a JavaScript number. */
export const scalarAdd = (x: Tensor, value: number): Tensor => one(addScalar, [x], { value })
/** @internal */
export const scalarMul = (x: Tensor, value: number): Tensor => one(mulScalar, [x], { value })

const castOp = defineOp<{ dtype: DType }>({
  name: 'cast',
  infer: ([x], { dtype }) => [{ shape: x!.shape, dtype }],
  kernel: () => ({ name: 'cast' }),
  derive: (d) => [
    d.spec(0).dtype === 'f32' || d.spec(0).dtype === 'bf16' ? d.grad()!.cast(d.spec(0).dtype) : undefined,
  ],
  strided: 'all',
})

/** @internal Elementwise between two numbers. */
export function clampTo(x: Tensor, low: number, high: number): Tensor {
  expectNumbers('clamp', low, high)
  return one(clamp, [x], { low, high })
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** −x. */
    neg(): Tensor
    /** Absolute value. */
    abs(): Tensor
    /** Exponential. */
    exp(): Tensor
    /** Natural logarithm. */
    log(): Tensor
    /** Square root; NaN below 0. */
    sqrt(): Tensor
    /** 1/√x. */
    rsqrt(): Tensor
    /** x². */
    square(): Tensor
    /** 1 / x. */
    reciprocal(): Tensor
    /** Hyperbolic tangent. */
    tanh(): Tensor
    /** 1 / (1 + exp(−x)). */
    sigmoid(): Tensor
    /** Error function. */
    erf(): Tensor
    /** x Φ(x) (Hendrycks & Gimpel 2016): with the error function, or the approximation by tanh. */
    gelu(options?: GeluOptions): Tensor
    /** x sigmoid(x). */
    silu(): Tensor
    /** max(x, 0), elementwise; NaN stays NaN. */
    relu(): Tensor
    /** −1, 0 or 1; its gradient is zero. */
    sign(): Tensor
    /** The next whole number below. */
    floor(): Tensor
    /** The next whole number above. */
    ceil(): Tensor
    /** To the nearest whole number, ties to even; its gradient is zero. */
    round(): Tensor
    /** Sine, of radians. */
    sin(): Tensor
    /** Cosine, of radians. */
    cos(): Tensor
    /** exp(x) − 1, precise near 0. */
    expm1(): Tensor
    /** log(1 + x), precise near 0. */
    log1p(): Tensor
    /** x above 0, slope · x below (slope 0.01 by default). */
    leakyRelu(slope?: number): Tensor
    /** x above 0, alpha (exp(x) − 1) below (Clevert et al. 2016). */
    elu(alpha?: number): Tensor
    /** log(1 + exp(beta x)) / beta. */
    softplus(beta?: number): Tensor
    /** Clamped, with a gradient of zero at the borders too. */
    hardtanh(low?: number, high?: number): Tensor
    /** min(max(x, 0), 6). */
    relu6(): Tensor
    /** The same values as another dtype. */
    cast(dtype: DType): Tensor
  }
}

const methods = {
  neg,
  abs,
  exp,
  log,
  sqrt,
  rsqrt,
  square,
  reciprocal,
  tanh,
  sigmoid,
  erf,
  silu,
  relu,
  sign,
  floor,
  ceil,
  round,
  sin,
  cos,
  expm1,
  log1p,
}
for (const [name, op] of Object.entries(methods))
  Object.defineProperty(Tensor.prototype, name, {
    value: function (this: Tensor) {
      return one(op, [this], undefined)
    },
    writable: true,
  })
function expectNumbers(op: string, ...values: unknown[]): void {
  for (const value of values)
    if (typeof value !== 'number') fail('AUX_INVALID_ARGUMENT', `${op}: expected a number, got ${describe(value)}`)
}
Tensor.prototype.cast = function (dtype) {
  checkDType('cast', dtype)
  return dtype === this.dtype ? alias(this) : one(castOp, [this], { dtype })
}
Tensor.prototype.gelu = function (options = {}) {
  return one(geluOf(options), [this], undefined)
}
Tensor.prototype.leakyRelu = function (slope = 0.01) {
  expectNumbers('leakyRelu', slope)
  return one(leakyRelu, [this], { value: slope })
}
Tensor.prototype.elu = function (alpha = 1) {
  expectNumbers('elu', alpha)
  return one(elu, [this], { value: alpha })
}
Tensor.prototype.softplus = function (beta = 1) {
  if (!(beta > 0)) fail('AUX_INVALID_ARGUMENT', `softplus: expected beta > 0, got ${beta}`)
  return one(softplus, [this], { value: beta })
}
Tensor.prototype.hardtanh = function (low = -1, high = 1) {
  expectNumbers('hardtanh', low, high)
  return one(hardtanhOp, [this], { low, high })
}
Tensor.prototype.relu6 = function () {
  return one(hardtanhOp, [this], { low: 0, high: 6 })
}

import { fail } from '../errors'
import { apply, defineOp, expectDType, expectTensor, type Derivation, type Op } from '../graph/op'
import type { DType } from '../tensor/dtype'
import { storeAll } from '../tensor/host'
import { broadcastShapes, showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { constant } from './constant'
import { expand } from './shape'
import { clampTo, scalarAdd, scalarMul } from './unary'

// Elementwise functions of two tensors, with numpy broadcasting (as zero-copy views).

type Rule = (d: Derivation<undefined>, g: Tensor) => [() => Tensor, () => Tensor]

const arithmetic = (name: string, rule: Rule, kinds: ('f32' | 'i32')[] = ['f32', 'i32']): Op<undefined> =>
  defineOp({
    name,
    infer: ([a, b]) => {
      expectDType(name, 'first operand', a!, ...kinds)
      expectDType(name, 'second operand', b!, a!.dtype)
      return [{ shape: a!.shape, dtype: a!.dtype }]
    },
    kernel: () => ({ name }),
    derive: (d) => rule(d, d.grad()!).map((make, i) => (d.needs(i) ? make() : undefined)),
    strided: 'all',
    inplace: [0, 1],
  })

const comparison = (name: string): Op<undefined> =>
  defineOp({
    name,
    infer: ([a, b]) => {
      expectDType(name, 'first operand', a!, 'f32', 'i32', 'u8', 'bool')
      expectDType(name, 'second operand', b!, a!.dtype)
      return [{ shape: a!.shape, dtype: 'bool' }]
    },
    kernel: () => ({ name }),
    constant: true,
    strided: 'all',
  })

const add = arithmetic('add', (_, g) => [() => g, () => g])
const sub = arithmetic('sub', (_, g) => [() => g, () => g.neg()])
const mul = arithmetic('mul', (d, g) => [() => g.mul(d.input(1)), () => g.mul(d.input(0))])
const div = arithmetic('div', (d, g) => [() => g.div(d.input(1)), () => g.mul(d.output()).div(d.input(1)).neg()], [
  'f32',
])
const pow = arithmetic(
  'pow',
  // By x of x⁰, and by y of 0ʸ, it is 0, where the formulas have 0 times infinity.
  (d, g) => [
    () => where(d.input(1).eq(0), 0, g.mul(d.input(1)).mul(d.input(0).pow(d.input(1).add(-1)))),
    () => where(d.input(0).eq(0).logicalAnd(d.input(1).ge(0)), 0, g.mul(d.output()).mul(d.input(0).log())),
  ],
  ['f32'],
)
/**
 * Of the larger or the smaller of two: the gradient of the one that was taken, half of it each where they are equal. Not by
 * products with 0 and 1: an infinite gradient of what was taken leaves the other at 0.
 */
const taken =
  (loses: 'lt' | 'gt'): Rule =>
  (d, g) => {
    const to = (own: Tensor, other: Tensor): Tensor => where(own.eq(other), g.mul(0.5), where(own[loses](other), 0, g))
    return [() => to(d.input(0), d.input(1)), () => to(d.input(1), d.input(0))]
  }
/** Of a tensor that is clamped, which keeps its gradient at the bound, and of that bound. */
const clamped =
  (loses: 'lt' | 'gt'): Rule =>
  (d, g) => {
    const beyond = (): Tensor => d.input(0)[loses](d.input(1))
    return [() => where(beyond(), 0, g), () => where(beyond(), g, 0)]
  }
const maximum = { ...arithmetic('maximum', taken('lt')), exact: true }
const minimum = { ...arithmetic('minimum', taken('gt')), exact: true }
const raised = { ...arithmetic('maximum', clamped('lt')), exact: true }
const lowered = { ...arithmetic('minimum', clamped('gt')), exact: true }
const ratioOp = arithmetic(
  'ratio',
  (d, g) => [() => ratio(g, d.input(1)), () => ratio(g.mul(d.output()), d.input(1)).neg()],
  ['f32'],
)
/** @internal a / b, and 0 where b is 0: gradients of roots. */
export const ratio = (a: Tensor, b: Tensor): Tensor => broadcast(ratioOp, a, b)

const remainder = arithmetic('remainder', (d, g) => [
  () => g,
  () => g.mul(d.output().sub(d.input(0)).div(d.input(1)).round()),
])
const atan2Op = arithmetic(
  'atan2',
  (d, g) => {
    const over = (x: Tensor): Tensor => ratio(g.mul(x), d.input(0).square().add(d.input(1).square()))
    return [() => over(d.input(1)), () => over(d.input(0)).neg()]
  },
  ['f32'],
)

const logical = (name: string): Op<undefined> =>
  defineOp({
    name,
    infer: ([a, b]) => {
      expectDType(name, 'first operand', a!, 'bool')
      expectDType(name, 'second operand', b!, 'bool')
      return [{ shape: a!.shape, dtype: 'bool' }]
    },
    kernel: () => ({ name }),
    constant: true,
    strided: 'all',
    inplace: [0, 1],
  })
const logicals = {
  logicalAnd: logical('logical_and'),
  logicalOr: logical('logical_or'),
  logicalXor: logical('logical_xor'),
}
const logicalNot: Op<undefined> = defineOp({
  name: 'logical_not',
  infer: ([x]) => {
    expectDType('logicalNot', 'input', x!, 'bool')
    return [{ shape: x!.shape, dtype: 'bool' }]
  },
  kernel: () => ({ name: 'logical_not' }),
  constant: true,
  strided: 'all',
  inplace: [0],
})
const comparisons = Object.fromEntries((['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const).map((n) => [n, comparison(n)]))

const whereOp = defineOp<undefined>({
  name: 'where',
  infer: ([c, a, b]) => {
    expectDType('where', 'condition', c!, 'bool')
    expectDType('where', 'second operand', b!, a!.dtype)
    expectDType('where', 'operands', a!, 'f32', 'i32')
    return [{ shape: a!.shape, dtype: a!.dtype }]
  },
  kernel: () => ({ name: 'where' }),
  derive: (d) => [
    undefined,
    d.needs(1) ? where(d.input(0), d.grad()!, 0) : undefined,
    d.needs(2) ? where(d.input(0), 0, d.grad()!) : undefined,
  ],
  strided: 'all',
  inplace: [1, 2],
})

/** A tensor or a number. */
export type Operand = Tensor | number

type Like = Pick<Tensor, 'dtype'>

const numberOf = (dtype: DType, value: number): Tensor =>
  Tensor.from(storeAll(`a number beside a tensor of ${dtype}`, [value], dtype), [], dtype)

function scalar({ dtype }: Like, value: number): Tensor {
  if (dtype !== 'f32' && !Number.isInteger(value))
    fail('AUX_DTYPE_MISMATCH', `cannot combine ${dtype} with the fraction ${value}; cast to f32 first`)
  return constant(numberOf, dtype, value)
}

/** A number as a tensor like another one; throws unless it is either. */
function operand(op: string, like: Like, value: Operand): Tensor {
  if (typeof value === 'number') return scalar(like, value)
  expectTensor(op, value)
  return value
}

function broadcast(op: Op<undefined>, a: Tensor, b: Operand): Tensor {
  return tidy(() => {
    const other = operand(op.name, a, b)
    const shape = broadcastShapes(op.name, a.shape, other.shape)
    return apply(op, [expand(a, shape), expand(other, shape)], undefined)[0]
  })
}

/** `a` where the condition holds, else `b`; all three broadcast. A number has the dtype of the other (f32 if both are). */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  expectTensor('where', condition)
  return tidy(() => {
    const like = [a, b].find((t) => t instanceof Tensor) ?? { dtype: 'f32' as const }
    const [x, y] = [a, b].map((t) => operand('where', like, t))
    const shape = broadcastShapes('where', broadcastShapes('where', condition.shape, x.shape), y.shape)
    return apply(whereOp, [expand(condition, shape), expand(x, shape), expand(y, shape)], undefined)[0]
  })
}

/**
 * The angle of the points (x, y), in [−π, π], with broadcasting; at the origin it is 0 or ±π by the signs of zero, its
 * gradient 0.
 */
export function atan2(y: Tensor, x: Operand): Tensor {
  expectTensor('atan2', y)
  return broadcast(atan2Op, y, x)
}

/** All products of two vectors: a [M], b [N]; y [M, N]. */
export function outer(a: Tensor, b: Tensor): Tensor {
  for (const t of [a, b]) expectTensor('outer', t)
  if (a.rank !== 1 || b.rank !== 1)
    fail('AUX_SHAPE_MISMATCH', `outer: expected two vectors, got ${showShape(a.shape)} and ${showShape(b.shape)}`)
  return tidy(() => a.unsqueeze(1).mul(b.unsqueeze(0)))
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Sum, with numpy broadcasting. */
    add(b: Operand): Tensor
    /** Difference, with broadcasting. */
    sub(b: Operand): Tensor
    /** Elementwise product. */
    mul(b: Operand): Tensor
    /** Quotient, with broadcasting. */
    div(b: Operand): Tensor
    /** Power, with broadcasting. */
    pow(b: Operand): Tensor
    /** The larger of two, with broadcasting; NaN if either is. Both have half of the gradient where they are equal. */
    maximum(b: Operand): Tensor
    /** The smaller of two, with broadcasting; NaN if either is. */
    minimum(b: Operand): Tensor
    /**
     * Values below `low` or above `high` become these; either may be left out (`clamp(0)`, `clamp(undefined, 1)`). Bounds that
     * are tensors broadcast, and have the gradient of what they replace.
     */
    clamp(low?: Operand, high?: Operand): Tensor
    /** a − b ⌊a / b⌋, of the sign of b, with broadcasting; by 0 it is NaN, of whole numbers (i32) 0. */
    remainder(b: Operand): Tensor
    /** Where equal, as bool; so the next five. */
    eq(b: Operand): Tensor
    /** Where different. */
    ne(b: Operand): Tensor
    /** Where less. */
    lt(b: Operand): Tensor
    /** Where less or equal. */
    le(b: Operand): Tensor
    /** Where greater. */
    gt(b: Operand): Tensor
    /** Where greater or equal. */
    ge(b: Operand): Tensor
    /** Of bool tensors, with broadcasting. */
    logicalAnd(b: Tensor): Tensor
    /** True where either is. */
    logicalOr(b: Tensor): Tensor
    /** True where exactly one is. */
    logicalXor(b: Tensor): Tensor
    /** True where it is not. */
    logicalNot(): Tensor
    /** `value` where the mask holds, else this one; all broadcast. */
    maskedFill(mask: Tensor, value: Operand): Tensor
    /** True where it is not a number. */
    isNaN(): Tensor
    /** Neither NaN nor infinite. */
    isFinite(): Tensor
  }
}

for (const [name, op] of Object.entries({ pow, maximum, minimum, remainder, ...comparisons, ...logicals }))
  Object.defineProperty(Tensor.prototype, name, {
    value: function (this: Tensor, b: Operand) {
      return broadcast(op, this, b)
    },
    writable: true,
  })
const float = (a: Tensor, b: Operand): b is number => typeof b === 'number' && a.dtype === 'f32'
Tensor.prototype.add = function (b) {
  return float(this, b) ? scalarAdd(this, b) : broadcast(add, this, b)
}
Tensor.prototype.sub = function (b) {
  return float(this, b) ? scalarAdd(this, -b) : broadcast(sub, this, b)
}
Tensor.prototype.mul = function (b) {
  return float(this, b) ? scalarMul(this, b) : broadcast(mul, this, b)
}
Tensor.prototype.div = function (b) {
  return float(this, b) ? scalarMul(this, 1 / b) : broadcast(div, this, b)
}
Tensor.prototype.clamp = function (low = -Infinity, high = Infinity) {
  if (!(low instanceof Tensor || high instanceof Tensor)) return clampTo(this, low, high)
  return tidy(() => {
    const above = low === -Infinity ? this : broadcast(raised, this, low)
    return high === Infinity ? above : broadcast(lowered, above, high)
  })
}
Tensor.prototype.logicalNot = function () {
  return apply(logicalNot, [this], undefined)[0]
}
Tensor.prototype.maskedFill = function (mask, value) {
  return where(mask, value, this)
}
Tensor.prototype.isNaN = function () {
  return apply(comparisons.ne, [this, this], undefined)[0]
}
Tensor.prototype.isFinite = function () {
  return tidy(() => this.sub(this).eq(0))
}

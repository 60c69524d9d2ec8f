import { describe, fail, isForeign } from '../errors'
import { check, native } from '../native'
import { sameShape, showShape, type Shape } from '../tensor/shape'
import { Tensor, type Layout, type Spec } from '../tensor/tensor'
import { encodeOperands } from './encode'
import { tracing, type Graph } from './graph'

/** A call of a native kernel: its name and its numbers, in the order that the kernel's comment states. */
export interface KernelCall {
  /** The kernel. */
  readonly name: string
  /** Its numbers. */
  readonly numbers?: readonly number[]
}

/** What a set and an unset bit of packed signs stand for: +1 and -1, or 1 and 0. */
export type Alphabet = 'pm1' | '01'

/** What memory policies may ask of an op with a weight (y = W x + b in some form). */
export interface Weighted<A> {
  /** Position of the weight among the inputs; input 0 is x. */
  readonly index: number
  /** The weight gradient from the gradient of output 0 and any stand-in for x (of its shape). */
  gradient(delta: Tensor, x: Tensor, attrs: A, weight: Spec): Tensor
  /** Attributes under which the kernel multiplies x + epsilon s, s the signs of x; output 1 is s, packed. */
  withSigns(attrs: A, epsilon: number, alphabet: Alphabet): A
  /** The weight gradient from packed signs, times `scale`. */
  signGradient(delta: Tensor, signs: Tensor, attrs: A, x: Spec, weight: Spec, scale: number, alphabet: Alphabet): Tensor
  /** The weight gradient from two-bit codes of x and their ranges, one for each index of its first axis. */
  codeGradient(delta: Tensor, codes: Tensor, ranges: Tensor, attrs: A, x: Spec, weight: Spec): Tensor
}

/**
 * What a derivative rule sees. Read a forward value only through `input` or `output`, and only if the rule needs its
 * values: reading it is what makes backward keep it. `spec` costs nothing.
 */
export interface Derivation<A> {
  /** Attributes of the op. */
  readonly attrs: A
  /** Gradient of the loss with respect to output i; undefined if the loss does not depend on it. */
  grad(i?: number): Tensor | undefined
  /** Shape and dtype of input i. */
  spec(i: number): Spec
  /** True if input i is there. */
  has(i: number): boolean
  /** True if a gradient of input i is wanted. */
  needs(i: number): boolean
  /** Forward value of input i, kept for backward (as the memory policy in force keeps it). */
  input(i: number): Tensor
  /** Forward value of output i, likewise. */
  output(i?: number): Tensor
}

/**
 * One op: its shape rule, its kernel and its derivative. An op is a plain object in a file of `ops/`; nothing else
 * lists it. `A` is the type of its attributes (constants such as axes or strides).
 */
export interface Op<A = unknown> {
  /** For plans and errors. */
  readonly name: string
  /** Shapes and dtypes of the outputs; throws AuxgradError naming the op, what was expected and what came. */
  infer(inputs: readonly (Spec | undefined)[], attrs: A): Spec[]
  /**
   * The kernel that computes it. Its `in` operands are the inputs (absent ones as absent operands) without the mutated
   * ones; its `out` operands are the mutated inputs, then the outputs. Ops without a kernel are views or leaves.
   */
  kernel?(inputs: readonly (Spec | undefined)[], outputs: readonly Spec[], attrs: A): KernelCall
  /** Zero-copy op: the layout of the output on the memory of input 0. `infer` is not called. */
  view?(input: Layout & Spec, attrs: A): Layout
  /**
   * Gradients of the inputs (undefined where there is none or none is wanted), made with ordinary ops. Without this
   * function the op has no gradient and differentiating through it is an error.
   */
  derive?(d: Derivation<A>): (Tensor | undefined)[]
  /** True if a gradient is zero everywhere by nature (comparisons, argmax, sign): it just stops there. */
  readonly constant?: boolean
  /** Inputs that the kernel takes with any strides; the others are made contiguous first. */
  readonly strided?: readonly number[] | 'all'
  /** Inputs whose memory output 0 may take over if they die here and have the same bytes (elementwise kernels). */
  readonly inplace?: readonly number[]
  /** Inputs that the kernel changes in place (parameters, optimizer state, running statistics). */
  readonly mutates?: readonly number[]
  /** Outputs that the kernel leaves out where nobody reads them; the first output is never one of them. */
  readonly optional?: readonly number[]
  /** An op with a weight whose gradient reads input 0: memory policies apply to it. */
  readonly weighted?: Weighted<A>
  /** Attributes under which the kernel applies ReLU to output 0, and the output that is the packed mask y > 0, if one is. */
  readonly relu?: {
    /** The attributes with ReLU. */
    attrs(attrs: A): A
    /** Output that is the mask. */
    readonly mask?: number
  }
  /** Attributes under which the kernel gives statistics of output 0, over all but its last axis, and the outputs they are. */
  readonly moments?: {
    /** The attributes with this eps. */
    attrs(attrs: A, eps: number): A
    /** Outputs that are the mean, the biased variance and 1 / sqrt(variance + eps). */
    readonly outputs: readonly number[]
  }
  /** Its gradient compares values or needs them to the last bit: policies do not compress what it reads. */
  readonly exact?: boolean
  /** What is known of the sign of output 0: never negative, or not negative where input 0 is not. */
  readonly nonNegative?: 'always' | 'as input'
  /** Input 0 from output 0 and the other inputs: policies may compute it so instead of keeping it. */
  inverse?(y: Tensor, others: readonly (Tensor | undefined)[], attrs: A): Tensor
  /**
   * The sum of several first outputs of this op, made with less work than by adding them; gradients of one tensor that this
   * op makes are gathered for it.
   */
  sum?(outputs: readonly Tensor[]): Tensor
  /** Small outputs that recomputation reads as they are instead of computing them again (batch statistics). */
  readonly statistics?: boolean
}

/** Checks and freezes nothing; exists so that attributes are typed where an op is written. */
export const defineOp = <A>(op: Op<A>): Op<A> => op

const contiguousOp = defineOp<undefined>({
  name: 'contiguous',
  infer: ([x]) => [x!],
  kernel: () => ({ name: 'contiguous' }),
  derive: (d) => [d.grad()],
  strided: 'all',
})

/** The same values in memory of their own. */
export const copy = (x: Tensor): Tensor => apply(contiguousOp, [x], undefined)[0]

/** The same values in row-major order: the tensor itself where it already is. */
export const contiguous = (x: Tensor): Tensor => (x.contiguous ? x : apply(contiguousOp, [x], undefined)[0])

/** The graph that an op on these inputs belongs to; undefined if it is to be computed at once. */
export function graphOf(inputs: readonly (Tensor | undefined)[]): Graph | undefined {
  for (const t of inputs) if (t?.node) return t.node.graph
  return inputs.length ? tracing() : undefined
}

/**
 * Applies an op: computes at once on eager tensors, adds a node if any input is traced.
 * Eager results are new tensors (views share memory with their input).
 */
export function apply<A>(op: Op<A>, inputs: readonly (Tensor | undefined)[], attrs: A): Tensor[] {
  const graph = graphOf(inputs)
  const ready: (Tensor | undefined)[] = []
  try {
    inputs.forEach((t, i) => ready.push(t === undefined ? t : readyFor(op, t, i, graph)))
    if (!graph) return op.view ? [eagerView(op, ready[0]!, attrs)] : eagerCall(op, ready, attrs)
    if (op.weighted && graph.onWeightedOp && graph.phase === 'forward') return graph.onWeightedOp(op, ready, attrs)
    return graph.add(op, ready, attrs).outputs
  } finally {
    // Copies are temporaries of this call, and so is what was stored in fewer bytes.
    ready.forEach((t, i) => t && t !== inputs[i] && t.dispose())
  }
}

/** Input i as the op takes it: row-major unless it takes any strides and, eagerly, f32 where it is stored in fewer bytes. */
function readyFor<A>(op: Op<A>, t: Tensor, i: number, graph: Graph | undefined): Tensor {
  expectTensor(op.name, t)
  if (!t.node) t.liveStorage()
  if (t.packed && op.mutates?.includes(i))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${op.name}: what is stored in ${t.packed.format} cannot be changed by a step; store('f32') brings it back to float32`,
    )
  if (t.packed && !graph) return t.packed.read()
  const strided = op.view || op.strided === 'all' || op.strided?.includes(i) || op.mutates?.includes(i)
  return strided ? t : contiguous(t)
}

function eagerView<A>(op: Op<A>, x: Tensor, attrs: A): Tensor {
  const layout = op.view!(x, attrs)
  return new Tensor({ dtype: x.dtype, layout, storage: x.liveStorage().retain() })
}

function eagerCall<A>(op: Op<A>, inputs: readonly (Tensor | undefined)[], attrs: A): Tensor[] {
  const specs = op.infer(inputs, attrs)
  const outputs: Tensor[] = []
  try {
    // Optional outputs come last.
    const wanted = specs.slice(0, specs.length - (op.optional?.length ?? 0))
    for (const s of wanted) outputs.push(Tensor.allocate(s.shape, s.dtype, { what: op.name }))
    const call = kernelCall(op, inputs, outputs, attrs)
    const { ins, outs } = kernelOperands(op, inputs, outputs)
    const operands = [...ins, ...outs]
    const handles = operands.map((t) => t?.liveStorage().place(null).handle).filter((h) => h !== undefined)
    let next = 0
    const words = encodeOperands(operands.map((t) => t && { layout: t, dtype: t.dtype, buffer: next++, byteOffset: 0 }))
    check(native().call(call.name, words, handles, ins.length, Float64Array.from(call.numbers ?? [])))
    return outputs
  } catch (error) {
    for (const t of outputs) t.dispose()
    throw error
  }
}

/** @internal */
export function kernelCall<A>(
  op: Op<A>,
  inputs: readonly (Spec | undefined)[],
  outputs: readonly Spec[],
  attrs: A,
): KernelCall {
  if (!op.kernel)
    fail(
      'AUX_NO_KERNEL',
      `${op.name}: no kernel for shapes ${inputs.map((t) => (t ? showShape(t.shape) : '-')).join(', ')}`,
    )
  return op.kernel(inputs, outputs, attrs)
}

/** @internal Inputs and outputs of an op in the order its kernel takes them. */
export function kernelOperands<T>(op: Op, inputs: readonly T[], outputs: readonly T[]): { ins: T[]; outs: T[] } {
  const mutates = op.mutates ?? []
  return { ins: inputs.filter((_, i) => !mutates.includes(i)), outs: [...mutates.map((i) => inputs[i]), ...outputs] }
}

/** Throws unless it is a tensor: what JavaScript lets through. */
export function expectTensor(op: string, value: unknown): asserts value is Tensor {
  if (value instanceof Tensor) return
  const advice = isForeign(value) ? '' : '; tensor() makes one of numbers'
  fail('AUX_INVALID_ARGUMENT', `${op}: expected a tensor, got ${describe(value)}${advice}`)
}

/** Throws unless the input is there. */
function expectInput(op: string, name: string, spec: Spec | undefined): asserts spec is Spec {
  if (!Array.isArray(spec?.shape))
    fail('AUX_INVALID_ARGUMENT', `${op}: expected ${name} to be a tensor, got ${describe(spec)}`)
}

/** Throws unless the input has the dtype; for shape rules. */
export function expectDType(op: string, name: string, spec: Spec | undefined, ...expected: Spec['dtype'][]): void {
  expectInput(op, name, spec)
  if (!expected.includes(spec.dtype))
    fail('AUX_DTYPE_MISMATCH', `${op}: expected ${name} of dtype ${expected.join(' or ')}, got ${spec.dtype}`)
}

/** Throws unless the input has the rank; for shape rules. */
export function expectRank(op: string, name: string, spec: Spec | undefined, rank: number): void {
  expectInput(op, name, spec)
  if (spec.shape.length !== rank)
    fail('AUX_SHAPE_MISMATCH', `${op}: expected ${name} with ${rank} axes, got shape ${showShape(spec.shape)}`)
}

/** Throws unless the input has the shape; for shape rules. */
export function expectShape(op: string, name: string, spec: Spec | undefined, shape: Shape): void {
  expectInput(op, name, spec)
  if (!sameShape(spec.shape, shape))
    fail('AUX_SHAPE_MISMATCH', `${op}: expected ${name} of shape ${showShape(shape)}, got ${showShape(spec.shape)}`)
}

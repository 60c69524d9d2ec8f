import { expectIntegers, expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, expectTensor, type Op } from '../graph/op'
import type { DType } from '../tensor/dtype'
import { resolveAxis, showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'

// Reading and adding by index. Indices are i32; one outside its axis is AUX_INDEX_OUT_OF_RANGE, naming the index, its
// position and the size, before anything is written.

/** Callers by number, as native/cpu/kernels/index.cc names them in errors. */
const callers = ['indexSelect', 'embedding', 'gather', 'scatterAdd', 'oneHot', 'sort'] as const
type Caller = (typeof callers)[number]
/** @internal The number of a caller. */
export const code = (caller: Caller): number => callers.indexOf(caller)

/**
 * @internal A tensor of indices as i32: u8 is cast; an input of a step whose dtype was not declared becomes i32.
 * @throws AUX_DTYPE_MISMATCH for other dtypes.
 */
export function expectIndices(op: string, name: string, t: Tensor): Tensor {
  expectTensor(op, t)
  if (t.dtype === 'i32') return t
  if (t.dtype === 'u8') return t.cast('i32')
  let source: Tensor | undefined = t
  while (source?.node && moves(source.node.op)) source = source.node.inputs[0]
  if (source?.node?.flexible) {
    const views = viewsOf(source, op, name)
    source.node.flexible = false
    for (const view of views) (view as { dtype: DType }).dtype = 'i32'
    return t
  }
  const input = source?.node?.inputName
  const instead = input ? `give ${input} as an Int32Array (or dtypes: { ${input}: 'i32' } to its data set), or ` : ''
  return fail(
    'AUX_DTYPE_MISMATCH',
    `${op}: expected ${name} of dtype i32 or u8, got ${t.dtype}; ${instead}cast('i32') if they are whole numbers`,
  )
}

/** Whether an op gives the values that it is given, as another view or as a copy. */
const moves = ({ view, name }: Op): boolean => view !== undefined || name === 'contiguous'

/** An input and all its views and copies; throws if anything has read their values as f32 already. */
function viewsOf(input: Tensor, op: string, name: string): Set<Tensor> {
  const views = new Set([input])
  for (const node of input.node!.graph.nodes) {
    if (!node.inputs.some((t) => t && views.has(t))) continue
    if (!moves(node.op))
      fail(
        'AUX_DTYPE_MISMATCH',
        `${op}: expected ${name} of dtype i32, but ${node.op.name} has read input ${input.node!.inputName} as f32; declare its dtype`,
      )
    for (const t of node.outputs) views.add(t)
  }
  return views
}

/** @internal */
export type TakeAttrs = { axis: number; caller: Caller; padding: number }

/** @internal The gradient of a tensor whose entries were taken by index. */
export const takeGradOp: Op<TakeAttrs & { shape: Shape }> = defineOp({
  name: 'take_grad',
  infer: (_, { shape }) => [{ shape, dtype: 'f32' }],
  kernel: (_, __, a) => ({ name: 'take_grad', numbers: [a.axis, code(a.caller), a.padding] }),
  derive: (d) => [d.grad()!.indexSelect(d.attrs.axis, d.input(1)), undefined],
})

/** @internal Entries by index along an axis. */
export const takeOp: Op<TakeAttrs> = defineOp({
  name: 'take',
  infer: ([x, indices], { axis }) => [
    { shape: [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)], dtype: x!.dtype },
  ],
  kernel: (_, __, a) => ({ name: 'take', numbers: [a.axis, code(a.caller)] }),
  derive: (d) => [
    d.needs(0) ? apply(takeGradOp, [d.grad()!, d.input(1)], { ...d.attrs, shape: d.spec(0).shape })[0] : undefined,
    undefined,
  ],
})

/**
 * Rows of a table: weight [rows, features], indices i32 of any shape; y [...indices, features]. The row `paddingIdx`
 * gets no gradient.
 * @throws AUX_INDEX_OUT_OF_RANGE
 */
export function embedding(indices: Tensor, weight: Tensor, options: { paddingIdx?: number } = {}): Tensor {
  expectOptions('embedding', options, ['paddingIdx'])
  expectRank('embedding', 'weight', weight, 2)
  const padding =
    options.paddingIdx === undefined ? -1 : resolveAxis('embedding paddingIdx', options.paddingIdx, weight.shape[0])
  return tidy(
    () =>
      apply(takeOp, [weight, expectIndices('embedding', 'indices', indices)], {
        axis: 0,
        caller: 'embedding',
        padding,
      })[0],
  )
}

type GatherAttrs = { axis: number; caller: Caller }

function checkGather(name: string, shape: Shape, index: Shape, axis: number): void {
  if (shape.length !== index.length || index.some((n, i) => i !== axis && n > shape[i]))
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected an index no larger than ${showShape(shape)} in every axis but ${axis}, got ${showShape(index)}`,
    )
}

const scatterOp: Op<GatherAttrs & { shape: Shape }> = defineOp({
  name: 'scatter_add',
  infer: ([x, index, source], { axis, shape, caller }) => {
    if (x) expectDType(caller, 'input', x, 'f32')
    expectDType(caller, 'source', source!, 'f32')
    expectShape(caller, 'source', source!, index!.shape)
    checkGather(caller, shape, index!.shape, axis)
    return [{ shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'scatter_add', numbers: [a.axis, code(a.caller)] }),
  derive: (d) => [
    d.has(0) && d.needs(0) ? d.grad()! : undefined,
    undefined,
    d.needs(2) ? d.grad()!.gather(d.attrs.axis, d.input(1)) : undefined,
  ],
})

/** @internal Zeros of the shape, plus source at the indexed places: the gradient of what gathers. */
export const scatterZeros = (shape: Shape, axis: number, index: Tensor, source: Tensor, caller: Caller): Tensor =>
  apply(scatterOp, [undefined, index, source], { axis, shape, caller })[0]

const gatherOp: Op<GatherAttrs> = defineOp({
  name: 'gather',
  infer: ([x, index], { axis }) => {
    checkGather('gather', x!.shape, index!.shape, axis)
    return [{ shape: index!.shape, dtype: x!.dtype }]
  },
  kernel: (_, __, a) => ({ name: 'gather', numbers: [a.axis, code(a.caller)] }),
  derive: (d) => [
    d.needs(0) ? scatterZeros(d.spec(0).shape, d.attrs.axis, d.input(1), d.grad()!, 'gather') : undefined,
    undefined,
  ],
  strided: [0],
})

const oneHotOp = defineOp<{ classes: number }>({
  name: 'one_hot',
  infer: ([labels], { classes }) => [{ shape: [...labels!.shape, classes], dtype: 'f32' }],
  kernel: () => ({ name: 'one_hot', numbers: [code('oneHot')] }),
  constant: true,
})

/** 1 at each label, 0 elsewhere: labels i32 [...]; y f32 [..., classes]. @throws AUX_INDEX_OUT_OF_RANGE */
export function oneHot(labels: Tensor, classes: number): Tensor {
  expectIntegers('oneHot', { classes })
  return tidy(() => apply(oneHotOp, [expectIndices('oneHot', 'labels', labels)], { classes })[0])
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** The entries at `indices` (i32, any shape) along an axis, which their axes replace. */
    indexSelect(axis: number, indices: Tensor): Tensor
    /** y[.., j, ..] = x[.., index[.., j, ..], ..] along the axis: index has x's rank, y the index's shape. */
    gather(axis: number, index: Tensor): Tensor
    /** x plus, at each index along the axis, the source's value; repeated indices add up, in order. */
    scatterAdd(axis: number, index: Tensor, source: Tensor): Tensor
    /** x plus, at each of the indices (i32 [K]) along the axis, an entry of source, of x's shape but K there. */
    indexAdd(axis: number, indices: Tensor, source: Tensor): Tensor
  }
}

Tensor.prototype.indexSelect = function (axis, indices) {
  const attrs = { axis: resolveAxis('indexSelect', axis, this.rank), caller: 'indexSelect' as const, padding: -1 }
  return tidy(() => apply(takeOp, [this, expectIndices('indexSelect', 'indices', indices)], attrs)[0])
}
Tensor.prototype.gather = function (axis, index) {
  const attrs = { axis: resolveAxis('gather', axis, this.rank), caller: 'gather' as const }
  return tidy(() => apply(gatherOp, [this, expectIndices('gather', 'index', index)], attrs)[0])
}
Tensor.prototype.scatterAdd = function (axis, index, source) {
  const attrs = { axis: resolveAxis('scatterAdd', axis, this.rank), caller: 'scatterAdd' as const, shape: this.shape }
  return tidy(() => apply(scatterOp, [this, expectIndices('scatterAdd', 'index', index), source], attrs)[0])
}
Tensor.prototype.indexAdd = function (axis, indices, source) {
  const at = resolveAxis('indexAdd', axis, this.rank)
  return tidy(() => {
    const ids = expectIndices('indexAdd', 'indices', indices)
    expectRank('indexAdd', 'indices', ids, 1)
    expectDType('indexAdd', 'source', source, 'f32')
    expectShape(
      'indexAdd',
      'source',
      source,
      this.shape.map((n, i) => (i === at ? ids.size : n)),
    )
    const attrs = { axis: at, caller: 'scatterAdd' as const, padding: -1, shape: this.shape }
    return this.add(apply(takeGradOp, [source, ids], attrs)[0])
  })
}

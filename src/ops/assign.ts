import { describe, fail } from '../errors'
import { apply, copy, defineOp, expectDType, expectShape, graphOf } from '../graph/op'
import type { Graph } from '../graph/graph'
import { native } from '../native'
import { bytesPerElement, encode, type TypedArray } from '../tensor/dtype'
import { naturalDType } from '../tensor/host'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { changing, roundInto } from './store'

const assignOp = defineOp<undefined>({
  name: 'assign',
  infer: ([to, from]) => {
    expectDType('assign', 'values', from!, to!.dtype)
    expectShape('assign', 'values', from!, to!.shape)
    return []
  },
  kernel: () => ({ name: 'contiguous' }),
  mutates: [0],
  strided: 'all',
  constant: true,
})

declare module '../tensor/tensor' {
  interface Tensor {
    /**
     * Overwrites the values in place: of a parameter, a buffer, the state of an optimizer. Numbers are rounded to its dtype.
     * With values that are traced, every run does so, when all that it held before has been read; what reads it later in
     * the trace gets the new values, through which no gradient flows. What is stored in bf16 then holds them rounded
     * stochastically. Not while a run reads or changes the tensor: what is assigned may be lost; await the run first.
     * @throws AUX_SHAPE_MISMATCH if the number of values differs (of traced ones, the shape).
     */
    assign(values: Tensor | TypedArray | readonly number[]): this
  }
}

Tensor.prototype.assign = function (values) {
  const graph = values instanceof Tensor ? graphOf([this, values]) : undefined
  if (graph) assignTraced(graph, this, values as Tensor)
  else assignNow(this, values)
  return this
}

function assignTraced(graph: Graph, target: Tensor, values: Tensor): void {
  const local = graph.assignable.has(target)
  if (target.traced && !local)
    fail('AUX_TRACED_VALUE', 'assign: expected a parameter or a buffer, got a value of the step, or a view')
  if (!target.contiguous) fail('AUX_INVALID_ARGUMENT', 'assign: expected a contiguous tensor, got a strided view')
  // Of what lies outside of the arena, the values of now: another assignment may change it.
  const source = values.traced ? (values.base ?? values).node!.reference : values
  const value = (source ? copy(values) : values).detach()
  const stored = changing(target)
  if (stored) roundInto(stored, value)
  else if (!local) apply(assignOp, [target, value], undefined)
  graph.assign(target, value)
}

function assignNow(target: Tensor, values: Tensor | TypedArray | readonly number[]): void {
  const { dtype, shape, size, offset } = target
  const storage = target.liveStorage()
  if (target.packed) return target.packed.assign(values)
  if (!target.contiguous) fail('AUX_INVALID_ARGUMENT', 'assign: expected a contiguous tensor, got a strided view')
  if (values instanceof Tensor && values.dtype !== dtype)
    fail('AUX_DTYPE_MISMATCH', `assign: expected ${dtype}, got ${values.dtype}`)
  if (!(values instanceof Tensor || ArrayBuffer.isView(values) || Array.isArray(values)))
    fail('AUX_INVALID_ARGUMENT', `assign: expected a tensor or an array of values, got ${describe(values)}`)
  const source = values instanceof Tensor ? values.rawSync() : values
  if (source.length !== size)
    fail('AUX_SHAPE_MISMATCH', `assign: expected ${size} values for shape ${showShape(shape)}, got ${source.length}`)
  const stored = values instanceof Tensor || (dtype === 'bf16' && naturalDType(source) === 'bf16')
  const data = stored ? (source as TypedArray) : encode('assign', source, dtype)
  native().write(storage.handle, offset * bytesPerElement(dtype), data)
}

import type { Node } from '../graph/graph'
import { apply, defineOp } from '../graph/op'
import { sizeOf } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { code, takeGradOp, type TakeAttrs } from './indices'
import { concat } from './join'
import { changing } from './store'

// Some rows of a table: the gradient of what a step has looked up, and how such rows are written back.

const distinctOp = defineOp<{ size: number; first: number }>({
  name: 'distinct',
  infer: ([indices], { size, first }) => [
    { shape: [Math.min(size, sizeOf(indices!.shape) + (first < 0 ? 0 : 1))], dtype: 'i32' },
    { shape: [sizeOf(indices!.shape)], dtype: 'i32' },
  ],
  kernel: (_, __, { size, first }) => ({ name: 'distinct', numbers: [size, code('embedding'), first] }),
  constant: true,
})

const putRowsOp = defineOp<{ id: number }>({
  name: 'put_rows',
  infer: () => [],
  kernel: (_, __, { id }) => ({ name: 'put_rows', numbers: [code('embedding'), id] }),
  mutates: [0],
  constant: true,
})

/** The gradient of a table by the rows that were looked up. */
export interface RowGradient {
  /** i32 [m]: each row once, then the first of them again. */
  rows: Tensor
  /** [m, features]; zeros where a row comes again. */
  gradient: Tensor
}

/** The look-ups that a gradient of a table is the sum of; undefined if it has other parts. */
function lookups({ node }: Tensor): Node[] | undefined {
  if (node!.op === takeGradOp) return [node!]
  if (node!.op.name !== 'add') return undefined
  const parts = node!.inputs.map((t) => lookups(t!))
  return parts.includes(undefined) ? undefined : (parts as Node[][]).flat()
}

/** @internal A gradient of a table [rows, features] as that of rows; undefined where more than look-ups has read the table. */
export function rowGradient(gradient: Tensor): RowGradient | undefined {
  const calls = lookups(gradient)
  if (!calls) return undefined
  const [size, features] = gradient.shape
  const [{ padding }, ...others] = calls.map(({ attrs }) => attrs as TakeAttrs)
  if (others.some((other) => other.padding !== padding)) return undefined
  const joined = (input: 0 | 1, shape: number[]): Tensor =>
    concat(
      calls.map((c) => c.inputs[input]!.reshape(shape)),
      0,
    )
  const [rows, places] = apply(distinctOp, [joined(1, [-1])], { size, first: padding })
  const attrs = { ...(calls[0].attrs as TakeAttrs), padding: padding < 0 ? -1 : 0, shape: [rows.size, features] }
  return { rows, gradient: apply(takeGradOp, [joined(0, [-1, features]), places], attrs)[0] }
}

/** @internal Overwrites rows of a table in place: `rows` as in `RowGradient`, values [m, ...]. */
export function putRows(table: Tensor, rows: Tensor, values: Tensor): void {
  const { patterns = table, key, id = 0 } = changing(table) ?? {}
  apply(putRowsOp, [patterns, rows, values, key], { id })
}

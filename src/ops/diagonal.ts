import { fail } from '../errors'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { place } from './join'

// Diagonals: of a matrix with C columns the entries C + 1 apart, row after row.

declare module '../tensor/tensor' {
  interface Tensor {
    /** The diagonal of the last two axes, `offset` places right of the main one (0; below it: negative): [..., R, C] to [..., K]. */
    diagonal(offset?: number): Tensor
    /** Matrices with these diagonals and zeros elsewhere: [..., K] to [..., K + |offset|, K + |offset|]. */
    diagEmbed(offset?: number): Tensor
  }
}

const first = (offset: number, columns: number): number => (offset < 0 ? -offset * columns : offset)

Tensor.prototype.diagonal = function (offset = 0) {
  const { shape, rank } = this
  const [rows, columns] = shape.slice(-2)
  if (rank < 2) fail('AUX_SHAPE_MISMATCH', `diagonal: expected at least 2 axes, got shape ${showShape(shape)}`)
  const size = Math.min(rows + Math.min(0, offset), columns - Math.max(0, offset))
  if (!Number.isInteger(offset) || size < 0)
    fail('AUX_INVALID_ARGUMENT', `diagonal: expected a whole offset within shape ${showShape(shape)}, got ${offset}`)
  const start = first(offset, columns)
  const range = [start, start + size * (columns + 1), columns + 1] as const
  return tidy(() => this.flatten(rank - 2).slice(...shape.slice(2).map(() => null), range))
}
Tensor.prototype.diagEmbed = function (offset = 0) {
  const { shape, rank } = this
  if (!rank || !Number.isInteger(offset))
    fail(
      'AUX_INVALID_ARGUMENT',
      `diagEmbed: expected a vector and a whole offset, got ${showShape(shape)} and ${offset}`,
    )
  const lead = shape.slice(0, -1)
  const side = shape[rank - 1] + Math.abs(offset)
  const rows = [...lead, side * side]
  const all = (value: number, last: number): number[] => [...lead.map(() => value), last]
  return tidy(() => place(this, rows, all(0, first(offset, side)), all(1, side + 1), 0).reshape([...lead, side, side]))
}

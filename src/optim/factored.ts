import type { Spec, Tensor } from '../tensor/tensor'

/**
 * What the factored optimizers remember of a parameter: `rows` and `columns` of the matrix of its first axis by all
 * others, or `elements` where that is a single row or column.
 */
export function factoredSlot(name: string, { shape, size }: Tensor): Spec | undefined {
  const rows = shape.length > 1 ? shape[0] : 1
  const columns = rows ? size / rows : 0
  const factored = rows > 1 && columns > 1
  const sizes: Record<string, number | undefined> = factored ? { rows, columns } : { elements: size }
  return sizes[name] === undefined ? undefined : { shape: [sizes[name]], dtype: 'f32' }
}

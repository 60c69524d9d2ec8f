import { fail } from '../errors'
import { expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { matmul } from './matmul'
import { alias } from './shape'

/** A tensor whose axes have letters. */
interface Lettered {
  readonly t: Tensor
  readonly axes: string
}

const without = (axes: string, others: string): string => [...axes].filter((a) => !others.includes(a)).join('')
const shared = (axes: string, others: string): string => [...axes].filter((a) => others.includes(a)).join('')

/** Summed over the axes that are not wanted. */
function summed({ t, axes }: Lettered, wanted: string): Lettered {
  const gone = [...axes].flatMap((a, i) => (wanted.includes(a) ? [] : [i]))
  return gone.length ? { t: t.sum(gone), axes: shared(axes, wanted) } : { t, axes }
}

const inOrder = ({ t, axes }: Lettered, order: string): Tensor => t.permute([...order].map((a) => axes.indexOf(a)))

/** One batched matrix product: of two tensors, summed over what they share and nobody wants. */
function product(left: Lettered, right: Lettered, wanted: string): Lettered {
  const a = summed(left, wanted + right.axes)
  const b = summed(right, wanted + left.axes)
  const both = shared(a.axes, b.axes)
  const batch = shared(both, wanted)
  const inner = without(both, wanted)
  const [rows, columns] = [without(a.axes, both), without(b.axes, both)]
  const size = (axes: string): number[] =>
    [...axes].map((x) => (a.axes.includes(x) ? a.t.shape[a.axes.indexOf(x)] : b.t.shape[b.axes.indexOf(x)]))
  const count = (axes: string): number => size(axes).reduce((n, d) => n * d, 1)
  const x = inOrder(a, batch + rows + inner).reshape([count(batch), count(rows), count(inner)])
  const y = inOrder(b, batch + inner + columns).reshape([count(batch), count(inner), count(columns)])
  const axes = batch + rows + columns
  return { t: matmul(x, y).reshape(size(axes)), axes }
}

/**
 * Sums of products by the letters of axes: `einsum('bhqd,bhkd->bhqk', q, k)`. An axis that stands behind no arrow is
 * summed over; without an arrow those stay, in order of the alphabet, that occur once. Operands are multiplied from
 * left to right, each time by one matrix product.
 * @throws AUX_INVALID_ARGUMENT for an equation that makes no sense, an ellipsis, or a letter that is twice in one
 * operand; AUX_SHAPE_MISMATCH for shapes that do not fit it.
 */
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  const parts = /^\s*([a-zA-Z]*(?:\s*,\s*[a-zA-Z]*)*)\s*(?:->\s*([a-zA-Z]*)\s*)?$/.exec(String(equation))
  if (!parts) fail('AUX_INVALID_ARGUMENT', `einsum: expected letters such as 'ij,jk->ik', got '${String(equation)}'`)
  const letters = parts[1].split(',').map((axes) => axes.trim())
  if (letters.length !== tensors.length)
    fail('AUX_INVALID_ARGUMENT', `einsum: expected ${letters.length} tensors for '${equation}', got ${tensors.length}`)
  const sizes = new Map<string, number>()
  letters.forEach((axes, i) => {
    const t = tensors[i]
    expectTensor('einsum', t)
    if (new Set(axes).size !== axes.length)
      fail('AUX_INVALID_ARGUMENT', `einsum: expected each letter once in an operand, got '${axes}'`)
    if (axes.length !== t.rank)
      fail('AUX_SHAPE_MISMATCH', `einsum: expected ${axes.length} axes for '${axes}', got shape ${showShape(t.shape)}`)
    ;[...axes].forEach((a, k) => {
      if ((sizes.get(a) ?? t.shape[k]) !== t.shape[k])
        fail('AUX_SHAPE_MISMATCH', `einsum: axis ${a} of '${equation}' has sizes ${sizes.get(a)} and ${t.shape[k]}`)
      sizes.set(a, t.shape[k])
    })
  })
  const all = letters.join('')
  const once = [...sizes.keys()].filter((a) => all.split(a).length === 2).sort()
  const output = parts[2] ?? once.join('')
  if (new Set(output).size !== output.length || without(output, all))
    fail(
      'AUX_INVALID_ARGUMENT',
      `einsum: expected letters of the operands, each once, behind the arrow of '${equation}'`,
    )
  return tidy(() => {
    let result: Lettered = { t: tensors[0], axes: letters[0] }
    for (let i = 1; i < tensors.length; i++)
      result = product(result, { t: tensors[i], axes: letters[i] }, output + letters.slice(i + 1).join(''))
    return alias(inOrder(summed(result, output), output))
  })
}

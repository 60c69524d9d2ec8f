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

/** Each letter once: of axes that share one their diagonal. */
function distinct({ t, axes }: Lettered): Lettered {
  const a = [...axes].findIndex((letter, i) => axes.includes(letter, i + 1))
  if (a < 0) return { t, axes }
  const b = axes.indexOf(axes[a], a + 1)
  const rest = [...axes].flatMap((_, i) => (i === a || i === b ? [] : [i]))
  return distinct({ t: t.permute([...rest, a, b]).diagonal(), axes: [...rest, a].map((i) => axes[i]).join('') })
}

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

const side = '[a-zA-Z]*(?:\\.{3}[a-zA-Z]*)?'
const form = new RegExp(`^\\s*(${side}(?:\\s*,\\s*${side})*)\\s*(?:->\\s*(${side})\\s*)?$`)

/**
 * Sums of products by the letters of axes: `einsum('bhqd,bhkd->bhqk', q, k)`. An axis that stands behind no arrow is
 * summed over; without an arrow those stay, in order of the alphabet, that occur once. `...` stands for any further axes,
 * which broadcast and come first without an arrow: `einsum('...ij,...jk->...ik', a, b)`. Operands are multiplied from left to
 * right, each time by one matrix product. A letter that comes again in an operand takes its diagonal.
 * @throws AUX_INVALID_ARGUMENT for an equation that makes no sense; AUX_SHAPE_MISMATCH for shapes that do not fit it.
 */
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  const parts = form.exec(String(equation))
  if (!parts) fail('AUX_INVALID_ARGUMENT', `einsum: expected letters such as 'ij,jk->ik', got '${String(equation)}'`)
  const given = parts[1].split(',').map((axes) => axes.trim())
  if (given.length !== tensors.length)
    fail('AUX_INVALID_ARGUMENT', `einsum: expected ${given.length} tensors for '${equation}', got ${tensors.length}`)
  for (const t of tensors) expectTensor('einsum', t)
  // The axes of an ellipsis have Greek letters, the last of all operands the same.
  const more = given.map((axes, i) => (axes.includes('...') ? Math.max(0, tensors[i].rank - axes.length + 3) : 0))
  const dots = String.fromCharCode(...Array.from({ length: Math.max(...more) }, (_, i) => 0x3b1 + i))
  const letters = given.map((axes, i) => axes.replace('...', dots.slice(dots.length - more[i])))
  const sizes = new Map<string, number>()
  letters.forEach((axes, i) => {
    const t = tensors[i]
    if (axes.length !== t.rank)
      fail('AUX_SHAPE_MISMATCH', `einsum: expected ${axes.length} axes for '${axes}', got shape ${showShape(t.shape)}`)
    ;[...axes].forEach((a, k) => {
      const [known, size] = [sizes.get(a) ?? t.shape[k], t.shape[k]]
      const spread = dots.includes(a) && (known === 1 || size === 1)
      if (known !== size && !spread)
        fail('AUX_SHAPE_MISMATCH', `einsum: axis ${a} of '${equation}' has sizes ${known} and ${size}`)
      sizes.set(a, known === 1 ? size : known)
    })
  })
  const all = letters.join('')
  const once = [...sizes.keys()].filter((a) => !dots.includes(a) && all.split(a).length === 2).sort()
  const output = parts[2]?.replace('...', dots) ?? dots + once.join('')
  if (new Set(output).size !== output.length || without(output, all))
    fail(
      'AUX_INVALID_ARGUMENT',
      `einsum: expected letters of the operands, each once, behind the arrow of '${equation}'`,
    )
  return tidy(() => {
    // Without the axes along which it broadcasts.
    const operands = letters.map((axes, i): Lettered => {
      const own = [...axes].filter((a, k) => tensors[i].shape[k] === sizes.get(a))
      const t = own.length < axes.length ? tensors[i].reshape(own.map((a) => sizes.get(a)!)) : tensors[i]
      return distinct({ t, axes: own.join('') })
    })
    let result = operands[0]
    for (let i = 1; i < operands.length; i++)
      result = product(result, operands[i], output + letters.slice(i + 1).join(''))
    return alias(inOrder(summed(result, output), output))
  })
}

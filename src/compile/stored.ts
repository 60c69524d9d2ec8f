import type { Graph, Node } from '../graph/graph'
import { apply } from '../graph/op'
import { takeOp } from '../ops/indices'
import { concat } from '../ops/join'
import { linear, linearOp, matmul, matmulOp } from '../ops/matmul'
import type { Packed, StoreFormat } from '../ops/store'
import type { Shape } from '../tensor/shape'
import type { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import { root } from './order'

/** A weight that does not lie in memory as float32. */
export interface StoredWeight {
  /** Path of the module that reads it (first, of several). */
  layer: string
  /** How it is stored. */
  format: StoreFormat
  /** Shape of what is read. */
  shape: Shape
  /** Bytes that it takes; what is read takes 4 an element besides, for as long as one kernel runs. */
  bytes: number
}

/** Products with a weight of more bytes, as float32, read it in pieces where that takes less memory. */
const pieceBytes = 16 << 20

/**
 * Lets everyone who reads a stored weight, forward or backward, read float32 of his own, made just before and gone behind
 * him; of a table from which rows are taken, those rows alone. Returns what is stored, by its memory.
 */
export function readStored(graph: Graph): Map<Storage, StoredWeight> {
  const stored = new Map<Storage, StoredWeight>()
  const weights = new Map<Tensor, Packed>()
  for (const { reference, outputs } of graph.references)
    if (reference!.packed) weights.set(outputs[0], reference!.packed)
  if (!weights.size) return stored
  const isStored = (t: Tensor | undefined): t is Tensor => t !== undefined && weights.has(root(t))
  const read = (t: Tensor): Tensor =>
    weights.get(t)?.read() ?? graph.repeat(t.node!, [read(t.node!.inputs[0]!)]).outputs[0]
  for (const reader of [...graph.nodes]) {
    const found = reader.op.view ? [] : reader.inputs.filter(isStored)
    if (!found.length) continue
    for (const t of found) {
      const { storage, packed, shape } = root(t).node!.reference!
      if (!stored.has(storage!))
        stored.set(storage!, { layer: reader.scope, format: packed!.format, shape, bytes: storage!.bytes })
    }
    const before = graph.nodes.length
    const others = reader.inputs.filter((t) => t && !found.includes(t)).map((t) => t!.node!)
    const ready = [...others, ...(reader.after ?? [])]
    const expand = (): void => {
      const [only, ...rest] = found
      const result = rest.length ? undefined : byRows(reader, only, weights.get(only))
      if (result) compute(reader, result)
      else reader.inputs = reader.inputs.map((t) => (isStored(t) ? read(t) : t))
    }
    graph.trace(() => graph.withPhase(reader.phase, () => graph.beside(reader, () => graph.apart(expand))))
    // In this order, between the node before the reader and the reader, and not before it could run itself.
    const made = graph.nodes.slice(before)
    made.forEach((node, i) => {
      node.position = (reader.position ?? reader.id) - 1 + (i + 1) / (made.length + 1)
      node.after = ready
    })
  }
  return stored
}

/** Lets a node make what another one makes. */
function compute(node: Node, { node: other }: Tensor): void {
  node.op = other!.op
  node.inputs = other!.inputs
  node.attrs = other!.attrs
  node.outputs.length = 1 // the others were optional
}

/** What a node makes, of rows of the only stored weight that it reads; undefined if it is to read all of them at once. */
function byRows({ op, inputs, attrs, outputs }: Node, weight: Tensor, packed: Packed | undefined): Tensor | undefined {
  if (!packed?.hasRows) return undefined
  const [x, second, bias] = inputs
  if (op === takeOp)
    return weight === x && (attrs as { axis: number }).axis === 0
      ? packed.rows((rows) => apply(takeOp, [rows, second], attrs)[0], outputs[0].shape)
      : undefined
  const plain = (op === linearOp && !Object.keys(attrs as object).length) || (op === matmulOp && weight.rank === 2)
  if (!plain || weight !== second || 4 * outputs[0].size + pieceBytes >= 4 * weight.size) return undefined
  const [rows, columns] = weight.shape
  const most = Math.max(1, Math.floor(pieceBytes / 4 / columns))
  const pieces = Array.from({ length: Math.ceil(rows / most) }, (_, i) => {
    const from = i * most
    const count = Math.min(most, rows - from)
    const piece = packed.rows((all) => all.narrow(0, from, count), [count, columns])
    return op === linearOp ? linear(x!, piece, bias?.narrow(0, from, count)) : matmul(x!.narrow(-1, from, count), piece)
  })
  return op === linearOp ? concat(pieces, -1) : pieces.reduce((a, b) => a.add(b))
}

import type { Graph, Node } from '../graph/graph'
import { takeOp, type TakeAttrs } from '../ops/indices'
import type { StoreFormat } from '../ops/store'
import type { Shape } from '../tensor/shape'
import type { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import { root } from './order'

/** A frozen weight that does not lie in memory as float32. */
export interface StoredWeight {
  /** Path of the module that reads it (first, of several). */
  layer: string
  /** How it is stored. */
  format: StoreFormat
  /** Shape of what is read. */
  shape: Shape
  /** Bytes that it takes; read, for as long as one kernel runs, it takes 4 an element besides. */
  bytes: number
}

/**
 * Lets everyone who reads a stored weight, forward or backward, read float32 of his own, made just before and gone behind
 * him; of a table from which rows are taken, those rows alone. Returns what is stored, by its memory.
 */
export function readStored(graph: Graph): Map<Storage, StoredWeight> {
  const stored = new Map<Storage, StoredWeight>()
  const weights = new Set([...graph.references].filter((n) => n.reference!.packed).map((n) => n.outputs[0]))
  const isStored = (t: Tensor | undefined): t is Tensor => t !== undefined && weights.has(root(t))
  const note = (t: Tensor, reader: Node): Tensor => {
    const { storage, packed, shape } = root(t).node!.reference!
    if (!stored.has(storage!))
      stored.set(storage!, { layer: reader.scope, format: packed!.format, shape, bytes: storage!.bytes })
    return t
  }
  const packedOf = (t: Tensor) => t.node!.reference!.packed!
  const read = (t: Tensor): Tensor =>
    t.node!.op.view ? graph.repeat(t.node!, [read(t.node!.inputs[0]!)]).outputs[0] : packedOf(t).read()
  const expand = (reader: Node): void => {
    const [first, indices] = reader.inputs
    if (reader.op === takeOp && weights.has(first!) && (reader.attrs as TakeAttrs).axis === 0) {
      const rows = packedOf(first!).rows(indices!, reader.attrs as TakeAttrs, reader.outputs[0].shape)?.node
      if (rows) {
        reader.op = rows.op
        reader.inputs = rows.inputs
        reader.attrs = rows.attrs
        return
      }
    }
    reader.inputs = reader.inputs.map((t) => (isStored(t) ? read(t) : t))
  }
  if (!weights.size) return stored
  for (const reader of [...graph.nodes]) {
    if (reader.op.view || !reader.inputs.some(isStored)) continue
    for (const t of reader.inputs) if (isStored(t)) note(t, reader)
    const others = reader.inputs.filter((t) => t && !isStored(t)).map((t) => t!.node!)
    const before = graph.nodes.length
    graph.trace(() =>
      graph.withPhase(reader.phase, () => graph.withScope(reader.scope, () => graph.apart(() => expand(reader)))),
    )
    for (const made of graph.nodes.slice(before)) {
      made.position = (reader.position ?? reader.id) - 0.5
      made.after = [...others, ...(reader.after ?? [])]
    }
  }
  return stored
}

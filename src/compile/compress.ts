import type { Keep } from '../graph/derive'
import type { Graph, Node } from '../graph/graph'
import type { Policies } from '../memory/assignment'
import type { Tensor } from '../tensor/tensor'

/**
 * How backward reads values that a policy packs: forward packs a value as soon as it is made, backward unpacks it for
 * each of its readers, not before their gradient is there. A view is read from its packed base unless it is a small
 * part of it.
 */
export function compression(graph: Graph, policies: Policies): Keep {
  type Unpack = (() => Tensor) | undefined
  const packed = new Map<object, Map<Tensor, Unpack>>()
  const unpacked = new Map<Node, Map<Tensor, Tensor>>()

  const pack = (value: Tensor, by: NonNullable<ReturnType<Policies['compressor']>>): Unpack => {
    const known = packed.get(by) ?? packed.set(by, new Map()).get(by)!
    if (known.has(value)) return known.get(value)
    const { id, position = id } = value.node!
    const before = graph.nodes.length
    const unpack = graph.withPhase('forward', () => graph.beside(value.node!, () => by.answers.compress!(value)))
    for (const node of graph.nodes.slice(before)) node.position = position
    known.set(value, unpack)
    return unpack
  }

  return (value, reader, delta) => {
    const by = reader.op.exact || reader.outside ? undefined : policies.compressor(reader.scope)
    if (!by) return value
    const read = unpacked.get(reader) ?? unpacked.set(reader, new Map()).get(reader)!
    const values = (t: Tensor): Tensor => {
      const { op, inputs, phase, reference } = t.node!
      if (op.view && inputs[0]!.size <= 4 * t.size) {
        const base = of(inputs[0]!)
        return base === inputs[0] ? t : graph.repeat(t.node!, [base]).outputs[0]
      }
      if (phase !== 'forward' || reference || t.index !== 0 || op.statistics) return t
      const unpack = pack(t, by)
      if (!unpack) return t
      const before = graph.nodes.length
      const result = graph.apart(unpack)
      for (const node of graph.nodes.slice(before)) {
        node.after = [delta.node!]
        node.policy = by.policy.name
      }
      return result
    }
    const of = (t: Tensor): Tensor => {
      if (!read.has(t)) read.set(t, values(t))
      return read.get(t)!
    }
    return of(value)
  }
}

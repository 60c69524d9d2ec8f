import type { Keep } from '../graph/derive'
import type { Graph, Node } from '../graph/graph'
import type { Policies } from '../memory/assignment'
import { relu } from '../ops/unary'
import type { Tensor } from '../tensor/tensor'
import { root } from './order'

/**
 * How backward reads values of modules that are computed again: from a second copy of the module's nodes, on the
 * values it was given. What leaves a module is not computed again (the next one keeps it or has its own way), nor are
 * batch statistics. A copy waits for the gradient that needs it, so that it does not exist before. What a reversible
 * block was given is computed from what it returned, if a policy says so.
 */
export function recomputation(graph: Graph, policies: Policies): Keep {
  const last = graph.nodes.length
  const segments = new Map<Node, ReturnType<Policies['segment']>>()
  const segmentOf = (node: Node): ReturnType<Policies['segment']> => {
    if (!segments.has(node)) segments.set(node, node.op.kernel || node.op.view ? policies.segment(node) : undefined)
    return segments.get(node)
  }
  const leaves = new Set<Tensor>()
  for (const reader of graph.nodes.slice(0, last))
    for (const t of reader.inputs) {
      const segment = t && segmentOf(t.node!)
      if (segment && segmentOf(reader)?.path !== segment.path && !reader.op.mutates) leaves.add(t!)
    }
  const keptWithin = (path: string, node: Node): boolean => segmentOf(node)?.path === path && !segmentOf(node)!.again
  // The last node that takes a value first and can be undone: others may lie on the way to what it adds.
  const undone = new Map<Tensor, Node>()
  for (const node of graph.nodes.slice(0, last))
    if (node.op.inverse && policies.inverts(node)) undone.set(node.inputs[0]!, node)
  const copies = new Map<Tensor, Tensor>()
  const restored = (value: Tensor, delta: Tensor): Tensor => {
    const node = undone.get(value)
    if (!node) return value
    const known = copies.get(value)
    if (known) return known
    const y = restored(node.outputs[0], delta)
    const others = node.inputs.slice(1).map((t) => t && again(t, segmentOf(t.node!)?.path ?? '', delta, true))
    const before = graph.nodes.length
    const result = graph.beside(node, () => node.op.inverse!(y, others, node.attrs))
    for (const made of graph.nodes.slice(before)) {
      made.after = [delta.node!]
      made.policy = 'invert'
    }
    copies.set(value, result)
    return result
  }
  const again = (value: Tensor, path: string, delta: Tensor, leaving = false): Tensor => {
    const node = value.node!
    const segment = node.id < last ? segmentOf(node) : undefined
    if (!segment?.again || segment.path !== path || (leaves.has(value) && !leaving) || node.op.statistics)
      return restored(value, delta)
    // Keeping y, or one bit of it, is never more than keeping what ReLU was applied to.
    if (node.op === relu && keptWithin(path, root(node.inputs[0]!).node!)) return value
    const known = copies.get(value)
    if (known) return known
    const clone = graph.repeat(
      node,
      node.inputs.map((t) => t && again(t, path, delta)),
    )
    clone.after = [delta.node!]
    clone.policy = 'checkpoint'
    node.outputs.forEach((t, i) => copies.set(t, clone.outputs[i]))
    return clone.outputs[value.index]
  }
  return (value, reader, delta) => {
    // What is restored is near to what it was: where that is not enough it is kept. Inside, all is made of it alike.
    if (reader.op.exact && !segmentOf(reader)?.again && undone.has(value)) return value
    return again(value, segmentOf(value.node!)?.path ?? '', delta)
  }
}

import type { Keep } from '../graph/derive'
import type { Graph, Node } from '../graph/graph'
import type { Policies } from '../memory/assignment'
import { relu } from '../ops/unary'
import type { Tensor } from '../tensor/tensor'
import { root } from './order'

/**
 * How backward reads values of modules that are computed again: from a second copy of the module's nodes, on the
 * values it was given. What leaves a module is not computed again (the next one keeps it or has its own way), nor are
 * batch statistics. A copy waits for the gradient that needs it, so that it does not exist before.
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
  const copies = new Map<Tensor, Tensor>()
  const again = (value: Tensor, path: string, delta: Tensor): Tensor => {
    const node = value.node!
    const segment = node.id < last ? segmentOf(node) : undefined
    if (!segment?.again || segment.path !== path || leaves.has(value) || node.op.statistics) return value
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
  return (value, _, delta) => {
    const segment = segmentOf(value.node!)
    return segment ? again(value, segment.path, delta) : value
  }
}

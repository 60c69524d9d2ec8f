import type { Keep } from '../graph/derive'
import type { Graph, Node } from '../graph/graph'
import type { Policies } from '../memory/assignment'
import type { Tensor } from '../tensor/tensor'

/**
 * How backward reads values of modules that are computed again: from a second copy of the module's nodes, on the
 * values it was given. What leaves a module is not computed again (the next one keeps it or has its own way), nor are
 * batch statistics. A copy waits for the gradient that needs it, so that it does not exist before.
 */
export function recomputation(graph: Graph, policies: Policies): Keep {
  const last = graph.nodes.length
  const segments = new Map<string, string | undefined>()
  const segmentOf = ({ scope, op }: Node): string | undefined => {
    if (!op.kernel && !op.view) return undefined
    if (!segments.has(scope)) segments.set(scope, policies.segment(scope))
    return segments.get(scope)
  }
  const leaving = new Set<Tensor>()
  for (const reader of graph.nodes)
    for (const t of reader.inputs) {
      const segment = t && segmentOf(t.node!)
      if (segment !== undefined && segmentOf(reader) !== segment && !reader.op.mutates) leaving.add(t!)
    }
  const copies = new Map<Tensor, Tensor>()
  const again = (value: Tensor, segment: string, delta: Tensor): Tensor => {
    const node = value.node!
    const kept = node.id >= last || leaving.has(value) || node.op.statistics || !policies.recomputes(node)
    if (kept || segmentOf(node) !== segment) return value
    const known = copies.get(value)
    if (known) return known
    const clone = graph.repeat(node, node.inputs.map((t) => t && again(t, segment, delta)))
    clone.after = [delta.node!]
    clone.policy = 'checkpoint'
    node.outputs.forEach((t, i) => copies.set(t, clone.outputs[i]))
    return clone.outputs[value.index]
  }
  return (value, _, delta) => {
    const segment = segmentOf(value.node!)
    return segment === undefined ? value : again(value, segment, delta)
  }
}

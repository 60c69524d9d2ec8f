import type { Graph, Node } from '../graph/graph'
import type { Tensor } from '../tensor/tensor'

/**
 * The order of execution: forward nodes as traced; then, of the nodes whose inputs are ready, always the one that
 * frees most memory (allocates least), the oldest first among equals. So a weight gradient is made, consumed by its
 * update and freed before the next one. Changes of state wait until the whole forward pass is over: what can fail on
 * values (an index out of range) has failed by then and nothing has changed.
 */
export function executionOrder(graph: Graph, outputs: readonly Tensor[], bytesOf: (t: Tensor) => number): Node[] {
  const needed = liveNodes(graph, outputs)
  const forward = needed.filter((n) => n.phase === 'forward')
  const rest = needed.filter((n) => n.phase !== 'forward')

  const users = new Map<Node, Set<Node>>()
  const waiting = new Map<Node, number>()
  const inRest = new Set(rest)
  const block = (before: Node, after: Node): void => {
    if (before === after || !inRest.has(before)) return
    const set = users.get(before) ?? users.set(before, new Set()).get(before)!
    if (set.has(after)) return
    set.add(after)
    waiting.set(after, (waiting.get(after) ?? 0) + 1)
  }
  const readers = new Map<Node, Node[]>()
  for (const n of needed)
    for (const t of n.inputs) if (t) readers.set(leafOf(t), [...(readers.get(leafOf(t)) ?? []), n])
  for (const n of rest) {
    for (const t of n.inputs) if (t) block(t.node!, n)
    // State changes in place only after everyone else has read it.
    for (const i of n.op.mutates ?? [])
      for (const reader of readers.get(leafOf(n.inputs[i]!)) ?? [])
        if (!reader.op.mutates || reader.id < n.id) block(reader, n)
  }

  const remaining = new Map<Tensor, number>()
  for (const n of needed) for (const t of n.inputs) if (t) remaining.set(root(t), (remaining.get(root(t)) ?? 0) + 1)
  for (const t of outputs) remaining.set(root(t), Infinity)
  const consume = (n: Node): void => {
    for (const t of n.inputs) if (t) remaining.set(root(t), remaining.get(root(t))! - 1)
  }
  const growth = (n: Node): number => {
    let bytes = 0
    for (const t of n.outputs) if (!t.base) bytes += bytesOf(t)
    for (const t of new Set(n.inputs.map((x) => x && root(x)))) if (t && remaining.get(t) === 1) bytes -= bytesOf(t)
    return bytes
  }

  forward.forEach(consume)
  const order = [...forward]
  const ready = rest.filter((n) => !waiting.get(n))
  while (ready.length) {
    let best = 0
    let least = Infinity
    for (let i = 0; i < ready.length; i++) {
      const g = growth(ready[i])
      if (g < least || (g === least && ready[i].id < ready[best].id)) {
        best = i
        least = g
      }
    }
    const [node] = ready.splice(best, 1)
    order.push(node)
    consume(node)
    for (const user of users.get(node) ?? []) {
      const left = waiting.get(user)! - 1
      waiting.set(user, left)
      if (left === 0) ready.push(user)
    }
  }
  return order
}

/** The tensor that owns the memory of a view. */
export const root = (t: Tensor): Tensor => t.base ?? t

const leafOf = (t: Tensor): Node => root(t).node!

/** Nodes that the outputs or a change of state depend on, in the order in which they were made. */
function liveNodes(graph: Graph, outputs: readonly Tensor[]): Node[] {
  const live = new Set<Node>()
  const visit = (start: Node): void => {
    const stack = [start]
    while (stack.length) {
      const n = stack.pop()!
      if (live.has(n)) continue
      live.add(n)
      for (const t of n.inputs) if (t) stack.push(t.node!)
    }
  }
  for (const t of outputs) visit(t.node!)
  for (const n of graph.nodes) if (n.op.mutates) visit(n)
  return graph.nodes.filter((n) => live.has(n))
}

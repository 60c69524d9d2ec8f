import type { Graph, Node } from '../graph/graph'
import type { Tensor } from '../tensor/tensor'
import { Heap } from './heap'

/**
 * Orders of execution worth comparing. The forward part is as traced. Of the other nodes that are ready, one order
 * takes the node that frees most memory (allocates least), the other the oldest, updates first: a weight gradient is
 * made, consumed by its update and freed before the next one. Changes of state wait until the whole forward pass is
 * over: what can fail on values (an index out of range) has failed by then and nothing has changed.
 */
export function executionOrders(graph: Graph, outputs: readonly Tensor[], bytesOf: (t: Tensor) => number): Node[][] {
  const needed = liveNodes(graph, outputs)
  const forward = needed.filter((n) => n.phase === 'forward').sort((a, b) => place(a) - place(b) || a.id - b.id)
  const rest = needed.filter((n) => n.phase !== 'forward')
  if (!rest.length) return [forward]
  const readers = readersOf(needed.filter((n) => !n.op.view))
  // A view reads no memory.
  const roots = new Map(needed.map((n) => [n, n.op.view ? [] : rootsOf(n)]))
  const remaining = new Map([...readers].map(([t, { length }]) => [t, length]))
  for (const t of outputs) remaining.set(root(t), Infinity)

  const growth: Rank = (n, left) => {
    let bytes = 0
    for (const t of n.outputs) if (!t.base) bytes += bytesOf(t)
    for (const t of roots.get(n)!) if (left.get(t) === 1) bytes -= bytesOf(t)
    return bytes
  }
  const updatesFirst: Rank = (n) => (n.op.mutates ? 0 : 1)
  const uses = { ...dependencies(rest, readers), readers, roots, remaining }
  return [updatesFirst, growth].map((rank) => [...forward, ...schedule(forward, rest, uses, rank)])
}

/** What a node is chosen by, the least first; of equal ones the one traced first. It falls as fewer are left to read. */
type Rank = (n: Node, left: ReadonlyMap<Tensor, number>) => number

/** Where a node stands in the trace. */
const place = (n: Node): number => n.position ?? n.id

/** Rest nodes that wait for a node, and how many each waits for. */
interface Edges {
  readonly users: ReadonlyMap<Node, ReadonlySet<Node>>
  readonly waiting: ReadonlyMap<Node, number>
}

function dependencies(rest: readonly Node[], readers: ReadonlyMap<Tensor, readonly Node[]>): Edges {
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
  for (const n of rest) {
    for (const t of n.inputs) if (t) block(t.node!, n)
    for (const before of n.after ?? []) block(before, n)
    // State changes in place only after everyone else has read it; changes come in the order of the trace.
    for (const i of n.op.mutates ?? [])
      for (const reader of (n.inputs[i] && readers.get(root(n.inputs[i]!))) ?? [])
        if (!reader.op.mutates || reader.id < n.id) block(reader, n)
        else block(n, reader)
  }
  return { users, waiting }
}

/** Who uses what. */
interface Uses extends Edges {
  readonly readers: ReadonlyMap<Tensor, readonly Node[]>
  /** Tensors that a node reads. */
  readonly roots: ReadonlyMap<Node, readonly Tensor[]>
  /** How many read a tensor. */
  readonly remaining: ReadonlyMap<Tensor, number>
}

function schedule(
  forward: readonly Node[],
  rest: readonly Node[],
  { users, waiting, readers, roots, remaining }: Uses,
  rankOf: Rank,
): Node[] {
  const left = new Map(remaining)
  const open = new Map(waiting)
  const done = new Set<Node>()
  // A node whose rank has fallen is in it again.
  const ready = new Heap<{ node: Node; rank: number }>(
    (a, b) => (a.rank - b.rank || place(a.node) - place(b.node) || a.node.id - b.node.id) < 0,
  )
  const offer = (node: Node): void => {
    if (!open.get(node) && !done.has(node)) ready.push({ node, rank: rankOf(node, left) })
  }
  const consume = (n: Node): Tensor[] => {
    done.add(n)
    return roots.get(n)!.filter((t) => {
      const count = left.get(t)! - 1
      left.set(t, count)
      return count === 1
    })
  }
  forward.forEach(consume)
  rest.forEach(offer)
  const order: Node[] = []
  for (let next = ready.pop(); next; next = ready.pop()) {
    const { node } = next
    if (done.has(node)) continue
    order.push(node)
    const last = consume(node)
    for (const user of users.get(node) ?? []) {
      open.set(user, open.get(user)! - 1)
      offer(user)
    }
    for (const t of last) offer(readers.get(t)!.find((n) => !done.has(n))!)
  }
  return order
}

/** The tensor that owns the memory of a view. */
export const root = (t: Tensor): Tensor => t.base ?? t

/** The tensors that own what a node is given, each once. */
function rootsOf(n: Node): Tensor[] {
  const roots: Tensor[] = []
  for (const t of n.inputs) if (t && !roots.includes(root(t))) roots.push(root(t))
  return roots
}

/** Of the tensors that own memory those of these nodes that are given them, or views of them. */
export function readersOf(nodes: readonly Node[]): Map<Tensor, Node[]> {
  const readers = new Map<Tensor, Node[]>()
  for (const n of nodes)
    for (const t of rootsOf(n)) {
      const list = readers.get(t)
      if (list) list.push(n)
      else readers.set(t, [n])
    }
  return readers
}

/** Nodes that the outputs or a change of state depend on, in the order in which they were made. */
function liveNodes(graph: Graph, outputs: readonly Tensor[]): Node[] {
  const live = new Set<Node>()
  const stack: Node[] = []
  for (const t of outputs) stack.push(t.node!)
  for (const n of graph.nodes) if (n.op.mutates) stack.push(n)
  while (stack.length) {
    const n = stack.pop()!
    if (live.has(n)) continue
    live.add(n)
    for (const t of n.inputs) if (t) stack.push(t.node!)
  }
  return graph.nodes.filter((n) => live.has(n))
}

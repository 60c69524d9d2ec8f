import type { Graph, Node } from '../graph/graph'
import { canonical, claimedSigns, claimSigns } from '../ops/sign'
import { statsOp } from '../ops/norm'
import { relu } from '../ops/unary'
import type { Tensor } from '../tensor/tensor'
import { readersOf, root } from './order'

/**
 * ReLU goes into the kernel that makes its input, where that kernel can apply it and nobody else reads the input; where
 * the kernel can give the mask y > 0 too, backward may read that. `outputs` are values that are read after a run.
 */
export function fuseActivations(graph: Graph, outputs: Map<string, Tensor>): void {
  const readers = readersOf(graph.nodes.filter((n) => !n.op.view))
  const wanted = new Set([...outputs.values()].map(root))
  const replaced = new Map<Tensor, Tensor>()
  for (const n of graph.nodes) {
    const u = n.inputs[0]
    if (n.op !== relu || !u) continue
    const made = canonical(u)
    if (made.index !== 0 || made.base || wanted.has(made) || readers.get(made)!.length > 1) continue
    const maker = made.node!
    if (!maker.op.relu || maker.phase !== n.phase) continue
    maker.attrs = maker.op.relu.attrs(maker.attrs)
    const [y] = n.outputs
    replaced.set(y, u)
    const mask = claimedSigns(y) ?? (maker.op.relu.mask === undefined ? undefined : maker.outputs[maker.op.relu.mask])
    if (mask) claimSigns(u, mask)
  }
  graph.replace(replaced)
  for (const [name, t] of outputs) if (replaced.has(t)) outputs.set(name, replaced.get(t)!)
}

/** Statistics of a batch come from the kernel that makes it, where that can give them: it need not be read again. */
export function fuseStatistics(graph: Graph): void {
  const replaced = new Map<Tensor, Tensor>()
  const taken = new Set<Node>()
  for (const n of graph.nodes) {
    const u = n.inputs[0]
    if (n.op !== statsOp || !u) continue
    const made = canonical(u)
    if (made.index !== 0 || made.base) continue
    const maker = made.node!
    const { moments } = maker.op
    if (!moments || maker.phase !== n.phase || taken.has(maker)) continue
    taken.add(maker)
    maker.attrs = moments.attrs(maker.attrs, (n.attrs as { eps: number }).eps)
    n.outputs.forEach((t, i) => replaced.set(t, maker.outputs[moments.outputs[i]]))
  }
  graph.replace(replaced)
}

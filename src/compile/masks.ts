import type { Graph } from '../graph/graph'
import { contiguous } from '../graph/op'
import { claimedSigns, maskOp, packOp } from '../ops/sign'
import { reluGrad } from '../ops/unary'
import type { Tensor } from '../tensor/tensor'
import { readersOf } from './order'

/**
 * ReLU's backward needs one bit of y. Where nothing else in backward reads y, it reads the packed signs of y instead:
 * those that a layer packs anyway (ASA), or bits of its own.
 */
export function maskActivations(graph: Graph): void {
  for (const [y, list] of readersOf(graph.nodes.filter((n) => n.phase !== 'forward' && !n.op.view))) {
    if (y.node!.phase !== 'forward' || y.rank === 0 || !list.every((n) => n.op === reluGrad && n.inputs[1] === y))
      continue
    const mask = claimedSigns(y) ?? pack(graph, y)
    for (const n of list) {
      n.op = maskOp
      n.inputs = [graph.withPhase('backward', () => graph.withScope(n.scope, () => contiguous(n.inputs[0]!))), mask]
    }
  }
}

function pack(graph: Graph, y: Tensor): Tensor {
  const node = graph.withPhase('forward', () => graph.withScope(y.node!.scope, () => graph.add(packOp, [y], undefined)))
  node.position = y.node!.id // at once, so that y need not live on
  return node.outputs[0]
}

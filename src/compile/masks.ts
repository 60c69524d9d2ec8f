import type { Graph, Node } from '../graph/graph'
import { contiguous } from '../graph/op'
import { claimedSigns, maskOp, packOp } from '../ops/sign'
import { hardtanhGrad, reluGrad, type Range } from '../ops/unary'
import type { Tensor } from '../tensor/tensor'
import { readersOf } from './order'

/**
 * ReLU's backward needs one bit of y. Where nothing else in backward reads y, it reads the packed signs of y instead:
 * those that a layer packs anyway (ASA), or bits of its own. So does that of ReLU6, whose bits are y between its bounds.
 */
export function maskActivations(graph: Graph): void {
  // What runs again for backward is as much forward as what ran first.
  const forward = ({ phase, policy }: Node): boolean => phase === 'forward' || policy === 'checkpoint'
  for (const [y, list] of readersOf(graph.nodes.filter((n) => !forward(n) && !n.op.view))) {
    if (!forward(y.node!) || y.rank === 0 || !list.every((n) => n.inputs[1] === y && alike(n, list[0]))) continue
    const mask = list[0].op === reluGrad ? (claimedSigns(y) ?? pack(graph, y)) : pack(graph, y, list[0].attrs as Range)
    for (const n of list) {
      n.op = maskOp
      n.inputs = [graph.withPhase('backward', () => graph.beside(n, () => contiguous(n.inputs[0]!))), mask]
    }
  }
}

/** Whether both want the same bits of y, and signs can say them. */
function alike(n: Node, first: Node): boolean {
  if (n.op !== hardtanhGrad) return n.op === reluGrad && first.op === reluGrad
  const [a, b] = [n.attrs as Range, first.attrs as Range]
  return first.op === hardtanhGrad && a.low >= 0 && a.low === b.low && a.high === b.high
}

/** The signs of y, or of what of it lies strictly within bounds that are not negative. */
function pack(graph: Graph, y: Tensor, bounds?: Range): Tensor {
  const { id, phase, position = id } = y.node!
  const add = (op: Node['op'], inputs: Tensor[], attrs?: Range): Tensor => {
    const node = graph.withPhase(phase, () => graph.beside(y.node!, () => graph.add(op, inputs, attrs)))
    node.position = position // at once, so that y need not live on
    return node.outputs[0]
  }
  return add(packOp, [bounds ? add(hardtanhGrad, [y, y], bounds) : y])
}

import { ofGraph, type Node } from '../graph/graph'
import { Policy, type MemoryPolicy } from './policy'

/** Batch norms whose result an activation with an inverse reads first, and those activations. */
const pairsOf = ofGraph((graph) => {
  const found = new Set<Node>()
  for (const activation of graph.nodes) {
    const norm = activation.inputs[0]?.node
    if (activation.op.name !== 'leaky_relu' || norm?.op.name !== 'batch_norm_apply') continue
    if (!((activation.attrs as { value: number }).value > 0)) continue
    found.add(activation).add(norm)
  }
  return found
})

/**
 * In-place activated batch norm (Rota Bulò et al. 2018): of a batch norm and the leaky ReLU behind it, backward keeps the
 * result alone, which the next layer keeps anyway, and computes what the norm read from it. Gradients are those of
 * backpropagation to within rounding, as long as no scale of a norm comes near 0. Assign it to a module that holds both; others in it are left alone.
 */
export function inPlaceBatchNorm(): MemoryPolicy {
  return new Policy('in-place', () => ({ inverts: (node) => pairsOf(node.graph).has(node) }))
}

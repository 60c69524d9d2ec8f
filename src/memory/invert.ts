import { ofGraph, type Node } from '../graph/graph'
import { isCoupling } from '../ops/couple'
import { holds } from './assignment'
import { Policy, type MemoryPolicy } from './policy'

/** Modules that hold couplings. */
const blocksOf = ofGraph((graph) => [...new Set(graph.nodes.filter(isCoupling).map((n) => n.scope))])

const within = ({ graph, scope }: Node): boolean => blocksOf(graph).some((block) => holds(block, scope))

/**
 * Reversible blocks (`nn.Reversible`, `nn.Momentum`, or a module whose forward ends in `couple` or `velocity`) keep nothing:
 * backward computes what a block was given from what it returned, and what it computed inside again (Gomez et al. 2017,
 * Sander et al. 2021). A chain of blocks keeps its last output, whatever its length. Values come back to within rounding, a
 * little less exact with every block, so gradients are those of backpropagation to about six digits, not to the last bit;
 * `nn.Momentum` says what its division costs. What was exactly 0 (behind a ReLU) comes back on either side of it, so that `asa`
 * inside, where forward and gradient hang on the sign, is further off. Modules without couplings are left alone.
 */
export function invert(): MemoryPolicy {
  return new Policy('invert', () => ({ inverts: isCoupling, recompute: (node) => !isCoupling(node) && within(node) }))
}

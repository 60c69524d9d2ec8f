import type { Graph, Node } from '../graph/graph'
import { isCoupling } from '../ops/couple'
import type { MemoryPolicy } from './policy'

/** Modules that hold couplings, by graph. */
const blocks = new WeakMap<Graph, string[]>()

function blocksOf(graph: Graph): string[] {
  const known = blocks.get(graph)
  if (known) return known
  const found = [...new Set(graph.nodes.filter(isCoupling).map((n) => n.scope))]
  blocks.set(graph, found)
  return found
}

const within = ({ graph, scope }: Node): boolean =>
  blocksOf(graph).some((block) => block === '' || scope === block || scope.startsWith(`${block}.`))

/**
 * Reversible blocks (`nn.Reversible`, `nn.Momentum`, or a module whose forward ends in `couple` or `velocity`) keep nothing:
 * backward computes what a block was given from what it returned, and what it computed inside again (Gomez et al. 2017,
 * Sander et al. 2021). A chain of blocks keeps its last output, whatever its length. Values come back to within rounding, a
 * little less exact with every block, so gradients are those of backpropagation to about six digits, not to the last bit;
 * `nn.Momentum` says what its division costs. Modules without couplings are left alone.
 */
export function invert(): MemoryPolicy {
  return {
    name: 'invert',
    at: () => ({ inverts: isCoupling, recompute: (node) => !isCoupling(node) && within(node) }),
  }
}

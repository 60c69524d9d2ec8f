import fc from 'fast-check'
import type { Graph, Node } from '../../src/graph/graph'
import { apply } from '../../src/graph/op'
import { native } from '../../src/native'
import { Tensor } from '../../src/index'

/** Seed of the property tests of this run: AUXGRAD_SEED, or a fixed one. Failures print it and the shrunk case. */
export const seed = Number(process.env.AUXGRAD_SEED ?? 20240607)

/** Runs a property with the seed of the run. */
export function check<T extends [unknown, ...unknown[]]>(
  runs: number,
  ...property: Parameters<typeof fc.asyncProperty<T>>
): Promise<void> {
  return fc.assert(fc.asyncProperty<T>(...property), { seed, numRuns: runs, verbose: fc.VerbosityLevel.Verbose })
}

/**
 * The values of a graph, each computed when it is asked for, in memory of its own: no plan, no arena, nothing in place.
 * Captured tensors are copied. `update` makes the changes of state, in the order of the graph.
 */
export function interpret(
  graph: Graph,
  inputs: ReadonlyMap<string, Tensor>,
): { value: (t: Tensor) => Tensor; update: () => void } {
  const known = new Map<Node, Tensor[]>()
  const value = (t: Tensor): Tensor => {
    const node = t.node!
    if (!known.has(node)) known.set(node, compute(node))
    return known.get(node)![t.index]
  }
  const compute = (node: Node): Tensor[] => {
    if (node.inputName !== null) return [inputs.get(node.inputName)!]
    const outside = node.reference
    if (outside) {
      // The graph holds the memory, also of a constant whose tensor a `tidy` around it has disposed.
      using held = new Tensor({ dtype: outside.dtype, layout: outside, storage: outside.storage!.retain() })
      return [Tensor.from(held.rawSync(), held.shape, held.dtype)]
    }
    return apply(
      node.op,
      node.inputs.map((x) => x && value(x)),
      node.attrs,
    )
  }
  const update = (): void => {
    const changes = graph.nodes.filter((n) => n.op.mutates)
    for (const n of changes) n.inputs.forEach((t) => t && value(t)) // all is read before anything changes
    changes.forEach(compute)
  }
  return { value, update }
}

/** The bytes that auxgrad holds once the garbage collector has nothing left to free (run node with --expose-gc). */
export async function liveBytes(): Promise<number> {
  let live = native().memory().live
  for (let still = 0; still < 3; still++) {
    global.gc!()
    // A compiler that works in the background keeps what it looks at.
    await new Promise((resolve) => setTimeout(resolve, 20))
    const now = native().memory().live
    if (now !== live) still = -1
    live = now
  }
  return live
}

/** How many blocks of memory that is. */
export async function liveBlocks(): Promise<number> {
  await liveBytes()
  return native().memory().blocks
}

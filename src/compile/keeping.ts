import type { Keep } from '../graph/derive'
import type { Graph } from '../graph/graph'
import type { Policies } from '../memory/assignment'
import { compression } from './compress'
import { recomputation } from './recompute'

/** How backward reads forward values under the policies: computed again, or else unpacked, or else as they are. */
export function keeping(graph: Graph, policies: Policies): Keep {
  const recompute = recomputation(graph, policies)
  const unpack = compression(graph, policies)
  return (value, reader, delta) => {
    const again = recompute(value, reader, delta)
    return again === value ? unpack(value, reader, delta) : again
  }
}

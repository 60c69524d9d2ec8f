import type { MemoryPolicy } from './policy'

/** Backpropagation: backward keeps x itself. The default; assign it to except layers from a policy further out. */
export function backprop(): MemoryPolicy {
  return {
    name: 'backpropagation',
    at: () => ({
      layer: ({ graph, op, inputs, attrs }) => ({ node: graph.add(op, inputs, attrs) }),
      compress: () => undefined,
    }),
  }
}

import { Policy, type MemoryPolicy } from './policy'

/** Backpropagation: backward keeps x itself. The default; assign it to except layers from a policy further out. */
export function backprop(): MemoryPolicy {
  return new Policy('backpropagation', () => ({
    layer: ({ graph, op, inputs, attrs }) => ({ node: graph.add(op, inputs, attrs) }),
    compress: () => undefined,
  }))
}

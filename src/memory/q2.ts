import { codePack, codeUnpack } from '../ops/codes'
import { Policy, type MemoryPolicy } from './policy'

/**
 * Backward keeps two bits an element of x and one range a token (linear) or sample (convolution), and takes the weight
 * gradient from them as they are. Forward, input and bias gradients are exact. Nearest of four levels (spec section
 * 15b: backpropagation's accuracy within its own spread, where one bit costs a point).
 * Layers that read the same input share its codes.
 */
export function q2(): MemoryPolicy {
  return new Policy('q2', () => ({
    layer({ graph, op, inputs, attrs }) {
      const weighted = op.weighted!
      const x = inputs[0]!
      const weight = inputs[weighted.index]!
      const { codes, ranges } = codePack(x.detach())
      return {
        node: graph.add(op, inputs, attrs),
        weightGradient: (delta) => weighted.codeGradient(delta, codes, ranges, attrs, x, weight),
        auxiliary: () => ({ kept: codeUnpack(codes, ranges, x.shape), operand: x }),
      }
    },
  }))
}

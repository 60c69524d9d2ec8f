import { expectOneOf, expectOptions, fail } from '../errors'
import type { Alphabet } from '../graph/op'
import { addSign, claimSigns, signUnpack } from '../ops/sign'
import type { Tensor } from '../tensor/tensor'
import { Policy, type MemoryPolicy } from './policy'

/** Options of `asa`. */
export interface AsaOptions {
  /** Size of the auxiliary that forward adds: h = x + epsilon s (0.01). */
  epsilon?: number
  /** Learning-rate expansion: dW = epsilon · lambda · deltaᵀ s (1 / epsilon, as in the paper's 0.01 · 100). */
  lambda?: number
  /** What bits stand for: +1/−1, 1/0, or `auto`: 1/0 where the input cannot be negative. */
  alphabet?: Alphabet | 'auto'
}

/**
 * Auxiliary sign activation (Woo & Jeon, ICLR 2023): forward multiplies h = x + epsilon s with s = sgn(x), backward
 * keeps s alone, one bit an element, packed by the kernel that reads x. Input and bias gradients stay exact.
 * Layers that read the same input share its bits.
 */
export function asa(options: AsaOptions = {}): MemoryPolicy {
  expectOptions('asa', options, ['epsilon', 'lambda', 'alphabet'])
  const { epsilon = 0.01, alphabet = 'pm1' } = options
  const lambda = options.lambda ?? 1 / epsilon
  expectOneOf('asa', { alphabet }, 'pm1', '01', 'auto')
  if (!(epsilon > 0 && Number.isFinite(epsilon)))
    fail('AUX_INVALID_ARGUMENT', `asa: expected epsilon > 0, got ${epsilon}`)
  if (!Number.isFinite(lambda)) fail('AUX_INVALID_ARGUMENT', `asa: expected a finite lambda, got ${lambda}`)
  return new Policy('asa', () => ({
    layer({ graph, op, inputs, attrs }) {
      const weighted = op.weighted!
      const [x] = inputs as [Tensor]
      const weight = inputs[weighted.index]!
      const letters = alphabet === 'auto' ? (isNonNegative(x) ? '01' : 'pm1') : alphabet
      const node = graph.add(op, inputs, weighted.withSigns(attrs, epsilon, letters))
      const traced = node.inputs[0]!
      const signs = claimSigns(traced, node.outputs[1])
      return {
        node,
        weightGradient: (delta) =>
          weighted.signGradient(delta, signs, attrs, traced, weight, epsilon * lambda, letters),
        auxiliary: () => ({
          kept: signUnpack(signs, x.shape, letters, epsilon),
          operand: addSign(x, epsilon, letters),
        }),
      }
    },
  }))
}

/** True if the graph shows that a value has no negative element. */
function isNonNegative(t: Tensor): boolean {
  const { node } = t
  if (!node || t.index !== 0) return false
  if (node.op.nonNegative === 'always') return true
  return (node.op.nonNegative === 'as input' || node.op.view !== undefined) && isNonNegative(node.inputs[0]!)
}

import type { Tensor } from '../tensor/tensor'

/**
 * The learning indicator (Woo & Jeon 2023, section 3.3): Σ a·(2h − a) / (Σ h² + 1e-6), with h what the weight
 * multiplied and a what backward keeps; one value a token of a linear layer, a sample of a convolution. At most 1,
 * 1 for backpropagation; above 0 the update descends, at or below 0 it may not.
 */
export function learningIndicator(kept: Tensor, operand: Tensor): Tensor {
  const axes = operand.shape.map((_, i) => i).slice(1)
  const dot = kept.mul(operand.mul(2).sub(kept)).sum(axes)
  return dot.div(operand.square().sum(axes).add(1e-6))
}

import { expectShape, expectTensor } from '../graph/op'
import { concat } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'

// Parameters as one vector: for methods of one's own, averages and distances.

/** The values of tensors, such as `model.parameters()`, one after the other: [all of their elements]. */
export const parametersToVector = (parameters: readonly Tensor[]): Tensor =>
  tidy(() => concat(parameters.map((p) => p.flatten())))

/** Overwrites tensors with what `parametersToVector` made of such. */
export function vectorToParameters(vector: Tensor, parameters: readonly Tensor[]): void {
  expectTensor('vectorToParameters', vector)
  const sizes = parameters.map((p) => p.size)
  expectShape('vectorToParameters', 'the vector', vector, [sizes.reduce((n, size) => n + size, 0)])
  tidy(() => vector.split(sizes).forEach((part, i) => parameters[i].assign(part.reshape(parameters[i].shape))))
}

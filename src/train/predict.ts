import type { Batch, CompiledFunction, Traceable, Values } from '../compile'
import { fail } from '../errors'
import { typedArray } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { sameShape, showShape, sizeOf } from '../tensor/shape'
import { outputsOf } from './evaluate'

/**
 * What an evaluation gives for all batches, one behind the other along the first axis, which is that of the batches' rows:
 * `predict(compile({ model, forward: ({ x }) => model.forward(x).softmax() }), loader)`. Planned is the memory of one batch;
 * the results lie in JavaScript's. Fields that the evaluation does not read may be in the batches.
 * @throws AUX_SHAPE_MISMATCH for an output whose first axis is not the rows, or whose rows are of several shapes.
 */
export async function predict<R extends Traceable>(
  evaluation: CompiledFunction<R>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): Promise<Values<R>> {
  const parts: Record<string, HostArray[]> = {}
  let single = false
  for await (const { rows, sole, outputs } of outputsOf('predict', evaluation, batches)) {
    single = sole
    for (const [name, output] of Object.entries(outputs)) {
      const [first] = (parts[name] ??= [output])
      const expected = [rows, ...first.shape.slice(1)]
      if (!sameShape(output.shape, expected))
        fail(
          'AUX_SHAPE_MISMATCH',
          `predict: expected ${name} of shape ${showShape(expected)}, a row for each of the batch, got ${showShape(output.shape)}`,
        )
      if (output !== first) parts[name].push(output)
    }
  }
  const joined = Object.fromEntries(Object.entries(parts).map(([name, arrays]) => [name, join(arrays)]))
  return (single ? joined.value : joined) as Values<R>
}

function join(parts: readonly HostArray[]): HostArray {
  const [{ dtype, shape }] = parts
  const whole = [parts.reduce((n, part) => n + part.shape[0], 0), ...shape.slice(1)]
  const data = typedArray(dtype, sizeOf(whole))
  let at = 0
  for (const part of parts) {
    data.set(part.data, at)
    at += part.data.length
  }
  return { data, shape: whole, dtype }
}

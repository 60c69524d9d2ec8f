import type { CompiledFunction } from '../compile'
import type { Batch } from '../data'
import { fail } from '../errors'
import type { Tensor } from '../tensor/tensor'

/**
 * Share of rows whose predicted class is their label. `predict` gives classes, i32 [N], for the field x of a batch;
 * labels are the field y.
 */
export async function accuracy(predict: CompiledFunction<Tensor>, batches: AsyncIterable<Batch>): Promise<number> {
  let right = 0
  let rows = 0
  for await (const { x, y } of batches) {
    const { data, dtype } = await predict.run({ x })
    if (dtype !== 'i32' || data.length !== y.data.length)
      fail(
        'AUX_SHAPE_MISMATCH',
        `accuracy: expected ${y.data.length} predicted classes of dtype i32, which argmax() of logits gives, got ${data.length} of ${dtype}`,
      )
    for (let i = 0; i < data.length; i++) right += Number(data[i] === y.data[i])
    rows += data.length
  }
  return right / rows
}

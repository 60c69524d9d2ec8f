import { CompiledFunction } from '../compile/function'
import type { Batch } from '../compile'
import { describe, fail } from '../errors'
import { toHost } from '../tensor/host'
import type { Tensor } from '../tensor/tensor'

/**
 * Share of rows whose predicted class is their label. `predict` gives classes, i32 [N], for the other fields of a batch;
 * labels are the field y. (Where they are another one, `evaluate` what is right.)
 */
export async function accuracy(
  predict: CompiledFunction<Tensor>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): Promise<number> {
  if (!(predict instanceof CompiledFunction))
    fail('AUX_INVALID_ARGUMENT', `accuracy: expected compile({ model, forward }), got ${describe(predict)}`)
  let right = 0
  let rows = 0
  for await (const { y, ...inputs } of batches) {
    if (y === undefined)
      fail('AUX_INVALID_ARGUMENT', 'accuracy: expected batches with labels as the field y; evaluate() takes others')
    const labels = toHost('accuracy: y', y).data
    const { data, dtype } = await predict.run(inputs)
    if (dtype !== 'i32' || data.length !== labels.length)
      fail(
        'AUX_SHAPE_MISMATCH',
        `accuracy: expected ${labels.length} predicted classes of dtype i32, which argmax() of logits gives, got ${data.length} of ${dtype}`,
      )
    for (let i = 0; i < data.length; i++) right += Number(data[i] === labels[i])
    rows += data.length
  }
  if (!rows) fail('AUX_INVALID_ARGUMENT', 'accuracy: expected at least one row, got none')
  return right / rows
}

import type { Batch, CompiledFunction } from '../compile'
import { fail } from '../errors'
import { toHost } from '../tensor/host'
import type { TypedArray } from '../tensor/dtype'
import type { Tensor } from '../tensor/tensor'
import { outputsOf } from './evaluate'

/** @internal The labels of each batch, its field y, beside the classes that are predicted for its other fields. */
export async function* classesOf(
  what: string,
  predict: CompiledFunction<Tensor>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): AsyncGenerator<{ labels: TypedArray; predicted: TypedArray }, void> {
  let labels: TypedArray
  async function* inputs(): AsyncGenerator<Batch, void> {
    for await (const { y, ...rest } of batches) {
      if (y === undefined)
        fail('AUX_INVALID_ARGUMENT', `${what}: expected batches with labels as the field y; evaluate() takes others`)
      labels = toHost(`${what}: y`, y).data
      yield rest
    }
  }
  for await (const { outputs } of outputsOf(what, predict, inputs())) {
    const [{ data, dtype }] = Object.values(outputs)
    if (dtype !== 'i32' || data.length !== labels!.length)
      fail(
        'AUX_SHAPE_MISMATCH',
        `${what}: expected ${labels!.length} predicted classes of dtype i32, which argmax() of logits gives, got ${data.length} of ${dtype}`,
      )
    yield { labels: labels!, predicted: data }
  }
}

/**
 * Share of rows whose predicted class is their label. `predict` gives classes, i32 [N], for the other fields of a batch;
 * labels are the field y. (Where they are another one, `evaluate` what is right.)
 */
export async function accuracy(
  predict: CompiledFunction<Tensor>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): Promise<number> {
  let [right, all] = [0, 0]
  for await (const { labels, predicted } of classesOf('accuracy', predict, batches)) {
    for (let i = 0; i < labels.length; i++) right += Number(predicted[i] === labels[i])
    all += labels.length
  }
  return right / all
}

import type { Batch, Traceable } from '../compile'
import { CompiledFunction } from '../compile/function'
import { valuesOf } from '../compile/inputs'
import { describe, fail } from '../errors'
import type { HostArray } from '../tensor/host'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'

/** What `evaluate` resolves to: one number for each tensor that the function returns. */
export type Means<R extends Traceable> = R extends Tensor ? number : { [K in keyof R]: number }

/** @internal What an evaluation gives for each batch, by name ('value' of a sole one), and how many rows the batch has. */
export async function* outputsOf(
  what: string,
  evaluation: unknown,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): AsyncGenerator<{ rows: number; sole: boolean; outputs: Readonly<Record<string, HostArray>> }, void> {
  if (!(evaluation instanceof CompiledFunction))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected an evaluation, compile({ model, forward }), got ${describe(evaluation)}`,
    )
  let all = 0
  for await (const batch of batches) {
    const fields = valuesOf(batch)
    const rowwise = [...fields.values()].find(({ shape }) => shape.length) // others are single numbers
    if (!rowwise) fail('AUX_INVALID_ARGUMENT', `${what}: expected a batch with a field of rows, got none`)
    const result = (await evaluation.run(Object.fromEntries(fields))) as HostArray | Record<string, HostArray>
    const sole = ArrayBuffer.isView((result as HostArray).data)
    const outputs = sole ? { value: result as HostArray } : (result as Record<string, HostArray>)
    const [rows] = rowwise.shape
    all += rows
    yield { rows, sole, outputs }
  }
  if (!all) fail('AUX_INVALID_ARGUMENT', `${what}: expected at least one row, got none`)
}

/** Sum over the rows of a batch of an output of one element a row, or of one element: the mean of the batch. */
function total(name: string, { data, shape }: HostArray, rows: number): number {
  if (data.length === 1) return data[0] * rows
  if (data.length !== rows)
    fail(
      'AUX_SHAPE_MISMATCH',
      `evaluate: expected ${name} to be one number or one a row, of ${rows} rows, got shape ${showShape(shape)}`,
    )
  let sum = 0
  for (const v of data) sum += v
  return sum
}

/**
 * Means over all rows of the batches, of what an evaluation gives for each: one number (a mean over its rows, as losses
 * are) or one a row. A last batch that is smaller counts for less.
 *
 * `evaluate(compile({ model, forward: ({ x, y }) => nn.crossEntropy(model.forward(x), y) }), loader)` is the loss on a
 * data set; of several named outputs, each has its mean.
 */
export async function evaluate<R extends Traceable>(
  evaluation: CompiledFunction<R>,
  batches: AsyncIterable<Batch> | Iterable<Batch>,
): Promise<Means<R>> {
  const sums: Record<string, number> = {}
  let single = false
  let all = 0
  for await (const { rows, sole, outputs } of outputsOf('evaluate', evaluation, batches)) {
    for (const [name, output] of Object.entries(outputs)) sums[name] = (sums[name] ?? 0) + total(name, output, rows)
    single = sole
    all += rows
  }
  for (const name of Object.keys(sums)) sums[name] /= all
  return (single ? sums.value : sums) as Means<R>
}

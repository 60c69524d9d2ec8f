import { compile, type MemoryAssignment, type nn, type Tensor } from '../../src'
import type { Optimizer } from '../../src/compile/optimizer'
import { accumulateInto, clear } from '../../src/ops/optim'
import { zeros } from '../../src/ops'
import type { InputValue } from '../../src/compile/inputs'

/** An optimizer that changes nothing: it leaves the gradients, exactly as they were made, to be read. */
export class Recorder implements Optimizer {
  readonly name = 'recorder'
  lr = 0
  steps = 0
  readonly gradients = new Map<string, Tensor>()
  state(name: string, parameter: Tensor): Record<string, Tensor> {
    if (!this.gradients.has(name)) this.gradients.set(name, zeros(parameter.shape))
    return { gradient: this.gradients.get(name)! }
  }
  update(name: string, parameter: Tensor, gradient: Tensor): void {
    const { gradient: total } = this.state(name, parameter)
    clear(total)
    accumulateInto(total, gradient)
  }
}

/** One step's loss, other results and gradients by parameter; the model is as before. */
export async function gradientsOf(
  model: nn.Module,
  loss: (batch: Record<string, Tensor>) => Tensor | { loss: Tensor; [name: string]: Tensor },
  batch: Record<string, InputValue>,
  memory?: MemoryAssignment,
  indicator = false,
) {
  const optimizer = new Recorder()
  const step = compile({
    model,
    loss: loss as (b: Record<string, Tensor>) => { loss: Tensor },
    optimizer,
    memory: memory ?? [],
    indicator,
  })
  const result = (await step.run(batch)) as Awaited<ReturnType<typeof step.run>> &
    Record<string, { data: Float32Array }>
  const gradients = Object.fromEntries(
    [...optimizer.gradients].map(([name, t]) => [name, t.dataSync() as Float32Array]),
  )
  const plan = step.plan(
    Object.fromEntries(Object.entries(batch).map(([name, v]) => [name, v as unknown as { shape: number[] }])),
  )
  const measured = step.measuredArenaBytes
  step.close()
  return { result, gradients, plan, measured }
}

/** Everything a model holds, as bytes, for bit-by-bit comparison. */
export const snapshot = (model: nn.Module): Record<string, string> =>
  Object.fromEntries([...model.state()].map(([name, t]) => [name, Buffer.from(t.rawSync().buffer).toString('base64')]))

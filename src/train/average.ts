import { compile, type CompiledFunction } from '../compile'
import { sessionOf } from '../compile/session'
import { describe, expectOptions, fail } from '../errors'
import { Module } from '../nn'
import { ones } from '../ops'
import { sgdUpdate } from '../ops/optim'
import { canLearn } from '../ops/store'
import type { Tensor } from '../tensor/tensor'

/** Options of `WeightAverage`. */
export interface WeightAverageOptions {
  /**
   * Share of the average that an update leaves: 0.999 for the weights that are evaluated, 0.995 for the target network
   * of a Q function, 0 for a copy (the model that a server predicts with, while another learns). Or a function of the updates done: `(n) => n / (n + 1)` is the mean of all (Izmailov et al. 2018).
   */
  decay: number | ((updates: number) => number)
}

/**
 * Keeps a second module at the moving average of a model's parameters and buffers: average = decay · average + (1 - decay) ·
 * model at each `update()`. `average` is made like the model (`new Net()`), and begins as a copy of it. It is a module as
 * any other: evaluate it, save it, use it in a loss. Its bytes are those of its own tensors.
 */
export class WeightAverage<M extends Module = Module> {
  /** Updates done. */
  updates = 0
  readonly #decay: (updates: number) => number
  readonly #move: CompiledFunction<Tensor>
  readonly #pairs: readonly (readonly [Tensor, Tensor])[]
  readonly #copied: readonly (readonly [Tensor, Tensor])[]

  constructor(
    /** The module that holds the average. */
    readonly average: M,
    /** The model that is trained. */
    readonly model: M,
    options: WeightAverageOptions,
  ) {
    for (const m of [average, model] as unknown[])
      if (!(m instanceof Module))
        fail('AUX_INVALID_ARGUMENT', `WeightAverage: expected two modules, got ${describe(m)}`)
    if ((average as unknown) === model)
      fail('AUX_INVALID_ARGUMENT', 'WeightAverage: expected two modules, got one and the same')
    expectOptions('WeightAverage', options, ['decay'])
    const { decay } = options
    if (typeof decay !== 'function') checkDecay(decay)
    this.#decay = typeof decay === 'function' ? decay : () => decay
    average.loadState(model.state())
    const own = average.state()
    this.#pairs = [...model.state()].map(([name, t]) => [own.get(name)!, t] as const)
    const moved = this.#pairs.filter(([t]) => isMean(t))
    this.#copied = this.#pairs.filter(([t]) => !isMean(t))
    // A step of gradient descent on half the squared distance, at the rate 1 - decay.
    const still = { momentum: 0, nesterov: false, weightDecay: 0 }
    this.#move = compile(({ rate }) => {
      for (const [t, target] of moved) sgdUpdate([t, undefined, t.sub(target), rate, undefined], still)
      return ones([])
    })
  }

  /** Moves the average; after the runs of both that were asked for before. Off the event loop, as steps are. */
  update(): Promise<void> {
    return betweenRunsOf(this.model, this.average, async () => {
      const decay = checkDecay(this.#decay(this.updates))
      sessionOf(this.#move).device = sessionOf(this.model).device
      if (decay) await this.#move.run({ rate: { data: Float32Array.of(1 - decay), shape: [] } })
      for (const [t, target] of decay ? this.#copied : this.#pairs) t.assign(target)
      this.updates++
    })
  }

  /** Frees the plan of the updates; both modules stay. Safe to call twice. */
  close(): void {
    this.#move.close()
  }

  /** `close()`, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * Runs `body` when neither module runs. Its place in both queues is taken at once: were it that in the second one only when
 * the first is free, two averages of each other could each have one and wait for the other.
 */
async function betweenRunsOf(a: Module, b: Module, body: () => Promise<void>): Promise<void> {
  let ended!: () => void
  const whole = new Promise<void>((resolve) => (ended = resolve))
  const free = new Promise<void>((resolve) => {
    void sessionOf(a).enqueue(() => (resolve(), whole))
  })
  await sessionOf(b).enqueue(() => free.then(body).finally(ended))
}

/** What is averaged; codes, which stand for what is frozen, and whole numbers are copied. */
const isMean = ({ dtype, packed }: Tensor): boolean => dtype === 'f32' && canLearn(packed?.format)

function checkDecay(decay: number): number {
  if (!(decay >= 0 && decay <= 1))
    fail('AUX_INVALID_ARGUMENT', `WeightAverage: expected a decay in [0, 1], got ${String(decay)}`)
  return decay
}

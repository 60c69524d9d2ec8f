import { fail } from '../errors'
import type { Graph } from '../graph/graph'
import { accumulateInto, clear } from '../ops/optim'
import { rowGradient, type RowGradient } from '../ops/rows'
import { canLearn } from '../ops/store'
import { keep } from '../tensor/tidy'
import { Tensor } from '../tensor/tensor'
import type { Optimizer } from './optimizer'
import { inputLr, inputStep } from './save'
import type { ParameterLike, Trainable } from './trainable'

/** Gradient clipping, by the norm of all gradients together or by value. */
export interface ClipOptions {
  /** Gradients are scaled down where their norm together exceeds this. */
  norm?: number
  /** Every gradient is cut to ±this. */
  value?: number
}

/** A parameter with its path and its gradient. */
export type Gradient = readonly [name: string, parameter: ParameterLike, gradient: Tensor]

/** A parameter that runs updated before and that the next one does not: frozen, or no longer in the model. */
export interface Left {
  readonly parameter: ParameterLike
  /** No longer there, or stored so that it cannot learn. */
  readonly gone: boolean
}

/** The path of the parameter that a tensor of `Updates.tensors` belongs to, by its name. */
export const parameterOf = (name: string): string | undefined => /^(?:optimizer\.[^.]+|gradient)\.(.+)$/.exec(name)?.[1]

/** What a training step makes of gradients: sums over `accumulate` runs, clipped, for the optimizer. */
export class Updates {
  /** Sums of gradients since the last update, by parameter. */
  readonly #sums = new Map<ParameterLike, Tensor>()
  /** Parameters that a plan updates or sums gradients of. */
  readonly #updated = new Set<ParameterLike>()

  /** Frees what was made since the last plan was asked for. */
  #undo: (() => void)[] = []

  constructor(
    readonly optimizer: Optimizer,
    readonly accumulate: number,
    readonly clip: ClipOptions = {},
  ) {}

  /** Runs `body`, which makes a plan; where there can be none, frees what was made for it. */
  planning<T>(body: () => T): T {
    this.#undo = []
    try {
      return body()
    } catch (error) {
      for (const undo of this.#undo) undo()
      throw error
    }
  }

  /** Traces an update or, with more runs to come before it, sums. Gives the tensors that are state, and the norm if one is taken. */
  trace(graph: Graph, gradients: readonly Gradient[], update: boolean): { state: Set<Tensor>; norm?: Tensor } {
    const { clip, optimizer } = this
    for (const [, p] of gradients) this.#updated.add(p)
    const sums = this.accumulate > 1 ? gradients.map(([name, p]) => this.#sum(name, p)) : undefined
    const state = new Set(this.#sums.values())
    if (sums && !update) {
      gradients.forEach(([, , g], i) => accumulateInto(sums[i], g))
      return { state }
    }
    const ready = gradients.map(([name, p, g], i) => {
      const { rows, gradient } = p.sparse ? expectRows(name, g) : { gradient: sums ? g.add(sums[i]) : g }
      const cut = clip.value === undefined ? gradient : gradient.clamp(-clip.value, clip.value)
      return { name, p, rows, gradient: cut }
    })
    const norm = clip.norm === undefined ? undefined : normOf(ready.map(({ gradient }) => gradient))
    const scale = norm?.add(1e-6).reciprocal().mul(clip.norm!).clamp(0, 1)
    const lr = graph.input(inputLr, [], 'f32')
    const step = graph.input(inputStep, [], 'f32')
    for (const { name, p, rows, gradient } of ready) {
      if (optimizer.holds?.(p) === false) this.#undo.push(() => optimizer.forget?.(p))
      for (const t of Object.values(optimizer.state(name, p))) state.add(t)
      const inputs = { lr, step, scale }
      if (!rows) optimizer.update(name, p, gradient, inputs)
      else if (optimizer.updateRows) optimizer.updateRows(name, p, rows, gradient, inputs)
      else fail('AUX_INVALID_ARGUMENT', `${optimizer.name}: expected updateRows for the sparse table ${name}, got none`)
    }
    for (const sum of sums ?? []) clear(sum)
    return { state, norm }
  }

  /** Parameters of earlier plans that the next one does not update. */
  left(model: Trainable): Left[] {
    const own = new Set(Array.from(model.namedParameters(), ([, p]) => p))
    return [...this.#updated]
      .map((parameter) => ({ parameter, gone: !own.has(parameter) || !canLearn(parameter.packed?.format) }))
      .filter(({ parameter, gone }) => gone || !parameter.trainable)
  }

  /** What was summed for a layer before it was frozen must not be added once it no longer is. */
  forget({ parameter, gone }: Left): void {
    const sum = this.#sums.get(parameter)
    if (!gone) {
      if (sum) clear(sum)
      return
    }
    sum?.dispose()
    this.#sums.delete(parameter)
    this.#updated.delete(parameter)
    this.optimizer.forget?.(parameter)
  }

  /** State of the optimizer and sums, by name: of what learns, has learnt, or is among the `saved` names. */
  *tensors(model: Trainable, saved: Iterable<string> = []): Iterable<[string, Tensor]> {
    const meant = new Set(Array.from(saved, parameterOf))
    for (const [name, p] of model.namedParameters()) {
      if (!canLearn(p.packed?.format)) continue
      if (meant.has(name)) this.#updated.add(p)
      if (!p.trainable && !this.#updated.has(p)) continue
      for (const [key, t] of Object.entries(this.optimizer.state(name, p))) yield [`optimizer.${key}.${name}`, t]
      if (this.accumulate > 1) yield [`gradient.${name}`, this.#sum(name, p)]
    }
  }

  /** Frees the sums; the optimizer's state stays. */
  dispose(): void {
    for (const t of this.#sums.values()) t.dispose()
  }

  /** The sum of a parameter's gradients since the last update. */
  #sum(name: string, parameter: ParameterLike): Tensor {
    const known = this.#sums.get(parameter)
    if (known) return known
    if (parameter.sparse)
      fail('AUX_INVALID_ARGUMENT', `accumulate: the gradient of the sparse table ${name} cannot be summed over runs`)
    const made = keep(Tensor.allocate(parameter.shape, parameter.dtype, { zero: true, what: `gradient of ${name}` }))
    this.#sums.set(parameter, made)
    this.#undo.push(() => {
      made.dispose()
      this.#sums.delete(parameter)
    })
    return made
  }
}

/** The gradient of a sparse table, by rows. */
function expectRows(name: string, gradient: Tensor): RowGradient {
  return (
    rowGradient(gradient) ??
    fail(
      'AUX_INVALID_ARGUMENT',
      `sparse: expected ${name} to be read by embedding alone, with one paddingIdx; its gradient has other parts`,
    )
  )
}

/** Euclidean norm of all gradients together. */
function normOf(gradients: readonly Tensor[]): Tensor {
  const squares = gradients.map((g) =>
    g
      .reshape([1, -1])
      .matmul(g.reshape([-1, 1]))
      .reshape([]),
  )
  return squares.reduce((a, b) => a.add(b)).sqrt()
}

import { types } from 'node:util'
import type { Optimizer, Schedule, UpdateInputs } from '../compile/optimizer'
import { describe, expectOptions, fail, listed, sign } from '../errors'
import { testOf } from '../memory/assignment'
import { putRows } from '../ops/rows'
import { sameShape, showShape } from '../tensor/shape'
import { keep } from '../tensor/tidy'
import { Tensor, type Spec } from '../tensor/tensor'

/**
 * Options for some of the parameters: those whose path the pattern matches. The first group that matches counts; one that
 * matches none is an error when a step is planned.
 */
export interface ParameterGroup {
  /** Paths such as `conv1.bias`: a pattern as in `memory` (`'**.bias'`), a regular expression or a test. */
  match: string | RegExp | ((path: string, parameter: Tensor) => boolean)
  /** Factor on the learning rate (1). */
  lrScale?: number
  /** Weight decay of the group (the optimizer's). */
  weightDecay?: number
}

/** Options that all optimizers have. */
export interface BaseOptions {
  /** Learning rate: a number, or a function of the number of updates done. */
  lr: Schedule
  /** Weight decay; 0, and 0.01 for AdamW. */
  weightDecay?: number
  /** Parameters with options of their own. */
  groups?: readonly ParameterGroup[]
}

/** @internal Throws unless each of the named values is a number in [0, 1): what is left of something at each update. */
export function expectDecays(values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values))
    if (typeof value !== 'number' || !(value >= 0 && value < 1))
      fail('AUX_INVALID_ARGUMENT', `${name}: expected a number in [0, 1), got ${describe(value)}`)
}

/** @internal Throws unless they are two numbers in [0, 1). */
export function checkBetas(betas: readonly [number, number]): readonly [number, number] {
  expectDecays({ 'betas[0]': betas?.[0], 'betas[1]': betas?.[1] })
  return betas
}

/** @internal Throws unless each of the named values is a finite number, at least 0. */
export function expectNonNegative(values: Readonly<Record<string, unknown>>, of = ''): void {
  for (const [name, value] of Object.entries(values))
    if (!(Number.isFinite(value) && (value as number) >= 0))
      fail('AUX_INVALID_ARGUMENT', `${of}${name}: expected a number >= 0, got ${describe(value)}`)
}

/** @internal Throws unless each of the named values is a finite number above 0. */
export function expectPositive(values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values))
    if (!(Number.isFinite(value) && (value as number) > 0))
      fail('AUX_INVALID_ARGUMENT', `${name}: expected a number > 0, got ${describe(value)}`)
}

/** @internal Throws unless it is positive. */
export function checkEps(eps: number): number {
  expectPositive({ eps })
  return eps
}

/** What optimizers share: the learning rate, groups, and state of zeros made when a parameter is first met. */
export abstract class Base implements Optimizer {
  static {
    sign(this)
  }

  /** For checkpoints. */
  abstract readonly name: string
  /** Learning rate, or the rate of each update; may be changed at any time. */
  lr: Schedule
  /** Updates done. */
  steps = 0
  /** Updates that were done before a parameter was first met: its own are counted from there, as its state begins there. */
  readonly begun = new Map<Tensor, number>()
  readonly #groups: readonly (ParameterGroup & { test: (path: string, parameter: Tensor) => boolean })[]
  readonly #weightDecay: number
  readonly #state = new Map<Tensor, Record<string, Tensor>>()

  /** `own`: names of the options besides those that all optimizers have; others are then refused. */
  constructor(options: BaseOptions, own?: readonly string[]) {
    const given = own ? ['lr', 'weightDecay', 'groups', ...own] : undefined
    expectOptions(new.target.name, options, given)
    const { lr, weightDecay = 0, groups = [] } = options
    if (!Array.isArray(groups))
      fail('AUX_INVALID_ARGUMENT', `groups: expected an array of { match, ... }, got ${describe(groups)}`)
    for (const group of groups as readonly ParameterGroup[]) {
      expectOptions(`${new.target.name}: group`, group, ['match', 'lrScale', 'weightDecay'])
      if (typeof group.match !== 'string' && typeof group.match !== 'function' && !types.isRegExp(group.match))
        fail('AUX_INVALID_ARGUMENT', `group: expected match to be a pattern or a test, got ${describe(group.match)}`)
      for (const name of ['lrScale', 'weightDecay'] as const)
        if (group[name] !== undefined) expectNonNegative({ [name]: group[name] }, 'group: ')
    }
    if (typeof lr !== 'function' && !(lr >= 0 && Number.isFinite(lr)))
      fail('AUX_INVALID_ARGUMENT', `lr: expected a number >= 0 or a schedule, got ${describe(lr)}`)
    expectNonNegative({ weightDecay })
    this.lr = lr
    this.#groups = groups.map((group) => ({ ...group, test: testOf(group.match) }))
    this.#weightDecay = weightDecay
  }

  /** Names of the state tensors that a parameter may have. */
  protected abstract readonly slots: readonly string[]

  /** Shape and dtype of one of them: those of the parameter; undefined: this parameter has none. */
  protected slot(_name: string, parameter: Tensor): Spec | undefined {
    return parameter
  }

  /** State of a parameter by name of the slot; zeros at first. */
  state(name: string, parameter: Tensor): Record<string, Tensor> {
    const known = this.#state.get(parameter)
    if (known) return known
    // Zeroed by the system: a plan alone touches none of it.
    const zeros = ({ shape, dtype }: Spec): Tensor =>
      keep(Tensor.allocate(shape, dtype, { zero: true, what: `state of ${name}` }))
    const made: Record<string, Tensor> = {}
    try {
      for (const slot of this.slots) {
        const spec = this.slot(slot, parameter)
        if (spec) made[slot] = zeros(spec)
      }
    } catch (error) {
      for (const t of Object.values(made)) t.dispose()
      throw error
    }
    this.#state.set(parameter, made)
    if (this.steps) this.begun.set(parameter, this.steps)
    return made
  }

  holds(parameter: Tensor): boolean {
    return this.#state.has(parameter)
  }

  forget(parameter: Tensor): void {
    for (const t of Object.values(this.#state.get(parameter) ?? {})) t.dispose()
    this.#state.delete(parameter)
    this.begun.delete(parameter)
  }

  expectFit(parameters: ReadonlyMap<string, Tensor>): void {
    for (const { match, test } of this.#groups)
      if (![...parameters].some(([name, parameter]) => test(name, parameter)))
        fail(
          'AUX_INVALID_ARGUMENT',
          `${this.constructor.name}: group ${String(match)} matches no parameter; there are ${listed(parameters.keys())}`,
        )
  }

  /** Traces the in-place update of a parameter and its state. */
  update(name: string, parameter: Tensor, gradient: Tensor, inputs: UpdateInputs): void {
    this.#apply(name, parameter, parameter, this.state(name, parameter), gradient, inputs)
  }

  /** Traces the update of rows of a table: they and their state are taken out, changed and put back. */
  updateRows(name: string, parameter: Tensor, rows: Tensor, gradient: Tensor, inputs: UpdateInputs): void {
    const state = Object.entries(this.state(name, parameter))
    for (const [slot, t] of state)
      if (!sameShape(t.shape, parameter.shape))
        fail(
          'AUX_INVALID_ARGUMENT',
          `${this.constructor.name}: expected state by element for the sparse table ${name}, got ${slot} of shape ` +
            `${showShape(t.shape)}; take another optimizer, or sparse: false`,
        )
    const [w, ...parts] = [parameter, ...state.map(([, t]) => t)].map((t) => t.indexSelect(0, rows))
    for (const t of [w, ...parts]) t.node!.graph.assignable.add(t)
    this.#apply(name, parameter, w, Object.fromEntries(state.map(([slot], i) => [slot, parts[i]])), gradient, inputs)
    putRows(parameter, rows, w)
    state.forEach(([, t], i) => putRows(t, rows, parts[i]))
  }

  /** `w` and its state: those of the parameter, or some rows of them. */
  #apply(
    name: string,
    parameter: Tensor,
    w: Tensor,
    state: Record<string, Tensor>,
    gradient: Tensor,
    inputs: UpdateInputs,
  ): void {
    const group = this.#groups.find(({ test }) => test(name, parameter))
    const lr = group?.lrScale === undefined ? inputs.lr : inputs.lr.mul(group.lrScale)
    const before = this.begun.get(parameter)
    const step = before ? inputs.step.sub(before).maximum(1) : inputs.step
    this.apply(w, state, gradient, { ...inputs, lr, step }, group?.weightDecay ?? this.#weightDecay)
  }

  /** Traces the update of a parameter: `w.assign(w.sub(gradient.mul(lr)))`, and its state likewise. */
  protected abstract apply(
    w: Tensor,
    state: Record<string, Tensor>,
    gradient: Tensor,
    inputs: UpdateInputs,
    weightDecay: number,
  ): void

  /** Frees the state. */
  dispose(): void {
    for (const tensors of this.#state.values()) for (const t of Object.values(tensors)) t.dispose()
    this.#state.clear()
    this.begun.clear()
  }

  /** `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }
}

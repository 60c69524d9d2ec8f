import { describe, expectIntegers, expectOptions, fail } from '../errors'
import { derive } from '../graph/derive'
import type { Graph } from '../graph/graph'
import { assigned, namesModules, Policies, type MemoryAssignment } from '../memory/assignment'
import { fillOp } from '../ops/create'
import type { HostArray } from '../tensor/host'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { alternatives, parseBudget, type Alternative, type Budget } from './budget'
import type { Bytes } from './bytes'
import { PlanCache } from './cache'
import type { Traceable } from './function'
import { fit, type ModulePolicy } from './fit'
import { fuseActivations, fuseStatistics } from './fuse'
import { specsOf, valuesOf, type Batch, type NormalSpec, type Specs } from './inputs'
import { ModelKey } from './key'
import { maskActivations } from './masks'
import { begunOf, rateAt, type Optimizer } from './optimizer'
import { Draft, type Plan } from './plan'
import { keeping } from './keeping'
import { inputLr, inputRandom, inputStep, savePlan, type Program } from './save'
import { sessionOf, signalOf, type RunOptions, type Session } from './session'
import { soleOutput, trace, type Traced } from './trace'
import type { ParameterLike, Trainable } from './trainable'
import { Updates, type ClipOptions, type Gradient } from './update'

/** A training step, for `compile`. */
export interface StepOptions<R extends Traceable = Traceable> {
  /** The model whose parameters the step changes. */
  model: Trainable
  /** The loss, one element; or an object with it as `loss` and whatever else is to be read after a step. */
  loss: (batch: Record<string, Tensor>) => R
  /** How they change; of `optim`, or an `Optimizer` of your own. */
  optimizer: Optimizer
  /** What backward keeps, by module; backpropagation where nothing is said. */
  memory?: MemoryAssignment
  /**
   * Bytes that no plan of the model may exceed. Where backpropagation, or what `memory` says, would take more, some
   * modules are run again in backward (`checkpoint`: it takes time and changes no result), as few as will do; a
   * `Budget` names other methods. A plan that still does not fit is refused before the first step.
   */
  budget?: Bytes | Budget
  /** Gradient clipping, by the norm of all gradients together or by value. */
  clip?: ClipOptions
  /** Runs whose mean gradient makes one update (1). */
  accumulate?: number
  /** Seed of dropout and other random ops (0). */
  seed?: number
  /** Whether runs report the learning indicator of each layer. */
  indicator?: boolean
}

/** The learning indicator of a layer over one batch. */
export interface Indicator {
  /** Mean over the values; 1 for backpropagation. */
  mean: number
  /** The least value. */
  min: number
  /** Share of values at or below 0: there the update may not descend. */
  share: number
  /** One value a token (linear) or a sample (convolution). */
  values: Float32Array
}

/** What a run resolves to: the loss, and the values of whatever else the loss function returned. */
export type StepResult<R extends Traceable> = {
  /** The loss before the update. */
  loss: number
  /** Norm of all gradients before clipping; there with `clip.norm`, of runs that update. */
  gradNorm?: number
  /** There with `indicator`. */
  indicators?: Record<string, Indicator>
} & (R extends Tensor ? unknown : { [K in Exclude<keyof R, 'loss'>]: HostArray })

/** Before it is known whether it becomes a plan. */
interface Drafted {
  readonly draft: Draft
  readonly names: readonly string[]
  readonly indicators: readonly string[]
}

interface Entry {
  readonly plan: Plan
  readonly names: readonly string[]
  readonly indicators: readonly string[]
  /** Bytes before the methods of the budget, none of which will do. */
  readonly unfit?: number
}

/** A training step: forward, backward and update as one plan for each set of input shapes. */
export class TrainingStep<R extends Traceable = Traceable> {
  /** The model it trains. */
  readonly model: Trainable
  /** The optimizer it updates with. */
  readonly optimizer: Optimizer
  /** Runs done; with the seed, it decides all random numbers of the next one. */
  runs = 0
  readonly #options: StepOptions<R>
  readonly #budget: ReturnType<typeof parseBudget> | undefined
  /** What the budget made necessary; it stays for later plans. */
  #chosen: readonly ModulePolicy[] = []
  readonly #accumulate: number
  /** Low and high word. */
  readonly #seed: readonly [number, number]
  readonly #modelKey: ModelKey
  readonly #plans: PlanCache<Entry>
  readonly #session: Session
  readonly #updates: Updates
  #lastKey = ''
  readonly #scalars: ReadonlyMap<string, HostArray> = new Map([
    [inputLr, { data: new Float32Array(1), shape: [], dtype: 'f32' }],
    [inputStep, { data: new Float32Array(1), shape: [], dtype: 'f32' }],
    [inputRandom, { data: new Int32Array(4), shape: [4], dtype: 'i32' }],
  ])
  #closed = false

  /** @internal Use `compile`. */
  constructor(options: StepOptions<R>) {
    const { accumulate = 1, clip, seed = 0 } = options
    expectIntegers('compile', { accumulate })
    for (const [name, limit] of Object.entries(clip ?? {}))
      if (limit !== undefined && !(typeof limit === 'number' && limit > 0))
        fail('AUX_INVALID_ARGUMENT', `clip.${name}: expected a number > 0, got ${describe(limit)}`)
    this.model = options.model
    this.optimizer = options.optimizer
    this.#options = options
    this.#accumulate = accumulate
    this.#updates = new Updates(options.optimizer, accumulate, clip)
    this.#seed = [seed | 0, Math.floor(seed / 2 ** 32) | 0]
    this.#budget = options.budget === undefined ? undefined : parseBudget(options.budget)
    this.#session = sessionOf(options.model)
    if (options.memory) this.#session.memory = options.memory
    if (this.#budget) this.#session.budget = this.#budget.bytes
    this.#modelKey = new ModelKey(options.model)
    this.#plans = new PlanCache(this.#modelKey)
  }

  /** The plan of a step on inputs of these shapes; its bytes are known before any step. */
  plan(specs: Specs): Plan {
    return this.#entry(specsOf(specs), true).plan
  }

  /**
   * What backward keeps, by module: `memory` as it was given, then what the budget made necessary in the plans so far.
   * It may be given to another step as its `memory`.
   */
  get memory(): readonly ModulePolicy[] {
    return [...assigned(this.#options.memory, this.#modules), ...this.#chosen]
  }

  get #modules(): ReadonlyMap<string, object> {
    return new Map(this.model.namedModules())
  }

  /** Highest arena byte that a kernel was given so far, in any plan of the model. */
  get measuredArenaBytes(): number {
    return this.#session.measuredArena
  }

  /**
   * One step, off the event loop. Runs of one model follow each other in the order in which they were asked for.
   * If it rejects, nothing has changed: parameters are always those of a whole step.
   */
  async run(batch: Batch, options: RunOptions = {}): Promise<StepResult<R>> {
    const values = valuesOf(batch)
    const signal = signalOf(options)
    return this.#session.enqueueRun(async () => {
      const { plan, done } = this.#turn(values)
      return done(await this.#session.execute(plan, values, signal))
    })
  }

  /**
   * One step on the calling thread, for models so small that the way to another thread and back (tens of microseconds)
   * is most of it: control, bandits, small tables. The same numbers as those of `run`, bit for bit.
   * @throws AUX_INVALID_ARGUMENT while a run of the same model is under way.
   */
  runSync(batch: Batch): StepResult<R> {
    this.#session.expectIdle()
    const values = valuesOf(batch)
    const { plan, done } = this.#turn(values)
    return done(this.#session.executeSync(plan, values))
  }

  /** What the next run executes, its scalars among the values; and what it leaves, called with its outputs. */
  #turn(values: Map<string, HostArray | Tensor>): { plan: Plan; done: (arrays: HostArray[]) => StepResult<R> } {
    const update = (this.runs + 1) % this.#accumulate === 0
    const entry = this.#entry(values, update)
    const key = this.#modelKey.last
    const left = key === this.#lastKey ? [] : this.#updates.left(this.model)
    for (const [name, scalar] of this.#scalars) values.set(name, scalar)
    this.#setScalars()
    const done = (arrays: HostArray[]): StepResult<R> => {
      this.runs++
      if (update) this.optimizer.steps++
      this.#lastKey = key
      for (const p of left) this.#updates.forget(p)
      return this.#result(entry, arrays)
    }
    return { plan: entry.plan, done }
  }

  /**
   * Writes a file that `auxgrad_run` runs without Node: the plan, all that it reads, and this batch. Its steps are those
   * that `run` would do next on this batch, bit for bit. Waits for the runs asked for so far; the next ones wait for it.
   * @param options.steps updates whose learning rates are stored, where they follow a schedule (1000).
   */
  async save(file: string, batch: Batch, options: { steps?: number } = {}): Promise<void> {
    const values = valuesOf(batch)
    expectOptions('save', options, ['steps'])
    const { steps = 1000 } = options
    expectIntegers('save', { steps }, 1, 1e7)
    await this.#session.enqueue(async () => {
      const program = (update: boolean): Program => {
        const { plan, names, indicators } = this.#entry(values, update)
        return { plan, outputs: [...names, ...indicators.map((layer) => `indicator.${layer}`)] }
      }
      const { lr, steps: updates } = this.optimizer
      await savePlan(file, {
        kind: 'step',
        programs: this.#accumulate > 1 ? [program(false), program(true)] : [program(true)],
        values,
        state: this.model.state(),
        seed: this.#seed,
        runs: this.runs,
        updates,
        accumulate: this.#accumulate,
        rates: Array.from({ length: typeof lr === 'number' ? 1 : steps }, (_, i) => rateAt(lr, updates + i)),
        lastRateStays: typeof lr === 'number',
      })
    })
  }

  #setScalars(): void {
    const { steps, lr } = this.optimizer
    this.#scalars.get(inputLr)!.data[0] = rateAt(lr, steps)
    this.#scalars.get(inputStep)!.data[0] = steps + 1
    const random = this.#scalars.get(inputRandom)!.data
    random.set(this.#seed)
    random[2] = this.runs | 0
    random[3] = Math.floor(this.runs / 2 ** 32) | 0
  }

  #result(entry: Entry, arrays: HostArray[]): StepResult<R> {
    const result: Record<string, unknown> = {}
    entry.names.forEach(
      (name, i) => (result[name] = name === 'loss' || name === 'gradNorm' ? arrays[i].data[0] : arrays[i]),
    )
    if (entry.indicators.length) {
      const rest = arrays.slice(entry.names.length)
      result.indicators = Object.fromEntries(
        entry.indicators.map((layer, i) => [layer, summary(rest[i].data as Float32Array)]),
      )
    }
    return result as StepResult<R>
  }

  #entry(specs: ReadonlyMap<string, NormalSpec>, update: boolean): Entry {
    if (this.#closed) fail('AUX_DISPOSED', 'this training step was closed')
    return this.#updates.planning(() =>
      this.#plans.entry(specs, {
        variant: () => `${this.#session.variant}${update}|${JSON.stringify(begunOf(this.optimizer, this.model))}|`,
        make: () => this.#fit(specs, update),
        budget: this.#budget?.bytes,
        refusal: ({ unfit }) => ({ before: unfit, alternative: (below) => this.#alternative(specs, below) }),
      }),
    )
  }

  /** The plan under what was chosen so far and, if that is over the budget, more of its methods. */
  #fit(specs: ReadonlyMap<string, NormalSpec>, update: boolean): Entry {
    const modules = this.#modules
    const given = assigned(this.#options.memory, modules)
    const make = (chosen: readonly ModulePolicy[]): Drafted => this.#make(specs, [...given, ...chosen], update)
    const before = this.#chosen.filter(([path]) => namesModules(path, modules))
    const planned = ({ draft, ...names }: Drafted): Entry => ({ plan: draft.plan, ...names })
    const first = make(before)
    if (!this.#budget || first.draft.bytes() <= this.#budget.bytes) return planned(first)
    const { bytes: budget, methods } = this.#budget
    const unfit = first.draft.bytes()
    const { entry, chosen } = fit({ entry: first, chosen: before }, { budget, methods, modules, given, make })
    if (entry.draft.bytes() > budget) return { ...planned(entry), unfit }
    this.#chosen = chosen
    this.#session.memory = this.memory
    return planned(entry)
  }

  /** The method at hand under which the same step takes least, if that is less than so many bytes. */
  #alternative(specs: ReadonlyMap<string, NormalSpec>, below: number): Alternative | undefined {
    let least: Alternative | undefined
    for (const [name, memory] of Object.entries(alternatives))
      try {
        const { draft } = this.#make(specs, memory, true)
        try {
          const limit = least?.bytes ?? below
          const bytes = draft.bytes(limit)
          if (bytes < limit) least = { name, bytes }
        } finally {
          draft.dispose()
        }
      } catch {
        // a method that this model does not admit is no alternative
      }
    return least
  }

  #make(specs: ReadonlyMap<string, NormalSpec>, memory: MemoryAssignment, update: boolean): Drafted {
    this.optimizer.expectFit?.(new Map(this.model.namedParameters()))
    const policies = new Policies(memory, new Map(this.model.namedModules()))
    const traced = trace(this.#options.loss, specs, { model: this.model, policies, indicator: this.#options.indicator })
    this.#modelKey.met(traced.graph.modules)
    try {
      return this.#finish(traced, policies, update)
    } catch (error) {
      traced.graph.dispose()
      throw error
    }
  }

  #finish({ graph, outputs, indicators }: Traced, policies: Policies, update: boolean): Drafted {
    const loss = outputs.get('loss') ?? outputs.get(soleOutput)
    if (!loss)
      fail(
        'AUX_INVALID_ARGUMENT',
        `expected the function to return its loss as "loss", got ${[...outputs.keys()].join(', ')}`,
      )
    if (loss.size !== 1 || loss.dtype !== 'f32')
      fail(
        'AUX_SHAPE_MISMATCH',
        `expected a loss of one f32 element, got ${loss.dtype} ${showShape(loss.shape)}; reduce it with mean() or sum()`,
      )
    for (const name of ['gradNorm', 'indicators'])
      if (outputs.has(name))
        fail(
          'AUX_INVALID_ARGUMENT',
          `the loss function returns "${name}", which a step has itself; give it another name`,
        )
    outputs.delete(soleOutput)
    outputs.delete('loss')
    const all = new Map([['loss', loss], ...outputs])
    const state = graph.trace(() => {
      const gradients = this.#gradients(graph, loss, policies)
      fuseActivations(graph, all)
      fuseStatistics(graph)
      maskActivations(graph)
      const { state, norm } = graph.withPhase('update', () => this.#updates.trace(graph, gradients, update))
      if (norm) all.set('gradNorm', norm)
      return state
    })
    const draft = new Draft(graph, [...all.values(), ...indicators.values()], {
      optimizer: state,
      device: this.#session.device,
    })
    return { draft, names: [...all.keys()], indicators: [...indicators.keys()] }
  }

  #gradients(graph: Graph, loss: Tensor, policies: Policies): Gradient[] {
    const parameters: [string, ParameterLike, Tensor][] = []
    for (const [name, p] of this.model.namedParameters()) {
      if (p.trainable && graph.assigns(p))
        fail('AUX_INVALID_ARGUMENT', `assign: ${name} is changed by the optimizer; freeze it to change it in the loss`)
      const leaf = p.trainable ? graph.referenceOf(p)?.outputs[0] : undefined
      if (leaf) parameters.push([name, p, leaf])
    }
    if (!parameters.length) {
      const frozen = [...this.model.namedParameters()].some(([, p]) => !p.trainable && graph.referenceOf(p))
      fail(
        'AUX_NO_GRADIENT',
        frozen
          ? 'all parameters of the model that the loss reads are frozen; model.unfreeze() lets them learn'
          : 'the loss reads no parameter of the model (of another model, or in #private properties or Maps, they are not found)',
      )
    }
    const seed = graph.withPhase(
      'backward',
      () => graph.add(fillOp, [], { shape: loss.shape, dtype: 'f32', value: 1 / this.#accumulate }).outputs[0],
    )
    const gradients = derive(
      loss,
      seed,
      parameters.map(([, , leaf]) => leaf),
      {
        add: (a, b) => a.add(b),
        keep: policies.empty ? undefined : keeping(graph, policies),
      },
    )
    return parameters.flatMap(([name, p], i) => (gradients[i] ? [[name, p, gradients[i]] as Gradient] : []))
  }

  /**
   * Tensors that a checkpoint holds besides the model's: optimizer state and gradient sums, by name. Of frozen parameters
   * those alone that have learnt, or that are among the `saved` names.
   */
  *stateTensors(saved?: Iterable<string>): Iterable<[string, Tensor]> {
    if (this.#closed && this.#accumulate > 1) fail('AUX_DISPOSED', 'this training step was closed, its sums are gone')
    yield* this.#updates.tensors(this.model, saved)
  }

  /** Resolves when all runs asked for so far have ended. */
  async idle(): Promise<void> {
    await this.#session.enqueue(async () => undefined)
  }

  /**
   * Frees plans, gradient sums and the arena that the plans of the model share (a later run of one of them makes a new
   * one); the model and the optimizer's state stay. Safe to call twice.
   */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#plans.clear()
    this.#session.dispose()
    this.#updates.dispose()
  }

  /** `close()`, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

function summary(values: Float32Array): Indicator {
  let sum = 0
  let min = Infinity
  let low = 0
  for (const v of values) {
    sum += v
    if (v < min) min = v
    if (!(v > 0)) low++
  }
  return { mean: sum / values.length, min, share: low / values.length, values }
}

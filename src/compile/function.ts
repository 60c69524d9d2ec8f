import { fail } from '../errors'
import type { Graph } from '../graph/graph'
import { Policies, type MemoryAssignment } from '../memory/assignment'
import { randomState } from '../ops/random'
import type { Device } from '../tensor/device'
import type { HostArray } from '../tensor/host'
import { Tensor } from '../tensor/tensor'
import { PlanCache } from './cache'
import { fuseActivations, fuseStatistics } from './fuse'
import { specsOf, valuesOf, type Batch, type NormalSpec, type Specs } from './inputs'
import { ModelKey } from './key'
import { Draft, type Plan } from './plan'
import { savePlan } from './save'
import { sessionOf, signalOf, type RunOptions, type Session } from './session'
import { soleOutput, trace } from './trace'
import type { Trainable } from './trainable'

/** What a compiled function may return. */
export type Traceable = Tensor | Record<string, Tensor>
/** Its values after a run. */
export type Values<R extends Traceable> = R extends Tensor ? HostArray : { [K in keyof R]: HostArray }

interface Entry {
  readonly plan: Plan
  readonly names: readonly string[]
}

/** A plan of the graph, which is let go of if there can be none. */
function planOf(graph: Graph, outputs: readonly Tensor[], device: Device | null): Plan {
  try {
    return new Draft(graph, outputs, { device }).plan
  } catch (error) {
    graph.dispose()
    throw error
  }
}

/**
 * A function of tensors with a plan for each set of input shapes: no backward part, no eager temporaries, one arena.
 * With a model, its modules are traced in evaluation mode and follow the policies of its training step, or those given
 * (what ASA adds in forward belongs to the network).
 */
export class CompiledFunction<R extends Traceable> {
  readonly #f: (inputs: Record<string, Tensor>) => R
  readonly #model: Trainable | undefined
  readonly #modelKey: ModelKey
  readonly #plans: PlanCache<Entry>
  readonly #session: Session
  #closed = false

  /** @internal Use `compile`. */
  constructor(f: (inputs: Record<string, Tensor>) => R, model?: Trainable, memory?: MemoryAssignment) {
    this.#f = f
    this.#model = model
    this.#modelKey = new ModelKey(model)
    this.#plans = new PlanCache(this.#modelKey)
    this.#session = sessionOf(model ?? this)
    if (memory) this.#session.memory = memory
  }

  /** The plan for inputs of these shapes. */
  plan(specs: Specs): Plan {
    return this.#entry(specsOf(specs)).plan
  }

  /**
   * Runs off the event loop; resolves to values in JavaScript memory. Runs take turns: those of a model because they
   * share its arena and a training step changes its weights, those of all models because one thread runs them, in the order
   * in which they were asked for.
   */
  async run(batch: Batch, options: RunOptions = {}): Promise<Values<R>> {
    const values = valuesOf(batch)
    const signal = signalOf(options)
    return this.#session.enqueueRun(async () => {
      const entry = this.#entry(values)
      return this.#named(entry, await this.#session.execute(entry.plan, values, signal))
    })
  }

  /**
   * Runs on the calling thread, at once: also while another model trains. A server that answers during steps of hundreds
   * of milliseconds does so with a copy of the model.
   * @throws AUX_INVALID_ARGUMENT while a run of the same model is under way.
   */
  runSync(batch: Batch): Values<R> {
    this.#session.expectIdle()
    const values = valuesOf(batch)
    const entry = this.#entry(values)
    return this.#named(entry, this.#session.executeSync(entry.plan, values))
  }

  /** Writes a file that `auxgrad_run` runs without Node, on this batch: the plan and all that it reads. */
  async save(file: string, batch: Batch): Promise<void> {
    const values = valuesOf(batch)
    await this.#session.enqueue(async () => {
      const { plan, names } = this.#entry(values)
      const { seed, calls } = randomState()
      await savePlan(file, {
        kind: 'function',
        programs: [{ plan, outputs: names }],
        values,
        state: this.#model?.state() ?? new Map<string, Tensor>(),
        seed,
        runs: calls,
        updates: 0,
        accumulate: 1,
        rates: [],
        lastRateStays: false,
      })
    })
  }

  #entry(inputs: ReadonlyMap<string, NormalSpec>): Entry {
    if (this.#closed) fail('AUX_DISPOSED', 'this compiled function was closed')
    const session = this.#session
    return this.#plans.entry(inputs, {
      variant: () => session.variant,
      make: () => this.#make(inputs),
      budget: session.budget,
    })
  }

  #make(inputs: ReadonlyMap<string, NormalSpec>): Entry {
    const model = this.#model
    const policies = model && new Policies(this.#session.memory, new Map(model.namedModules()))
    const { graph, outputs } = trace(this.#f, inputs, { model, policies, training: model && false })
    fuseActivations(graph, outputs)
    fuseStatistics(graph)
    this.#modelKey.met(graph.modules)
    return { plan: planOf(graph, [...outputs.values()], this.#session.device), names: [...outputs.keys()] }
  }

  #named(entry: Entry, arrays: HostArray[]): Values<R> {
    if (entry.names.length === 1 && entry.names[0] === soleOutput) return arrays[0] as Values<R>
    return Object.fromEntries(entry.names.map((name, i) => [name, arrays[i]])) as Values<R>
  }

  /** Frees plans (and the arena, unless a model shares it). Safe to call twice. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#plans.clear()
    if (!this.#model) this.#session.dispose()
  }

  /** `close()`, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

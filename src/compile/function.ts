import { fail } from '../errors'
import type { Graph } from '../graph/graph'
import { Policies } from '../memory/assignment'
import type { HostArray } from '../tensor/host'
import { Tensor } from '../tensor/tensor'
import { checkBudget } from './budget'
import { PlanCache } from './cache'
import { fuseActivations } from './fuse'
import { hostValue, normalSpec, type InputSpec, type InputValue, type NormalSpec } from './inputs'
import { Plan } from './plan'
import { sessionOf, type RunOptions, type Session } from './session'
import { soleOutput, trace } from './trace'
import { revision, type Trainable } from './trainable'

/** What a compiled function may return. */
export type Traceable = Tensor | Record<string, Tensor>
/** Its values after a run. */
export type Values<R extends Traceable> = R extends Tensor ? HostArray : { [K in keyof R]: HostArray }

/** Shapes of named inputs: `{ x: [128, 28, 28, 1], y: [128] }`. */
export type Specs = Readonly<Record<string, InputSpec>>
/** Values of named inputs: `{ x: array, y: [3, 1, 4] }`. */
export type Batch = Readonly<Record<string, InputValue>>

interface Entry {
  readonly plan: Plan
  readonly names: readonly string[]
}

const maxPlans = 16

/** A plan of the graph, which is let go of if there can be none. */
function planOf(graph: Graph, outputs: readonly Tensor[]): Plan {
  try {
    return new Plan(graph, outputs)
  } catch (error) {
    graph.dispose()
    throw error
  }
}

/** @internal Key and normal form of inputs: shapes and dtypes. */
export function specsOf(specs: Specs): { key: string; map: Map<string, NormalSpec> } {
  const map = new Map(Object.entries(specs).map(([name, spec]) => [name, normalSpec(name, spec)]))
  return { key: keyOf(map), map }
}

/** @internal */
export function keyOf(specs: ReadonlyMap<string, { shape: readonly number[]; dtype: string | undefined }>): string {
  let key = ''
  for (const name of [...specs.keys()].sort()) {
    const { shape, dtype } = specs.get(name)!
    key += `${name}:${dtype ?? '?'}[${shape.join()}] `
  }
  return key
}

/** @internal A batch with its values in a form that can be written. */
export function valuesOf(batch: Batch): Map<string, HostArray | Tensor> {
  const values = new Map<string, HostArray | Tensor>()
  for (const name in batch) values.set(name, hostValue(name, batch[name]))
  return values
}

/**
 * @internal Mode and freezing of a model, and the mode of other modules that its plans run (a teacher, a critic), as
 * part of the key of its plans; walked again only after a change.
 */
export class ModelKey {
  #seen = -1
  #key = ''
  readonly #others = new Set<{ readonly training: boolean }>()

  constructor(readonly model: Trainable | undefined) {}

  get current(): string {
    if (this.#seen === revision.current) return this.#key
    this.#seen = revision.current
    const mode = (m: { readonly training: boolean }): string => (m.training ? 't' : 'e')
    const modes = this.model ? [...this.model.namedModules()].map(([, m]) => mode(m)) : []
    const frozen = this.model ? [...this.model.namedParameters()].map(([, p]) => (p.trainable ? '1' : '0')) : []
    return (this.#key = `${modes.join('')}|${frozen.join('')}|${[...this.#others].map(mode).join('')}|`)
  }

  /** Modules whose mode a trace has read. */
  met(modules: ReadonlySet<{ readonly training: boolean }>): void {
    const own = new Set<unknown>(this.model && [...this.model.namedModules()].map(([, m]) => m))
    for (const m of modules) if (!own.has(m)) this.#others.add(m)
    this.#seen = -1
  }
}

/**
 * A function of tensors with a plan for each set of input shapes: no backward part, no eager temporaries, one arena.
 * With a model, its modules are traced in evaluation mode and follow the policies of its training step (what ASA adds
 * in forward belongs to the network).
 */
export class CompiledFunction<R extends Traceable> {
  readonly #f: (inputs: Record<string, Tensor>) => R
  readonly #model: Trainable | undefined
  readonly #plans = new PlanCache<Entry>(maxPlans)
  readonly #session: Session
  readonly #modelKey: ModelKey
  #closed = false

  /** @internal Use `compile`. */
  constructor(f: (inputs: Record<string, Tensor>) => R, model?: Trainable) {
    this.#f = f
    this.#model = model
    this.#modelKey = new ModelKey(model)
    this.#session = sessionOf(model ?? this)
  }

  /** The plan for inputs of these shapes. */
  plan(specs: Specs): Plan {
    const { key, map } = specsOf(specs)
    return this.#entry(key, map).plan
  }

  /** Runs off the event loop; resolves to values in JavaScript memory. */
  async run(batch: Batch, options: RunOptions = {}): Promise<Values<R>> {
    const values = valuesOf(batch)
    return this.#session.enqueue(async () => {
      const entry = this.#entry(keyOf(values), values)
      return this.#named(entry, await this.#session.execute(entry.plan, values, options))
    })
  }

  /** Runs on the calling thread. */
  runSync(batch: Batch): Values<R> {
    const values = valuesOf(batch)
    const entry = this.#entry(keyOf(values), values)
    return this.#named(entry, this.#session.executeSync(entry.plan, values))
  }

  #entry(inputs: string, specs: ReadonlyMap<string, NormalSpec>): Entry {
    if (this.#closed) fail('AUX_DISPOSED', 'this compiled function was closed')
    const key = this.#modelKey.current + inputs
    const known = this.#plans.get(key)
    if (known) return known
    const model = this.#model
    const policies = model && new Policies(this.#session.memory, new Map(model.namedModules()))
    const { graph, outputs } = trace(this.#f, specs, { model, policies, training: model && false })
    fuseActivations(graph, outputs)
    this.#modelKey.met(graph.modules)
    const plan = planOf(graph, [...outputs.values()])
    checkBudget(plan, this.#session.budget)
    const entry = { plan, names: [...outputs.keys()] }
    this.#plans.set(this.#modelKey.current + inputs, entry)
    return entry
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

import { checkBudget, type Refusal } from './budget'
import { keyOf, type NormalSpec } from './inputs'
import type { ModelKey } from './key'
import type { Plan } from './plan'
import { revision } from './trainable'

const maxPlans = 16

/** How an entry comes to be when there is none. */
export interface Making<Entry> {
  /** Tells plans of one model and inputs apart; asked before and after one is made. */
  variant(): string
  make(): Entry
  budget: number | undefined
  /** For the error of a plan over the budget. */
  refusal?(entry: Entry): Refusal
}

/** Plans by model and inputs, the least recently used dropped beyond `maxPlans`; one may stand under two keys. */
export class PlanCache<Entry extends { readonly plan: Plan }> {
  readonly #entries = new Map<string, Entry>()
  readonly #model: ModelKey
  #structure = 0
  #revision = 0

  constructor(model: ModelKey) {
    this.#model = model
  }

  /** The plan for inputs of these shapes and dtypes, made if there is none. */
  entry(inputs: ReadonlyMap<string, NormalSpec>, { variant, make, budget, refusal }: Making<Entry>): Entry {
    const key = this.#prefix(variant()) + keyOf(inputs)
    const known = this.#entries.get(key)
    if (known) {
      this.#entries.delete(key)
      this.#entries.set(key, known)
      return known
    }
    const entry = make()
    checkBudget(entry.plan, budget, refusal?.(entry))
    const prefix = this.#prefix(variant()) // other modules may have turned up
    this.#set(prefix + keyOf(inputs), entry)
    if ([...inputs.values()].some((s) => s.dtype === undefined)) {
      const declared = new Map(
        [...inputs].map(([name, s]) => [
          name,
          { shape: s.shape, dtype: s.dtype ?? entry.plan.inputs.get(name)?.dtype ?? 'f32' },
        ]),
      )
      this.#set(prefix + keyOf(declared), entry)
    }
    return entry
  }

  /** Lets every plan go when the model is another one, and those that read what has come to lie elsewhere. */
  #prefix(variant: string): string {
    const prefix = this.#model.current + variant
    if (this.#structure !== this.#model.structure) this.clear()
    this.#structure = this.#model.structure
    if (this.#revision !== revision.current)
      for (const [key, entry] of [...this.#entries])
        if (entry.plan.graph.moved) {
          this.#entries.delete(key)
          this.#release(entry)
        }
    this.#revision = revision.current
    return prefix
  }

  #set(key: string, entry: Entry): void {
    const replaced = this.#entries.get(key)
    this.#entries.set(key, entry)
    if (replaced) this.#release(replaced) // one whose dtypes are known now is as one whose dtypes were given
    for (const [oldest, dropped] of this.#entries) {
      if (new Set(this.#entries.values()).size <= maxPlans) break
      this.#entries.delete(oldest)
      this.#release(dropped)
    }
  }

  clear(): void {
    const entries = new Set(this.#entries.values())
    this.#entries.clear()
    for (const entry of entries) entry.plan.dispose()
  }

  // An entry may stand under two keys (its inputs with and without declared dtypes).
  #release(entry: Entry): void {
    for (const other of this.#entries.values()) if (other === entry) return
    entry.plan.dispose()
  }
}

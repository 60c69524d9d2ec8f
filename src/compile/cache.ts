import type { Plan } from './plan'

/** Plans by key, the least recently used dropped beyond `bound`. */
export class PlanCache<Entry extends { plan: Plan }> {
  readonly #entries = new Map<string, Entry>()

  constructor(readonly bound: number) {}

  get(key: string): Entry | undefined {
    const entry = this.#entries.get(key)
    if (entry) {
      this.#entries.delete(key)
      this.#entries.set(key, entry)
    }
    return entry
  }

  set(key: string, entry: Entry): void {
    this.#entries.set(key, entry)
    for (const [oldest, dropped] of this.#entries) {
      if (this.#entries.size <= this.bound) break
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

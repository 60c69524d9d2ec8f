import { Tensor } from '../tensor/tensor'
import { isContainer, revision, type Trainable } from './trainable'

type Moded = { readonly training: boolean }

/**
 * What plans of a model depend on besides their inputs, as a key: the mode, freezing and storing of its parts, and the mode of
 * other modules that the plans run (a teacher, a critic). Asked at every run: the model is walked again only after a
 * change of those, or when one of its properties holds another module or tensor than before.
 */
export class ModelKey {
  /** Times that a module or tensor of the model was found replaced, added or taken away: older plans are of no use. */
  structure = 0
  #seen = -1
  #key = ''
  #watch: Watch | undefined
  readonly #others = new Set<Moded>()

  constructor(readonly model: Trainable | undefined) {}

  /** The key at the last look. */
  get last(): string {
    return this.#key
  }

  get current(): string {
    const changed = this.model !== undefined && !(this.#watch?.unchanged() ?? false)
    if (!changed && this.#seen === revision.current) return this.#key
    if (changed) {
      const now = new Watch(this.model!)
      if (this.#watch && !this.#watch.sameParts(now)) this.structure++
      this.#watch = now
    } else if (this.#watch?.disposed()) this.structure++ // its plans go; to make one is then an error
    this.#seen = revision.current
    const mode = (m: Moded): string => (m.training ? 't' : 'e')
    const modes = this.model ? [...this.model.namedModules()].map(([, m]) => mode(m)) : []
    const frozen = this.model
      ? [...this.model.namedParameters()].map(([, p]) => `${p.trainable ? 1 : 0}${p.packed?.format ?? ''}`)
      : []
    const others = [...this.#others].map(mode)
    return (this.#key = `${this.structure}|${modes.join('')}|${frozen.join('')}|${others.join('')}|`)
  }

  /** Modules whose mode a trace has read. */
  met(modules: ReadonlySet<Moded>): void {
    const own = new Set<unknown>(this.model && [...this.model.namedModules()].map(([, m]) => m))
    for (const m of modules) if (!own.has(m)) this.#others.add(m)
    this.#seen = -1
  }
}

/** The properties of a model in which its modules and tensors are, or (null, undefined) may come to be. */
class Watch {
  /** Modules and eager tensors: a traced tensor that `forward` left in a property is none of the model's. */
  readonly #parts: unknown[] = []
  readonly #owners: Record<string, unknown>[] = []
  readonly #names: string[] = []
  readonly #values: unknown[] = []
  /** Arrays and plain objects, and how many things they held. */
  readonly #containers = new Map<object, number>()

  constructor(model: Trainable) {
    const modules = new Set<unknown>([...model.namedModules()].map(([, m]) => m))
    for (const m of modules)
      for (const [name, value] of Object.entries(m as object)) this.#look(m as object, name, value, modules)
  }

  #look(owner: object, name: string, value: unknown, modules: ReadonlySet<unknown>): void {
    const part = value instanceof Tensor || modules.has(value)
    const items = !part && isContainer(value) && !this.#containers.has(value) ? Object.entries(value) : undefined
    const list = items && (!items.length || typeof items[0][1] === 'object')
    if (!part && !list && value !== null && value !== undefined) return
    this.#owners.push(owner as Record<string, unknown>)
    this.#names.push(name)
    this.#values.push(value)
    if (part && !(value instanceof Tensor && value.traced)) this.#parts.push(value)
    if (!list) return
    this.#containers.set(value as object, items.length)
    for (const [key, item] of items) this.#look(value as object, key, item, modules)
  }

  /** Every property holds what it held. */
  unchanged(): boolean {
    const [owners, names, values] = [this.#owners, this.#names, this.#values]
    for (let i = 0; i < values.length; i++) if (owners[i][names[i]] !== values[i]) return false
    for (const [container, size] of this.#containers) if (Object.keys(container).length !== size) return false
    return true
  }

  /** Some of its tensors have been freed. */
  disposed(): boolean {
    return this.#parts.some((p) => p instanceof Tensor && p.disposed)
  }

  sameParts(other: Watch): boolean {
    return this.#parts.length === other.#parts.length && this.#parts.every((p, i) => p === other.#parts[i])
  }
}

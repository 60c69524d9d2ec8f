import { types } from 'node:util'
import { sessionOf } from '../compile/session'
import { isContainer, revision, type Trainable } from '../compile/trainable'
import { describe, expectOptions, fail, sign } from '../errors'
import { tracing } from '../graph/graph'
import { matcher } from '../memory/assignment'
import { canLearn, checkStoreFormat, type StoreFormat } from '../ops/store'
import { deviceNamed } from '../tensor/device'
import { sameShape, showShape } from '../tensor/shape'
import { keep } from '../tensor/tidy'
import { Tensor } from '../tensor/tensor'
import { Parameter } from './parameter'
import { summary } from './summary'

/**
 * Base of layers and models: a plain class whose properties are its parts. Parameters, buffers (plain tensors: running
 * statistics) and modules are found by property, in the order of definition, also inside arrays and plain objects; their
 * names are the paths to them (`conv1.weight`, `blocks.0.fc.bias`). What is private (`#name`) or in a Map is not found.
 */
export abstract class Module implements Trainable {
  static {
    sign(this)
  }

  #training = true

  /** What the module computes, out of tensors and other modules; traced once for each plan. */
  abstract forward(...inputs: never[]): unknown

  /** True while dropout drops and batch norm uses the statistics of its batch. */
  get training(): boolean {
    tracing()?.modules.add(this)
    return this.#training
  }

  /** The mode of this module alone; plans of the other mode are made anew. */
  set training(training: boolean) {
    if (training !== this.#training) revision.current++
    this.#training = training
  }

  /** Training mode for this module and all inside. */
  train(training = true): this {
    for (const [, m] of this.namedModules()) m.training = training
    return this
  }

  /** Evaluation mode for this module and all inside. */
  eval(): this {
    return this.train(false)
  }

  /** Own parts: name and value of every property that is a tensor or a module, arrays and plain objects looked into. */
  *#parts(): Iterable<[string, Tensor | Module]> {
    for (const [name, value] of Object.entries(this)) yield* partsOf(name, value)
  }

  /** This module as '' and every module inside with its path; one that stands in two places appears once. */
  *namedModules(prefix = '', seen = new Set<Module>()): Iterable<[string, Module]> {
    if (seen.has(this)) return
    seen.add(this)
    yield [prefix, this]
    for (const [name, part] of this.#parts())
      if (part instanceof Module) yield* part.namedModules(prefix ? `${prefix}.${name}` : name, seen)
  }

  *#namedTensors(): Iterable<[string, Tensor]> {
    const seen = new Set<Tensor>()
    for (const [path, m] of this.namedModules())
      for (const [name, part] of m.#parts())
        // What a traced forward left in a property is no state.
        if (part instanceof Tensor && !part.traced && !seen.has(part)) {
          seen.add(part)
          yield [path ? `${path}.${name}` : name, part]
        }
  }

  /** Every parameter with its path, each once. */
  *namedParameters(): Iterable<[string, Parameter]> {
    for (const [name, t] of this.#namedTensors()) if (t instanceof Parameter) yield [name, t]
  }

  /** Every buffer with its path: state that no optimizer changes. */
  *namedBuffers(): Iterable<[string, Tensor]> {
    for (const [name, t] of this.#namedTensors()) if (!(t instanceof Parameter)) yield [name, t]
  }

  /** Every parameter once, without its path. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, p]) => p)
  }

  /** Parameters and buffers by path: what a weight file holds. */
  state(): Map<string, Tensor> {
    return new Map(this.#namedTensors())
  }

  /**
   * Overwrites parameters and buffers by path.
   * @throws AUX_INVALID_ARGUMENT for names that are missing or too many (unless `strict` is false),
   * AUX_SHAPE_MISMATCH and AUX_DTYPE_MISMATCH naming the tensor.
   */
  loadState(values: ReadonlyMap<string, Tensor>, options: { strict?: boolean } = {}): this {
    if (!types.isMap(values))
      fail(
        'AUX_INVALID_ARGUMENT',
        `loadState: expected a Map of tensors by path, as state() gives, got ${describe(values)}`,
      )
    expectOptions('loadState', options, ['strict'])
    const own = this.state()
    const missing = [...own.keys()].filter((name) => !values.has(name))
    const extra = [...values.keys()].filter((name) => !own.has(name))
    if ((options.strict ?? true) && (missing.length || extra.length))
      fail(
        'AUX_INVALID_ARGUMENT',
        `loadState: missing ${missing.join(', ') || 'nothing'}; unexpected ${extra.join(', ') || 'nothing'}`,
      )
    const pairs = [...own].filter(([name]) => values.has(name))
    // All is checked before anything changes.
    for (const [name, t] of pairs) {
      const value = values.get(name)!
      if (!(value instanceof Tensor))
        fail(
          'AUX_INVALID_ARGUMENT',
          `loadState: expected ${name} to be a tensor, got ${describe(value)}; tensor() makes one`,
        )
      for (const read of [t, value]) read.liveStorage()
      if (!sameShape(value.shape, t.shape))
        fail(
          'AUX_SHAPE_MISMATCH',
          `loadState: expected ${name} of shape ${showShape(t.shape)}, got ${showShape(value.shape)}`,
        )
      if (value.dtype !== t.dtype)
        fail('AUX_DTYPE_MISMATCH', `loadState: expected ${name} of dtype ${t.dtype}, got ${value.dtype}`)
    }
    for (const [name, t] of pairs) t.assign(values.get(name)!)
    return this
  }

  /**
   * Freezes every parameter below the paths or patterns (all without one): no gradient, nothing kept, no change.
   * Patterns are those of `memory`: `model.freeze().unfreeze('**.bias')` lets biases alone learn.
   */
  freeze(...paths: string[]): this {
    return this.#setTrainable(paths, false)
  }

  /** Lets every parameter below the paths or patterns (all without one) learn again. */
  unfreeze(...paths: string[]): this {
    return this.#setTrainable(paths, true)
  }

  #setTrainable(paths: string[], trainable: boolean): this {
    const meant = this.#parametersBelow(trainable ? 'unfreeze' : 'freeze', paths)
    const stored = trainable && [...meant].find(([, p]) => !canLearn(p.stored))
    if (stored)
      fail(
        'AUX_INVALID_ARGUMENT',
        `unfreeze: ${stored[0]} is stored in ${stored[1].stored} and cannot learn; store('f32', '${stored[0]}') brings it ` +
          'back to float32',
      )
    for (const p of meant.values()) p.trainable = trainable
    return this
  }

  /** Parameters at or below the paths or patterns (all without one). */
  #parametersBelow(what: string, paths: string[]): Map<string, Parameter> {
    const all = [...this.namedParameters()]
    const meant = new Map(paths.length ? [] : all)
    for (const path of paths) {
      const pattern = matcher(path)
      const below = all.filter(([name]) => {
        const parts = name.split('.')
        return parts.some((_, i) => pattern.test(parts.slice(0, i + 1).join('.')))
      })
      if (!below.length) fail('AUX_INVALID_ARGUMENT', `${what}: no parameter at or below "${path}"`)
      for (const [name, p] of below) meant.set(name, p)
    }
    return meant
  }

  /**
   * Stores weights below the paths or patterns (all without one) in 2 bytes an element (`bf16`) or, where they are frozen, in
   * about 1 (`q8`) or about half a one (`q4`, each 256 elements with a range of their own), or again in 4 (`f32`). They are
   * rounded now; what reads one gets float32, which exists while one kernel runs and is not kept. Updates of what learns in
   * bf16 round stochastically, so that in the mean nothing is lost; nowhere is there a float32 copy. Names, shapes and
   * values read as before. Left as they are: vectors, what would not take less, and of codes what learns.
   * @throws AUX_INVALID_ARGUMENT for codes where nothing that is meant is frozen, and while a run of the module is under way.
   */
  store(format: StoreFormat | 'f32', ...paths: string[]): this {
    checkStoreFormat('store', format, 'f32')
    const meant = [...this.#parametersBelow('store', paths).values()].filter((p) => !p.trainable || canLearn(format))
    if (!meant.length)
      fail(
        'AUX_INVALID_ARGUMENT',
        `store: every parameter that is meant learns, and what is stored in ${format} cannot; freeze() it first, ` +
          'nn.adapt() the model, or take bf16',
      )
    const what = 'weights were stored otherwise while a run of their model'
    sessionOf(this).expectIdle(what)
    // A part of a model has a session of its own: what runs is the model's.
    if (meant.some((p) => p.liveStorage().inUse)) fail('AUX_INVALID_ARGUMENT', `${what} is under way; await it first`)
    for (const p of meant) p.store(format)
    return this
  }

  /**
   * Moves parameters and buffers to a device, `cuda` (`cuda:1` for the second one) or `cpu`, where all plans of this
   * module run from then on: training steps, evaluation, `generate`. Values are read and assigned as before; the other
   * tensors that a plan reads follow it. Plans state their bytes on the device, `memory('cuda')` counts them.
   * @throws AUX_NO_DEVICE where the CUDA kernels, a driver or the device is missing; AUX_OUT_OF_MEMORY; AUX_INVALID_ARGUMENT
   * while a run of the module is under way.
   */
  to(device: string): this {
    const place = deviceNamed('to', device)
    sessionOf(this).device = place
    for (const [, t] of this.#namedTensors()) t.liveStorage().place(place)
    return this
  }

  /** The model in words: every module by path, with its class, its tensors and how many parameters it has. */
  toString(): string {
    return summary(this)
  }

  /** What `console.log` shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString()
  }

  /** Frees every parameter and buffer; a run of a plan that reads them is then an error (AUX_DISPOSED). */
  dispose(): void {
    revision.current++
    for (const [, t] of this.#namedTensors()) t.dispose()
  }

  /** `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }
}

function* partsOf(name: string, value: unknown, around: readonly unknown[] = []): Iterable<[string, Tensor | Module]> {
  if (value instanceof Tensor || value instanceof Module) yield [name, value]
  else if (isContainer(value) && !around.includes(value))
    for (const [key, item] of Object.entries(value)) yield* partsOf(`${name}.${key}`, item, [...around, value])
}

/** A buffer: state of a module that is saved with it and that no optimizer changes. */
export const buffer = (value: Tensor): Tensor => keep(value)

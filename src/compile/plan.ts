import { check, native, type PlanHandle, type Status } from '../native'
import type { Graph, Node } from '../graph/graph'
import type { Device } from '../tensor/device'
import { bytesPerElement, type DType } from '../tensor/dtype'
import { sizeOf, type Shape } from '../tensor/shape'
import type { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import { aligned, type Block } from './allocate'
import { Builder, bytesOf } from './builder'
import { executionOrders } from './order'
import { picture } from './picture'
import { readStored, type StoredWeight } from './stored'

/** Bytes that a step holds, every one of them. `total` is the sum of the others. */
export interface PlanBytes {
  /** Parameters, buffers and other tensors that the step reads by reference. */
  parameters: number
  /** Optimizer state and gradient accumulators. */
  optimizer: number
  /** Held from the forward to the backward pass. */
  kept: number
  /** Everything else in the arena: values on their way, gradients. */
  transient: number
  /** Scratch of the hungriest kernel. */
  workspace: number
  /** The batch (as far as backward does not keep it). */
  staging: number
  /** All of it: what a budget limits, and what is measured. */
  total: number
}

/** Something that backward keeps. */
export interface KeptValue {
  /** Path of the module that reads it in backward (first, of several); '' is the model itself. */
  layer: string
  /** Paths of all modules that read it in backward. */
  readers: string[]
  /** Path of the module that made it. */
  maker: string
  /** Policy by which it is kept. */
  policy: string
  /** Operation that made it. */
  op: string
  /** Element type; u32 for packed bits. */
  dtype: DType
  /** Shape of what is kept. */
  shape: Shape
  /** Its bytes in the arena. */
  bytes: number
}

/** One kernel call of a plan. */
export interface PlannedOp {
  /** Operation, as it was traced. */
  op: string
  /** Native kernel that computes it. */
  kernel: string
  /** Path of the module that called it; '' is the model itself. */
  layer: string
  /** `forward`, `backward` or `update`. */
  phase: string
  /** Steps at which its first output is made and last read. */
  from: number
  /** Step at which its first output is last read. */
  to: number
  /** Offset of its first output in the arena; -1 if it has none there. */
  offset: number
  /** Bytes of its first output in the arena. */
  bytes: number
}

/** A piece of the arena: what lies there, where (`offset`, `bytes`), and from which step to which (both included). */
export interface PlannedBlock extends Readonly<Block> {
  /** Operation that makes it, or for which it is workspace; of an input its name. */
  readonly op: string
  /** Path of the module that called it; '' is the model itself. */
  readonly layer: string
  /** Kept for backward, an input, scratch of a kernel, or a value on its way in one of the phases. */
  readonly kind: 'kept' | 'staging' | 'workspace' | 'forward' | 'backward' | 'update'
}

/** Where a value lies in the arena. */
export interface Slot {
  offset: number
  shape: Shape
  dtype: DType
}

export interface PlanOptions {
  /** Tensors that are optimizer state. */
  optimizer?: ReadonlySet<Tensor>
  /** Where it runs; the processor unless given. */
  device?: Device | null
}

/** What a step runs and how long each value lives: what it takes at least is known, where anything lies is not. */
export class Draft {
  readonly device: Device | null
  /** Frozen weights that do not lie in memory as float32. */
  readonly stored: ReadonlyMap<Storage, StoredWeight>
  readonly builder: Builder
  /** Bytes outside of the arena. */
  readonly outside: { readonly parameters: number; readonly optimizer: number }
  /** Bytes that its plan takes at least. */
  readonly leastBytes: number
  #plan: Plan | undefined

  /** Of the part of the graph that `outputs` and the changes of state need. */
  constructor(
    readonly graph: Graph,
    readonly outputs: readonly Tensor[],
    { device = null, optimizer = new Set() }: PlanOptions = {},
  ) {
    this.device = device
    this.stored = readStored(graph)
    const scratch = new Map<Node, number>()
    this.builder = executionOrders(graph, outputs, bytesOf)
      .map((order) => new Builder(order, outputs, scratch, device))
      .reduce((best, b) => (b.liveBytes < best.liveBytes ? b : best))
    const held = new Map(this.builder.references.map((t) => [t.storage!, optimizer.has(t)]))
    const sum = (state: boolean): number =>
      [...held].reduce((n, [{ bytes }, is]) => n + (is === state ? Math.max(64, aligned(bytes)) : 0), 0)
    this.outside = { parameters: sum(false), optimizer: sum(true) }
    this.leastBytes = this.outside.parameters + this.outside.optimizer + this.builder.liveBytes
  }

  /** Bytes that its plan takes: of what cannot be within `limit` wherever its values lie, the bytes that it takes at least. */
  bytes(limit = Infinity): number {
    const { leastBytes, builder } = this
    return leastBytes > limit ? leastBytes : leastBytes - builder.liveBytes + builder.arenaBytes
  }

  /** The plan, made when it is first asked for. */
  get plan(): Plan {
    return (this.#plan ??= new Plan(this))
  }

  /** Lets go of what it reads; its plan with it. */
  dispose(): void {
    if (this.#plan) this.#plan.dispose()
    else this.graph.dispose()
  }
}

/** The program of one step: kernel calls with fixed addresses, and the bytes it takes. Plain data; prints as a table. */
export class Plan {
  /** Every byte that the step holds, by kind. */
  readonly bytes: PlanBytes
  /** What backward keeps, value by value. */
  readonly kept: KeptValue[]
  /** Weights that do not lie in memory as float32. */
  readonly stored: StoredWeight[]
  /** Every kernel call, in order. */
  readonly ops: PlannedOp[]
  /** Every piece of the arena. */
  readonly blocks: readonly PlannedBlock[]
  /** Bytes of the arena; the measured peak of a run is this number. */
  readonly arenaBytes: number
  /** Largest sum of bytes alive at once: no arena can be smaller. */
  readonly liveBytes: number
  /** @internal */ readonly inputs: ReadonlyMap<string, Slot>
  /** @internal */ readonly outputs: readonly Slot[]
  /** @internal Where it runs. */ readonly device: Device | null
  /** @internal The nodes that run, in order. */ readonly steps: readonly Node[]
  /** @internal What makes the values in `kept`. */ readonly makers: readonly Node[]
  /** @internal What reads them in backward. */ readonly readers: readonly (readonly Node[])[]
  /** @internal */ readonly graph: Graph
  readonly #words: Float64Array
  readonly #kernels: string[]
  readonly #storages: readonly Storage[]
  #handle: PlanHandle | null = null

  /** @internal `Draft.plan` makes it. */
  constructor({ graph, device, stored, builder, outside, outputs }: Draft) {
    this.graph = graph
    this.device = device
    builder.finish()
    this.#words = builder.words
    this.#kernels = builder.kernels
    this.#storages = builder.references.map((t) => t.storage!)
    this.arenaBytes = builder.arenaBytes
    this.liveBytes = builder.liveBytes
    this.kept = builder.kept
    this.stored = [...new Set(this.#storages)].flatMap((s) => stored.get(s) ?? [])
    this.steps = builder.steps
    this.makers = builder.makers
    this.readers = builder.readers
    this.ops = builder.ops
    this.blocks = builder.blocks
    this.inputs = builder.inputs
    this.outputs = outputs.map((t) => builder.slot(t))
    const { arenaBytes } = this
    const kept = this.kept.reduce((n, { bytes }) => n + bytes, 0)
    const staging = Math.min(builder.stagingBytes, arenaBytes - kept)
    const workspace = Math.min(builder.workspaceBytes, arenaBytes - kept - staging)
    const transient = arenaBytes - kept - staging - workspace
    const total = outside.parameters + outside.optimizer + arenaBytes
    this.bytes = { ...outside, kept, transient, workspace, staging, total }
  }

  /** @internal End of the last byte that a run writes inputs to. */
  get inputEnd(): number {
    let end = 0
    for (const { offset, shape, dtype } of this.inputs.values())
      end = Math.max(end, offset + Math.max(64, aligned(sizeOf(shape) * bytesPerElement(dtype))))
    return end
  }

  /** @internal What native code is given: words, names of kernels, and the memory of buffers 1, 2, ... */
  get program(): { words: Float64Array; kernels: readonly string[]; storages: readonly Storage[] } {
    return { words: this.#words, kernels: this.#kernels, storages: this.#storages }
  }

  /** @internal The decoded plan, made at first use; all that it reads lies on its device. */
  handle(): PlanHandle {
    for (const s of this.#storages) s.place(this.device)
    if (this.#handle) return this.#handle
    const handles = this.#storages.map((s) => s.handle)
    const result = native().plan(this.#words, this.#kernels, handles, this.device?.handle)
    if ('code' in result) check(result as Status)
    return (this.#handle = result as PlanHandle)
  }

  /** @internal */
  dispose(): void {
    if (this.#handle) native().planRelease(this.#handle)
    this.#handle = null
    this.graph.dispose()
  }

  /** The arena as an SVG: steps from left to right, bytes from bottom to top, each block with what it is as its title. */
  toSVG(): string {
    return picture(this)
  }

  /** The bytes by kind, then what is kept, by layer and policy, and weights that are stored in fewer bytes. */
  toString(): string {
    const kib = (n: number): string => `${(n / 1024).toFixed(1)} KiB`
    const lines = Object.entries(this.bytes).map(([name, n]) => `${name.padEnd(12)} ${kib(n).padStart(14)}`)
    const width = Math.max(...lines.map((l) => l.length))
    const table = (title: string, items: readonly (readonly [layer: string, how: string, bytes: number])[]): void => {
      const rows = new Map<string, number>()
      for (const [layer, how, bytes] of items) {
        const key = `${(layer || '-').padEnd(32)} ${how.padEnd(18)}`
        rows.set(key, (rows.get(key) ?? 0) + bytes)
      }
      lines.push('-'.repeat(width), title)
      for (const [key, n] of rows) lines.push(`${key} ${kib(n).padStart(14)}`)
    }
    table(
      'kept for backward, by layer and policy:',
      this.kept.map(({ layer, policy, bytes }) => [layer, policy, bytes]),
    )
    if (this.stored.length)
      table(
        'weights in fewer bytes, by layer and format:',
        this.stored.map(({ layer, format, bytes }) => [layer, format, bytes]),
      )
    return lines.join('\n')
  }
}

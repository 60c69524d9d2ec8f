import { check, native, type PlanHandle, type Status } from '../native'
import { encodeOperands, operandWords, type Operand } from '../graph/encode'
import type { Graph, Node } from '../graph/graph'
import { kernelCall, kernelOperands } from '../graph/op'
import { bytesPerElement, type DType } from '../tensor/dtype'
import { sizeOf, type Shape } from '../tensor/shape'
import type { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import { aligned, allocate, largestLiveSum, type Block } from './allocate'
import { executionOrders, root } from './order'
import { picture } from './picture'

const magic = 0x41585031
const version = 1

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
}

/** The program of one step: kernel calls with fixed addresses, and the bytes it takes. Plain data; prints as a table. */
export class Plan {
  /** Every byte that the step holds, by kind. */
  readonly bytes: PlanBytes
  /** What backward keeps, value by value. */
  readonly kept: KeptValue[]
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
  /** @internal What makes the values in `kept`. */ readonly makers: readonly Node[]
  /** @internal */ readonly graph: Graph
  readonly #words: Float64Array
  readonly #kernels: string[]
  readonly #references: Tensor[]
  #handle: PlanHandle | null = null

  /** Plans the part of the graph that `outputs` and the changes of state need. */
  constructor(graph: Graph, outputs: readonly Tensor[], options: PlanOptions = {}) {
    this.graph = graph
    const scratch = new Map<Node, number>()
    const candidates = executionOrders(graph, outputs, bytesOf).map((order) => new Builder(order, outputs, scratch))
    const builder = candidates.reduce((best, b) => (b.liveBytes < best.liveBytes ? b : best))
    builder.place()
    this.#words = builder.words
    this.#kernels = builder.kernels
    this.#references = builder.references
    this.arenaBytes = builder.arenaBytes
    this.liveBytes = builder.liveBytes
    this.kept = builder.kept
    this.makers = builder.makers
    this.ops = builder.ops
    this.blocks = builder.blocks
    this.inputs = builder.inputs
    this.outputs = outputs.map((t) => builder.slot(t))
    this.bytes = this.#account(builder, options.optimizer ?? new Set())
  }

  #account(builder: Builder, optimizer: ReadonlySet<Tensor>): PlanBytes {
    const storages = new Map<object, { bytes: number; state: boolean }>()
    for (const t of this.#references) storages.set(t.storage!, { bytes: t.storage!.bytes, state: optimizer.has(t) })
    const held = [...storages.values()].map((s) => ({ ...s, bytes: Math.max(64, aligned(s.bytes)) }))
    const sum = (list: { bytes: number }[]): number => list.reduce((n, s) => n + s.bytes, 0)
    const optimizerBytes = sum(held.filter((s) => s.state))
    const parameters = sum(held.filter((s) => !s.state))
    const arena = this.arenaBytes
    const kept = sum(this.kept)
    const staging = Math.min(builder.stagingBytes, arena - kept)
    const workspace = Math.min(builder.workspaceBytes, arena - kept - staging)
    const transient = arena - kept - staging - workspace
    return {
      parameters,
      optimizer: optimizerBytes,
      kept,
      transient,
      workspace,
      staging,
      total: parameters + optimizerBytes + arena,
    }
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
    return { words: this.#words, kernels: this.#kernels, storages: this.#references.map((t) => t.storage!) }
  }

  /** @internal The decoded plan, made at first use. */
  handle(): PlanHandle {
    if (this.#handle) return this.#handle
    const handles = this.program.storages.map((s) => s.handle)
    const result = native().plan(this.#words, this.#kernels, handles)
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

  /** The bytes by kind, then what is kept, by layer and policy. */
  toString(): string {
    const kib = (n: number): string => `${(n / 1024).toFixed(1)} KiB`
    const lines = Object.entries(this.bytes).map(([name, n]) => `${name.padEnd(12)} ${kib(n).padStart(14)}`)
    const rows = new Map<string, number>()
    for (const k of this.kept) {
      const key = `${(k.layer || '-').padEnd(32)} ${k.policy.padEnd(18)}`
      rows.set(key, (rows.get(key) ?? 0) + k.bytes)
    }
    const width = Math.max(...lines.map((l) => l.length))
    lines.push('-'.repeat(width), `kept for backward, by layer and policy:`)
    for (const [key, n] of rows) lines.push(`${key} ${kib(n).padStart(14)}`)
    return lines.join('\n')
  }
}

const bytesOf = (t: Tensor): number => (t.node!.reference ? 0 : aligned(sizeOf(t.shape) * bytesPerElement(t.dtype)))

type Draft = { -readonly [K in keyof PlannedBlock]: PlannedBlock[K] }

/** Turns an order of execution into blocks, offsets and words. */
class Builder {
  readonly kernels: string[] = []
  readonly references: Tensor[] = []
  readonly inputs = new Map<string, Slot>()
  readonly kept: KeptValue[] = []
  readonly makers: Node[] = []
  readonly ops: PlannedOp[] = []
  readonly blocks: readonly Draft[]
  words: Float64Array = new Float64Array()
  arenaBytes = 0
  readonly liveBytes: number
  stagingBytes = 0
  workspaceBytes = 0
  readonly #order: readonly Node[]
  readonly #steps: readonly Node[]
  #blocks = new Map<Tensor, Draft>()
  #buffers = new Map<Node, number>()
  #lastUse = new Map<Tensor, number>()
  #scratch = new Map<Node, Draft>()

  /** Lifetimes. `scratchBytes` remembers what kernels asked for, over the orders that are compared. */
  constructor(order: readonly Node[], outputs: readonly Tensor[], scratchBytes: Map<Node, number>) {
    const steps = order.filter((n) => n.op.kernel)
    this.#order = order
    this.#steps = steps
    steps.forEach((n, step) => {
      for (const t of n.inputs) if (t) this.#lastUse.set(root(t), step)
    })
    for (const t of outputs) this.#lastUse.set(root(t), steps.length)

    let step = 0
    for (const n of order) {
      if (n.reference) {
        this.#buffers.set(n, this.references.length + 1)
        this.references.push(n.reference)
      } else if (n.inputName !== null) {
        if (this.#lastUse.has(n.outputs[0])) this.#block(n.outputs[0], 0)
      } else if (n.op.kernel) {
        for (const t of n.outputs) if (this.#made(t) && !this.#takeOver(n, t, step)) this.#block(t, step)
        this.#planScratch(n, step, scratchBytes)
        step++
      }
    }
    this.blocks = [...new Set([...this.#blocks.values(), ...this.#scratch.values()])]
    this.liveBytes = largestLiveSum(this.blocks)
  }

  /** Offsets, and all that follows from them. */
  place(): void {
    this.arenaBytes = allocate(this.blocks)
    for (const n of this.#order)
      if (n.inputName !== null && this.#blocks.has(n.outputs[0])) this.inputs.set(n.inputName, this.slot(n.outputs[0]))
    this.#findKept(this.#order, this.#steps)
    this.words = this.#encode(this.#steps)
    this.#steps.forEach((n, i) => this.#describe(n, i))
  }

  /** False for an output that its kernel may leave out and nobody reads. */
  #made(t: Tensor): boolean {
    return this.#lastUse.has(t) || !t.node!.op.optional?.includes(t.index)
  }

  #operands(n: Node): { ins: (Tensor | undefined)[]; outs: (Tensor | undefined)[] } {
    return kernelOperands<Tensor | undefined>(
      n.op,
      n.inputs,
      n.outputs.map((t) => (this.#made(t) ? t : undefined)),
    )
  }

  slot(t: Tensor): Slot {
    return {
      offset: this.#blocks.get(root(t))!.offset + t.offset * bytesPerElement(t.dtype),
      shape: t.shape,
      dtype: t.dtype,
    }
  }

  #block(t: Tensor, from: number): void {
    const { op, scope, phase, inputName } = t.node!
    this.#blocks.set(t, {
      op: inputName ?? op.name,
      layer: scope,
      kind: inputName === null ? phase : 'staging',
      bytes: Math.max(64, bytesOf(t)),
      from,
      to: Math.max(from, this.#lastUse.get(t) ?? from),
      offset: 0,
    })
  }

  /** Lets an output take over the memory of an input that dies here. */
  #takeOver(n: Node, out: Tensor, step: number): boolean {
    if (out.index !== 0) return false
    for (const i of n.op.inplace ?? []) {
      const t = n.inputs[i]
      if (!t) continue
      const owner = root(t)
      const block = this.#blocks.get(owner)
      const sole = n.inputs.every((other, k) => k === i || !other || root(other) !== owner)
      if (!block || !sole || block.to !== step || this.#lastUse.get(owner) !== step) continue
      if (t.offset !== 0 || !t.contiguous || bytesOf(t) !== bytesOf(owner) || bytesOf(owner) !== bytesOf(out)) continue
      block.to = Math.max(step, this.#lastUse.get(out) ?? step)
      this.#blocks.set(out, block)
      return true
    }
    return false
  }

  #planScratch(n: Node, step: number, known: Map<Node, number>): void {
    let bytes = known.get(n)
    if (bytes === undefined) {
      const { name, numbers } = kernelCall(n.op, n.inputs, n.outputs, n.attrs)
      const { ins, outs } = this.#operands(n)
      const operands = [...ins, ...outs].map((t) => t && { layout: t, dtype: t.dtype, buffer: 0, byteOffset: 0 })
      bytes = aligned(native().scratch(name, encodeOperands(operands), ins.length, Float64Array.from(numbers ?? [])))
      known.set(n, bytes)
    }
    if (bytes === 0) return
    this.#scratch.set(n, { op: n.op.name, layer: n.scope, kind: 'workspace', bytes, from: step, to: step, offset: 0 })
    this.workspaceBytes = Math.max(this.workspaceBytes, bytes)
  }

  #findKept(order: readonly Node[], steps: readonly Node[]): void {
    const border = steps.findIndex((n) => n.phase !== 'forward')
    const keptBlocks = new Map<Draft, KeptValue>()
    if (border >= 0)
      for (const reader of steps.slice(border)) {
        for (const t of reader.inputs) {
          const owner = t && root(t)
          const block = owner && this.#blocks.get(owner)
          // Single numbers (the loss) are not what a policy is about, nor are inputs of the step itself.
          if (!owner || !block || block.from >= border) continue
          const known = keptBlocks.get(block)
          if (known) {
            if (!known.readers.includes(reader.scope)) known.readers.push(reader.scope)
            continue
          }
          if (owner.node!.phase !== 'forward' || owner.rank === 0 || owner.node!.inputName?.startsWith('$')) continue
          const kept = {
            layer: reader.scope,
            readers: [reader.scope],
            maker: owner.node!.scope,
            policy: reader.policy ?? 'backpropagation',
            op: owner.node!.op.name,
            dtype: owner.dtype,
            shape: owner.shape,
            bytes: block.bytes,
          }
          keptBlocks.set(block, kept)
          block.kind = 'kept'
          this.kept.push(kept)
          this.makers.push(owner.node!)
        }
      }
    for (const n of order) {
      const block = n.inputName !== null ? this.#blocks.get(n.outputs[0]) : undefined
      if (block?.kind === 'staging') this.stagingBytes += block.bytes
    }
  }

  #operand(t: Tensor | undefined): Operand | undefined {
    if (!t) return undefined
    const owner = root(t)
    const buffer = this.#buffers.get(owner.node!)
    if (buffer !== undefined) return { layout: t, dtype: t.dtype, buffer, byteOffset: 0 }
    return { layout: t, dtype: t.dtype, buffer: 0, byteOffset: this.#blocks.get(owner)!.offset }
  }

  #encode(steps: readonly Node[]): Float64Array {
    const firstUpdate = steps.findIndex((n) => n.op.mutates)
    const words = [magic, version, this.arenaBytes, steps.length, firstUpdate < 0 ? steps.length : firstUpdate]
    const index = new Map<string, number>()
    for (const n of steps) {
      const { name, numbers = [] } = kernelCall(n.op, n.inputs, n.outputs, n.attrs)
      if (!index.has(name)) index.set(name, this.kernels.push(name) - 1)
      const { ins, outs } = this.#operands(n)
      const scratch = this.#scratch.get(n)
      words.push(index.get(name)!, ins.length, outs.length, scratch?.offset ?? 0, scratch?.bytes ?? 0, numbers.length)
      for (const x of numbers) words.push(x)
      for (const x of operandWords([...ins, ...outs].map((t) => this.#operand(t)))) words.push(x)
    }
    return Float64Array.from(words)
  }

  #describe(n: Node, step: number): void {
    const block = n.outputs.length ? this.#blocks.get(n.outputs[0]) : undefined
    this.ops.push({
      op: n.op.name,
      kernel: kernelCall(n.op, n.inputs, n.outputs, n.attrs).name,
      layer: n.scope,
      phase: n.phase,
      from: step,
      to: block?.to ?? step,
      offset: block?.offset ?? -1,
      bytes: block?.bytes ?? 0,
    })
  }
}

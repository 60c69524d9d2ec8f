import { encodeOperands, operandWords, type Operand } from '../graph/encode'
import type { Node } from '../graph/graph'
import { kernelCall, kernelOperands } from '../graph/op'
import { nativeError } from '../errors'
import { native } from '../native'
import type { Device } from '../tensor/device'
import { bytesPerElement } from '../tensor/dtype'
import { sizeOf } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { aligned, allocate, largestLiveSum } from './allocate'
import { root } from './order'
import type { KeptValue, PlannedBlock, PlannedOp, Slot } from './plan'

// The format is described where it is read: native/core/plan.h.
const magic = 0x41585031
const version = 1

/** Bytes of a value in the arena; none of what lies outside. */
export const bytesOf = (t: Tensor): number =>
  t.node!.reference ? 0 : aligned(sizeOf(t.shape) * bytesPerElement(t.dtype))

type OpenBlock = { -readonly [K in keyof PlannedBlock]: PlannedBlock[K] }

/** Turns an order of execution into blocks, offsets and words. */
export class Builder {
  readonly kernels: string[] = []
  readonly references: Tensor[] = []
  readonly inputs = new Map<string, Slot>()
  readonly kept: KeptValue[] = []
  readonly makers: Node[] = []
  readonly readers: Node[][] = []
  readonly ops: PlannedOp[] = []
  readonly blocks: readonly OpenBlock[]
  words: Float64Array = new Float64Array()
  readonly liveBytes: number
  stagingBytes = 0
  workspaceBytes = 0
  readonly #order: readonly Node[]
  readonly steps: readonly Node[]
  #arenaBytes: number | undefined
  #blocks = new Map<Tensor, OpenBlock>()
  #buffers = new Map<Node, number>()
  #lastUse = new Map<Tensor, number>()
  #scratch = new Map<Node, OpenBlock>()

  /** Lifetimes. `scratchBytes` remembers what kernels asked for, over the orders that are compared. */
  constructor(
    order: readonly Node[],
    outputs: readonly Tensor[],
    scratchBytes: Map<Node, number>,
    readonly device: Device | null,
  ) {
    const steps = order.filter((n) => n.op.kernel)
    this.#order = order
    this.steps = steps
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

  /** Bytes of the arena; the blocks have their places in it once it is asked for. */
  get arenaBytes(): number {
    return (this.#arenaBytes ??= allocate(this.blocks))
  }

  /** What follows from the places of the blocks. */
  finish(): void {
    this.words = this.#encode(this.steps)
    for (const n of this.#order)
      if (n.inputName !== null && this.#blocks.has(n.outputs[0])) this.inputs.set(n.inputName, this.slot(n.outputs[0]))
    this.#findKept(this.#order, this.steps)
    this.steps.forEach((n, i) => this.#describe(n, i))
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
      const call = [name, encodeOperands(operands), ins.length, Float64Array.from(numbers ?? [])] as const
      const scratch = native().scratch(...call, this.device?.handle)
      if (typeof scratch !== 'number') throw nativeError(scratch.code, scratch.message)
      bytes = aligned(scratch)
      known.set(n, bytes)
    }
    if (bytes === 0) return
    this.#scratch.set(n, { op: n.op.name, layer: n.scope, kind: 'workspace', bytes, from: step, to: step, offset: 0 })
    this.workspaceBytes = Math.max(this.workspaceBytes, bytes)
  }

  #findKept(order: readonly Node[], steps: readonly Node[]): void {
    const border = steps.findIndex((n) => n.phase !== 'forward')
    const keptBlocks = new Map<OpenBlock, number>()
    if (border >= 0)
      for (const reader of steps.slice(border)) {
        for (const t of reader.inputs) {
          const owner = t && root(t)
          const block = owner && this.#blocks.get(owner)
          // Single numbers (the loss) are not what a policy is about, nor are inputs of the step itself.
          if (!owner || !block || block.from >= border) continue
          const known = keptBlocks.get(block)
          if (known !== undefined) {
            const { readers } = this.kept[known]
            if (!readers.includes(reader.scope)) readers.push(reader.scope)
            this.readers[known].push(reader)
            continue
          }
          if (owner.node!.phase !== 'forward' || owner.rank === 0 || owner.node!.inputName?.startsWith('$')) continue
          keptBlocks.set(block, this.kept.length)
          block.kind = 'kept'
          this.kept.push({
            layer: reader.scope,
            readers: [reader.scope],
            maker: owner.node!.scope,
            policy: reader.policy ?? 'backpropagation',
            op: owner.node!.op.name,
            dtype: owner.dtype,
            shape: owner.shape,
            bytes: block.bytes,
          })
          this.makers.push(owner.node!)
          this.readers.push([reader])
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

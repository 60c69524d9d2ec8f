import { fail } from '../errors'
import type { DType } from '../tensor/dtype'
import { contiguousStrides, type Shape } from '../tensor/shape'
import type { Storage } from '../tensor/storage'
import { Tensor } from '../tensor/tensor'
import type { Op } from './op'

/** When a node runs: in the forward pass, in the backward pass, or as an in-place change of state. */
export type Phase = 'forward' | 'backward' | 'update'

/** One run of a module's forward, while it is traced. */
export class Call {
  /** The runs that it asked for itself, in their order. */
  readonly calls: Call[] = []
  /** How many runs are around it. */
  readonly depth: number
  /** Its place among those that its caller asked for. */
  readonly index: number

  constructor(
    /** Path of the module. */
    readonly path: string,
    /** The run that asked for it; none for the traced function as a whole. */
    readonly caller?: Call,
  ) {
    this.depth = caller ? caller.depth + 1 : 0
    this.index = caller ? caller.calls.push(this) - 1 : 0
  }
}

/** One op applied to traced tensors. */
export class Node {
  /** What it makes. */
  readonly outputs: Tensor[] = []
  /**
   * Set by a memory policy: replaces the gradient of input `op.weight`, given the gradient of output 0 and how forward
   * values are read.
   */
  weightGradient?: (delta: Tensor, read: (value: Tensor) => Tensor) => Tensor
  /** Policy in force on this node's weight, for the plan's table. */
  policy?: string
  /** Nodes that must have run before, besides those that make the inputs (recomputation must not start too early). */
  after?: readonly Node[]
  /** Place in the forward pass of a node that was added later; the id otherwise. */
  position?: number
  /** True if no module's forward was running when it was made: the loss, and what prepares the batch. */
  outside = false
  /** @internal The call that began last in the forward that made it, or that forward itself if it had not called any. */
  place!: Call
  /** An input whose dtype was not declared: the first op that wants indices settles it. */
  flexible?: boolean

  constructor(
    /** The computation it belongs to. */
    readonly graph: Graph,
    /** Place in the order of tracing. */
    readonly id: number,
    /** The operation. */
    public op: Op,
    /** What it is applied to. */
    public inputs: (Tensor | undefined)[],
    /** Constants of the operation, such as axes and strides. */
    public attrs: unknown,
    /** Path of the module that called it. */
    readonly scope: string,
    /** When it runs. */
    readonly phase: Phase,
    /** Stands for memory outside the graph: an eager tensor captured by reference. */
    readonly reference: Tensor | null = null,
    /** Name of a value given at each run. */
    readonly inputName: string | null = null,
  ) {}
}

/** For `JSON.stringify`, which has no infinities, NaN or -0. */
export const exact = (_: string, v: unknown): unknown =>
  typeof v === 'number' && (!Number.isFinite(v) || Object.is(v, -0)) ? `${1 / v} ${v}` : v

/** Where in the model nodes are being added. */
interface Frame {
  readonly scope: string
  readonly call: Call
  place: Call
}

const beginning = (call: Call): Frame => ({ scope: call.path, call, place: call })

const leaf: Op = { name: 'leaf', infer: () => [] }

let active: Graph | undefined

/** The graph being traced: ops add nodes to it even where their inputs are eager tensors caught in a closure. */
export const tracing = (): Graph | undefined => active

/** Runs `body` with no graph being traced: ops on eager tensors are computed at once. */
export function eagerly<T>(body: () => T): T {
  const before = active
  active = undefined
  try {
    return body()
  } finally {
    active = before
  }
}

/** True if two traced tensors hold the same values in the same order, perhaps in other shapes. */
export const sameValues = (a: Tensor, b: Tensor): boolean =>
  a === b ||
  ((a.base ?? a) === (b.base ?? b) && a.size === b.size && a.offset === b.offset && a.contiguous && b.contiguous)

/** A traced computation: nodes in the order in which they were made. */
export class Graph {
  /** In the order in which they were made. */
  readonly nodes: Node[] = []
  /** Phase of the nodes made from now on. */
  phase: Phase = 'forward'
  /** Called instead of adding a node for an op with a weight, so that a memory policy may change it. */
  onWeightedOp?: (op: Op, inputs: readonly (Tensor | undefined)[], attrs: unknown) => Tensor[]
  /** @internal Values of the step that `assign` may change: rows that an update has taken out of a table. */
  readonly assignable = new Set<Tensor>()
  /** @internal Modules that said whether they train while this graph was traced. */
  readonly modules = new Set<{ readonly training: boolean }>()
  #frames: Frame[] = [beginning(new Call(''))]
  #references = new Map<object, Node>()
  /** The memory of those, when they were captured. */
  #held: Storage[] = []
  #inputs = new Map<string, Node>()
  #assigned = new Map<Tensor, Tensor>()
  #known = new Map<Op, Map<string, Node>>()
  #randomIds = 0
  #apart = false

  /** Runs `body` with this graph as the one being traced. */
  trace<T>(body: () => T): T {
    const before = active
    active = this
    try {
      return body()
    } finally {
      active = before
    }
  }

  /** Path of the module whose forward is being traced. */
  get scope(): string {
    return this.#frame.scope
  }

  get #frame(): Frame {
    return this.#frames[this.#frames.length - 1]
  }

  /** Runs the forward of the module at this path; what it adds belongs to it. */
  call<T>(path: string, forward: () => T): T {
    const call = new Call(path, this.#frame.call)
    this.#frame.place = call
    return this.#within(beginning(call), forward)
  }

  /** @internal Runs `body`; what it adds belongs to the module that this node belongs to. */
  beside<T>({ scope, place }: Node, body: () => T): T {
    return this.#within({ scope, call: place, place }, body)
  }

  #within<T>(frame: Frame, body: () => T): T {
    this.#frames.push(frame)
    try {
      return body()
    } finally {
      this.#frames.pop()
    }
  }

  /** Runs `body`; what it adds runs in this phase. */
  withPhase<T>(phase: Phase, body: () => T): T {
    const before = this.phase
    this.phase = phase
    try {
      return body()
    } finally {
      this.phase = before
    }
  }

  /** Runs `body`; what it adds is made anew even where it has a twin, so that each reader's copy dies with its reader. */
  apart<T>(body: () => T): T {
    const before = this.#apart
    this.#apart = true
    try {
      return body()
    } finally {
      this.#apart = before
    }
  }

  /** A named value given at each run. Without a dtype it is f32, or i32 if its first reader wants indices. */
  input(name: string, shape: Shape, dtype?: DType): Tensor {
    const existing = this.#inputs.get(name)
    if (existing) return existing.outputs[0]
    const node = this.#push(leaf, [], undefined, null, name)
    node.flexible = dtype === undefined
    this.#inputs.set(name, node)
    return this.#output(node, shape, dtype ?? 'f32')
  }

  /** The leaves of named inputs. */
  get inputs(): ReadonlyMap<string, Node> {
    return this.#inputs
  }

  /** The traced stand-in of an eager tensor: read by reference at each run, not baked in. */
  reference(tensor: Tensor): Tensor {
    const storage = tensor.liveStorage()
    const key = tensor
    const existing = this.#references.get(key)
    if (existing) return existing.outputs[0]
    this.#held.push(storage.retain())
    const node = this.#push(leaf, [], undefined, tensor, null)
    this.#references.set(key, node)
    const out = new Tensor({ dtype: tensor.dtype, layout: tensor, node })
    node.outputs.push(out)
    return out
  }

  /** The leaves of tensors captured by reference. */
  get references(): Iterable<Node> {
    return this.#references.values()
  }

  /** @internal Whether a captured tensor has come to lie elsewhere. */
  get moved(): boolean {
    return [...this.#references.values()].some((node, i) => node.reference!.storage !== this.#held[i])
  }

  /** @internal The leaf of a tensor already captured. */
  referenceOf(tensor: Tensor): Node | undefined {
    return this.#references.get(tensor)
  }

  /** What reads a tensor from now on reads this value; a captured one will have it after the run. */
  assign(tensor: Tensor, value: Tensor): void {
    this.#assigned.set(tensor, value)
  }

  /** Whether a captured tensor was assigned to. */
  assigns(tensor: Tensor): boolean {
    return this.#assigned.has(tensor)
  }

  /**
   * Key and stream number for one random op: the key i32[4] (seed low, seed high, step low, step high) is an input of
   * the step, the stream number a constant of the op, so recomputation repeats the same numbers.
   */
  random(): {
    /** i32 [4]. */
    key: Tensor
    /** Stream number. */
    id: number
  } {
    return { key: this.input('$random', [4], 'i32'), id: this.#randomIds++ }
  }

  /** True if an operation draws random numbers. */
  get usesRandom(): boolean {
    return this.#inputs.has('$random')
  }

  /** Adds a node (or finds its twin); outputs are contiguous unless the op is a view. */
  add(op: Op, inputs: readonly (Tensor | undefined)[], attrs: unknown): Node {
    const traced = inputs.map((t, i) => {
      if (!t) return t
      return (op.mutates?.includes(i) ? undefined : this.#assigned.get(t)) ?? (t.node ? t : this.reference(t))
    })
    for (const t of traced)
      if (t && t.node!.graph !== this)
        fail('AUX_TRACED_VALUE', `${op.name}: got a traced tensor of another compilation; it cannot outlive its own`)
    if (op.mutates || this.#apart) return this.#append(op, traced, attrs)
    // Twins of another phase stay apart: sharing them would keep a forward value for backward behind the policy's back.
    const operands = traced.map((t) => (t ? `${t.node!.id}.${t.index}` : '-'))
    const key = `${op.view ? '' : this.phase}|${operands.join()}|${JSON.stringify(attrs, exact)}`
    const twins = this.#known.get(op) ?? this.#known.set(op, new Map()).get(op)!
    const twin = twins.get(key)
    if (twin) return twin
    const node = this.#append(op, traced, attrs)
    twins.set(key, node)
    return node
  }

  /** The same computation once more, on other inputs: recomputation. */
  repeat(node: Node, inputs: readonly (Tensor | undefined)[]): Node {
    return this.beside(node, () => this.#append(node.op, inputs, node.attrs))
  }

  /** Lets everyone who reads a key of the map, or a view of it, read its value instead: the same bytes, made elsewhere. */
  replace(by: ReadonlyMap<Tensor, Tensor>): void {
    if (!by.size) return
    const now = (t: Tensor | undefined): Tensor | undefined => {
      let at = t
      while (at && by.has(at)) at = by.get(at)
      return at
    }
    for (const n of this.nodes) {
      n.inputs = n.inputs.map(now)
      for (const t of n.outputs) {
        const owner = now(t.base ?? undefined)
        if (owner) t.base = owner.base ?? owner
      }
    }
  }

  /** Releases the memory captured by reference. */
  dispose(): void {
    for (const storage of this.#held) storage.release()
    this.#held = []
    this.#references.clear()
  }

  #append(op: Op, inputs: readonly (Tensor | undefined)[], attrs: unknown): Node {
    const node = this.#push(op, inputs, attrs, null, null)
    if (op.view) {
      const input = inputs[0]!
      node.outputs.push(
        new Tensor({ dtype: input.dtype, layout: op.view(input, attrs), node, base: input.base ?? input }),
      )
    } else {
      for (const spec of op.infer(inputs, attrs)) this.#output(node, spec.shape, spec.dtype)
    }
    return node
  }

  #push(
    op: Op,
    inputs: readonly (Tensor | undefined)[],
    attrs: unknown,
    reference: Tensor | null,
    name: string | null,
  ): Node {
    const phase = op.mutates && this.phase === 'forward' ? 'update' : this.phase
    const node = new Node(this, this.nodes.length, op, [...inputs], attrs, this.scope, phase, reference, name)
    node.outside = this.#frames.length === 1
    node.place = this.#frame.place
    this.nodes.push(node)
    return node
  }

  #output(node: Node, shape: Shape, dtype: DType): Tensor {
    const layout = { shape, strides: contiguousStrides(shape), offset: 0 }
    const t = new Tensor({ dtype, layout, node, index: node.outputs.length })
    node.outputs.push(t)
    return t
  }
}

/** What there is to know of a whole graph, found when it is first asked for. */
export function ofGraph<T>(find: (graph: Graph) => T): (graph: Graph) => T {
  const known = new WeakMap<Graph, T>()
  return (graph) => {
    if (!known.has(graph)) known.set(graph, find(graph))
    return known.get(graph)!
  }
}

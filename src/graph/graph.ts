import { fail } from '../errors'
import type { DType } from '../tensor/dtype'
import { contiguousStrides, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import type { Op } from './op'

/** When a node runs: in the forward pass, in the backward pass, or as an in-place change of state. */
export type Phase = 'forward' | 'backward' | 'update'

/** One op applied to traced tensors. */
export class Node {
  readonly outputs: Tensor[] = []
  /** Set by a memory policy: replaces the gradient of input `op.weight` (given the gradient of output 0). */
  weightGradient?: (delta: Tensor) => Tensor
  /** Policy in force on this node's weight, for the plan's table. */
  policy?: string
  /** An input whose dtype was not declared: the first op that wants indices settles it. */
  flexible?: boolean

  constructor(
    readonly graph: Graph,
    readonly id: number,
    readonly op: Op,
    public inputs: (Tensor | undefined)[],
    public attrs: unknown,
    readonly scope: string,
    readonly phase: Phase,
    /** Stands for memory outside the graph: an eager tensor captured by reference. */
    readonly reference: Tensor | null = null,
    /** Name of a value given at each run. */
    readonly inputName: string | null = null,
  ) {}
}

const leaf: Op = { name: 'leaf', infer: () => [] }

let active: Graph | undefined

/** The graph being traced: ops add nodes to it even where their inputs are eager tensors caught in a closure. */
export const tracing = (): Graph | undefined => active

/** A traced computation: nodes in the order in which they were made. */
export class Graph {
  readonly nodes: Node[] = []
  /** Phase of the nodes made from now on. */
  phase: Phase = 'forward'
  /** Called instead of adding a node for an op with a weight, so that a memory policy may change it. */
  onWeightedOp?: (op: Op, inputs: (Tensor | undefined)[], attrs: unknown) => Tensor[]
  #scopes: string[] = []
  #references = new Map<object, Node>()
  #inputs = new Map<string, Node>()
  #randomIds = 0

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
    return this.#scopes[this.#scopes.length - 1] ?? ''
  }

  withScope<T>(scope: string, body: () => T): T {
    this.#scopes.push(scope)
    try {
      return body()
    } finally {
      this.#scopes.pop()
    }
  }

  withPhase<T>(phase: Phase, body: () => T): T {
    const before = this.phase
    this.phase = phase
    try {
      return body()
    } finally {
      this.phase = before
    }
  }

  /** A named value given at each run. */
  input(name: string, shape: Shape, dtype: DType): Tensor {
    const existing = this.#inputs.get(name)
    if (existing) return existing.outputs[0]
    const node = this.#push(leaf, [], undefined, null, name)
    this.#inputs.set(name, node)
    return this.#output(node, shape, dtype)
  }

  get inputs(): ReadonlyMap<string, Node> {
    return this.#inputs
  }

  /** The traced stand-in of an eager tensor: read by reference at each run, not baked in. */
  reference(tensor: Tensor): Tensor {
    const storage = tensor.liveStorage()
    const key = tensor
    const existing = this.#references.get(key)
    if (existing) return existing.outputs[0]
    storage.retain()
    const node = this.#push(leaf, [], undefined, tensor, null)
    this.#references.set(key, node)
    const out = new Tensor({ dtype: tensor.dtype, layout: tensor, node })
    node.outputs.push(out)
    return out
  }

  get references(): Iterable<Node> {
    return this.#references.values()
  }

  /** @internal The leaf of a tensor already captured. */
  referenceOf(tensor: Tensor): Node | undefined {
    return this.#references.get(tensor)
  }

  /**
   * Key and stream number for one random op: the key i32[4] (seed low, seed high, step low, step high) is an input of
   * the step, the stream number a constant of the op, so recomputation repeats the same numbers.
   */
  random(): { key: Tensor; id: number } {
    return { key: this.input('randomKey', [4], 'i32'), id: this.#randomIds++ }
  }

  get usesRandom(): boolean {
    return this.#inputs.has('randomKey')
  }

  /** Adds a node; outputs are contiguous unless the op is a view. */
  add(op: Op, inputs: (Tensor | undefined)[], attrs: unknown, scope = this.scope): Node {
    const traced = inputs.map((t) => (t && !t.node ? this.reference(t) : t))
    for (const t of traced)
      if (t && t.node!.graph !== this)
        fail('AUX_TRACED_VALUE', `${op.name}: got a traced tensor of another compilation; it cannot outlive its own`)
    const node = this.#push(op, traced, attrs, null, null, scope)
    if (op.view) {
      const input = traced[0]!
      const layout = op.view(input, attrs)
      node.outputs.push(new Tensor({ dtype: input.dtype, layout, node, base: input.base ?? input }))
    } else {
      for (const spec of op.infer(traced as (Tensor | undefined)[], attrs)) this.#output(node, spec.shape, spec.dtype)
    }
    return node
  }

  /** Releases the memory captured by reference. */
  dispose(): void {
    for (const node of this.#references.values()) node.reference!.storage!.release()
    this.#references.clear()
  }

  #push(op: Op, inputs: (Tensor | undefined)[], attrs: unknown, reference: Tensor | null, name: string | null, scope = this.scope): Node {
    const phase = op.mutates && this.phase === 'forward' ? 'update' : this.phase
    const node = new Node(this, this.nodes.length, op, inputs, attrs, scope, phase, reference, name)
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

import { sign } from '../errors'
import type { Graph, Node } from '../graph/graph'
import type { Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'

/** A layer with a weight, at the moment its forward pass is traced. */
export interface LayerCall {
  /** The computation being traced; `graph.add(op, inputs, attrs)` adds to it. */
  readonly graph: Graph
  /** The operation, which has a weight: `op.weighted` says what may be asked of it. */
  readonly op: Op
  /** Its inputs: x first, the weight at `op.weighted.index`, perhaps a bias. */
  readonly inputs: readonly (Tensor | undefined)[]
  /** Its attributes (strides and the like), to be passed on. */
  readonly attrs: unknown
  /** Path of the module whose forward makes the call. */
  readonly module: string
}

/** How a layer runs under a policy. */
export interface LayerAnswer {
  /** The node that computes the layer; its output 0 is the layer's result. */
  readonly node: Node
  /**
   * The weight gradient from the gradient of the result; without it, backpropagation's. `read` gives a value of the
   * forward pass as the other policies in force keep it (packed, or computed again); what a policy packed itself needs none.
   */
  weightGradient?(delta: Tensor, read: (value: Tensor) => Tensor): Tensor
  /** What backward keeps, as dense values of the input's shape, and what the weight really multiplied: for the indicator. */
  auxiliary?(): {
    /** The stand-in for the input, of its shape. */
    kept: Tensor
    /** What the weight multiplied in forward. */
    operand: Tensor
  }
}

/** A policy at work in one compilation, on one module it was assigned to. */
export interface Answers {
  /** A module at or below the assigned one starts its forward pass. */
  enter?(module: string, inputs: readonly unknown[]): void
  /** Runs a layer at or below the assigned module; undefined leaves it to the policy of a module further out. */
  layer?(call: LayerCall): LayerAnswer | undefined
  /**
   * Packs a value that something at or below the assigned module reads in backward (traced into the forward pass) and
   * returns how backward reads it back (in its shape, once for each reader); undefined keeps the value as it is.
   */
  compress?(value: Tensor): (() => Tensor) | undefined
  /** True if backward computes this node of the module again instead of keeping what it made. */
  recompute?(node: Node): boolean
  /** True if backward computes the first input of this node (whose op has an `inverse`) from its result. */
  inverts?(node: Node): boolean
}

/**
 * The answer to "what does backward keep instead of x?" One file a policy; any policy on any module, by name or
 * pattern; write your own against this interface.
 */
export interface MemoryPolicy {
  /** For plans and reports. */
  readonly name: string
  /** Fresh answers for one compilation, for the module at `path` ('' is the model itself). */
  at(path: string): Answers
}

/** @internal A policy of this library: another copy of it, whose operations are others, refuses it. */
export class Policy implements MemoryPolicy {
  static {
    sign(this)
  }

  constructor(
    readonly name: string,
    readonly at: MemoryPolicy['at'],
  ) {}
}

import { fail } from '../errors'
import { sameShape, showShape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import type { Node, Phase } from './graph'
import type { Derivation } from './op'

/**
 * How a policy lets the backward pass of `reader` read a forward value: the value itself unless it says otherwise.
 * `delta` is a gradient that has to be there first.
 */
export type Keep = (value: Tensor, reader: Node, delta: Tensor) => Tensor

export interface DeriveOptions {
  /** Adds two gradients of one tensor. */
  add: (a: Tensor, b: Tensor) => Tensor
  keep?: Keep
  /** When the new nodes run: in the backward pass unless given. */
  phase?: Phase
}

/**
 * Reverse mode: adds the backward part of `loss` (one element) to its graph.
 *
 * `seed` is the gradient of the loss with respect to itself. Returns the gradient of each of `wanted` (traced tensors),
 * or undefined where the loss does not depend on it. They count as independent, also where one is made of another.
 * @throws AUX_NO_GRADIENT at an op that has no derivative.
 */
export function derive(
  loss: Tensor,
  seed: Tensor,
  wanted: readonly Tensor[],
  options: DeriveOptions,
): (Tensor | undefined)[] {
  const graph = loss.node!.graph
  const forward = graph.nodes.slice(0, loss.node!.id + 1)
  const reached = dependsOn(forward, wanted)
  const found = new Map<Tensor, Tensor | undefined>(wanted.map((t) => [t, undefined]))
  const gradients = new Map<Tensor, Tensor>()
  const gathered = new Map<Tensor, Tensor[]>()
  const accumulate = (of: Tensor, gradient: Tensor): void => {
    if (!sameShape(gradient.shape, of.shape))
      fail(
        'AUX_SHAPE_MISMATCH',
        `gradient of shape ${showShape(gradient.shape)} for a value of shape ${showShape(of.shape)}`,
      )
    const parts = gathered.get(of)
    if (!gradient.node?.op.sum) add(of, gradient)
    else if (parts?.[0].node!.op === gradient.node.op) parts.push(gradient)
    else {
      settle(of)
      gathered.set(of, [gradient])
    }
  }
  const add = (of: Tensor, gradient: Tensor): void => {
    const before = gradients.get(of)
    gradients.set(of, before ? options.add(before, gradient) : gradient)
  }
  /** Adds what was gathered. */
  const settle = (of: Tensor): void => {
    const parts = gathered.get(of)
    if (!parts) return
    gathered.delete(of)
    add(of, parts.length > 1 ? parts[0].node!.op.sum!(parts) : parts[0])
  }
  graph.withPhase(options.phase ?? 'backward', () => {
    gradients.set(loss, seed)
    for (let i = forward.length - 1; i >= 0; i--) {
      const node = forward[i]
      if (!reached.has(node) || node.op.mutates || !node.outputs.some((t) => gradients.has(t) || gathered.has(t)))
        continue
      graph.beside(node, () => node.outputs.forEach(settle))
      for (const t of node.outputs)
        if (found.has(t)) {
          found.set(t, gradients.get(t))
          gradients.delete(t)
        }
      if (!node.outputs.some((t) => gradients.has(t))) continue
      if (node.reference || node.inputName !== null || node.op.constant) continue
      graph.beside(node, () => {
        const grads = inputGradients(node, gradients, (t) => reached.has(t.node!), options.keep)
        node.inputs.forEach((t, k) => t && grads[k] && reached.has(t.node!) && accumulate(t, grads[k]))
      })
      for (const t of node.outputs) gradients.delete(t)
    }
  })
  return wanted.map((t) => found.get(t))
}

/** Nodes on a path from one of `sources`. */
function dependsOn(nodes: readonly Node[], sources: readonly Tensor[]): Set<Node> {
  const reached = new Set<Node>(sources.map((t) => t.node!))
  for (const node of nodes)
    if (!node.op.constant && node.inputs.some((t) => t && reached.has(t.node!))) reached.add(node)
  return reached
}

function inputGradients(
  node: Node,
  gradients: ReadonlyMap<Tensor, Tensor>,
  wants: (t: Tensor) => boolean,
  keep: Keep = (value) => value,
): (Tensor | undefined)[] {
  const { op } = node
  if (!op.derive)
    fail(
      'AUX_NO_GRADIENT',
      `${op.name}${node.scope ? ` in ${node.scope}` : ''}: this op has no gradient; wrap its input in detach() if none is meant`,
    )
  const required = (t: Tensor | undefined, what: string): Tensor =>
    t ?? fail('AUX_NO_GRADIENT', `${op.name}: ${what} is absent`)
  const arrived = node.outputs.map((t) => gradients.get(t)).find((g) => g !== undefined)!
  const d: Derivation<unknown> = {
    attrs: node.attrs,
    grad: (i = 0) => gradients.get(node.outputs[i]),
    spec: (i): Spec => required(node.inputs[i], `input ${i}`),
    has: (i) => node.inputs[i] !== undefined,
    needs: (i) => {
      const t = node.inputs[i]
      return t !== undefined && wants(t) && !(i === op.weighted?.index && node.weightGradient)
    },
    input: (i) => keep(required(node.inputs[i], `input ${i}`), node, arrived),
    output: (i = 0) => keep(node.outputs[i], node, arrived),
  }
  const result = op.derive(d)
  const delta = gradients.get(node.outputs[0])
  const weight = op.weighted && node.inputs[op.weighted.index]
  if (node.weightGradient && weight && wants(weight) && delta) {
    const before = node.graph.nodes.length
    result[op.weighted!.index] = node.weightGradient(delta, (value) => keep(value, node, delta))
    for (const made of node.graph.nodes.slice(before)) made.policy = node.policy
  }
  return result
}

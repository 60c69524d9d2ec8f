import { describe, fail } from '../errors'
import { derive } from '../graph/derive'
import { tracing, type Graph } from '../graph/graph'
import { expectTensor } from '../graph/op'
import { fillOp } from '../ops/create'
import { showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { maskActivations } from './masks'
import { Draft, type Plan } from './plan'
import { Session } from './session'
import { ownMemory, trace } from './trace'

/** A function of tensors with one element as its result. */
export type ScalarFunction = (...inputs: Tensor[]) => Tensor

/** Inside of a traced function: value and gradients are part of its graph, and can be differentiated again. */
function tracedGrad(
  graph: Graph,
  f: ScalarFunction,
  inputs: readonly Tensor[],
  phase = graph.phase,
): { value: Tensor; grads: Tensor[] } {
  const wanted = inputs.map((t, i) => {
    const traced = t.node ? t : graph.reference(t)
    return inputs.indexOf(t) < i ? graph.apart(() => traced.reshape(traced.shape)) : traced // given twice: two inputs
  })
  const value = f(...wanted)
  if (!(value instanceof Tensor && value.size === 1 && value.dtype === 'f32'))
    fail(
      'AUX_SHAPE_MISMATCH',
      'grad: expected a function that returns one f32 element, got ' +
        (value instanceof Tensor ? `${value.dtype} ${showShape(value.shape)}` : describe(value)),
    )
  const fill = (shape: Shape, value: number): Tensor => graph.add(fillOp, [], { shape, dtype: 'f32', value }).outputs[0]
  const { onWeightedOp } = graph
  graph.onWeightedOp = undefined // layers of the forward pass alone follow policies
  try {
    return graph.withPhase(phase, () => {
      const options = { add: (a: Tensor, b: Tensor) => a.add(b), phase }
      const grads = value.node ? derive(value, fill(value.shape, 1), wanted, options) : []
      return { value, grads: wanted.map((t, i) => grads[i] ?? fill(t.shape, 0)) }
    })
  } finally {
    graph.onWeightedOp = onWeightedOp
  }
}

/**
 * The value of f and its gradients with respect to the inputs, as eager tensors. f is traced at each call; for
 * training, `compile` plans once and runs many times. Inside of a compiled function it is a part of that function, and can
 * be differentiated again: a loss may contain a gradient (of operations whose gradients have one; those of attention and
 * of maxima over windows have none). Inputs count as independent of one another. An input that f reads by itself counts too:
 * `grad(() => loss(model))(...model.parameters())`.
 * @returns a function of the inputs of f that gives the value and one gradient for each of them
 * @throws AUX_SHAPE_MISMATCH unless f returns one f32 element, AUX_NO_GRADIENT at an op without a derivative.
 */
export function valueAndGrad(f: ScalarFunction): (...inputs: Tensor[]) => {
  /** f of the inputs. */
  value: Tensor
  /** One gradient for each input, of its shape. */
  grads: Tensor[]
} {
  if (typeof f !== 'function') fail('AUX_INVALID_ARGUMENT', `grad: expected a function of tensors, got ${describe(f)}`)
  return (...inputs) => {
    for (const t of inputs) expectTensor('grad', t)
    const around = tracing()
    if (around) return tracedGrad(around, f, inputs)
    const { graph, outputs } = trace(() => {
      const graph = tracing()!
      const { value, grads } = tracedGrad(graph, f, inputs, 'backward')
      maskActivations(graph)
      return graph.withPhase('backward', () => ({
        value,
        ...Object.fromEntries(grads.map((g, i) => [`gradient${i}`, ownMemory(graph, g)])),
      }))
    }, new Map())
    let plan: Plan | undefined
    const session = new Session()
    try {
      plan = new Draft(graph, [...outputs.values()]).plan
      const values = session.executeSync(plan, new Map())
      const [value, ...grads] = values.map(({ data, shape, dtype }) => Tensor.from(data, shape, dtype))
      return { value, grads }
    } finally {
      plan?.dispose()
      graph.dispose()
      session.dispose()
    }
  }
}

/** The gradients of f with respect to its inputs, as eager tensors. */
export function grad(f: ScalarFunction): (...inputs: Tensor[]) => Tensor[] {
  const both = valueAndGrad(f)
  return (...inputs) => {
    const { value, grads } = both(...inputs)
    value.dispose()
    return grads
  }
}

import { describe, fail } from '../errors'
import { derive } from '../graph/derive'
import { tracing, type Graph } from '../graph/graph'
import { expectTensor } from '../graph/op'
import { fillOp } from '../ops/create'
import { showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { maskActivations } from './masks'
import { Plan } from './plan'
import { Session } from './session'
import { ownMemory, soleOutput, trace } from './trace'

/** A function of tensors with one element as its result. */
export type ScalarFunction = (...inputs: Tensor[]) => Tensor

const isLoss = (t: Tensor | undefined): t is Tensor => t instanceof Tensor && t.size === 1 && t.dtype === 'f32'

const noLoss = (got: Tensor | undefined): never =>
  fail(
    'AUX_SHAPE_MISMATCH',
    `grad: expected a function that returns one f32 element, got ${got instanceof Tensor ? `${got.dtype} ${showShape(got.shape)}` : 'several tensors'}`,
  )

/** Inside of a traced function: value and gradients are part of its graph, and can be differentiated again. */
function tracedGrad(graph: Graph, f: ScalarFunction, inputs: readonly Tensor[]): { value: Tensor; grads: Tensor[] } {
  const wanted = inputs.map((t) => (t.node ? t : graph.reference(t)))
  const value = f(...wanted)
  if (!isLoss(value)) return noLoss(value)
  const fill = (shape: Shape, value: number): Tensor => graph.add(fillOp, [], { shape, dtype: 'f32', value }).outputs[0]
  const { onWeightedOp } = graph
  graph.onWeightedOp = undefined // layers of the forward pass alone follow policies
  try {
    const options = { add: (a: Tensor, b: Tensor) => a.add(b), phase: graph.phase }
    const grads = value.node ? derive(value, fill(value.shape, 1), wanted, options) : []
    return { value, grads: wanted.map((t, i) => grads[i] ?? fill(t.shape, 0)) }
  } finally {
    graph.onWeightedOp = onWeightedOp
  }
}

/**
 * The value of f and its gradients with respect to the inputs, as eager tensors. f is traced at each call; for
 * training, `compile` plans once and runs many times. Inside of a compiled function it is a part of that function, and can
 * be differentiated again: a loss may contain a gradient (of operations whose gradients have one; those of attention and
 * of maxima over windows have none).
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
    const names = inputs.map((_, i) => `input${i}`)
    const specs = new Map(inputs.map((t, i) => [names[i], { shape: t.shape, dtype: t.dtype }]))
    const { graph, outputs } = trace((fields) => f(...names.map((name) => fields[name])), specs)
    const loss = outputs.get(soleOutput)
    if (!isLoss(loss)) {
      graph.dispose()
      return noLoss(loss)
    }
    let plan: Plan | undefined
    const session = new Session()
    try {
      const results = graph.trace(() => {
        const seed = graph.withPhase(
          'backward',
          () => graph.add(fillOp, [], { shape: loss.shape, dtype: 'f32', value: 1 }).outputs[0],
        )
        const wanted = names.map((name) => graph.inputs.get(name)!.outputs[0])
        const gradients = derive(loss, seed, wanted, { add: (a, b) => a.add(b) })
        maskActivations(graph)
        const zero = ({ shape }: Tensor): Tensor => graph.add(fillOp, [], { shape, dtype: 'f32', value: 0 }).outputs[0]
        return graph.withPhase('backward', () => gradients.map((g, i) => (g ? ownMemory(graph, g) : zero(wanted[i]))))
      })
      plan = new Plan(graph, [loss, ...results])
      const values = session.executeSync(plan, new Map(inputs.map((t, i) => [names[i], t])))
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
export const grad =
  (f: ScalarFunction) =>
  (...inputs: Tensor[]): Tensor[] => {
    const { value, grads } = valueAndGrad(f)(...inputs)
    value.dispose()
    return grads
  }

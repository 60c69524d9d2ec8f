import { fail } from '../errors'
import { derive } from '../graph/derive'
import { expectTensor } from '../graph/op'
import { fillOp } from '../ops/create'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { maskActivations } from './masks'
import { Plan } from './plan'
import { Session } from './session'
import { ownMemory, soleOutput, trace } from './trace'

/** A function of tensors with one element as its result. */
export type ScalarFunction = (...inputs: Tensor[]) => Tensor

/**
 * The value of f and its gradients with respect to the inputs, as eager tensors. f is traced at each call; for
 * training, `compile` plans once and runs many times.
 * @returns a function of the inputs of f that gives the value and one gradient for each of them
 * @throws AUX_SHAPE_MISMATCH unless f returns one f32 element, AUX_NO_GRADIENT at an op without a derivative.
 */
export function valueAndGrad(f: ScalarFunction): (...inputs: Tensor[]) => {
  /** f of the inputs. */
  value: Tensor
  /** One gradient for each input, of its shape. */
  grads: Tensor[]
} {
  return (...inputs) => {
    for (const t of inputs) expectTensor('grad', t)
    const names = inputs.map((_, i) => `input${i}`)
    const specs = new Map(inputs.map((t, i) => [names[i], { shape: t.shape, dtype: t.dtype }]))
    const { graph, outputs } = trace((fields) => f(...names.map((name) => fields[name])), specs)
    const loss = outputs.get(soleOutput)
    if (!loss || loss.size !== 1 || loss.dtype !== 'f32') {
      graph.dispose()
      fail(
        'AUX_SHAPE_MISMATCH',
        `grad: expected a function that returns one f32 element, got ${loss ? `${loss.dtype} ${showShape(loss.shape)}` : 'several tensors'}`,
      )
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

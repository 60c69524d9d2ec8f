import { types } from 'node:util'
import { AuxgradError, describe, fail, isForeign } from '../errors'
import { Graph } from '../graph/graph'
import { contiguous, copy } from '../graph/op'
import { learningIndicator } from '../memory/indicator'
import type { Policies } from '../memory/assignment'
import { Tensor } from '../tensor/tensor'
import { declared, type NormalSpec } from './inputs'
import type { Trainable } from './trainable'

/** Named values that a traced function returned. */
export type Outputs = Map<string, Tensor>

export interface Traced {
  readonly graph: Graph
  readonly outputs: Outputs
  /** Learning indicators by layer, if asked for. */
  readonly indicators: Outputs
}

export interface TraceOptions {
  model?: Trainable
  policies?: Policies
  /** Mode of the model's modules while tracing; as they are, unless given. */
  training?: boolean
  indicator?: boolean
}

/** Name of the output of a function that returns a single tensor. */
export const soleOutput = 'value'

/** The inputs as the traced function sees them: asking for one that is not there is a clear error. */
function fields(inputs: Record<string, Tensor>): Record<string, Tensor> {
  return new Proxy(inputs, {
    get(target, name) {
      if (typeof name === 'string' && !(name in target) && name !== 'then' && name !== 'toJSON')
        fail(
          'AUX_INVALID_ARGUMENT',
          `the function reads the input "${name}", but the batch has ${Object.keys(target).join(', ') || 'no fields'}`,
        )
      return target[name as string]
    },
  })
}

/** Runs `f` once on symbolic inputs; leaves its graph. */
export function trace(
  f: (inputs: Record<string, Tensor>) => unknown,
  specs: ReadonlyMap<string, NormalSpec>,
  options: TraceOptions = {},
): Traced {
  const graph = new Graph()
  const { model, policies } = options
  const indicators: Outputs = new Map()
  if (policies && (!policies.empty || options.indicator)) {
    graph.onWeightedOp = (op, inputs, attrs) => {
      const answer = policies.layer({ graph, op, inputs, attrs, module: graph.scope })
      answer.node.weightGradient = answer.weightGradient
      answer.node.policy = answer.policy
      if (options.indicator) {
        const { kept, operand } = answer.auxiliary?.() ?? { kept: inputs[0]!, operand: inputs[0]! }
        const traced = [kept, operand].map((t) => (t.node ? t : graph.reference(t)))
        indicators.set(graph.scope || op.name, learningIndicator(traced[0], traced[1]))
      }
      return answer.node.outputs
    }
  }
  const inputs: Record<string, Tensor> = {}
  for (const [name, spec] of specs) inputs[name] = graph.input(name, spec.shape, declared(spec))
  const restore = model ? enterModules(graph, model, policies, options.training) : undefined
  try {
    const outputs = graph.trace(() => {
      const result = namedOutputs(f(fields(inputs)))
      for (const [name, t] of result) result.set(name, ownMemory(graph, t))
      return result
    })
    return { graph, outputs, indicators }
  } catch (error) {
    graph.dispose()
    throw error
  } finally {
    restore?.()
    graph.onWeightedOp = undefined
  }
}

/** A result in arena memory of its own, row-major: the tensor itself unless it is an input, a captured tensor or a view. */
export function ownMemory(graph: Graph, t: Tensor): Tensor {
  const source = (t.base ?? t).node
  return source?.graph === graph && !source.reference && source.inputName === null ? contiguous(t) : copy(t)
}

function namedOutputs(result: unknown): Outputs {
  if (result instanceof Tensor) return new Map([[soleOutput, result]])
  if (types.isPromise(result)) {
    result.catch(() => {}) // of no use to anyone
    fail('AUX_INVALID_ARGUMENT', 'expected the traced function to return its tensors at once, got a promise')
  }
  if (result && typeof result === 'object' && !Array.isArray(result) && !isForeign(result)) {
    const entries = Object.entries(result as Record<string, unknown>)
    for (const [name, t] of entries)
      if (!(t instanceof Tensor))
        fail('AUX_INVALID_ARGUMENT', `expected the traced function to return tensors, got ${describe(t)} as "${name}"`)
    return new Map(entries as [string, Tensor][])
  }
  return fail(
    'AUX_INVALID_ARGUMENT',
    `expected the traced function to return a tensor or an object of tensors, got ${describe(result)}`,
  )
}

const named = new WeakSet<AuxgradError>()

/** Runs the forward of a module; an error says which one it was, the innermost. */
function within<T>(path: string, body: () => T): T {
  try {
    return body()
  } catch (error) {
    if (error instanceof AuxgradError && path && !named.has(error)) {
      named.add(error)
      const { message, stack } = error
      if (!message.includes(`in ${path}`)) error.message += ` (in ${path})`
      error.stack = stack?.replace(message, error.message)
    }
    throw error
  }
}

/** Makes every forward of the model announce itself; returns what undoes it. */
function enterModules(
  graph: Graph,
  model: Trainable,
  policies: Policies | undefined,
  training: boolean | undefined,
): () => void {
  const undo: (() => void)[] = []
  for (const [path, module] of model.namedModules()) {
    const own = Object.getOwnPropertyDescriptor(module, 'forward')
    const forward = module.forward as (...inputs: unknown[]) => unknown
    const mode = module.training
    Object.defineProperty(module, 'forward', {
      configurable: true,
      writable: true,
      value: (...inputs: unknown[]) => {
        policies?.enter(path, inputs)
        return graph.call(path, () => within(path, () => forward.apply(module, inputs)))
      },
    })
    if (training !== undefined) module.training = training
    undo.push(() => {
      if (own) Object.defineProperty(module, 'forward', own)
      else delete (module as { forward?: unknown }).forward
      module.training = mode
    })
  }
  return () => undo.reverse().forEach((f) => f())
}

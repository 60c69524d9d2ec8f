import { describe, expectOptions, fail } from '../errors'
import { sameShape, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { Policy, type MemoryPolicy } from './policy'

/** Options of `auxiliary`: functions of traced tensors, called once for each plan. */
export interface AuxiliaryOptions {
  /** For plans and reports. */
  name: string
  /** What backward keeps, made of x in the forward pass: packed, quantised, an earlier activation, anything. */
  keep(x: Tensor): Tensor | readonly Tensor[]
  /** The kept values as a stand-in for x, of its shape, in backward; the kept tensor itself unless given. */
  read?(kept: readonly Tensor[], shape: readonly number[]): Tensor
  /** What forward adds to x before the weight multiplies it. */
  add?(x: Tensor): Tensor
}

/**
 * An auxiliary activation of your own (Woo & Jeon 2023, section 3): forward multiplies h = x + add(x), backward takes
 * the weight gradient deltaᵀ a from a = read(keep(x)). The update descends where a·(2h − a) > 0: ask the step for
 * the learning indicator. Gradients flow through x alone; input and bias gradients are exact.
 */
export function auxiliary(options: AuxiliaryOptions): MemoryPolicy {
  expectOptions('auxiliary', options, ['name', 'keep', 'read', 'add'])
  const { name, keep, add, read = ([only]) => only } = options
  for (const [what, f] of Object.entries({ keep, read, add }))
    if (f !== undefined && typeof f !== 'function')
      fail('AUX_INVALID_ARGUMENT', `auxiliary: expected ${what} to be a function, got ${describe(f)}`)
  if (!keep) fail('AUX_INVALID_ARGUMENT', 'auxiliary: expected a function keep, got undefined')
  return new Policy(name, () => ({
    layer({ graph, op, inputs, attrs, module }) {
      const x = inputs[0]!
      const made = keep(x.detach())
      const kept = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor]
      const operand = add ? x.add(add(x).detach()) : x
      const node = graph.add(op, [operand, ...inputs.slice(1)], attrs)
      const stand = (): Tensor => {
        const a = read(kept, x.shape)
        if (!sameShape(a.shape, x.shape))
          fail(
            'AUX_SHAPE_MISMATCH',
            `${name}: ${module} expected an auxiliary of shape ${showShape(x.shape)}, got ${showShape(a.shape)}`,
          )
        return a
      }
      return {
        node,
        weightGradient: (delta) => op.weighted!.gradient(delta, stand(), attrs, inputs[op.weighted!.index]!),
        auxiliary: () => ({ kept: stand(), operand }),
      }
    },
  }))
}

import { expectIntegers, expectOptions, fail } from '../errors'
import { sameShape, showShape } from '../tensor/shape'
import { sameValues } from '../graph/graph'
import { Tensor } from '../tensor/tensor'
import { holds } from './assignment'
import { Policy, type MemoryPolicy } from './policy'

/** Options of `ara`. */
export interface AraOptions {
  /** Blocks that share one auxiliary (2); 1 is backpropagation. */
  stride?: number
}

/**
 * Auxiliary residual activation (Woo & Jeon, ICLR 2023). Assign it to a stage: a module whose direct children are
 * residual blocks. Blocks are grouped by `stride`; within a group, every layer that reads its block's input (the first
 * convolution of the branch, a projection on the shortcut) takes its weight gradient from the input of the group's
 * first block, kept once for all of them. That first block is exact; input and bias gradients are exact everywhere.
 *
 * @throws AUX_SHAPE_MISMATCH if a block's input has another shape than the group's (the block that changes the shape
 * belongs at the end of its stage).
 */
export function ara(options: AraOptions = {}): MemoryPolicy {
  expectOptions('ara', options, ['stride'])
  const { stride = 2 } = options
  expectIntegers('ara', { stride })
  return new Policy('ara', (stage) => {
    const inside = stage === '' ? '' : `${stage}.`
    let blocks = -1
    let block = ''
    const seen = new Set<string>()
    let input: Tensor | undefined
    let auxiliary: Tensor | undefined
    return {
      enter(module, [x]) {
        const child = module.startsWith(inside) ? module.slice(inside.length) : ''
        if (child === '' || child.includes('.') || !(x instanceof Tensor)) return
        if (seen.has(module)) {
          blocks = -1 // the stage runs again: its groups start anew
          seen.clear()
        }
        seen.add(module)
        block = module
        input = x
        if (++blocks % stride === 0) auxiliary = x
      },
      layer({ graph, op, inputs, attrs, module }) {
        const x = inputs[0]!
        if (!input || !sameValues(x, input) || !holds(block, module)) return undefined
        const node = graph.add(op, inputs, attrs)
        if (auxiliary === input) return { node }
        if (!sameShape(auxiliary!.shape, input.shape))
          fail(
            'AUX_SHAPE_MISMATCH',
            `ara: ${module} reads an input of shape ${showShape(input.shape)}, but the auxiliary of its group has ` +
              `${showShape(auxiliary!.shape)}; let the block that changes the shape end its stage, or use a smaller stride`,
          )
        const a = auxiliary!.reshape(x.shape)
        const weight = inputs[op.weighted!.index]!
        return {
          node,
          weightGradient: (delta, read) => op.weighted!.gradient(delta, read(a), attrs, weight),
          auxiliary: () => ({ kept: a, operand: x }),
        }
      },
    }
  })
}

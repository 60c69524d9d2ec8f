import { expectOneOf, expectOptions } from '../errors'
import { Policy, type MemoryPolicy } from './policy'

/** Options of `checkpoint`. */
export interface CheckpointOptions {
  /**
   * `all`: backward keeps the module's inputs alone and runs its forward again. `cheap`: it keeps the results of
   * layers with weights too and computes only what lies between them again (norms, activations).
   */
  recompute?: 'all' | 'cheap'
}

/**
 * Gradient checkpointing (Chen et al. 2016) of a module: what it computes inside is computed again in backward, just
 * before it is read. Bit-identical to keeping it: dropout repeats its numbers, running statistics are updated once,
 * batch statistics are kept (two numbers a channel).
 */
export function checkpoint(options: CheckpointOptions = {}): MemoryPolicy {
  expectOptions('checkpoint', options, ['recompute'])
  const { recompute = 'all' } = options
  expectOneOf('checkpoint', { recompute }, 'all', 'cheap')
  return new Policy(recompute === 'all' ? 'checkpoint' : 'checkpoint, cheap parts', () => ({
    recompute: (node) => recompute === 'all' || node.op.weighted === undefined,
  }))
}

import { expectModule } from '../compile/trainable'
import { expectIntegers, fail } from '../errors'
import { asa, type MemoryPolicy } from '../memory'
import * as nn from '../nn'
import { TransformerBranches } from './block'
import { MixerBlock } from './mixer'
import { ReformerBlock } from './reformer'
import { BasicBlock, Bottleneck } from './resnet'

// Where Woo & Jeon (2023) put auxiliary sign activation, as `memory` takes it. What is not named stays as it is, so that
// a placement can be spread into an assignment that says more.

type Placed = TransformerBranches | MixerBlock | ReformerBlock
const isPlaced = (m: nn.Module): m is Placed =>
  m instanceof TransformerBranches || m instanceof MixerBlock || m instanceof ReformerBlock

const under = (modules: Iterable<[string, nn.Module]>, chosen: ReadonlySet<nn.Module>, policy: MemoryPolicy) =>
  Object.fromEntries([...modules].filter(([, m]) => chosen.has(m)).map(([path]) => [path, policy]))

/**
 * Auxiliary sign activation (or another policy) in the blocks of a transformer or an MLP-Mixer, as the paper's ASA1 to ASA4
 * have it: `memory: models.asaPlacement(model, 4)`. Each level adds to those before it. Transformers: the second linear layer
 * of the feed-forward part, its first one, the projection behind attention, those of queries, keys and values. Mixers: the
 * second and the first layer of the MLP over channels, the second and the first of the one over tokens.
 * @throws AUX_INVALID_ARGUMENT for a model without such blocks.
 */
export function asaPlacement(
  model: nn.Module,
  level: 1 | 2 | 3 | 4,
  policy: MemoryPolicy = asa(),
): Record<string, MemoryPolicy> {
  expectModule('asaPlacement', model)
  expectIntegers('asaPlacement', { level }, 1, 4)
  const modules = [...model.namedModules()]
  const blocks = modules.map(([, m]) => m).filter(isPlaced)
  if (!blocks.length)
    fail('AUX_INVALID_ARGUMENT', 'asaPlacement: expected a model with blocks of a transformer or a Mixer, found none')
  return under(modules, new Set(blocks.flatMap((b) => b.placement.slice(0, level).flat())), policy)
}

/**
 * The paper's ASA for residual networks: in each stage the layers that read a block's input (the first convolution of the
 * branch, a projection on the shortcut), but in every `stride`-th block, from the first on, exact: where `ara({ stride })`
 * would have its auxiliary. One stride for all stages, or one for each. What else the branches keep is for others, such as
 * `memory: { 'stage*.*': checkpoint({ recompute: 'cheap' }), ...models.residualAsaPlacement(model, 2) }`.
 * @throws AUX_INVALID_ARGUMENT for a model without stages of residual blocks.
 */
export function residualAsaPlacement(
  model: nn.Module,
  stride: number | readonly number[] = 2,
  policy: MemoryPolicy = asa(),
): Record<string, MemoryPolicy> {
  const modules = [...model.namedModules()]
  const isBlock = (m: nn.Module): m is BasicBlock | Bottleneck => m instanceof BasicBlock || m instanceof Bottleneck
  const stages = modules.flatMap(([, m]) => {
    const blocks = m instanceof nn.Sequential ? [...m.namedModules()].map(([, b]) => b).filter(isBlock) : []
    return blocks.length ? [blocks] : []
  })
  const strides = typeof stride === 'number' ? stages.map(() => stride) : stride
  strides.forEach((k) => expectIntegers('residualAsaPlacement', { stride: k }))
  if (!stages.length || strides.length !== stages.length)
    fail(
      'AUX_INVALID_ARGUMENT',
      `residualAsaPlacement: expected a stride for each stage of residual blocks, got ${strides.length} for ${stages.length}`,
    )
  const chosen = stages.flatMap((blocks, s) =>
    blocks.filter((_, i) => i % strides[s] !== 0).flatMap((b) => (b.shortcut ? [b.conv1, b.shortcut.conv] : [b.conv1])),
  )
  return under(modules, new Set<nn.Module>(chosen), policy)
}

import { expectIntegers, expectOneOf, expectOptions, fail, picked } from '../errors'
import * as nn from '../nn'
import { couple } from '../ops'
import type { Tensor } from '../tensor/tensor'

const activations = {
  gelu: (x: Tensor) => x.gelu(),
  geluTanh: (x: Tensor) => x.gelu({ approximate: 'tanh' }),
  relu: (x: Tensor) => x.relu(),
}

/** Sizes of a transformer. */
export interface TransformerOptions {
  /** Number of blocks. */
  layers: number
  /** Width of the residual stream. */
  features: number
  /** Attention heads; they divide `features`. */
  heads: number
  /** Width of the feed-forward part (4 · features). */
  hidden?: number
  /** Probability of dropping, in attention and behind each branch (0). */
  dropout?: number
  /** Position t sees positions 0 to t only. */
  causal?: boolean
  /** Norms before the branches (GPT) or after the sums (BERT). */
  norm?: 'before' | 'after'
  /** 1e-5; BERT has 1e-12. */
  eps?: number
  /** Between the linear layers of the feed-forward part (`gelu`); `geluTanh` is its approximation, which GPT-2 has. */
  activation?: 'gelu' | 'geluTanh' | 'relu'
  /** Branches between two streams, for the policy `invert`; norms stand before the branches. */
  reversible?: boolean
}

/** @internal Names of the options of a transformer, for `expectOptions`. */
export const transformerOptions = [
  'layers',
  'features',
  'heads',
  'hidden',
  'dropout',
  'causal',
  'norm',
  'eps',
  'activation',
  'reversible',
] as const

const blockOptions = transformerOptions.filter((name) => name !== 'layers' && name !== 'reversible')

/** @internal Those of the options of a model that are of its blocks. */
export const ofBlocks = (options: TransformerOptions): Omit<TransformerOptions, 'layers' | 'reversible'> =>
  picked(options, blockOptions)

/** What the blocks of transformers are made of. */
export abstract class TransformerBranches extends nn.Module {
  /** The attention branch. */
  readonly attention: nn.MultiHeadAttention
  /** Norm of the attention branch. */
  readonly norm1: nn.LayerNorm
  /** Feed-forward, wide: [features] to [hidden]. */
  readonly fc1: nn.Linear
  /** Feed-forward, back: [hidden] to [features]. */
  readonly fc2: nn.Linear
  /** Norm of the feed-forward branch. */
  readonly norm2: nn.LayerNorm
  /** Behind each branch. */
  readonly dropout: nn.Dropout
  readonly #activation: (x: Tensor) => Tensor

  constructor(options: Omit<TransformerOptions, 'layers' | 'reversible'>) {
    super()
    expectOptions(new.target.name, options, blockOptions)
    const { features, heads, hidden = 4 * features, dropout = 0, causal = false, eps = 1e-5 } = options
    const { activation = 'gelu' } = options
    expectOneOf(new.target.name, { activation }, ...Object.keys(activations))
    expectOneOf(new.target.name, { norm: options.norm ?? 'before' }, 'before', 'after')
    this.#activation = activations[activation]
    this.attention = new nn.MultiHeadAttention(features, heads, { causal, dropout })
    this.norm1 = new nn.LayerNorm(features, { eps })
    this.fc1 = new nn.Linear(features, hidden)
    this.fc2 = new nn.Linear(hidden, features)
    this.norm2 = new nn.LayerNorm(features, { eps })
    this.dropout = new nn.Dropout(dropout)
  }

  /** @internal For `asaPlacement`. */
  get placement(): readonly nn.Module[][] {
    const { q, k, v, out } = this.attention
    return [[this.fc2], [this.fc1], [out], [q, k, v]]
  }

  protected attend(x: Tensor, mask?: Tensor, past?: nn.Past): Tensor {
    return this.dropout.forward(this.attention.forward(x, { mask, past }))
  }

  protected feed(x: Tensor): Tensor {
    const wide = this.fc1.forward(x)
    return this.dropout.forward(this.fc2.forward(this.#activation(wide)))
  }
}

/** Attention and feed-forward branches on a residual stream (Vaswani et al. 2017). */
export class TransformerBlock extends TransformerBranches {
  readonly #before: boolean

  constructor(options: Omit<TransformerOptions, 'layers' | 'reversible'>) {
    super(options)
    this.#before = (options.norm ?? 'before') === 'before'
  }

  /** [N, T, features] to the same; `mask` as in `scaledDotProductAttention`, `past` as in `MultiHeadAttention`. */
  forward(x: Tensor, mask?: Tensor, past?: nn.Past): Tensor {
    if (this.#before) {
      x = x.add(this.attend(this.norm1.forward(x), mask, past))
      return x.add(this.feed(this.norm2.forward(x)))
    }
    x = this.norm1.forward(x.add(this.attend(x, mask, past)))
    return this.norm2.forward(x.add(this.feed(x)))
  }
}

/**
 * The same branches between two streams, norms before them (Kitaev et al. 2020, *Reformer*): under the policy `invert`
 * backward computes what the block was given from what it returned.
 */
export class ReversibleTransformerBlock extends TransformerBranches {
  /** Two streams [N, T, features] to the next two; `mask` and `past` as in `TransformerBlock`. */
  forward(a: Tensor, b: Tensor, mask?: Tensor, past?: nn.Past): [Tensor, Tensor] {
    a = couple(a, this.attend(this.norm1.forward(b), mask, past))
    return [a, couple(b, this.feed(this.norm2.forward(a)))]
  }
}

/** The blocks of a model. */
export type Blocks = TransformerBlock[] | ReversibleTransformerBlock[]

/** As many as the options say. */
export function makeBlocks(options: TransformerOptions): Blocks {
  const { layers, reversible = false, norm = 'before' } = options
  expectIntegers('blocks', { layers })
  const own = ofBlocks(options)
  if (!reversible) return Array.from({ length: layers }, () => new TransformerBlock(own))
  if (norm !== 'before') fail('AUX_INVALID_ARGUMENT', `reversible: expected norms before the branches, got ${norm}`)
  return Array.from({ length: layers }, () => new ReversibleTransformerBlock(own))
}

const reversed = (blocks: Blocks): blocks is ReversibleTransformerBlock[] =>
  blocks[0] instanceof ReversibleTransformerBlock

/** Through all blocks, each with its past; of two streams, both begin as x, and their mean is the result. */
export function throughBlocks(blocks: Blocks, x: Tensor, past: readonly nn.Past[] = []): Tensor {
  if (!reversed(blocks)) {
    blocks.forEach((block, i) => (x = block.forward(x, undefined, past[i])))
    return x
  }
  let [a, b] = [x, x]
  blocks.forEach((block, i) => ([a, b] = block.forward(a, b, undefined, past[i])))
  return a.add(b).mul(0.5)
}

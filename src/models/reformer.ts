import { expectIntegers, expectOptions, picked } from '../errors'
import * as nn from '../nn'
import { arange, concat, couple } from '../ops'
import { constant } from '../ops/constant'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'

/** Options of `Reformer`. */
export interface ReformerOptions extends Omit<nn.LSHAttentionOptions, 'bias'> {
  /** Number of tokens. */
  vocabulary: number
  /** Most positions. */
  length: number
  /** Number of blocks. */
  layers: number
  /** Width of each of the two streams. */
  features: number
  /** Attention heads; they divide `features`. */
  heads: number
  /** Width of the feed-forward part (4 · features). */
  hidden?: number
  /** Positions of which the feed-forward part exists at once (all). */
  feed?: number
  /** Probability of dropping behind each branch (0). */
  dropout?: number
}

const blockOptions = [
  ...(['features', 'heads', 'hidden', 'feed', 'dropout'] as const),
  ...(['chunk', 'rounds', 'buckets', 'causal'] as const),
] as const

type BlockOptions = Pick<ReformerOptions, (typeof blockOptions)[number]>

const attentionOf = ({ chunk, rounds, buckets, causal = true }: BlockOptions): nn.LSHAttentionOptions => ({
  causal,
  ...(chunk !== undefined && { chunk }),
  ...(rounds !== undefined && { rounds }),
  ...(buckets !== undefined && { buckets }),
})

/** Hashed attention and a feed-forward part between two streams, norms before them: for the policy `invert`. */
export class ReformerBlock extends nn.Module {
  /** Norm before attention. */
  readonly norm1: nn.LayerNorm
  /** Attention by hashing. */
  readonly attention: nn.LSHAttention
  /** Norm before the feed-forward part. */
  readonly norm2: nn.LayerNorm
  /** Feed-forward, wide: [features] to [hidden]. */
  readonly fc1: nn.Linear
  /** Feed-forward, back: [hidden] to [features]. */
  readonly fc2: nn.Linear
  /** Behind each branch. */
  readonly dropout: nn.Dropout
  readonly #feed: number | undefined

  constructor(options: BlockOptions) {
    super()
    expectOptions('ReformerBlock', options, blockOptions)
    const { features, heads, hidden = 4 * features, dropout = 0, feed } = options
    if (feed !== undefined) expectIntegers('Reformer', { feed })
    this.norm1 = new nn.LayerNorm(features)
    this.attention = new nn.LSHAttention(features, heads, attentionOf(options))
    this.norm2 = new nn.LayerNorm(features)
    this.fc1 = new nn.Linear(features, hidden)
    this.fc2 = new nn.Linear(hidden, features)
    this.dropout = new nn.Dropout(dropout)
    this.#feed = feed
  }

  /** @internal For `asaPlacement`. */
  get placement(): readonly nn.Module[][] {
    const { q, v, out } = this.attention
    return [[this.fc2], [this.fc1], [out], [q, v]]
  }

  /** Two streams [N, T, features] to the next two. */
  forward(a: Tensor, b: Tensor): [Tensor, Tensor] {
    a = couple(a, this.dropout.forward(this.attention.forward(this.norm1.forward(b))))
    const parts = this.norm2.forward(a).split(this.#feed ?? a.shape[1], 1)
    const fed = concat(
      parts.map((x) => this.fc2.forward(this.fc1.forward(x).gelu())),
      1,
    )
    return [a, couple(b, this.dropout.forward(fed))]
  }
}

/**
 * A causal language model for long texts (Kitaev et al. 2020, *Reformer*): attention by hashing, reversible blocks, a
 * feed-forward part in pieces. Memory grows in proportion to the length, and with `memory: { 'blocks.*': invert() }` what
 * backward keeps does not grow with the number of blocks but for the hashes. Blocks are `blocks.0`, ...
 */
export class Reformer extends nn.Module {
  /** Embedding of tokens. */
  readonly tokens: nn.Embedding
  /** Embedding of positions, learnt. */
  readonly positions: nn.Embedding
  /** The blocks, from first to last. */
  readonly blocks: ReformerBlock[]
  /** Norm behind the last block. */
  readonly norm: nn.LayerNorm
  /** Logits of the next token. */
  readonly head: nn.Linear

  constructor(options: ReformerOptions) {
    super()
    expectOptions('Reformer', options, ['vocabulary', 'length', 'layers', ...blockOptions])
    const { vocabulary, length, layers, features } = options
    expectIntegers('Reformer', { layers })
    const own = picked(options, blockOptions)
    this.tokens = new nn.Embedding(vocabulary, features, { std: 0.02 })
    this.positions = new nn.Embedding(length, features, { std: 0.02 })
    this.blocks = Array.from({ length: layers }, () => new ReformerBlock(own))
    this.norm = new nn.LayerNorm(features)
    this.head = new nn.Linear(features, vocabulary, { bias: false })
  }

  /** Tokens i32 [N, T], whole chunks (or fewer than one), to logits [N, T, vocabulary]. */
  forward(tokens: Tensor): Tensor {
    const x = tidy(() =>
      this.tokens.forward(tokens).add(this.positions.forward(constant(arange, 0, tokens.shape[1], 1, 'i32'))),
    )
    let [a, b] = [x, x]
    for (const block of this.blocks) [a, b] = block.forward(a, b)
    return this.head.forward(this.norm.forward(a.add(b).mul(0.5)))
  }
}

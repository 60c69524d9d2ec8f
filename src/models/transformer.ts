import * as nn from '../nn'
import { arange } from '../ops'
import type { Tensor } from '../tensor/tensor'

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
}

/** Attention and feed-forward branches on a residual stream (Vaswani et al. 2017). */
export class TransformerBlock extends nn.Module {
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
  readonly #before: boolean

  constructor(options: Omit<TransformerOptions, 'layers'>) {
    super()
    const { features, heads, hidden = 4 * features, dropout = 0, causal = false, norm = 'before', eps = 1e-5 } = options
    this.attention = new nn.MultiHeadAttention(features, heads, { causal, dropout })
    this.norm1 = new nn.LayerNorm(features, { eps })
    this.fc1 = new nn.Linear(features, hidden)
    this.fc2 = new nn.Linear(hidden, features)
    this.norm2 = new nn.LayerNorm(features, { eps })
    this.dropout = new nn.Dropout(dropout)
    this.#before = norm === 'before'
  }

  /** [N, T, features] to the same; `mask` as in `scaledDotProductAttention`. */
  forward(x: Tensor, mask?: Tensor): Tensor {
    const attend = (t: Tensor): Tensor => this.dropout.forward(this.attention.forward(t, { mask }))
    const feed = (t: Tensor): Tensor => this.dropout.forward(this.fc2.forward(this.fc1.forward(t).gelu()))
    if (this.#before) {
      x = x.add(attend(this.norm1.forward(x)))
      return x.add(feed(this.norm2.forward(x)))
    }
    x = this.norm1.forward(x.add(attend(x)))
    return this.norm2.forward(x.add(feed(x)))
  }
}

/** A causal language model: token indices i32 [N, T] to logits [N, T, vocabulary]. Blocks are `blocks.0`, ... */
export class GPT extends nn.Module {
  /** Embedding of tokens. */
  readonly tokens: nn.Embedding
  /** Embedding of positions, learnt. */
  readonly positions: nn.Embedding
  /** The blocks, from first to last. */
  readonly blocks: TransformerBlock[]
  /** Norm behind the last block. */
  readonly norm: nn.LayerNorm
  /** Logits of the next token. */
  readonly head: nn.Linear

  constructor(options: TransformerOptions & { vocabulary: number; length: number }) {
    super()
    const { vocabulary, length, layers, features } = options
    this.tokens = new nn.Embedding(vocabulary, features, { std: 0.02 })
    this.positions = new nn.Embedding(length, features, { std: 0.02 })
    this.blocks = Array.from({ length: layers }, () => new TransformerBlock({ causal: true, ...options }))
    this.norm = new nn.LayerNorm(features)
    this.head = new nn.Linear(features, vocabulary, { bias: false })
  }

  /** Tokens i32 [N, T], T at most `length`, to logits [N, T, vocabulary]. */
  forward(tokens: Tensor): Tensor {
    const places = arange(0, tokens.shape[1], 1, 'i32')
    let x = this.tokens.forward(tokens).add(this.positions.forward(places))
    for (const block of this.blocks) x = block.forward(x)
    return this.head.forward(this.norm.forward(x))
  }
}

/** An encoder of the BERT family (Devlin et al. 2019) with a classifier on the first token: i32 [N, T] to [N, classes]. */
export class Encoder extends nn.Module {
  /** Embedding of tokens. */
  readonly tokens: nn.Embedding
  /** Embedding of positions, learnt. */
  readonly positions: nn.Embedding
  /** Norm of the sum of both. */
  readonly norm: nn.LayerNorm
  /** The blocks, from first to last. */
  readonly blocks: TransformerBlock[]
  /** Layer on the first token, before tanh. */
  readonly pooler: nn.Linear
  /** Classifier. */
  readonly head: nn.Linear

  constructor(options: TransformerOptions & { vocabulary: number; length: number; classes: number }) {
    super()
    const { vocabulary, length, classes, layers, features, eps = 1e-12 } = options
    this.tokens = new nn.Embedding(vocabulary, features, { std: 0.02 })
    this.positions = new nn.Embedding(length, features, { std: 0.02 })
    this.norm = new nn.LayerNorm(features, { eps })
    this.blocks = Array.from({ length: layers }, () => new TransformerBlock({ norm: 'after', ...options, eps }))
    this.pooler = new nn.Linear(features, features)
    this.head = new nn.Linear(features, classes)
  }

  /** Tokens i32 [N, T] to logits [N, classes]; `mask` as in `scaledDotProductAttention`. */
  forward(tokens: Tensor, mask?: Tensor): Tensor {
    const places = arange(0, tokens.shape[1], 1, 'i32')
    let x = this.norm.forward(this.tokens.forward(tokens).add(this.positions.forward(places)))
    for (const block of this.blocks) x = block.forward(x, mask)
    return this.head.forward(this.pooler.forward(x.select(1, 0)).tanh())
  }
}

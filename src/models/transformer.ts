import { expectIntegers, expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import * as nn from '../nn'
import { arange } from '../ops'
import { constant } from '../ops/constant'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import {
  makeBlocks,
  ofBlocks,
  throughBlocks,
  transformerOptions,
  TransformerBlock,
  type Blocks,
  type TransformerOptions,
} from './block'

/** Embeddings of tokens [N, T] and of their positions (0 to T - 1 unless given), of which there must be enough. */
function embedded(
  model: string,
  tokens: Tensor,
  tables: { tokens: nn.Embedding; positions: nn.Embedding },
  positions?: Tensor,
): Tensor {
  expectTensor(model, tokens)
  const [length] = tables.positions.weight.shape
  if (tokens.rank !== 2 || tokens.shape[1] > length)
    fail('AUX_SHAPE_MISMATCH', `${model}: expected tokens [N, T], T at most ${length}, got ${showShape(tokens.shape)}`)
  return tidy(() => {
    const places = positions ?? constant(arange, 0, tokens.shape[1], 1, 'i32')
    return tables.tokens.forward(tokens).add(tables.positions.forward(places))
  })
}

/** A causal language model: token indices i32 [N, T] to logits [N, T, vocabulary]. Blocks are `blocks.0`, ... */
export class GPT extends nn.Module {
  /** Embedding of tokens. */
  readonly tokens: nn.Embedding
  /** Embedding of positions, learnt. */
  readonly positions: nn.Embedding
  /** The blocks, from first to last. */
  readonly blocks: Blocks
  /** Norm behind the last block. */
  readonly norm: nn.LayerNorm
  /** Logits of the next token. */
  readonly head: nn.Linear

  constructor(options: TransformerOptions & { vocabulary: number; length: number }) {
    super()
    expectOptions('GPT', options, ['vocabulary', 'length', ...transformerOptions])
    const { vocabulary, length, features } = options
    this.tokens = new nn.Embedding(vocabulary, features, { std: 0.02 })
    this.positions = new nn.Embedding(length, features, { std: 0.02 })
    this.blocks = makeBlocks({ ...options, causal: options.causal ?? true })
    this.norm = new nn.LayerNorm(features)
    this.head = new nn.Linear(features, vocabulary, { bias: false })
  }

  /**
   * Tokens i32 [N, T], T at most `length`, to logits [N, T, vocabulary]. Where they go on from others, `past` has their
   * positions, i32 [T], and for each block the keys and values of those before (N = 1).
   */
  forward(tokens: Tensor, past?: { positions: Tensor; blocks: readonly nn.Past[] }): Tensor {
    const x = embedded('GPT', tokens, this, past?.positions)
    return this.head.forward(this.norm.forward(throughBlocks(this.blocks, x, past?.blocks)))
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

  constructor(
    options: Omit<TransformerOptions, 'reversible'> & { vocabulary: number; length: number; classes: number },
  ) {
    super()
    expectOptions('Encoder', options, ['vocabulary', 'length', 'classes', ...transformerOptions])
    const { vocabulary, length, classes, layers, features, eps = 1e-12 } = options
    expectIntegers('Encoder', { layers })
    this.tokens = new nn.Embedding(vocabulary, features, { std: 0.02 })
    this.positions = new nn.Embedding(length, features, { std: 0.02 })
    this.norm = new nn.LayerNorm(features, { eps })
    this.blocks = Array.from(
      { length: layers },
      () => new TransformerBlock({ norm: 'after', ...ofBlocks(options), eps }),
    )
    this.pooler = new nn.Linear(features, features)
    this.head = new nn.Linear(features, classes)
  }

  /** Tokens i32 [N, T] to logits [N, classes]; `mask` as in `scaledDotProductAttention`. */
  forward(tokens: Tensor, mask?: Tensor): Tensor {
    let x = this.norm.forward(embedded('Encoder', tokens, this))
    for (const block of this.blocks) x = block.forward(x, mask)
    return this.head.forward(this.pooler.forward(x.select(1, 0)).tanh())
  }
}

import { expectIntegers, expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import * as nn from '../nn'
import { linear, tensor } from '../ops'
import { showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { ofBlocks, TransformerBlock, TransformerBranches, transformerOptions, type TransformerOptions } from './block'

/** Options of `Transformer`. */
export interface Seq2SeqOptions extends Omit<TransformerOptions, 'causal' | 'reversible' | 'layers'> {
  /** Blocks of the encoder, and as many of the decoder. */
  layers: number
  /** Number of tokens, of source and target together. */
  vocabulary: number
  /** The token that fills sequences up to the length of a batch (0): nothing attends to it in a source. */
  padding?: number
}

/** A block of a decoder (Vaswani et al. 2017): attention to what was said, attention to the source, feed-forward. */
export class DecoderBlock extends TransformerBranches {
  /** Attention to what the encoder made of the source. */
  readonly cross: nn.MultiHeadAttention
  /** Norm of that branch. */
  readonly norm3: nn.LayerNorm
  readonly #before: boolean

  constructor(options: Omit<TransformerOptions, 'layers' | 'causal' | 'reversible'>) {
    super({ ...options, causal: true })
    const { features, heads, dropout = 0, norm = 'after', eps = 1e-5 } = options
    this.cross = new nn.MultiHeadAttention(features, heads, { dropout })
    this.norm3 = new nn.LayerNorm(features, { eps })
    this.#before = norm === 'before'
  }

  /** @internal For `asaPlacement`. */
  override get placement(): readonly nn.Module[][] {
    const { q, k, v, out } = this.cross
    const own = super.placement
    return [own[0], own[1], [...own[2], out], [...own[3], q, k, v]]
  }

  /**
   * [N, T, features] to the same; `context` [N, S, features], or what `cross.project` made of it, and a mask of it as in
   * `scaledDotProductAttention`.
   */
  forward(x: Tensor, context: Tensor | nn.KeysAndValues, mask?: Tensor, past?: nn.Past): Tensor {
    const look = (t: Tensor): Tensor => this.dropout.forward(this.cross.forward(t, { context, mask }))
    if (this.#before) {
      x = x.add(this.attend(this.norm1.forward(x), undefined, past))
      x = x.add(look(this.norm3.forward(x)))
      return x.add(this.feed(this.norm2.forward(x)))
    }
    x = this.norm1.forward(x.add(this.attend(x, undefined, past)))
    x = this.norm3.forward(x.add(look(x)))
    return this.norm2.forward(x.add(this.feed(x)))
  }
}

/** Sines and cosines of positions 0 to length - 1, [length, features]: pairs of features turn ever more slowly. */
function sinusoids(length: number, features: number): Tensor {
  const angle = (i: number): number =>
    Math.floor(i / features) / 10000 ** ((2 * Math.floor((i % features) / 2)) / features)
  const wave = (_: unknown, i: number): number => ((i % features) % 2 ? Math.cos(angle(i)) : Math.sin(angle(i)))
  return tensor(Float32Array.from({ length: length * features }, wave)).reshape([length, features])
}

/**
 * The Transformer (Vaswani et al. 2017, *Attention is all you need*): an encoder of a source, a decoder that continues a
 * target while it looks at that, one table of embeddings for source, target and logits, positions as sines. Norms are
 * behind the sums and the activation is ReLU, as in the paper, unless the options say otherwise. Blocks are `encoder.0`,
 * ..., `decoder.0`, ... The paper's loss is `nn.crossEntropy(model.forward(source, target), next, { labelSmoothing: 0.1,
 * ignoreIndex: 0 })`, target being next behind a token that begins every text, and its rate
 * `optim.schedule.inverseSquareRoot`. `models.translate` decodes.
 */
export class Transformer extends nn.Module {
  /** Embedding of tokens, times the root of its width; its transpose gives the logits. */
  readonly tokens: nn.Embedding
  /** Behind the embeddings. */
  readonly dropout: nn.Dropout
  /** Blocks of the encoder, from first to last. */
  readonly encoder: TransformerBlock[]
  /** Norm behind the encoder, where norms are before the branches. */
  readonly encoderNorm: nn.LayerNorm | undefined
  /** Blocks of the decoder, from first to last. */
  readonly decoder: DecoderBlock[]
  /** Norm behind the decoder, where norms are before the branches. */
  readonly decoderNorm: nn.LayerNorm | undefined
  /** The token that fills sequences up. */
  readonly padding: number

  constructor(options: Seq2SeqOptions) {
    super()
    expectOptions('Transformer', options, [
      ...['vocabulary', 'padding'],
      ...transformerOptions.filter((name) => name !== 'causal' && name !== 'reversible'),
    ])
    const { layers, features, vocabulary, padding = 0, dropout = 0, norm = 'after', eps } = options
    expectIntegers('Transformer', { layers, features, vocabulary })
    expectIntegers('Transformer', { padding }, 0, vocabulary - 1)
    const own = { activation: 'relu', ...ofBlocks(options), norm } as const
    this.tokens = new nn.Embedding(vocabulary, features, { std: features ** -0.5 })
    this.dropout = new nn.Dropout(dropout)
    const last = (): nn.LayerNorm | undefined => (norm === 'before' ? new nn.LayerNorm(features, { eps }) : undefined)
    this.encoder = Array.from({ length: layers }, () => new TransformerBlock(own))
    this.encoderNorm = last()
    this.decoder = Array.from({ length: layers }, () => new DecoderBlock(own))
    this.decoderNorm = last()
    this.padding = padding
  }

  #embedded(tokens: Tensor, positions?: Tensor, most = 0): Tensor {
    expectTensor('Transformer', tokens)
    if (tokens.rank !== 2)
      fail('AUX_SHAPE_MISMATCH', `Transformer: expected tokens [N, T], got ${showShape(tokens.shape)}`)
    const features = this.tokens.weight.shape[1]
    return tidy(() => {
      const waves = sinusoids(positions ? most : tokens.shape[1], features)
      const places = positions ? waves.indexSelect(0, positions) : waves
      return this.dropout.forward(this.tokens.forward(tokens).mul(Math.sqrt(features)).add(places))
    })
  }

  #mask(source: Tensor): Tensor {
    return source.ne(this.padding).reshape([source.shape[0], 1, 1, source.shape[1]])
  }

  /** Tokens i32 [N, S] to what the decoder looks at, [N, S, features]. */
  encode(source: Tensor): Tensor {
    let x = this.#embedded(source)
    const mask = this.#mask(source)
    for (const block of this.encoder) x = block.forward(x, mask)
    return this.encoderNorm ? this.encoderNorm.forward(x) : x
  }

  /**
   * Logits [N, T, vocabulary] of the tokens behind those of `target`, i32 [N, T]; `context` is what `encode` made of the
   * source, or of each block what `cross.project` makes of that. `past` as in `GPT`.
   */
  decode(
    target: Tensor,
    context: Tensor | readonly nn.KeysAndValues[],
    source: Tensor,
    past?: { positions: Tensor; blocks: readonly nn.Past[] },
  ): Tensor {
    let x = this.#embedded(target, past?.positions, past?.blocks[0].keys.shape[0])
    const mask = this.#mask(source)
    this.decoder.forEach((block, i) => {
      x = block.forward(x, Array.isArray(context) ? context[i] : context, mask, past?.blocks[i])
    })
    return linear(this.decoderNorm ? this.decoderNorm.forward(x) : x, this.tokens.weight)
  }

  /** Tokens i32 [N, S] and [N, T] to logits [N, T, vocabulary]: at each position of the target for the one behind it. */
  forward(source: Tensor, target: Tensor): Tensor {
    const context = this.encode(source)
    return this.decode(target, context, source)
  }
}

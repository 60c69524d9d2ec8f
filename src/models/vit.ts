import { expectOptions } from '../errors'
import * as nn from '../nn'
import { concat, normal, zeros } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { makeBlocks, throughBlocks, transformerOptions, type Blocks, type TransformerOptions } from './block'
import { Patches } from './patches'

/** Options of `ViT`. */
export interface ViTOptions extends Omit<TransformerOptions, 'causal' | 'norm'> {
  /** Height and width of the images: one number, or both. */
  image: number | readonly [number, number]
  /** Side of the square patches; it divides height and width. */
  patch: number
  /** Number of classes. */
  classes: number
  /** Channels of the images (3). */
  channels?: number
  /** Added to the variance in norms (1e-6). */
  eps?: number
}

/**
 * A Vision Transformer (Dosovitskiy et al. 2021): patches as tokens, a class token in front of them, learnt positions,
 * blocks with their norms before the branches, and a classifier on the class token. Blocks are `blocks.0`, ...
 * ViT-Tiny for images of 224 x 224 is
 * `new ViT({ image: 224, patch: 16, layers: 12, features: 192, heads: 3, classes: 1000 })`, 5.7 million weights.
 */
export class ViT extends nn.Module {
  /** Patches to tokens. */
  readonly patches: Patches
  /** Class token, [features]. */
  readonly token: nn.Parameter
  /** Positions of the class token and the patches, row by row, [1 + patches, features]. */
  readonly positions: nn.Parameter
  /** Behind the positions. */
  readonly dropout: nn.Dropout
  /** The blocks, from first to last. */
  readonly blocks: Blocks
  /** Norm of the class token behind the last block. */
  readonly norm: nn.LayerNorm
  /** Classifier. */
  readonly head: nn.Linear

  constructor(options: ViTOptions) {
    super()
    expectOptions('ViT', options, ['image', 'patch', 'classes', 'channels', ...transformerOptions])
    const { classes, features, dropout = 0, eps = 1e-6 } = options
    this.patches = new Patches('ViT', options)
    this.token = new nn.Parameter(zeros([features]))
    this.positions = new nn.Parameter(normal([1 + this.patches.count, features], { std: 0.02 }))
    this.dropout = new nn.Dropout(dropout)
    this.blocks = makeBlocks({ ...options, eps, norm: 'before' })
    this.norm = new nn.LayerNorm(features, { eps })
    this.head = new nn.Linear(features, classes)
  }

  /**
   * Images [N, height, width, channels] to logits [N, classes].
   * @throws AUX_SHAPE_MISMATCH for images of another size.
   */
  forward(x: Tensor): Tensor {
    const patches = this.patches.forward(x)
    const [n, , features] = patches.shape
    const token = this.token.reshape([1, 1, features]).expand([n, 1, features])
    const tokens = concat([token, patches], 1)
    const y = throughBlocks(this.blocks, this.dropout.forward(tokens.add(this.positions)))
    return this.head.forward(this.norm.forward(y.select(1, 0)))
  }
}

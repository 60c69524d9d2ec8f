import { expectIntegers, expectOptions, picked } from '../errors'
import * as nn from '../nn'
import type { Tensor } from '../tensor/tensor'
import { Patches } from './patches'

/** Options of `Mixer`. */
export interface MixerOptions {
  /** Height and width of the images: one number, or both. */
  image: number | readonly [number, number]
  /** Side of the square patches; it divides height and width. */
  patch: number
  /** Number of classes. */
  classes: number
  /** Channels of the images (3). */
  channels?: number
  /** Number of blocks. */
  layers: number
  /** Channels of a token. */
  features: number
  /** Width inside the MLPs over tokens (features / 2). */
  tokenHidden?: number
  /** Width inside the MLPs over channels (4 · features). */
  hidden?: number
  /** Probability of dropping behind each MLP (0). */
  dropout?: number
  /** Added to the variance in norms (1e-6). */
  eps?: number
}

/** Two linear layers with GELU between, on the last axis. */
class Perceptron extends nn.Module {
  readonly fc1: nn.Linear
  readonly fc2: nn.Linear

  constructor(features: number, hidden: number) {
    super()
    this.fc1 = new nn.Linear(features, hidden)
    this.fc2 = new nn.Linear(hidden, features)
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.fc1.forward(x).gelu())
  }
}

const blockOptions = ['features', 'tokenHidden', 'hidden', 'dropout', 'eps'] as const

/** An MLP over tokens, the same for all channels, and one over channels, the same for all tokens. */
export class MixerBlock extends nn.Module {
  /** Norm before the MLP over tokens. */
  readonly norm1: nn.LayerNorm
  /** Over tokens: [N, features, tokens] to the same. */
  readonly tokens: Perceptron
  /** Norm before the MLP over channels. */
  readonly norm2: nn.LayerNorm
  /** Over channels: [N, tokens, features] to the same. */
  readonly channels: Perceptron
  /** Behind each. */
  readonly dropout: nn.Dropout

  constructor(tokens: number, options: Pick<MixerOptions, (typeof blockOptions)[number]>) {
    super()
    expectOptions('MixerBlock', options, blockOptions)
    const { features, tokenHidden = Math.ceil(features / 2), hidden = 4 * features, dropout = 0, eps = 1e-6 } = options
    this.norm1 = new nn.LayerNorm(features, { eps })
    this.tokens = new Perceptron(tokens, tokenHidden)
    this.norm2 = new nn.LayerNorm(features, { eps })
    this.channels = new Perceptron(features, hidden)
    this.dropout = new nn.Dropout(dropout)
  }

  /** @internal For `asaPlacement`. */
  get placement(): readonly nn.Module[][] {
    return [[this.channels.fc2], [this.channels.fc1], [this.tokens.fc2], [this.tokens.fc1]]
  }

  /** [N, tokens, features] to the same. */
  forward(x: Tensor): Tensor {
    const mixed = this.tokens.forward(this.norm1.forward(x).permute([0, 2, 1])).permute([0, 2, 1])
    x = x.add(this.dropout.forward(mixed))
    return x.add(this.dropout.forward(this.channels.forward(this.norm2.forward(x))))
  }
}

/**
 * MLP-Mixer (Tolstikhin et al. 2021): patches as tokens, blocks that mix tokens and channels in turn, and a classifier on
 * the mean over tokens. Blocks are `blocks.0`, ... Mixer-B/16 for images of 224 x 224 is
 * `new Mixer({ image: 224, patch: 16, layers: 12, features: 768, classes: 1000 })`, 59.9 million weights.
 */
export class Mixer extends nn.Module {
  /** Patches to tokens. */
  readonly patches: Patches
  /** The blocks, from first to last. */
  readonly blocks: MixerBlock[]
  /** Norm behind the last block. */
  readonly norm: nn.LayerNorm
  /** Classifier. */
  readonly head: nn.Linear

  constructor(options: MixerOptions) {
    super()
    expectOptions('Mixer', options, [...['image', 'patch', 'classes', 'channels', 'layers'], ...blockOptions])
    const { layers, features, classes, eps = 1e-6 } = options
    expectIntegers('Mixer', { layers })
    this.patches = new Patches('Mixer', options)
    const own = picked(options, blockOptions)
    this.blocks = Array.from({ length: layers }, () => new MixerBlock(this.patches.count, own))
    this.norm = new nn.LayerNorm(features, { eps })
    this.head = new nn.Linear(features, classes)
  }

  /**
   * Images [N, height, width, channels] to logits [N, classes].
   * @throws AUX_SHAPE_MISMATCH for images of another size.
   */
  forward(x: Tensor): Tensor {
    x = this.patches.forward(x)
    for (const block of this.blocks) x = block.forward(x)
    return this.head.forward(this.norm.forward(x).mean(1))
  }
}

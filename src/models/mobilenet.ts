import { expectIntegers, expectOneOf, expectOptions, fail } from '../errors'
import * as nn from '../nn'
import type { Tensor } from '../tensor/tensor'

/** A convolution without bias, batch norm, and ReLU6 if it is not a linear one. */
class ConvNorm extends nn.Module {
  readonly conv: nn.Conv2d
  readonly norm: nn.BatchNorm2d
  readonly #linear: boolean

  constructor(
    inputs: number,
    outputs: number,
    kernel: number,
    options: { stride?: number; groups?: number; linear?: boolean } = {},
  ) {
    super()
    const { stride = 1, groups = 1, linear = false } = options
    this.conv = new nn.Conv2d(inputs, outputs, kernel, { stride, padding: (kernel - 1) / 2, groups, bias: false })
    this.norm = new nn.BatchNorm2d(outputs)
    this.#linear = linear
  }

  forward(x: Tensor): Tensor {
    const y = this.norm.forward(this.conv.forward(x))
    return this.#linear ? y : y.relu6()
  }
}

/** Wide inside, narrow outside: 1x1 to more channels, 3x3 on each channel for itself, 1x1 back, with no activation there. */
export class InvertedResidual extends nn.Module {
  /** 1x1, to `expand` times as many channels; none where that is 1. */
  readonly widen: ConvNorm | undefined
  /** 3x3, each channel for itself. */
  readonly depthwise: ConvNorm
  /** 1x1, to the channels of the result; linear. */
  readonly narrow: ConvNorm
  /** Whether the input is added to the result: where both have one shape. */
  readonly residual: boolean

  constructor(inputs: number, outputs: number, options: { stride?: number; expand?: number } = {}) {
    super()
    expectOptions('InvertedResidual', options, ['stride', 'expand'])
    const { stride = 1, expand = 6 } = options
    expectIntegers('InvertedResidual', { inputs, outputs, expand })
    const inside = inputs * expand
    this.widen = expand === 1 ? undefined : new ConvNorm(inputs, inside, 1)
    this.depthwise = new ConvNorm(inside, inside, 3, { stride, groups: inside })
    this.narrow = new ConvNorm(inside, outputs, 1, { linear: true })
    this.residual = stride === 1 && inputs === outputs
  }

  /** [N, H, W, inputs] to [N, H / stride, W / stride, outputs]. */
  forward(x: Tensor): Tensor {
    const y = this.narrow.forward(this.depthwise.forward(this.widen ? this.widen.forward(x) : x))
    return this.residual ? x.add(y) : y
  }
}

/** Options of `MobileNetV2`. */
export interface MobileNetV2Options {
  /** Number of classes. */
  classes: number
  /** Channels of the images (3). */
  channels?: number
  /** Factor of all widths (1), which are then rounded to multiples of 8. */
  width?: number
  /** 3x3 at stride 2 as in the paper (`large`, 224x224 images), or this and the first strided block at 1 (`small`, 32x32). */
  stem?: 'small' | 'large'
  /** Probability of dropping before the classifier (0). */
  dropout?: number
}

// Factor inside, channels, blocks, stride of the first one.
const stages = [
  [1, 16, 1, 1],
  [6, 24, 2, 2],
  [6, 32, 3, 2],
  [6, 64, 4, 2],
  [6, 96, 3, 1],
  [6, 160, 3, 2],
  [6, 320, 1, 1],
] as const

/** The multiple of 8 that is next to it, but no less than 8 and nine tenths of it. */
function rounded(channels: number): number {
  const near = Math.max(8, 8 * Math.floor((channels + 4) / 8))
  return near < 0.9 * channels ? near + 8 : near
}

/**
 * MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks, 3.5 million weights for 1000 classes. Blocks
 * are `blocks.0` to `blocks.16`. It is the network of TinyTL (Cai et al. 2020): `nn.addLiteResiduals(model, 'blocks.*')`.
 */
export class MobileNetV2 extends nn.Module {
  /** 3x3 convolution of the image. */
  readonly stem: ConvNorm
  /** The blocks, from first to last. */
  readonly blocks: InvertedResidual[]
  /** 1x1 convolution behind the blocks. */
  readonly last: ConvNorm
  /** Before the classifier. */
  readonly dropout: nn.Dropout
  /** Classifier on the mean over the image. */
  readonly fc: nn.Linear

  constructor(options: MobileNetV2Options) {
    super()
    expectOptions('MobileNetV2', options, ['classes', 'channels', 'width', 'stem', 'dropout'])
    const { classes, channels = 3, width = 1, stem = 'large', dropout = 0 } = options
    if (!(width > 0 && Number.isFinite(width)))
      fail('AUX_INVALID_ARGUMENT', `MobileNetV2: expected a width > 0, got ${String(width)}`)
    expectOneOf('MobileNetV2', { stem }, 'small', 'large')
    const small = stem === 'small'
    let inputs = rounded(32 * width)
    this.stem = new ConvNorm(channels, inputs, 3, { stride: small ? 1 : 2 })
    this.blocks = stages.flatMap(([expand, planes, count, first], stage) =>
      Array.from({ length: count }, (_, i) => {
        const stride = i || (small && stage === 1) ? 1 : first
        const outputs = rounded(planes * width)
        const block = new InvertedResidual(inputs, outputs, { stride, expand })
        inputs = outputs
        return block
      }),
    )
    const outputs = rounded(1280 * Math.max(1, width))
    this.last = new ConvNorm(inputs, outputs, 1)
    this.dropout = new nn.Dropout(dropout)
    this.fc = new nn.Linear(outputs, classes)
  }

  /** Images [N, H, W, channels] to logits [N, classes]. */
  forward(x: Tensor): Tensor {
    x = this.stem.forward(x)
    for (const block of this.blocks) x = block.forward(x)
    return this.fc.forward(this.dropout.forward(this.last.forward(x).mean([1, 2])))
  }
}

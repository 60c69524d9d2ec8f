import { expectOneOf, expectOptions, fail } from '../errors'
import * as nn from '../nn'
import type { Tensor } from '../tensor/tensor'

// Residual networks (He et al. 2016), and the layout that auxiliary residual activation wants (Woo & Jeon 2023): the
// block that changes the shape ends its stage instead of beginning it, so that every block of a stage reads one shape.

/** Where a block that changes the shape stands: at the beginning of its stage, or, as ARA wants it, at the end. */
export type Layout = 'standard' | 'ara'
type Convolution = { stride?: number; padding?: number }

const conv = (inputs: number, outputs: number, kernel: number, options: Convolution = {}): nn.Conv2d =>
  new nn.Conv2d(inputs, outputs, kernel, { ...options, bias: false })

/** Convolution and batch norm. */
class Projection extends nn.Module {
  readonly conv: nn.Conv2d
  readonly norm: nn.BatchNorm2d

  constructor(inputs: number, outputs: number, stride: number) {
    super()
    this.conv = conv(inputs, outputs, 1, { stride })
    this.norm = new nn.BatchNorm2d(outputs)
  }

  forward(x: Tensor): Tensor {
    return this.norm.forward(this.conv.forward(x))
  }
}

/** Two 3x3 convolutions and the shortcut. */
export class BasicBlock extends nn.Module {
  /** First convolution; it reads the block's input. */
  readonly conv1: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm1: nn.BatchNorm2d
  /** Second convolution. */
  readonly conv2: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm2: nn.BatchNorm2d
  /** Projection of the input where the shape changes. */
  readonly shortcut: Projection | undefined

  constructor(
    inputs: number,
    /** Channels of the result. */
    readonly planes: number,
    stride = 1,
  ) {
    super()
    this.conv1 = conv(inputs, planes, 3, { stride, padding: 1 })
    this.norm1 = new nn.BatchNorm2d(planes)
    this.conv2 = conv(planes, planes, 3, { padding: 1 })
    this.norm2 = new nn.BatchNorm2d(planes)
    this.shortcut = stride !== 1 || inputs !== planes ? new Projection(inputs, planes, stride) : undefined
  }

  /** [N, H, W, inputs] to [N, H / stride, W / stride, planes]. */
  forward(x: Tensor): Tensor {
    const y = this.norm1.forward(this.conv1.forward(x)).relu()
    const z = this.norm2.forward(this.conv2.forward(y))
    return z.add(this.shortcut ? this.shortcut.forward(x) : x).relu()
  }
}

/** 1x1, 3x3 and 1x1 convolutions, four times as wide outside as inside, and the shortcut. */
export class Bottleneck extends nn.Module {
  /** First convolution; it reads the block's input. */
  readonly conv1: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm1: nn.BatchNorm2d
  /** Second convolution. */
  readonly conv2: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm2: nn.BatchNorm2d
  /** Third convolution, 1x1, to four times as many channels. */
  readonly conv3: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm3: nn.BatchNorm2d
  /** Projection of the input where the shape changes. */
  readonly shortcut: Projection | undefined

  constructor(inputs: number, planes: number, stride = 1) {
    super()
    const outputs = 4 * planes
    this.conv1 = conv(inputs, planes, 1)
    this.norm1 = new nn.BatchNorm2d(planes)
    this.conv2 = conv(planes, planes, 3, { stride, padding: 1 })
    this.norm2 = new nn.BatchNorm2d(planes)
    this.conv3 = conv(planes, outputs, 1)
    this.norm3 = new nn.BatchNorm2d(outputs)
    this.shortcut = stride !== 1 || inputs !== outputs ? new Projection(inputs, outputs, stride) : undefined
  }

  /** [N, H, W, inputs] to [N, H / stride, W / stride, 4 · planes]. */
  forward(x: Tensor): Tensor {
    let y = this.norm1.forward(this.conv1.forward(x)).relu()
    y = this.norm2.forward(this.conv2.forward(y)).relu()
    y = this.norm3.forward(this.conv3.forward(y))
    return y.add(this.shortcut ? this.shortcut.forward(x) : x).relu()
  }
}

/** Options of `ResNet`. */
export interface ResNetOptions {
  /** 18, 34, 50, 101 or 152. */
  depth: 18 | 34 | 50 | 101 | 152
  /** Number of classes. */
  classes: number
  /** Channels of the images (3). */
  channels?: number
  /** Where blocks that change the shape stand (`standard`). */
  layout?: Layout
  /** 3x3 at stride 1 (`small`, 32x32 images), at stride 2 (`medium`, 64x64), 7x7 at stride 2 and max pool (`large`, 224x224). */
  stem?: 'small' | 'medium' | 'large'
  /** Width of the first stage (64). */
  width?: number
}

const blocksOf: Record<ResNetOptions['depth'], Record<Layout, readonly number[]>> = {
  18: { standard: [2, 2, 2, 2], ara: [3, 2, 2, 1] },
  34: { standard: [3, 4, 6, 3], ara: [4, 4, 6, 2] },
  50: { standard: [3, 4, 6, 3], ara: [4, 4, 6, 2] },
  101: { standard: [3, 4, 23, 3], ara: [4, 4, 23, 2] },
  152: { standard: [3, 8, 36, 3], ara: [4, 8, 36, 2] },
}

/** Stages are `stage1` to `stage4`, their blocks `stage1.0`, `stage1.1`, ... */
export class ResNet extends nn.Module {
  /** First convolution. */
  readonly stem: nn.Conv2d
  /** Batch norm behind it. */
  readonly norm: nn.BatchNorm2d
  /** Bottleneck networks in the ARA layout: the block that widens the stem's output, before the first stage. */
  readonly widen: Bottleneck | undefined
  /** First stage of residual blocks. */
  readonly stage1: nn.Sequential
  /** Second stage of residual blocks. */
  readonly stage2: nn.Sequential
  /** Third stage of residual blocks. */
  readonly stage3: nn.Sequential
  /** Fourth stage of residual blocks. */
  readonly stage4: nn.Sequential
  /** Classifier on the mean over the image. */
  readonly fc: nn.Linear
  readonly #pool: boolean

  constructor(options: ResNetOptions) {
    super()
    expectOptions('ResNet', options, ['depth', 'classes', 'channels', 'layout', 'stem', 'width'])
    const { depth, classes, channels = 3, layout = 'standard', stem = 'small', width = 64 } = options
    const counts = blocksOf[depth]?.[layout]
    if (!counts)
      fail(
        'AUX_INVALID_ARGUMENT',
        `ResNet: expected depth 18, 34, 50, 101 or 152 and layout 'standard' or 'ara', got ${depth} and ${layout}`,
      )
    expectOneOf('ResNet', { stem }, 'small', 'medium', 'large')
    const large = stem === 'large'
    this.stem = conv(channels, width, large ? 7 : 3, { stride: stem === 'small' ? 1 : 2, padding: large ? 3 : 1 })
    this.norm = new nn.BatchNorm2d(width)
    this.#pool = large
    const Block = depth >= 50 ? Bottleneck : BasicBlock
    const expansion = depth >= 50 ? 4 : 1
    let inputs = width
    const blocks = [...counts]
    if (layout === 'ara' && depth >= 50) {
      this.widen = new Bottleneck(inputs, width)
      inputs = width * expansion
      blocks[0]--
    }
    const stages = blocks.map((count, s) => {
      const own = width * 2 ** s
      return new nn.Sequential(
        ...Array.from({ length: count }, (_, i) => {
          const last = layout === 'ara' && s < 3 && i === count - 1
          const strided = last || (layout === 'standard' && s > 0 && i === 0)
          const planes = last ? 2 * own : own
          const block = new Block(inputs, planes, strided ? 2 : 1)
          inputs = planes * expansion
          return block
        }),
      )
    })
    ;[this.stage1, this.stage2, this.stage3, this.stage4] = stages
    this.fc = new nn.Linear(inputs, classes)
  }

  /** Images [N, H, W, channels] to logits [N, classes]. */
  forward(x: Tensor): Tensor {
    x = this.norm.forward(this.stem.forward(x)).relu()
    if (this.#pool) x = x.maxPool2d(3, { stride: 2, padding: 1 })
    if (this.widen) x = this.widen.forward(x)
    for (const stage of [this.stage1, this.stage2, this.stage3, this.stage4]) x = stage.forward(x)
    return this.fc.forward(x.mean([1, 2]))
  }
}

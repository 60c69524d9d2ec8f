import { expectOptions } from '../errors'
import * as nn from '../nn'
import type { Tensor } from '../tensor/tensor'
import { BasicBlock } from './resnet'

/** A small residual network for small grey images: a stem and two stages of residual blocks, 0.3 million weights. */
export class CNN extends nn.Module {
  /** 3x3 convolution of the image. */
  readonly stem: nn.Conv2d
  /** Batch norm behind the stem. */
  readonly norm: nn.BatchNorm2d
  /** Three residual blocks; the last one halves the image and doubles the channels. */
  readonly stage1: nn.Sequential
  /** Two residual blocks. */
  readonly stage2: nn.Sequential
  /** Classifier on the mean over the image. */
  readonly fc: nn.Linear

  constructor(options: { channels?: number; classes?: number; width?: number } = {}) {
    super()
    expectOptions('CNN', options, ['channels', 'classes', 'width'])
    const { channels = 1, classes = 10, width = 32 } = options
    this.stem = new nn.Conv2d(channels, width, 3, { padding: 1, bias: false })
    this.norm = new nn.BatchNorm2d(width)
    // The block that changes the shape ends its stage: what auxiliary residual activation wants.
    this.stage1 = new nn.Sequential(
      new BasicBlock(width, width),
      new BasicBlock(width, width),
      new BasicBlock(width, 2 * width, 2),
    )
    this.stage2 = new nn.Sequential(new BasicBlock(2 * width, 2 * width), new BasicBlock(2 * width, 2 * width))
    this.fc = new nn.Linear(2 * width, classes)
  }

  /** Images [N, H, W, channels] to logits [N, classes]. */
  forward(x: Tensor): Tensor {
    x = this.norm.forward(this.stem.forward(x)).relu().maxPool2d(2)
    return this.fc.forward(this.stage2.forward(this.stage1.forward(x)).mean([1, 2]))
  }
}

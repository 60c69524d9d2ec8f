import { expectOptions, fail } from '../errors'
import { Graph } from '../graph/graph'
import type { ModuleTest } from '../memory/assignment'
import { interpolate, zeros } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import type { Layer } from './container'
import { Conv2d } from './conv'
import { Module } from './module'
import { BatchNorm1d, BatchNorm2d } from './norm'
import { modulesMeant, replaceModules } from './replace'

/** Options of `LiteResidual`. */
export interface LiteResidualOptions {
  /** Side of the squares over which the input is averaged first (2). */
  pool?: number
  /** Channels inside, as a multiple of the input's (1: a sixth of what an inverted bottleneck has inside). */
  expand?: number
  /** Side of the convolution, odd (5). */
  kernel?: number
  /** Its groups (2), where they divide the channels; else 1. */
  groups?: number
}

/**
 * A block of a convolutional network with a lite residual module beside it (Cai et al. 2020, *TinyTL*): averages of the
 * input, a group convolution, norm, ReLU, a 1x1 convolution and norm, enlarged again (bilinear) and added to what the block returns. It
 * works on a quarter of the pixels, so that is what backward keeps of it; its last norm begins as zeros, so the block
 * computes what it did.
 */
export class LiteResidual extends Module {
  /** The block as it was. */
  readonly block: Layer
  /** Group convolution on the averaged input. */
  readonly conv1: Conv2d
  /** Norm behind it. */
  readonly norm1: BatchNorm2d
  /** 1x1, to the channels of the block's result. */
  readonly conv2: Conv2d
  /** Norm behind it; its factor is zeros at first. */
  readonly norm2: BatchNorm2d
  readonly #pool: number

  constructor(block: Layer, inputs: number, outputs: number, options: LiteResidualOptions = {}) {
    super()
    expectOptions('LiteResidual', options, ['pool', 'expand', 'kernel', 'groups'])
    const { pool = 2, expand = 1, kernel = 5, groups = 2 } = options
    const inside = Math.max(1, Math.round(inputs * expand))
    if (!Number.isInteger(pool) || pool < 1 || kernel % 2 !== 1 || !(expand > 0))
      fail(
        'AUX_INVALID_ARGUMENT',
        `LiteResidual: expected pool >= 1, expand > 0 and an odd kernel, got ${pool}, ${expand} and ${kernel}`,
      )
    this.block = block
    this.#pool = pool
    this.conv1 = new Conv2d(inputs, inside, kernel, {
      padding: (kernel - 1) / 2,
      groups: inputs % groups || inside % groups ? 1 : groups,
      bias: false,
    })
    this.norm1 = new BatchNorm2d(inside)
    this.conv2 = new Conv2d(inside, outputs, 1, { bias: false })
    this.norm2 = new BatchNorm2d(outputs)
    tidy(() => void this.norm2.weight!.assign(zeros([outputs])))
  }

  /** [N, H, W, inputs] to what the block makes of it. */
  forward(x: Tensor): Tensor {
    const y = this.block.forward(x)
    const size = [1, 2].map((axis) => Math.min(Math.ceil(x.shape[axis] / this.#pool), y.shape[axis])) as [
      number,
      number,
    ]
    const z = this.norm1.forward(this.conv1.forward(x.adaptiveAvgPool2d(size))).relu()
    const low = this.norm2.forward(this.conv2.forward(z))
    return y.add(interpolate(low, { size: [y.shape[1], y.shape[2]], mode: 'bilinear' }))
  }
}

/** Channels of what a block reads and of what it makes of that. */
function channelsOf(path: string, block: Layer): [number, number] {
  const first = [...block.namedModules()].map(([, m]) => m).find((m) => m instanceof Conv2d)
  if (!first) fail('AUX_INVALID_ARGUMENT', `addLiteResiduals: no convolution inside ${path}`)
  const graph = new Graph()
  try {
    const y = graph.trace(() => block.forward(graph.input('x', [1, 64, 64, first.inputs], 'f32')))
    return [first.inputs, y.shape[3]]
  } finally {
    graph.dispose()
  }
}

/**
 * Transfer in little memory (Cai et al. 2020, *TinyTL*): freezes a convolutional network and puts a lite residual module
 * beside each block that is meant (names or patterns as in `memory`, or tests), whose path then is that of the
 * `LiteResidual` and whose own parts are below `block`. Frozen batch norms use their running statistics from now on, also
 * in training, so that nothing of what they read is kept. Returns the paths. What else is to learn is unfrozen after
 * that: `model.unfreeze('**.bias', 'fc')`, biases and the classifier.
 * @throws AUX_INVALID_ARGUMENT if no module is meant, or one without a convolution.
 */
export function addLiteResiduals(
  model: Module,
  where: string | RegExp | ModuleTest,
  options: LiteResidualOptions = {},
): string[] {
  const found = modulesMeant(model, where, (m): m is Layer => m instanceof Module, 'addLiteResiduals: no module')
  const made = found.map(
    ([path, block]) => [block, new LiteResidual(block, ...channelsOf(path, block), options)] as const,
  )
  for (const [, m] of model.namedModules()) if (m instanceof BatchNorm1d || m instanceof BatchNorm2d) m.eval()
  model.freeze()
  replaceModules(model, new Map(made))
  return found.map(([path]) => path)
}

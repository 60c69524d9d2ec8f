import {
  interpolate,
  type InterpolateOptions,
  type Pool1dOptions,
  type Pool3dOptions,
  type PoolOptions,
  type Triple,
} from '../ops'
import type { Pair } from '../ops/geometry'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** Maximum over windows. */
export class MaxPool2d extends Module {
  constructor(
    /** Height and width of a window, or one number for both. */
    readonly kernel: Pair,
    /** Stride (the kernel) and padding (0). */
    readonly options: PoolOptions = {},
  ) {
    super()
  }
  /** [N, H, W, C] to [N, P, Q, C]. */
  forward(x: Tensor): Tensor {
    return x.maxPool2d(this.kernel, this.options)
  }
}
/** Mean over windows; padding counts as zeros. */
export class AvgPool2d extends Module {
  constructor(
    /** Height and width of a window, or one number for both. */
    readonly kernel: Pair,
    /** Stride (the kernel) and padding (0). */
    readonly options: PoolOptions = {},
  ) {
    super()
  }
  /** [N, H, W, C] to [N, P, Q, C]. */
  forward(x: Tensor): Tensor {
    return x.avgPool2d(this.kernel, this.options)
  }
}
/** Mean over bins that divide the image into `size` parts. */
export class AdaptiveAvgPool2d extends Module {
  constructor(
    /** Height and width of the result, or one number for both. */
    readonly size: Pair,
  ) {
    super()
  }
  /** [N, H, W, C] to [N, height, width, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveAvgPool2d(this.size)
  }
}
/** Maximum over windows of a sequence. */
export class MaxPool1d extends Module {
  constructor(
    /** Length of a window. */
    readonly kernel: number,
    /** Stride (the kernel) and padding (0). */
    readonly options: Pool1dOptions = {},
  ) {
    super()
  }
  /** [N, L, C] to [N, P, C]. */
  forward(x: Tensor): Tensor {
    return x.maxPool1d(this.kernel, this.options)
  }
}
/** Mean over windows of a sequence; padding counts as zeros. */
export class AvgPool1d extends Module {
  constructor(
    /** Length of a window. */
    readonly kernel: number,
    /** Stride (the kernel) and padding (0). */
    readonly options: Pool1dOptions = {},
  ) {
    super()
  }
  /** [N, L, C] to [N, P, C]. */
  forward(x: Tensor): Tensor {
    return x.avgPool1d(this.kernel, this.options)
  }
}
/** Mean over bins that divide the sequence into `size` parts. */
export class AdaptiveAvgPool1d extends Module {
  constructor(
    /** Length of the result. */
    readonly size: number,
  ) {
    super()
  }
  /** [N, L, C] to [N, size, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveAvgPool1d(this.size)
  }
}
/** Maximum over windows of a volume. */
export class MaxPool3d extends Module {
  constructor(
    /** Depth, height and width of a window, or one number for all. */
    readonly kernel: Triple,
    /** Stride (the kernel) and padding (0). */
    readonly options: Pool3dOptions = {},
  ) {
    super()
  }
  /** [N, D, H, W, C] to [N, P, Q, R, C]. */
  forward(x: Tensor): Tensor {
    return x.maxPool3d(this.kernel, this.options)
  }
}
/** Mean over windows of a volume; padding counts as zeros. */
export class AvgPool3d extends Module {
  constructor(
    /** Depth, height and width of a window, or one number for all. */
    readonly kernel: Triple,
    /** Stride (the kernel) and padding (0). */
    readonly options: Pool3dOptions = {},
  ) {
    super()
  }
  /** [N, D, H, W, C] to [N, P, Q, R, C]. */
  forward(x: Tensor): Tensor {
    return x.avgPool3d(this.kernel, this.options)
  }
}
/** Mean over bins that divide the volume into `size` parts. */
export class AdaptiveAvgPool3d extends Module {
  constructor(
    /** Depth, height and width of the result, or one number for all. */
    readonly size: Triple,
  ) {
    super()
  }
  /** [N, D, H, W, C] to [N, depth, height, width, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveAvgPool3d(this.size)
  }
}
/** Maximum over bins that divide the sequence into `size` parts. */
export class AdaptiveMaxPool1d extends Module {
  constructor(
    /** Length of the result. */
    readonly size: number,
  ) {
    super()
  }
  /** [N, L, C] to [N, size, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveMaxPool1d(this.size)
  }
}
/** Maximum over bins that divide the image into `size` parts. */
export class AdaptiveMaxPool2d extends Module {
  constructor(
    /** Height and width of the result, or one number for both. */
    readonly size: Pair,
  ) {
    super()
  }
  /** [N, H, W, C] to [N, height, width, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveMaxPool2d(this.size)
  }
}
/** Maximum over bins that divide the volume into `size` parts. */
export class AdaptiveMaxPool3d extends Module {
  constructor(
    /** Depth, height and width of the result, or one number for all. */
    readonly size: Triple,
  ) {
    super()
  }
  /** [N, D, H, W, C] to [N, depth, height, width, C]. */
  forward(x: Tensor): Tensor {
    return x.adaptiveMaxPool3d(this.size)
  }
}
/** Images of another size, as `interpolate`. */
export class Upsample extends Module {
  constructor(
    /** Size or scale, and mode. */
    readonly options: InterpolateOptions,
  ) {
    super()
  }
  /** [N, H, W, C] to [N, P, Q, C]. */
  forward(x: Tensor): Tensor {
    return interpolate(x, this.options)
  }
}

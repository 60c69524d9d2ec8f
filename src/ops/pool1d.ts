import { expectIntegers, expectOptions } from '../errors'
import { expectRank } from '../graph/op'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import './pool'

/** Window of a pooling along a sequence; the stride is the window's length unless given. */
export interface Pool1dOptions {
  /** Places between windows (the length of the window). */
  stride?: number
  /** Positions before and behind the sequence (0). */
  padding?: number
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Maximum over windows: [N, L, C] to [N, P, C]. */
    maxPool1d(kernel: number, options?: Pool1dOptions): Tensor
    /** Mean over windows: [N, L, C] to [N, P, C]; padding counts as zeros. */
    avgPool1d(kernel: number, options?: Pool1dOptions): Tensor
    /** Mean over bins that divide the sequence into `size` parts: [N, L, C] to [N, size, C]. */
    adaptiveAvgPool1d(size: number): Tensor
  }
}

// Each is the pooling of an image one row high.
for (const kind of ['max', 'avg'] as const) {
  const name = `${kind}Pool1d` as const
  Tensor.prototype[name] = function (kernel, options = {}) {
    expectRank(name, 'input', this, 3)
    expectOptions(name, options, ['stride', 'padding'])
    const { stride = kernel, padding = 0 } = options
    expectIntegers(name, { kernel, stride })
    expectIntegers(name, { padding }, 0)
    const row = { stride: [1, stride], padding: [0, padding] } as const
    return tidy(() => this.unsqueeze(1)[`${kind}Pool2d`]([1, kernel], row).squeeze(1))
  }
}
Tensor.prototype.adaptiveAvgPool1d = function (size) {
  expectRank('adaptiveAvgPool1d', 'input', this, 3)
  expectIntegers('adaptiveAvgPool1d', { size })
  return tidy(() => this.unsqueeze(1).adaptiveAvgPool2d([1, size]).squeeze(1))
}

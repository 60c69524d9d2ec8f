import { fail } from '../errors'
import * as nn from '../nn'
import { pair } from '../ops/geometry'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'

/** Images to tokens, one a square patch, row by row: a convolution whose kernel and stride are the patch. */
export class Patches extends nn.Conv2d {
  /** Patches of an image. */
  readonly count: number
  readonly #model: string
  readonly #image: readonly [number, number]

  constructor(
    model: string,
    options: { image: number | readonly [number, number]; patch: number; channels?: number; features: number },
  ) {
    const { image, patch, channels = 3, features } = options
    const [height, width] = pair(`${model}: image`, image, undefined)
    const [rows, columns] = [height / patch, width / patch]
    if (!(Number.isInteger(rows) && Number.isInteger(columns) && rows > 0 && columns > 0))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${model}: expected a patch that divides an image of ${height} x ${width}, got ${patch}`,
      )
    super(channels, features, patch, { stride: patch })
    this.count = rows * columns
    this.#model = model
    this.#image = [height, width]
  }

  /**
   * [N, height, width, channels] to [N, patches, features].
   * @throws AUX_SHAPE_MISMATCH for images of another size.
   */
  override forward(x: Tensor): Tensor {
    const [height, width] = this.#image
    if (x.rank !== 4 || x.shape[1] !== height || x.shape[2] !== width)
      fail(
        'AUX_SHAPE_MISMATCH',
        `${this.#model}: expected images [N, ${height}, ${width}, channels], got ${showShape(x.shape)}`,
      )
    return super.forward(x).reshape([x.shape[0], this.count, -1])
  }
}

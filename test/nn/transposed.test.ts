import { asa, checkpoint, concat, nn, quantized, zeros, type Tensor } from '../../src'
import { trained } from '../support/policies'

/** Down by a convolution, up by a transposed one and by interpolation. */
class Hourglass extends nn.Module {
  readonly down = new nn.Conv2d(2, 8, 3, { stride: 2, padding: 1 })
  readonly up = new nn.ConvTranspose2d(8, 4, 2, { stride: 2 })
  readonly resize = new nn.Upsample({ scale: 2, mode: 'bilinear' })
  readonly out = new nn.Conv2d(12, 1, 3, { padding: 'same' })
  forward(x: Tensor): Tensor {
    const y = this.down.forward(x).relu()
    return this.out.forward(concat([this.up.forward(y), this.resize.forward(y)], -1))
  }
}
const shape = [2, 16, 16, 2]
const x = { data: Float32Array.from({ length: 1024 }, (_, i) => Math.sin(i * i)), shape }
const y = { data: Float32Array.from({ length: 512 }, (_, i) => Math.cos(i)), shape: [2, 16, 16, 1] }

test('a network with both learns, under every policy', async () => {
  const build = () => new Hourglass()
  const plain = await trained(build, { x, y })
  expect(plain.losses[29]).toBeLessThan(0.9 * plain.losses[0])
  expect((await trained(build, { x, y }, checkpoint())).state).toEqual(plain.state)
  for (const policy of [quantized(), asa()]) {
    const { losses } = await trained(build, { x, y }, policy)
    expect(losses[29]).toBeLessThan(losses[0])
  }
})

test('a transposed convolution undoes the shape of a convolution', () => {
  for (const [size, stride, padding] of [
    [7, 2, 1],
    [8, 2, 1],
    [9, 3, 0],
  ]) {
    const options = { stride, padding }
    const down = new nn.Conv2d(3, 5, 3, options).forward(zeros([1, size, size, 3]))
    const outputPadding = (size + 2 * padding - 3) % stride
    const up = new nn.ConvTranspose2d(5, 3, 3, { ...options, outputPadding }).forward(down)
    expect(up.shape).toEqual([1, size, size, 3])
  }
  expect(() => new nn.ConvTranspose2d(3, 4, 3, { groups: 2 })).toThrow(/2 groups/)
  expect(() => new nn.ConvTranspose2d(3, 4, undefined as never)).toThrow(/kernel/)
  expect(() => new nn.Upsample({ size: 0 }).forward(zeros([1, 2, 2, 1]))).toThrow(/size/)
})

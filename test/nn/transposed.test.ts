import {
  asa,
  checkpoint,
  compile,
  concat,
  convTranspose1d,
  convTranspose3d,
  nn,
  optim,
  quantized,
  seed,
  tensor,
  zeros,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
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

test('volumes are made in the memory of two results, and the input is kept once where no tap is cut', () => {
  for (const [kernel, options, kept] of [
    [2, { stride: 2 }, 1],
    [4, { stride: 2, padding: 1 }, Infinity],
  ] as const) {
    const up = new nn.ConvTranspose3d(32, 16, kernel, options)
    const shape = [2, 8, 16, 16, 32]
    const [input, output] = [2 * 8 * 16 * 16 * 32 * 4, 2 * 16 * 32 * 32 * 16 * 4]
    const plan = compile({ model: up, forward: ({ x }) => up.forward(x) }).plan({ x: shape })
    expect(plan.arenaBytes).toBeLessThan(2.01 * output)
    const loss = ({ x }: Record<string, Tensor>) => up.forward(x).square().mean()
    const step = compile({ model: up, loss, optimizer: new optim.SGD({ lr: 0.1 }) })
    expect(step.plan({ x: shape }).bytes.kept).toBeLessThan(output + kept * input + 1e4)
    step.close()
  }
})

test('sequences and volumes: the layers are the functions on their weights, and learn', async () => {
  const shapes = { x: [2, 5, 3], v: [1, 3, 4, 3, 2] }
  class Both extends nn.Module {
    readonly row = new nn.ConvTranspose1d(3, 4, 3, { stride: 2, groups: 1 })
    readonly cube = new nn.ConvTranspose3d(2, 3, [2, 3, 1], { stride: [2, 1, 1], bias: false })
    forward(x: Tensor, v: Tensor) {
      return { row: this.row.forward(x), cube: this.cube.forward(v) }
    }
  }
  seed(3)
  const model = new Both()
  const value = (shape: number[]) => ({
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i * i)),
    shape,
  })
  const [x, v] = [value(shapes.x), value(shapes.v)]
  const { row, cube } = model.forward(tensor(x.data, x.shape), tensor(v.data, v.shape))
  expect(row.dataSync()).toEqual(
    convTranspose1d(tensor(x.data, x.shape), model.row.weight, model.row.bias, { stride: 2 }).dataSync(),
  )
  expect(cube.dataSync()).toEqual(
    convTranspose3d(tensor(v.data, v.shape), model.cube.weight, undefined, { stride: [2, 1, 1] }).dataSync(),
  )
  expect([model.row.weight.shape, model.cube.weight.shape]).toEqual([
    [3, 3, 4],
    [2, 2, 3, 1, 3],
  ])
  const train = async (memory?: MemoryAssignment) => {
    seed(3)
    const own = new Both()
    const step = compile({
      model: own,
      loss: ({ x, v }) => {
        const y = own.forward(x, v)
        return y.row.sub(1).square().mean().add(y.cube.sub(1).square().mean())
      },
      optimizer: new optim.Adam({ lr: 0.05 }),
      memory,
    })
    const losses: number[] = []
    for (let i = 0; i < 30; i++) losses.push((await step.run({ x, v })).loss)
    expect(step.measuredArenaBytes).toBe(step.plan(shapes).arenaBytes)
    step.close()
    return losses
  }
  const plain = await train()
  expect(plain[29]).toBeLessThan(0.9 * plain[0])
  expect(await train(checkpoint())).toEqual(plain)
  expect(() => new nn.ConvTranspose1d(3, 4, 0)).toThrow(/^ConvTranspose1d: expected kernel/)
  expect(() => new nn.ConvTranspose3d(3, 4, 3, { groups: 2 })).toThrow(/^ConvTranspose3d: .*2 groups/)
})

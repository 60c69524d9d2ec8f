import path from 'node:path'
import { io, nn, normal, tensor, train } from '../../src'
import { scratchFolder } from '../support/folder'

const folder = scratchFolder()

test("PyTorch's names of running statistics are known, its counts of batches passed over", async () => {
  const file = path.join(folder, 'net.safetensors')
  const norm = new nn.BatchNorm2d(3)
  const model = new nn.Sequential(new nn.Conv2d(2, 3, 3), norm)
  norm.runningMean.assign([1, 2, 3])
  norm.runningVar.assign([4, 5, 6])
  await train.saveWeights(file, model, { layout: 'torch', name: (name) => `net.${name}` })
  const { tensors } = await io.readSafetensors(file)
  expect([...tensors.keys()].sort()).toEqual(
    ['0.bias', '0.weight', '1.bias', '1.running_mean', '1.running_var', '1.weight'].map((name) =>
      expect.stringMatching(`^net\\..*${name}$`),
    ),
  )
  const all = new Map([...tensors].map(([name, t]) => [name, io.toHostArray(t, 'f32', name)]))
  const [where] = [...tensors.keys()].filter((name) => name.endsWith('running_mean'))
  const counted = where.replace('running_mean', 'num_batches_tracked')
  await io.writeSafetensors(file, all.set(counted, { data: Int32Array.of(7), shape: [], dtype: 'i32' }))
  const again = new nn.Sequential(new nn.Conv2d(2, 3, 3), new nn.BatchNorm2d(3))
  const name = (name: string) => `net.${name}`
  await train.loadWeights(file, again, { layout: 'torch', name })
  for (const [name, t] of again.state()) expect(t.toArray()).toEqual(model.state().get(name)!.toArray())
  // In our own layout a name is what it is.
  await expect(train.loadWeights(file, again, { name })).rejects.toThrow(/num_batches_tracked/)
})

test('of many names that do not fit, an error tells some and how many', async () => {
  const file = path.join(folder, 'deep.safetensors')
  await train.saveWeights(file, new nn.Sequential(...Array.from({ length: 10 }, () => new nn.Linear(2, 2))))
  const refused = train.loadWeights(file, new nn.Linear(2, 2))
  await expect(refused).rejects.toThrow(/missing weight, bias, not the model's (\S+, ){5}\S+ and 14 more$/)
})

test('a tensor is made of what runs and files give', () => {
  const x = normal([2, 3])
  const data = x.dataSync()
  expect(tensor({ data, shape: [2, 3] }).toArray()).toEqual(x.toArray())
  const flags = tensor({ data: Uint8Array.of(1, 0), shape: [2, 1], dtype: 'bool' })
  expect([flags.dtype, flags.shape, flags.toArray()]).toEqual(['bool', [2, 1], [[true], [false]]])
  expect(tensor({ data: Int32Array.of(1, 2), shape: [2] }, [1, 2], 'f32').toArray()).toEqual([[1, 2]])
  expect(tensor({ data: Uint16Array.of(0x3f80), shape: [1], dtype: 'bf16' }, undefined, 'f32').toArray()).toEqual([1])
  expect(() => tensor({ data, shape: [7] })).toThrow(/expected 7 values for shape \[7\]/)
})

test.each(['bf16', 'f16'] as const)('weights in %s are the nearest there are, ties to even', async (dtype) => {
  const file = path.join(folder, `${dtype}.safetensors`)
  const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i)
  const raw = { dtype: dtype.toUpperCase() as 'F16', shape: [65536], data: patterns }
  const exact = io.toHostArray(raw, 'f32').data as Float32Array
  // Every value of the format below infinity, those halfway to the next one, and those just beyond halfway.
  const [most, stride] = dtype === 'f16' ? [0x7bff, 3] : [0x7f7f, 7]
  const values = [exact[most], Infinity, -Infinity, NaN, 0, -0]
  const expected = [...values]
  for (let p = stride; p < most; p += stride)
    for (const sign of [1, -1]) {
      const middle = (exact[p] + exact[p + 1]) / 2
      values.push(sign * exact[p], sign * middle, sign * middle * (1 + 2 ** -20))
      expected.push(sign * exact[p], sign * exact[p % 2 ? p + 1 : p], sign * exact[p + 1])
    }
  class Model extends nn.Module {
    weight = new nn.Parameter(tensor(values))
    count = nn.buffer(tensor(Int32Array.of(3)))
    forward(): void {}
  }
  const model = new Model()
  await train.saveWeights(file, model, { dtype })
  expect(model.weight.dataSync()).toEqual(Float32Array.from(values))
  const { tensors } = await io.readSafetensors(file)
  expect([tensors.get('weight')!.dtype, tensors.get('count')!.dtype]).toEqual([raw.dtype, 'I32'])
  await train.loadWeights(file, model)
  expect(model.weight.dataSync()).toEqual(Float32Array.from(expected))
})

test('what saveWeights cannot write is refused', async () => {
  const file = path.join(folder, 'no.safetensors')
  const layer = new nn.Linear(1, 1)
  await expect(train.saveWeights(file, layer, { dtype: 'f64' as never })).rejects.toThrow(/'bf16' or 'f16', got "f64"/)
  layer.bias!.assign([65520])
  await expect(train.saveWeights(file, layer, { dtype: 'f16' })).rejects.toThrow(
    /bias: expected values that F16 can hold, got 65520 at 0/,
  )
  await expect(train.saveWeights(file, layer, { name: () => 'w' })).rejects.toThrow(/got w for bias too/)
})

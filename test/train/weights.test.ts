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

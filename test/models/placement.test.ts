import { backprop, checkpoint, compile, models, nn, optim, type MemoryPolicy, type Specs, type Tensor } from '../../src'

type Net = nn.Module & { forward(x: Tensor): Tensor }

/** What is kept, by layer, under an assignment. */
function kept(model: Net, x: Specs[string], memory?: Record<string, MemoryPolicy>) {
  using step = compile({
    model,
    loss: (b) => model.forward(b.x).square().mean(),
    optimizer: new optim.SGD({ lr: 1 }),
    memory,
  })
  return step.plan({ x }).kept
}

const rounded = (bytes: number): number => Math.ceil(bytes / 64) * 64
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)

// [tokens, features] of the inputs that a level takes away, of one block.
const T = 2 * 17
const sizes = { layers: 2, features: 48, heads: 4, hidden: 80 }
const transformer = [
  [T, 80],
  [T, 48],
  [T, 48],
  [T, 48],
]
const cases: [string, () => Net, Specs[string], number[][], string[]][] = [
  [
    'GPT',
    () => new models.GPT({ ...sizes, vocabulary: 9, length: 17 }),
    { shape: [2, 17], dtype: 'i32' },
    transformer,
    ['fc2', 'fc1', 'attention.out', 'attention.q'],
  ],
  [
    'Encoder',
    () => new models.Encoder({ ...sizes, vocabulary: 9, length: 17, classes: 3 }),
    { shape: [2, 17], dtype: 'i32' },
    transformer,
    ['fc2', 'fc1', 'attention.out', 'attention.q'],
  ],
  [
    'ViT',
    () => new models.ViT({ ...sizes, image: 16, patch: 4, classes: 3 }),
    [2, 16, 16, 3],
    transformer,
    ['fc2', 'fc1', 'attention.out', 'attention.q'],
  ],
  [
    'Mixer',
    () =>
      new models.Mixer({ layers: 2, features: 48, hidden: 80, tokenHidden: 24, image: [4, 68], patch: 4, classes: 3 }),
    [2, 4, 68, 3],
    [
      [T, 80],
      [T, 48],
      [2 * 48, 24],
      [2 * 48, 17],
    ],
    ['channels.fc2', 'channels.fc1', 'tokens.fc2', 'tokens.fc1'],
  ],
]

test.each(cases)(
  '%s: each level keeps signs of one input more, 4 I ceil(T / 32) bytes, and no longer the input',
  (_, make, x, inputs, names) => {
    const model = make()
    for (const level of [1, 2, 3, 4] as const) {
      const placement = models.asaPlacement(model, level)
      expect(Object.keys(placement).filter((k) => k.startsWith('blocks.1')).length).toBe(
        names[0] === 'fc2' && level === 4 ? 6 : level,
      )
      const rows = kept(model, x, placement)
      const signs = rows.filter((k) => k.policy === 'asa')
      const expected = inputs.slice(0, level).map(([t, i]) => rounded(4 * i * Math.ceil(t / 32)))
      expect(sum(signs.map((k) => k.bytes))).toBe(2 * sum(expected))
      // Nothing of what these layers read as numbers is left for them.
      const placed = Object.keys(placement)
      expect(rows.filter((k) => k.dtype === 'f32' && k.readers.some((r) => placed.includes(r)))).toEqual([])
      for (const block of ['blocks.0', 'blocks.1'])
        expect(names.slice(0, level).every((n) => signs.some((k) => k.readers.includes(`${block}.${n}`)))).toBe(true)
    }
    // Without ASA, four bytes a number of each of these inputs.
    const whole = kept(model, x)
    expect(
      whole.some((k) => k.layer === `blocks.1.${names[0]}` && k.bytes === rounded(4 * inputs[0][0] * inputs[0][1])),
    ).toBe(true)
    model.dispose()
  },
)

test('residual networks: first convolutions and shortcuts in all but every k-th block', () => {
  const model = new models.ResNet({ depth: 18, classes: 3, layout: 'ara', width: 8 })
  expect(Object.keys(models.residualAsaPlacement(model))).toEqual([
    'stage1.1.conv1',
    'stage2.1.conv1',
    'stage2.1.shortcut.conv',
    'stage3.1.conv1',
    'stage3.1.shortcut.conv',
  ])
  expect(Object.keys(models.residualAsaPlacement(model, [3, 2, 1, 1]))).toEqual([
    'stage1.1.conv1',
    'stage1.2.conv1',
    'stage1.2.shortcut.conv',
    'stage2.1.conv1',
    'stage2.1.shortcut.conv',
  ])
  const x = [4, 16, 16, 3]
  const signs = kept(model, x, models.residualAsaPlacement(model)).filter((k) => k.policy === 'asa')
  const bytes = (rows: number, channels: number): number => rounded(4 * channels * Math.ceil(rows / 32))
  // Where the input is that of a ReLU whose mask is kept, its bits are the signs.
  const most = bytes(4 * 256, 8) + bytes(4 * 64, 16) + bytes(4 * 16, 32)
  expect(sum(signs.map((k) => k.bytes))).toBeLessThanOrEqual(most)
  const total = (m?: Record<string, MemoryPolicy>): number => sum(kept(model, x, m).map((k) => k.bytes))
  const cheap = { 'stage*.*': checkpoint({ recompute: 'cheap' }) }
  expect(total(models.residualAsaPlacement(model))).toBeLessThan(total())
  expect(total({ ...cheap, ...models.residualAsaPlacement(model) })).toBeLessThan(total(cheap))
  model.dispose()
})

test('what has no such layers is refused', () => {
  const mlp = new models.MLP([2, 2])
  expect(() => models.asaPlacement(mlp, 1)).toThrow(/^asaPlacement: expected a model with blocks/)
  expect(() => models.residualAsaPlacement(mlp)).toThrow(/^residualAsaPlacement: expected a stride for each stage/)
  const reformer = new models.Reformer({ ...sizes, vocabulary: 9, length: 16 })
  expect(
    Object.keys(models.asaPlacement(reformer, 4))
      .map((k) => k.replace('blocks.', ''))
      .sort(),
  ).toEqual(
    ['0', '1'].flatMap((b) => ['attention.out', 'attention.q', 'attention.v', 'fc1', 'fc2'].map((k) => `${b}.${k}`)),
  )
  reformer.dispose()
  const gpt = new models.GPT({ ...sizes, vocabulary: 9, length: 17 })
  expect(() => models.asaPlacement(gpt, 5 as never)).toThrow(/level to be a whole number from 1 to 4, got 5/)
  expect(new Set(Object.values(models.asaPlacement(gpt, 2, backprop())).map((p) => p.name))).toEqual(
    new Set(['backpropagation']),
  )
  gpt.dispose()
  mlp.dispose()
})

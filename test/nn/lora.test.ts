import { asa, compile, models, nn, optim, seed, type MemoryAssignment, type Plan, type Tensor } from '../../src'
import { distance, host } from '../support/arrays'
import { gradientsOf } from '../support/record'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

const refused = withCode('AUX_INVALID_ARGUMENT')

function evaluate(model: nn.Module & { forward(x: Tensor): Tensor }, x: ReturnType<typeof host>): Float32Array {
  const predict = compile({ model, forward: (b: Record<string, Tensor>) => model.forward(b.x) })
  const { data } = predict.runSync({ x })
  predict.close()
  return data as Float32Array
}

test('an adapter changes nothing at first; its gradients are those of W + (alpha / rank) B A', async () => {
  const random = generator(3)
  const [x, r] = [host(random, [7, 5]), host(random, [7, 4])]
  seed(1)
  const layer = new nn.Linear(5, 4)
  const before = evaluate(layer, x)
  const lora = new nn.LoRA(layer, { rank: 2, alpha: 3 })
  expect([...evaluate(lora, x)]).toEqual([...before])
  lora.up.weight.assign(Array.from({ length: 8 }, () => random() - 0.5))
  const { gradients, plan } = await gradientsOf(lora, (b) => lora.forward(b.x).mul(b.r).sum(), { x, r })
  expect(Object.keys(gradients).sort()).toEqual(['down.weight', 'up.weight'])
  const [a, b] = [lora.down.weight.dataSync(), lora.up.weight.dataSync()]
  const [da, db] = [new Float64Array(10), new Float64Array(8)]
  for (let t = 0; t < 7; t++)
    for (let o = 0; o < 4; o++)
      for (let k = 0; k < 2; k++)
        for (let i = 0; i < 5; i++) {
          da[k * 5 + i] += 1.5 * r.data[t * 4 + o] * b[o * 2 + k] * x.data[t * 5 + i]
          db[o * 2 + k] += 1.5 * r.data[t * 4 + o] * a[k * 5 + i] * x.data[t * 5 + i]
        }
  expect(distance(gradients['down.weight'], da)).toBeLessThan(1e-6)
  expect(distance(gradients['up.weight'], db)).toBeLessThan(1e-6)
  expect(plan.kept.some((row) => row.policy === 'backpropagation')).toBe(true)
  const adapted = evaluate(lora, x)
  expect(distance(evaluate(lora.merge(), x), adapted)).toBeLessThan(1e-6)
  expect(lora.up.weight.dataSync().every((v) => v === 0)).toBe(true)
})

test('adapt puts adapters beside layers wherever they stand, under the names they had, and lets only them learn', async () => {
  seed(2)
  const options = { vocabulary: 16, length: 8, layers: 2, features: 16, heads: 2 }
  const [whole, model] = [new models.GPT(options), new models.GPT(options)]
  const names = [...model.state().keys()]
  const paths = nn.adapt(model, 'blocks.*.attention.*', { rank: 2 })
  expect(paths).toHaveLength(8)
  expect([...model.state().keys()]).toEqual(expect.arrayContaining(names))
  const learns = [...model.namedParameters()].filter(([, p]) => p.trainable).map(([name]) => name)
  expect(learns.sort()).toEqual(paths.flatMap((p) => [`${p}.down.weight`, `${p}.up.weight`]).sort())
  const bytes = (m: models.GPT, memory: MemoryAssignment = []): Plan['bytes'] =>
    compile({
      model: m,
      loss: ({ tokens, next }) => nn.crossEntropy(m.forward(tokens), next),
      optimizer: new optim.AdamW({ lr: 1e-2 }),
      memory,
    }).plan({ tokens: [4, 8], next: [4, 8] }).bytes
  const [full, adapted, signs] = [bytes(whole), bytes(model), bytes(model, { '**.down': asa() })]
  expect(adapted.optimizer).toBeLessThan(0.2 * full.optimizer)
  expect(adapted.kept).toBeLessThan(full.kept)
  expect(signs.kept).toBeLessThan(adapted.kept)
})

test('adapters learn, in a Sequential and in a layer that stands in two places', async () => {
  class Twice extends nn.Module {
    first = new nn.Linear(6, 6)
    again = this.first
    rest = new nn.Sequential(new nn.Linear(6, 6), new nn.ReLU(), new nn.Linear(6, 2))
    forward(x: Tensor): Tensor {
      return this.rest.forward(this.again.forward(this.first.forward(x).tanh()).tanh())
    }
  }
  seed(5)
  const model = new Twice()
  const frozen = model.rest[2].state().get('weight')!.dataSync()
  expect(nn.adapt(model, /first|rest\.\d/, { rank: 3 })).toEqual(['first', 'rest.0', 'rest.2'])
  expect(model.again).toBe(model.first)
  const x = host(generator(4), [32, 6])
  const y = Int32Array.from({ length: 32 }, (_, i) => (x.data[6 * i] > 0 ? 1 : 0))
  const step = compile({
    model,
    loss: (b) => nn.crossEntropy(model.forward(b.x), b.y),
    optimizer: new optim.Adam({ lr: 0.02 }),
  })
  const losses: number[] = []
  for (let i = 0; i < 80; i++) losses.push((await step.run({ x, y })).loss)
  expect(losses.at(-1)).toBeLessThan(0.3 * losses[0])
  expect([...model.rest[2].state().get('weight')!.dataSync()]).toEqual([...frozen])
  step.close()
})

test('what makes no sense is refused', () => {
  const model = new nn.Sequential(new nn.Linear(2, 2), new nn.ReLU())
  expect(() => nn.adapt(model, 'fc')).toThrow(refused)
  expect(() => nn.adapt(model, '1')).toThrow(refused)
  expect(() => new nn.LoRA(new nn.Linear(2, 2), { rank: 0 })).toThrow(refused)
  expect(() => new nn.LoRA(new nn.Linear(2, 2), { alpha: NaN })).toThrow(refused)
})

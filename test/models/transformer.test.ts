import { hostArray, models, nn, tensor } from '../../src'
import {
  add,
  attention,
  crossEntropy,
  expectDefinition,
  geluTanh,
  layerNorm,
  linear,
  unsettle,
  type Weights,
} from '../support/networks'
import * as ref from '../support/reference'
import { generator } from '../support/run'

const sizes = { vocabulary: 9, length: 5, features: 8, heads: 2, layers: 2 }

/** Logits as Hugging Face's GPT-2 defines them, in doubles. */
function logitsOf(p: Weights, rows: number[][]): ref.Arr {
  const { features } = sizes
  let x = ref.make(
    [rows.length, rows[0].length, features],
    ([n, t, c]) => p['tokens.weight'].data[rows[n][t] * features + c] + p['positions.weight'].data[t * features + c],
  )
  for (const block of ['blocks.0', 'blocks.1']) {
    const first = layerNorm(x, p, `${block}.norm1`, 1e-5)
    x = add(x, attention(first, first, p, `${block}.attention`, sizes.heads, { causal: true }))
    const wide = geluTanh(linear(layerNorm(x, p, `${block}.norm2`, 1e-5), p, `${block}.fc1`))
    x = add(x, linear(wide, p, `${block}.fc2`))
  }
  return linear(layerNorm(x, p, 'norm', 1e-5), p, 'head')
}

test('a GPT with the gelu of GPT-2: loss and gradients are those of its definition', async () => {
  const model = unsettle(new models.GPT({ ...sizes, activation: 'geluTanh' }), generator(4))
  const x = [
    [3, 1, 7, 8, 2],
    [4, 4, 0, 5, 6],
  ]
  const y = [
    [1, 7, 8, 2, 0],
    [4, 0, 5, 6, 3],
  ]
  const i32 = (rows: number[][]) => hostArray(Int32Array.from(rows.flat()), [2, 5])
  await expectDefinition(
    model,
    (batch) => nn.crossEntropy(model.forward(batch.x), batch.y),
    { x: i32(x), y: i32(y) },
    (p) => crossEntropy(logitsOf(p, x), y.flat()),
  )
  model.dispose()
})

test('the approximation of gelu is asked for by name', () => {
  const x = tensor([-2, -0.5, 0, 1, 3])
  const approximate = x.gelu({ approximate: 'tanh' }).dataSync()
  expect(new nn.GELU({ approximate: 'tanh' }).forward(x).dataSync()).toEqual(approximate)
  expect(new nn.GELU().forward(x).dataSync()).toEqual(x.gelu({ approximate: 'none' }).dataSync())
  expect(Math.max(...x.gelu().sub(tensor(approximate)).abs().dataSync())).toBeGreaterThan(1e-4)
  expect(() => x.gelu({ approximate: 'erf' } as never)).toThrow(/approximate to be 'none' or 'tanh', got erf/)
  expect(() => new nn.GELU({ approximation: 'tanh' } as never)).toThrow(/there is no option approximation/)
})

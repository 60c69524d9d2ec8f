// Trains a small network for ten steps where `auxgrad` is an installed package and prints the losses, bit by bit. The
// same on every platform and every number of threads for one instruction set; to six digits between them.
'use strict'
const { asa, compile, nn, optim } = require('auxgrad')

class Net extends nn.Module {
  conv = new nn.Conv2d(2, 8, 3, { padding: 1 })
  hidden = new nn.Linear(8 * 16, 32)
  out = new nn.Linear(32, 4)
  forward(x) {
    return this.out.forward(this.hidden.forward(this.conv.forward(x).relu().maxPool2d(2).flatten(1)).tanh())
  }
}

/** Numbers that are no one's business but reproducible: a linear congruential generator. */
function numbers(count, seed) {
  let state = seed
  return Float32Array.from(
    { length: count },
    () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 31 - 1,
  )
}

async function main() {
  const model = new Net()
  let seed = 1
  for (const [, parameter] of model.namedParameters()) {
    const scale = 1 / Math.sqrt(parameter.size / parameter.shape[0])
    parameter.assign(numbers(parameter.size, seed++).map((x) => x * scale))
  }
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.AdamW({ lr: 1e-2 }),
    memory: { hidden: asa() },
  })
  const x = { data: numbers(16 * 8 * 8 * 2, 99), shape: [16, 8, 8, 2], dtype: 'f32' }
  const y = { data: Int32Array.from({ length: 16 }, (_, i) => i % 4), shape: [16], dtype: 'i32' }
  const planned = step.plan({ x: x.shape, y: y.shape }).bytes.total
  const losses = []
  for (let i = 0; i < 10; i++) losses.push((await step.run({ x, y })).loss)
  step.close()
  const bits = [...new Uint32Array(Float32Array.from(losses).buffer)].map((b) => b.toString(16))
  console.log(JSON.stringify({ planned, losses: losses.map((l) => l.toPrecision(6)), bits }))
}

main()

#!/usr/bin/env node
// `node benchmarks/planning.js [NAME...]`: how long full-size training steps take to compile, and how tight their
// arenas are. Needs dist/ (npm run build). Nothing is run, so no memory of that size is needed.
'use strict'
const path = require('node:path')
const Table = require('cli-table3')
const { ara, asa, checkpoint, compile, models, nn, optim } = require(path.resolve(__dirname, '../dist'))

class Layer extends nn.Module {
  constructor(width, heads) {
    super()
    this.heads = heads
    for (const name of ['q', 'k', 'v', 'out']) this[name] = new nn.Linear(width, width)
    this.up = new nn.Linear(width, 4 * width)
    this.down = new nn.Linear(4 * width, width)
    this.norm1 = new nn.LayerNorm(width)
    this.norm2 = new nn.LayerNorm(width)
  }
  forward(x) {
    const [n, t, width] = x.shape
    const split = (y) => y.reshape([n, t, this.heads, width / this.heads]).permute([0, 2, 1, 3])
    const [q, k, v] = [this.q, this.k, this.v].map((layer) => split(layer.forward(x)))
    const weights = q
      .matmul(k.transpose())
      .mul(1 / Math.sqrt(width / this.heads))
      .softmax()
    const mixed = weights.matmul(v).permute([0, 2, 1, 3]).reshape([n, t, width])
    const h = this.norm1.forward(x.add(this.out.forward(mixed)))
    return this.norm2.forward(h.add(this.down.forward(this.up.forward(h).gelu())))
  }
}

/** A BERT-like encoder with a classifier on the first token; inputs are embeddings already. */
class Encoder extends nn.Module {
  constructor(depth, width, heads, classes) {
    super()
    this.layers = Array.from({ length: depth }, () => new Layer(width, heads))
    this.fc = new nn.Linear(width, classes)
  }
  forward(x) {
    for (const layer of this.layers) x = layer.forward(x)
    return this.fc.forward(x.mean(1))
  }
}

const stages = Object.fromEntries([1, 2, 3, 4].map((s) => [`stage${s}`, ara({ stride: 2 })]))
const blocks = { 'stage*.*': checkpoint() }
const resnet = (depth, layout) => () => new models.ResNet({ depth, layout, classes: 1000, stem: 'large' })
const image = { x: [32, 224, 224, 3], y: [32] }
const bert = () => new Encoder(24, 1024, 16, 2)
const text = { x: [32, 128, 1024], y: [32] }
const cases = [
  ['ResNet-18', resnet(18, 'standard'), image, undefined],
  ['ResNet-50', resnet(50, 'standard'), image, undefined],
  ['ResNet-152', resnet(152, 'standard'), image, undefined],
  ['ResNet-152 asa', resnet(152, 'standard'), image, asa()],
  ['ResNet-152 ara', resnet(152, 'ara'), image, stages],
  ['ResNet-152 checkpoint', resnet(152, 'standard'), image, blocks],
  ['ResNet-152 ara + cheap', resnet(152, 'ara'), image, { ...stages, 'stage*.*': checkpoint({ recompute: 'cheap' }) }],
  ['BERT-Large', bert, text, undefined],
  ['BERT-Large asa', bert, text, asa()],
  ['BERT-Large checkpoint', bert, text, { 'layers.*': checkpoint() }],
]

const mib = (n) => (n / 2 ** 20).toFixed(1)
const wanted = process.argv.slice(2)
const table = new Table({
  head: ['step', 'ms', 'calls', 'kept MiB', 'live MiB', 'arena MiB', 'arena/live'],
  colAligns: ['left', ...Array(6).fill('right')],
  style: { head: [], border: [], compact: true },
})
for (const [name, build, shapes, memory] of cases) {
  if (wanted.length && !wanted.some((w) => name.toLowerCase().includes(w.toLowerCase()))) continue
  const model = build()
  const optimizer = new optim.SGD({ lr: 0.1, momentum: 0.9 })
  const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer, memory })
  for (const [key, p] of model.namedParameters()) optimizer.state(key, p) // memory, not planning
  const start = performance.now()
  const plan = step.plan({ x: shapes.x, y: { shape: shapes.y, dtype: 'i32' } })
  const ms = performance.now() - start
  table.push([
    name,
    ms.toFixed(0),
    plan.ops.length,
    mib(plan.bytes.kept),
    mib(plan.liveBytes),
    mib(plan.arenaBytes),
    (plan.arenaBytes / plan.liveBytes).toFixed(3),
  ])
  step.close()
  model.dispose()
  optimizer.dispose()
}
console.log(table.toString())

#!/usr/bin/env node
// `node benchmarks/planning.js [NAME...]`: how long full-size training steps take to compile, and how tight their
// arenas are. Needs dist/ (npm run build:all). Nothing is run, so no memory of that size is needed.
'use strict'
const path = require('node:path')
const Table = require('cli-table3')
const { ara, asa, checkpoint, compile, models, nn, optim } = require(path.resolve(__dirname, '../dist'))

const stages = Object.fromEntries([1, 2, 3, 4].map((s) => [`stage${s}`, ara({ stride: 2 })]))
const blocks = { 'stage*.*': checkpoint() }
const resnet = (depth, layout) => () => new models.ResNet({ depth, layout, classes: 1000, stem: 'large' })
const image = { x: [32, 224, 224, 3], y: [32] }
const bert = () =>
  new models.Encoder({ vocabulary: 30522, length: 512, layers: 24, features: 1024, heads: 16, classes: 2 })
const text = { x: { shape: [32, 128], dtype: 'i32' }, y: [32] }
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
  ['BERT-Large checkpoint', bert, text, { 'blocks.*': checkpoint() }],
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

#!/usr/bin/env node
// `node benchmarks/budget.js [NAME...]`: what a memory budget costs in time. Training steps within parts of what
// backpropagation takes, by computing again (the default: no result changes) and by 8 bits of what is kept. Needs dist/
// (npm run build:all). Steps of all variants of a model take turns, the best of several counts; a few minutes.
'use strict'
const path = require('node:path')
const Table = require('cli-table3')
const { compile, models, nn, optim, quantized } = require(path.resolve(__dirname, '../dist'))

const parts = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
const rounds = 5
const methods = { 'computed again': undefined, '8 bits': [quantized({ rounding: 'nearest' })] }

const images = (n, size, classes) => ({
  x: {
    data: Float32Array.from({ length: n * size * size * 3 }, (_, i) => Math.sin(i * i)),
    shape: [n, size, size, 3],
    dtype: 'f32',
  },
  y: Int32Array.from({ length: n }, (_, i) => i % classes),
})
const tokens = Int32Array.from({ length: 8 * 128 }, (_, i) => (i * i) % 256)
const classify =
  (model) =>
  ({ x, y }) =>
    nn.crossEntropy(model.forward(x), y)
const cases = {
  'ResNet-18, 32 x 32 x 32': [
    () => new models.ResNet({ depth: 18, classes: 10, stem: 'small' }),
    images(32, 32, 10),
    classify,
  ],
  'ViT-Tiny, 16 x 224 x 224': [
    () => new models.ViT({ image: 224, patch: 16, layers: 12, features: 192, heads: 3, classes: 1000 }),
    images(16, 224, 1000),
    classify,
  ],
  'GPT, 6 x 512, 8 x 128': [
    () => new models.GPT({ vocabulary: 256, length: 128, layers: 6, features: 512, heads: 8 }),
    { x: { data: tokens, shape: [8, 128], dtype: 'i32' }, y: { data: tokens, shape: [8, 128], dtype: 'i32' } },
    classify,
  ],
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`

/** The step within a budget, or undefined where it cannot be. */
function within(model, loss, batch, bytes, methods) {
  const optimizer = new optim.SGD({ lr: 1e-4, momentum: 0.9 })
  const budget = bytes === undefined ? undefined : { bytes, methods }
  const step = compile({ model, loss, optimizer, budget })
  const close = () => (step.close(), optimizer.dispose())
  try {
    const shapes = Object.fromEntries(Object.entries(batch).map(([k, v]) => [k, v.shape ?? [v.length]]))
    return { step, close, plan: step.plan(shapes), best: Infinity }
  } catch (error) {
    close()
    if (error.code === 'AUX_BUDGET_TOO_SMALL') return undefined
    throw error
  }
}

async function measure(name, [build, batch, lossOf]) {
  const model = build()
  const loss = lossOf(model)
  const first = within(model, loss, batch)
  const whole = first.plan.bytes.total
  first.close()
  const table = new Table({
    head: [`${name}: budget`, ...Object.keys(methods).flatMap((m) => [m, 'ms', 'of its time'])],
    colAligns: ['left', ...Object.keys(methods).flatMap(() => ['right', 'right', 'right'])],
    style: { head: [], border: [], compact: true },
  })
  let free
  for (const part of parts) {
    const bytes = Math.floor(part * whole)
    const row = [`${Math.round(100 * part)} %, ${mib(bytes)}`]
    for (const allowed of Object.values(methods)) {
      // Each beside the step without a budget: the machine is not the same from one minute to the next.
      free = within(model, loss, batch)
      const tight = within(model, loss, batch, bytes, allowed)
      if (tight) {
        for (let i = 0; i <= rounds; i++)
          for (const run of [free, tight]) {
            const start = performance.now()
            await run.step.run(batch)
            if (i > 0) run.best = Math.min(run.best, performance.now() - start)
          }
        row.push(mib(tight.plan.bytes.total), tight.best.toFixed(1), (tight.best / free.best).toFixed(2))
        tight.close()
      } else row.push('-', '', '')
      free.close()
    }
    table.push(row)
    process.stderr.write(`${name}: ${row.join(' ')}\n`)
  }
  model.dispose()
  console.log(table.toString())
}

async function main() {
  const wanted = process.argv.slice(2).map((w) => w.toLowerCase())
  for (const [name, one] of Object.entries(cases))
    if (!wanted.length || wanted.some((w) => name.toLowerCase().includes(w))) await measure(name, one)
}
main()

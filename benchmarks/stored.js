#!/usr/bin/env node
// `node benchmarks/stored.js [LAYERS [ROUNDS]]`: what weights that learn in bf16 take and cost. Training steps of a model of
// the size of GPT-2 (12 layers of 768, 163 million weights with the head's own; fewer layers to be quick), a sequence of 128
// tokens, with float32 and with bf16 weights, by optimizer: bytes planned and measured, and the least processor time of steps
// that take turns. Then how far digits are learnt: float32, bf16, and bf16 that rounds to the nearest. Needs dist/ (npm run
// build:all).
'use strict'
const path = require('node:path')
const Table = require('cli-table3')
const { compile, data, memory, models, nn, optim, resetPeakMemory, seed } = require(path.resolve(__dirname, '../dist'))

const layers = Number(process.argv[2] ?? 12)
const rounds = Number(process.argv[3] ?? 3)
const tokens = Int32Array.from({ length: 128 }, (_, i) => (i * i * 97) % 50257)
const batch = {
  tokens: { data: tokens, shape: [1, 128], dtype: 'i32' },
  next: { data: tokens, shape: [1, 128], dtype: 'i32' },
}
const optimizers = {
  AdamW: () => new optim.AdamW({ lr: 1e-5 }),
  'AdamW, 8 bits': () => new optim.AdamW({ lr: 1e-5, bits: 8 }),
  'Lion, bf16': () => new optim.Lion({ lr: 1e-6, momentum: 'bf16' }),
  Adafactor: () => new optim.Adafactor({ lr: 1e-5 }),
  SM3: () => new optim.SM3({ lr: 1e-5 }),
}

const mib = (bytes) => (bytes / 2 ** 20).toFixed(1)
const table = (head) =>
  new Table({
    head,
    colAligns: head.map((_, i) => (i ? 'right' : 'left')),
    style: { head: [], border: [], compact: true },
  })

/** One step of each in turn: the machine is not the same from one minute to the next. */
async function steps() {
  const made = ['f32', 'bf16'].map((format) => {
    seed(1)
    const { live } = memory()
    const model = new models.GPT({ vocabulary: 50257, length: 1024, layers, features: 768, heads: 12 }).store(format)
    return { format, model, held: memory().live - live }
  })
  const rows = table([
    'optimizer',
    'weights',
    'parameters',
    'optimizer',
    'kept',
    'rest',
    'in all, MiB',
    'measured',
    'ms of processors',
  ])
  for (const [name, optimizer] of Object.entries(optimizers)) {
    const open = []
    for (const { format, model, held } of made) {
      const loss = (b) => nn.crossEntropy(model.forward(b.tokens), b.next)
      const { live } = memory()
      const step = compile({ model, loss, optimizer: optimizer() })
      const { bytes } = step.plan({ tokens: [1, 128], next: [1, 128] })
      resetPeakMemory()
      await step.run(batch)
      open.push({ format, step, bytes, measured: memory().peak - live + held, best: Infinity })
    }
    for (let round = 0; round < rounds; round++)
      for (const each of open) {
        const begin = process.cpuUsage()
        await each.step.run(batch)
        const { user, system } = process.cpuUsage(begin)
        each.best = Math.min(each.best, (user + system) / 1e3)
      }
    for (const { format, step, bytes, measured, best } of open) {
      const { parameters, optimizer: state, kept, total } = bytes
      const columns = [parameters, state, kept, total - parameters - state - kept, total, measured]
      rows.push([name, format, ...columns.map(mib), best.toFixed(0)])
      step.close()
      step.optimizer.dispose()
    }
  }
  console.log(`GPT, ${layers} x 768, 1 x 128 tokens\n${rows}`)
  for (const { model } of made) model.dispose()
}

/** Rounds to the nearest what an update makes of a weight. */
class Nearest extends optim.Base {
  name = 'nearest'
  slots = []
  apply(w, _, gradient, { lr }) {
    const next = w.sub(gradient.mul(lr))
    w.assign(w.rank > 1 ? next.cast('bf16').cast('f32') : next)
  }
}

async function digits() {
  const { train, test } = await data.mnist()
  const rows = table(['digits, SGD', 'loss', 'accuracy, %'])
  const kinds = {
    float32: ['f32', optim.SGD],
    bf16: ['bf16', optim.SGD],
    'to the nearest': ['f32', Nearest],
  }
  for (const [kind, [format, Optimizer]] of Object.entries(kinds)) {
    const results = []
    for (const run of [1, 2, 3]) {
      seed(run)
      const model = new models.MLP([784, 128, 10]).store(format)
      const step = compile({
        model,
        loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
        optimizer: new Optimizer({ lr: 0.003 }),
        seed: run,
      })
      for (let epoch = 0; epoch < 3; epoch++)
        for await (const batch of new data.DataLoader(train, { batchSize: 32, shuffle: true, seed: 10 * run + epoch }))
          step.runSync(batch)
      const look = compile({
        model,
        forward: ({ x, y }) => {
          const logits = model.forward(x)
          return { loss: nn.crossEntropy(logits, y), right: logits.argmax(-1).eq(y).cast('f32').mean() }
        },
      })
      for await (const all of new data.DataLoader(test, { batchSize: 10000 })) {
        const { loss, right } = look.runSync(all)
        results.push([loss.data[0], 100 * right.data[0]])
      }
      for (const s of [step, look]) s.close()
    }
    rows.push([kind, ...[0, 1].map((i) => results.map((r) => r[i].toFixed(i ? 2 : 3)).join('  '))])
  }
  console.log(`${rows}`)
}

steps().then(digits)

#!/usr/bin/env node
// Plans of whole training steps, for machines without Node (auxgrad_run, above all on a GPU):
//   node benchmarks/compare/plans.js FOLDER [NAME...]
// cuda.py times PyTorch on the same networks. Weights keep three bits behind the first one, so that the files pack well.
'use strict'
const fs = require('node:fs')
const path = require('node:path')
const aux = require('../../dist')
const { makeCase, makeModel, makeOptimizer, memoryOf, bp, asa, ara, packed, sgd, adamw } = require('./cases')

const tiny = { image: 224, channels: 3, patch: 16, layers: 12, features: 192, heads: 3, classes: 1000 }
const bytes = { vocabulary: 256, length: 128, layers: 6, features: 256, heads: 8 }
const zeros = asa('01')
const pm1 = asa('pm1')
const standard = { layout: 'standard', width: 64 }
const small = { ...sgd, lr: 1e-3 }

const plans = {
  'mlp-bp': makeCase('mlp', bp, adamw, { batch: 256 }),
  'cnn-bp': makeCase('cnn', bp, adamw, { batch: 128 }),
  'cnn-asa': makeCase('cnn', zeros, adamw, { batch: 128 }),
  'cnn-asa8': makeCase('cnn', packed(zeros, 8), adamw, { batch: 128 }),
  'cnn-ara': makeCase('cnn', ara, adamw, { batch: 128 }),
  'resnet18-bp': makeCase('resnet18', bp, small, { batch: 32, options: standard }),
  'resnet18-asa': makeCase('resnet18', zeros, small, { batch: 32, options: standard }),
  'resnet18-ara': makeCase('resnet18', ara, small, { batch: 32, options: { ...standard, layout: 'ara' } }),
  'vit-bp': makeCase('vit', bp, adamw, { batch: 16, options: tiny }),
  'vit-asa': makeCase('vit', pm1, adamw, { batch: 16, options: tiny }),
  'gpt-bp': makeCase('gpt', bp, adamw, { batch: 8, options: bytes }),
  'gpt-asa': makeCase('gpt', pm1, adamw, { batch: 8, options: bytes }),
}

/** Numbers in [0, 1), the same every time. */
function* uniform() {
  let state = 1
  for (;;) yield (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
}

function batchOf({ model, options, batch }) {
  const numbers = uniform()
  const whole = (n, limit) => Int32Array.from({ length: n }, () => Math.floor(numbers.next().value * limit))
  if (model === 'gpt') {
    const shape = [batch, options.length]
    const tokens = whole(batch * options.length + 1, options.vocabulary)
    return { x: aux.tensor(tokens.slice(0, -1), shape), y: aux.tensor(tokens.slice(1), shape) }
  }
  const side = options.image ?? (model === 'resnet18' ? 32 : 28)
  const channels = options.channels ?? (model === 'resnet18' ? 3 : 1)
  const shape = [batch, side, side, channels]
  const pixels = whole(batch * side * side * channels, 256)
  const x = Float32Array.from(pixels, (p) => (p - 128) / 64)
  return { x: aux.tensor(x, shape), y: aux.tensor(whole(batch, options.classes ?? 10), [batch]) }
}

function round(model) {
  for (const [, p] of model.namedParameters()) {
    const bits = new Uint32Array(p.dataSync().slice().buffer)
    for (let i = 0; i < bits.length; i++) bits[i] &= 0xfff00000
    p.assign(new Float32Array(bits.buffer))
  }
}

async function main() {
  const [folder, ...names] = process.argv.slice(2)
  if (!folder) throw new Error('expected a folder')
  fs.mkdirSync(folder, { recursive: true })
  const made = []
  for (const [name, c] of Object.entries(plans)) {
    if (names.length && !names.includes(name)) continue
    aux.seed(1) // the same weights for all rules
    const model = makeModel(c)
    round(model)
    const optimizer = makeOptimizer(c.optimizer)
    const step = aux.compile({
      model,
      loss: ({ x, y }) => aux.crossEntropy(model.forward(x), y),
      optimizer,
      memory: memoryOf(c.rule, model),
    })
    await step.save(path.join(folder, `${name}.plan`), batchOf(c))
    made.push({ name, ...c })
    step.close()
    optimizer.dispose()
    model.dispose()
  }
  fs.writeFileSync(path.join(folder, 'cases.json'), JSON.stringify(made))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})

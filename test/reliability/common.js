// A small model and its step, for the scripts of this folder. They run the built package (dist/) with no framework.
'use strict'
const auxgrad = require('../..')

const { compile, nn, optim } = auxgrad

class Net extends nn.Module {
  first = new nn.Linear(64, 256)
  second = new nn.Linear(256, 256)
  last = new nn.Linear(256, 10)
  forward(x) {
    return this.last.forward(this.second.forward(this.first.forward(x).relu()).relu())
  }
}

/** A training step on `rows` rows. */
function makeStep(rows, model = new Net()) {
  const optimizer = new optim.AdamW({ lr: 1e-3 })
  const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer })
  const x = { data: Float32Array.from({ length: rows * 64 }, (_, i) => Math.sin(i)), shape: [rows, 64], dtype: 'f32' }
  const y = { data: Int32Array.from({ length: rows }, (_, i) => i % 10), shape: [rows], dtype: 'i32' }
  const close = () => {
    step.close()
    optimizer.dispose()
  }
  return { model, step, batch: { x, y }, close }
}

module.exports = { Net, auxgrad, makeStep }

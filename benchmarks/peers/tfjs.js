// TensorFlow.js on our training steps, a process for each of its back ends. It is installed apart from this package:
// npm install --prefix benchmarks/peers/tfjs
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const aux = require('../../dist')
const { batches, slice } = require('../compare/batches')
const { makeModel, title } = require('../compare/cases')
const { write, writeState } = require('../compare/exchange')

const installed = fs.existsSync(path.join(__dirname, 'tfjs/node_modules/@tensorflow/tfjs'))
const install = 'npm install --prefix benchmarks/peers/tfjs'

/** Loss of the first `batch` rows: what either side must find at first. */
async function lossOf(model, all, batch) {
  const f = aux.compile(({ x, y }) => aux.crossEntropy(model.forward(x), y))
  const { data } = await f.run(slice(all, 0, 0, batch))
  f.close()
  return data[0]
}

/**
 * A step of a case in each back end; the cpu one, which needs seconds, is left out if time is short.
 * @returns rows { name, backend, batch, seconds, version, note }; without seconds where the back end cannot do the step
 */
async function measure(c, folder, { quick }) {
  const all = await batches(c, 1)
  const model = makeModel(c)
  const [weights, data] = ['tfjs-weights', 'tfjs-batches'].map((name) => path.join(folder, name))
  write(data, Object.entries(all))
  writeState(weights, model)
  const rows = []
  for (const backend of quick ? ['wasm'] : ['wasm', 'cpu']) {
    const command = { backend, model: c.model, weights, batches: data, limit: quick ? 1 : 2 }
    const run = spawnSync(process.execPath, [path.join(__dirname, 'tfjs_step.js'), JSON.stringify(command)], {
      encoding: 'utf8',
      timeout: 60000,
    })
    const row = { name: Object.values(title(c)).join(' '), backend }
    rows.push(row)
    if (run.status !== 0) {
      row.note = run.error?.message ?? /^\w*Error: .*/m.exec(run.stderr)?.[0] ?? run.stderr.trim()
      continue
    }
    const { batch, seconds, loss, lossBatch, missing, version } = JSON.parse(run.stdout)
    Object.assign(row, { batch, seconds, version, note: missing ?? '' })
    if (missing) continue
    const own = await lossOf(model, all, lossBatch)
    if (!(Math.abs(loss - own) <= 1e-3 * own))
      Object.assign(row, { seconds: undefined, note: `wrong: loss ${loss}, ours ${own}` })
    else if (batch < c.batch) row.note = `a larger batch would take more than ${command.limit} s`
  }
  model.dispose()
  return rows
}

module.exports = { install, installed, measure, models: ['mlp', 'cnn'] }

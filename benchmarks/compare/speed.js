// Seconds a step and bytes, ours and PyTorch's side by side, interleaved, the best of several.
'use strict'
const path = require('node:path')
const aux = require('../../dist')
const { batches, slice } = require('./batches')
const { makeCase, makeModel, makeOptimizer, memoryOf, title, bp, asa, ara, sgd, adamw } = require('./cases')
const { write } = require('./exchange')

const mib = (bytes) => (bytes / 2 ** 20).toFixed(1)

function groups(width) {
  const resnet = (layout, rule) => makeCase('resnet18', rule, sgd, { batch: 32, options: { layout, width } })
  return [
    [bp, asa('pm1')].map((rule) => makeCase('mlp', rule, adamw, { batch: 128 })),
    [bp, asa('01'), ara].map((rule) => makeCase('cnn', rule, adamw, { batch: 128 })),
    [bp, asa('01')].map((rule) => resnet('standard', rule)),
    [bp, asa('01'), ara].map((rule) => resnet('ara', rule)),
  ]
}

class Own {
  constructor(c, all) {
    this.model = makeModel(c)
    this.optimizer = makeOptimizer(c.optimizer)
    this.batches = [slice(all, 0, 0, c.batch), slice(all, 1, 0, c.batch)]
    this.step = aux.compile({
      model: this.model,
      loss: ({ x, y }) => aux.crossEntropy(this.model.forward(x), y),
      optimizer: this.optimizer,
      memory: memoryOf(c.rule, this.model),
    })
    const { x, y } = this.batches[0]
    this.bytes = this.step.plan({ x: x.shape, y: { shape: y.shape, dtype: 'i32' } }).bytes
  }

  async seconds(steps) {
    let best = Infinity
    for (let i = 0; i < steps; i++) {
      const start = performance.now()
      await this.step.run(this.batches[i % 2])
      best = Math.min(best, (performance.now() - start) / 1000)
    }
    return best
  }

  close() {
    this.step.close()
    this.optimizer.dispose()
    this.model.dispose()
  }
}

/**
 * Whole training steps, ours under several rules and PyTorch's by backpropagation; all take turns. Without peers ours
 * alone are measured.
 * @param options.seconds that each contender may take, about; steps are counted once for all rounds
 * @returns rows of raw numbers: seconds and bytes
 */
async function measure(peers, folder, { width, chosen = () => true, rounds = 4, seconds = 1 }) {
  const rows = []
  for (const group of groups(width)) {
    const taken = group.filter(chosen)
    if (!taken.length) continue
    const all = await batches(group[0].model, 2, group[0].batch)
    write(path.join(folder, 'batches'), Object.entries(all))
    const ours = taken.map((c) => new Own(c, all))
    const state = [...ours[0].model.state()].map(([name, t]) => [
      name,
      { data: t.dataSync(), shape: t.shape, dtype: t.dtype },
    ])
    write(path.join(folder, 'weights'), state)
    // PyTorch trains by backpropagation, in the best of its two memory formats with one and with all threads.
    const formats = ['contiguous', 'channels_last']
    const common = {
      ...taken[0],
      rule: bp,
      weights: path.join(folder, 'weights'),
      batches: path.join(folder, 'batches'),
    }
    let bytes
    for (const peer of peers)
      for (const format of formats) bytes = await peer.ask({ do: 'speed', id: format, ...common, format })
    const own = ours.map(() => Infinity)
    let theirs = Infinity
    const steps = Math.max(3, Math.ceil(seconds / rounds / (await ours[0].seconds(2))))
    for (let round = 0; round < rounds; round++) {
      for (const [i, o] of ours.entries()) own[i] = Math.min(own[i], await o.seconds(steps))
      for (const peer of peers)
        for (const id of formats) theirs = Math.min(theirs, (await peer.ask({ do: 'seconds', id, steps })).seconds)
    }
    taken.forEach((c, i) => rows.push({ case: c, seconds: own[i], theirs, bytes: ours[i].bytes, theirBytes: bytes }))
    for (const o of ours) o.close()
    for (const peer of peers) await peer.ask({ do: 'clear' })
  }
  return rows
}

async function run(peers, folder, { only, width }) {
  const chosen = (c) => !only.length || only.some((o) => Object.values(title(c)).join(' ').includes(o))
  const measured = await measure(peers, folder, { width, chosen })
  const rows = measured.map(({ case: c, seconds, theirs, bytes: b, theirBytes }) => {
    const peerTotal = theirBytes.weights + theirBytes.gradients + theirBytes.optimizer + theirBytes.saved
    return {
      ...title(c),
      batch: c.batch,
      'ms ours': (seconds * 1e3).toFixed(1),
      'ms torch bp': (theirs * 1e3).toFixed(1),
      ratio: (theirs / seconds).toFixed(2),
      'MiB total': mib(b.total),
      kept: mib(b.kept),
      weights: mib(b.parameters),
      optimizer: mib(b.optimizer),
      'torch bp: saved': mib(theirBytes.saved),
      'with weights, gradients, optimizer': mib(peerTotal),
      'total ratio': (peerTotal / b.total).toFixed(2),
    }
  })
  const text =
    'Best of interleaved rounds. "MiB total" is every byte of our step, known before it; PyTorch\'s sum leaves out\n' +
    'gradients of activations, workspaces and its allocator. Its "saved" are the storages that autograd holds after forward, each once.\n'
  return { rows, text, ok: true }
}

module.exports = { measure, run, title }

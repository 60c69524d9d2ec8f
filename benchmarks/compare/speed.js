// Seconds a step and bytes, ours and PyTorch's side by side, interleaved, the best of several.
'use strict'
const path = require('node:path')
const aux = require('../../dist')
const { batches, slice } = require('./batches')
const { makeCase, makeModel, makeOptimizer, memoryOf, title, bp, asa, ara, packed, sgd, adamw } = require('./cases')
const { write, writeState } = require('./exchange')

const mib = (bytes) => (bytes / 2 ** 20).toFixed(1)

/** Vision Transformer, tiny (Touvron et al. 2021), on images of 224 x 224. */
const tiny = { image: 224, channels: 3, patch: 16, layers: 12, features: 192, heads: 3, classes: 1000 }
/** A language model on bytes. */
const bytes = { vocabulary: 256, length: 128, layers: 6, features: 512, heads: 8 }

/** Cases that share a network, and with it PyTorch's side. */
function groups(width) {
  const group = (model, rules, optimizer, batch, options) =>
    rules.map((rule) => makeCase(model, rule, optimizer, { batch, options }))
  const [pm1, zeros] = [asa('pm1'), asa('01')]
  return [
    group('mlp', [bp, pm1, packed(pm1, 8)], adamw, 256),
    group('cnn', [bp, zeros, packed(zeros, 8), ara], adamw, 128),
    group('resnet18', [bp, zeros, packed(zeros, 8)], sgd, 32, { layout: 'standard', width }),
    group('resnet18', [ara, packed(ara, 8)], sgd, 32, { layout: 'ara', width }),
    group('vit', [bp, pm1, packed(pm1, 8)], adamw, 16, tiny),
    group('gpt', [bp, pm1, packed(pm1, 8)], adamw, 8, bytes),
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
    this.bytes = this.step.plan(this.batches[0]).bytes
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
 * PyTorch trains by backpropagation, with one and with all threads, images in either of its memory formats: what takes
 * part of these, and the bytes of the first.
 */
async function contenders(peers, c) {
  const list = []
  let bytes
  let best = Infinity
  for (const peer of peers)
    for (const id of c.model === 'gpt' ? ['contiguous'] : ['contiguous', 'channels_last']) {
      await peer.ask({ do: 'speed', id, ...c, format: id })
      bytes ??= await peer.ask({ do: 'bytes', id })
      const seconds = async (steps) => (await peer.ask({ do: 'seconds', id, steps })).seconds
      let first = await seconds(1)
      if (first < 2 * best) first = Math.min(first, await seconds(1))
      best = Math.min(best, first)
      list.push({ peer, id, seconds, first })
    }
  // The first step says little on a busy machine: all threads stay, in their better format at least.
  const [all] = list.filter((t) => t.peer === peers[0]).sort((a, b) => a.first - b.first)
  const near = list.filter((t) => t === all || t.first < 1.25 * best)
  for (const { peer, id } of list.filter((t) => !near.includes(t))) await peer.ask({ do: 'drop', id })
  return { theirs: near, theirBytes: bytes }
}

/**
 * Whole training steps, ours under several rules and PyTorch's by backpropagation; all take turns. Of PyTorch's formats
 * and numbers of threads those take part that come near the best at first. Without peers ours alone are measured.
 * @param options.seconds that each contender may take, about; steps are counted once for all rounds
 * @returns rows of raw numbers: seconds and bytes
 */
async function measure(peers, folder, { width, chosen = () => true, rounds = 4, seconds = 1 }) {
  const rows = []
  for (const group of groups(width)) {
    const taken = group.filter(chosen)
    if (!taken.length) continue
    const all = await batches(group[0], 2)
    write(path.join(folder, 'batches'), Object.entries(all))
    const ours = taken.map((c) => new Own(c, all))
    writeState(path.join(folder, 'weights'), ours[0].model)
    const at = { weights: path.join(folder, 'weights'), batches: path.join(folder, 'batches') }
    const { theirs, theirBytes } = await contenders(peers, { ...taken[0], rule: bp, ...at })
    const own = ours.map(() => Infinity)
    let best = Infinity
    let longest = 0
    for (const o of ours) longest = Math.max(longest, await o.seconds(2))
    const steps = Math.max(1, Math.round(seconds / rounds / longest))
    for (let round = 0; round < rounds; round++) {
      for (const [i, o] of ours.entries()) own[i] = Math.min(own[i], await o.seconds(steps))
      for (const t of theirs) best = Math.min(best, await t.seconds(steps))
    }
    taken.forEach((c, i) => {
      rows.push({ case: c, seconds: own[i], theirs: best, bytes: ours[i].bytes, theirBytes })
      const beside = peers.length ? `, PyTorch bp ${(1e3 * best).toFixed(1)} ms` : ''
      console.error(`${Object.values(title(c)).join(' ')}: ${(1e3 * own[i]).toFixed(1)} ms${beside}`)
    })
    for (const o of ours) o.close()
    for (const peer of peers) await peer.ask({ do: 'clear' })
  }
  return rows
}

async function run(peers, folder, { only, width = 64 }) {
  const chosen = (c) => !only.length || only.some((o) => Object.values(title(c)).join(' ').includes(o))
  const measured = await measure(peers, folder, { width, chosen })
  const rows = measured.map(({ case: c, seconds, theirs, bytes: b, theirBytes }) => {
    const peerTotal = theirBytes.weights + theirBytes.gradients + theirBytes.optimizer + theirBytes.saved
    return {
      ...title(c),
      batch: c.batch,
      'ms ours': (seconds * 1e3).toFixed(1),
      'ms torch bp': (theirs * 1e3).toFixed(1),
      'of its time': (seconds / theirs).toFixed(2),
      'MiB total': mib(b.total),
      kept: mib(b.kept),
      weights: mib(b.parameters),
      optimizer: mib(b.optimizer),
      'torch bp: saved': mib(theirBytes.saved),
      'kept of it': (b.kept / theirBytes.saved).toFixed(2),
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

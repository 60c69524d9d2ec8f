// Losses, gradients and final state, step by step, against PyTorch in single and double precision.
'use strict'
const path = require('node:path')
const aux = require('../../dist')
const { batches, slice } = require('./batches')
const { cases, makeModel, makeOptimizer, memoryOf, title } = require('./cases')
const { host, read, write, writeState } = require('./exchange')

/** Relative differences allowed where PyTorch itself does as well, and how often its own error otherwise. */
const limits = { early: 1e-4, all: 1e-4, gradient: 1e-5, flips: 3e-2, state: 1e-4, adam: 2e-3, chaos: 3 }
const early = 10
const losses = ['early', 'all']

/** This package's run of a case; leaves the initial weights for the others. */
async function own(c, all, folder) {
  const model = makeModel(c)
  writeState(path.join(folder, 'weights'), model)
  const optimizer = makeOptimizer(c.optimizer)
  const step = aux.compile({
    model,
    loss: ({ x, y }) => aux.crossEntropy(model.forward(x), y, { labelSmoothing: c.smoothing }),
    optimizer,
    memory: memoryOf(c.rule, model),
    clip: c.clip ? { norm: c.clip } : undefined,
    accumulate: c.accumulate,
  })
  const losses = [],
    norms = []
  let gradients
  for (let i = 0; i < c.steps; i++) {
    let loss = 0,
      result
    for (let part = 0; part < c.accumulate; part++) {
      const rows = c.batch / c.accumulate
      result = await step.run(slice(all, i, part * rows, (part + 1) * rows))
      loss += result.loss / c.accumulate
    }
    losses.push(loss)
    if (c.clip) norms.push(result.gradNorm)
    // After one step of SGD the momentum is the gradient.
    if (i === 0 && c.optimizer.name === 'sgd' && !c.optimizer.weightDecay)
      gradients = new Map(
        [...model.namedParameters()].map(([name, p]) => [name, host(optimizer.state(name, p).momentum)]),
      )
  }
  const state = new Map([...model.state()].map(([name, t]) => [name, host(t)]))
  step.close()
  optimizer.dispose()
  model.dispose()
  return { losses, norms, gradients, state }
}

async function theirs(peer, c, dtype, folder) {
  const at = (name) => path.join(folder, name)
  const answer = await peer.ask({
    do: 'train',
    ...c,
    dtype,
    weights: at('weights'),
    batches: at('batches'),
    out: at('state'),
    gradients: at('gradients'),
  })
  return { ...answer, gradients: read(at('gradients')), state: read(at('state')) }
}

const relative = (a, b) => Math.abs(a - b) / Math.max(Math.abs(b), 1e-3)

/** Worst relative difference of two lists of numbers; NaN counts as the worst there is. */
function worst(a, b, end = a.length) {
  let most = 0
  for (let i = 0; i < Math.min(end, a.length); i++) {
    const d = relative(a[i], b[i])
    most = d <= most ? most : Number.isNaN(d) ? Infinity : d
  }
  return most
}

/** Worst over tensors of |a - b| / |b| (Euclidean); `names` selects. */
function worstTensor(a, b, names = () => true) {
  let most = 0
  for (const [name, { data }] of b) {
    if (!names(name)) continue
    const other = a.get(name).data
    let difference = 0,
      size = 0
    for (let i = 0; i < data.length; i++) {
      difference += (other[i] - data[i]) ** 2
      size += data[i] ** 2
    }
    const d = Math.sqrt(difference) / Math.max(Math.sqrt(size), 1e-12)
    most = d <= most ? most : Number.isNaN(d) ? Infinity : d
  }
  return most
}

const running = (name) => /running(Mean|Var)$/.test(name)
// Softmax does not see a bias of the keys: its gradient is 0, and what either side has for it is rounding.
const learns = (name) => !running(name) && !name.endsWith('attention.k.bias')

async function compareCase(c, peers, folder) {
  const all = await batches(c, c.steps)
  write(path.join(folder, 'batches'), Object.entries(all))
  const start = Date.now()
  const ours = await own(c, all, folder)
  const seconds = (Date.now() - start) / 1000
  const single = []
  for (const peer of peers) single.push(await theirs(peer, c, 'f32', folder))
  const double = await theirs(peers[0], c, 'f64', folder)
  const took = [seconds, ...single.map((r) => r.seconds), double.seconds]

  // Double precision is the reference; the worse of PyTorch's two runs in single precision is the yardstick.
  const checks = {}
  const check = (name, measure, limit) =>
    (checks[name] = { own: measure(ours), self: Math.max(...single.map(measure)), limit })
  check('early', (r) => worst(r.losses, double.losses, early), limits.early)
  check('all', (r) => worst(r.losses, double.losses), limits.all)
  if (c.clip) check('norm', (r) => worst(r.norms, double.norms, early), limits.early)
  // In millions of activations some lie within rounding of 0: where one falls decides a visible part of one gradient.
  const gradient = c.model === 'cnn' || c.model === 'resnet18' ? limits.flips : limits.gradient
  if (ours.gradients) check('gradient', (r) => worstTensor(r.gradients, double.gradients, learns), gradient)
  // Adam makes a full step of a gradient that is nothing but rounding: single weights differ by the rate.
  const state = c.optimizer.name === 'sgd' ? limits.state : limits.adam
  check('state', (r) => worstTensor(r.state, double.state, learns), state)
  if ([...ours.state.keys()].some(running))
    check('running', (r) => worstTensor(r.state, double.state, running), limits.state)
  return {
    checks,
    direct: worst(ours.losses, single[0].losses),
    spread: worst(single[0].losses, single[1].losses),
    last: ours.losses.at(-1),
    seconds: took,
  }
}

const exp = (v) => (v === undefined ? '' : v.toExponential(1))

/**
 * Whether each number is within its bound: the limit, or `chaos` times the worst that PyTorch shows on this kind of
 * model. (One ReLU that falls on the other side of 0 is a jump; it may strike any run, so the runs of a kind are one pool.)
 * The losses of a strict case keep to the limit.
 */
function judge(results) {
  const pool = new Map()
  for (const { c, checks } of results)
    for (const [name, { self }] of Object.entries(checks)) {
      const key = `${c.model} ${name}`
      pool.set(key, Math.max(pool.get(key) ?? 0, self))
    }
  for (const { c, checks } of results)
    for (const [name, check] of Object.entries(checks)) {
      check.bound =
        c.strict && losses.includes(name)
          ? check.limit
          : Math.max(check.limit, limits.chaos * pool.get(`${c.model} ${name}`))
      check.ok = check.own <= check.bound
    }
}

async function run(peers, folder, { only, steps, width }) {
  const results = []
  for (const c of cases({ width: width ?? 32, steps })) {
    const { model, rule } = title(c)
    if (only.length && !only.some((o) => `${model} ${rule} ${c.optimizer.name} ${c.note}`.includes(o))) continue
    const result = { c, ...(await compareCase(c, peers, folder)) }
    if (process.env.AUXGRAD_COMPARE_LOG) console.error(JSON.stringify(result))
    results.push(result)
  }
  judge(results)
  const pair = (x) => (x ? `${exp(x.own)} / ${exp(x.self)}` : '')
  const rows = results.map(({ c, checks, direct, spread, last }) => {
    const broken = Object.keys(checks).filter((name) => !checks[name].ok)
    return {
      ...title(c),
      optimizer: [c.optimizer.name, c.note].filter(Boolean).join(', '),
      steps: c.steps,
      'first 10': pair(checks.early),
      bound: exp(checks.early.bound),
      all: pair(checks.all),
      'bound ': exp(checks.all.bound),
      direct: exp(direct),
      '1/2 thr.': exp(spread),
      gradient: pair(checks.gradient),
      weights: pair(checks.state),
      running: pair(checks.running),
      norm: pair(checks.norm),
      loss: last.toFixed(4),
      ok: broken.length ? `NO: ${broken.join()}` : 'yes',
    }
  })
  const ok = results.every(({ checks }) => Object.values(checks).every((x) => x.ok))
  const text = [
    'Worst relative difference from PyTorch in double precision: ours / PyTorch in single precision (the worse of 1 and all threads).',
    `Bounds: losses ${limits.all}; gradients of step 1 ${limits.gradient} (with batch norm ${limits.flips}); weights and running statistics at the end ${limits.state} (Adam ${limits.adam});`,
    `where PyTorch's own rounding goes beyond them (on any run of the model), ${limits.chaos} times that (losses at a small rate never). "direct": losses, ours against PyTorch in single precision.\n`,
  ].join('\n')
  return { rows, text, ok }
}

module.exports = { run }

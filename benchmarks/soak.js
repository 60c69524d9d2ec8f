#!/usr/bin/env node
// `node benchmarks/soak.js [STEPS]`: many steps of a small model (memory must stay flat), the overhead of a
// step whose kernels do almost nothing, and how late a 1 ms timer is while ResNet-18 trains. Needs dist/ (npm
// run build:all). Exits with 1 if a limit is broken.
'use strict'
const { spawnSync } = require('node:child_process')
const path = require('node:path')
const { compile, memory, models, nn, optim } = require(path.resolve(__dirname, '../dist'))

const steps = Number(process.argv[2] ?? 100000)
if (!(steps >= 1000)) {
  console.error('soak: expected node benchmarks/soak.js [STEPS >= 1000]')
  process.exit(2)
}
if (!global.gc) {
  // V8 grows its young generation by megabytes, some time or other: held, so that what is measured is ours.
  const flags = ['--expose-gc', '--min-semi-space-size=4', '--max-semi-space-size=4']
  const { status } = spawnSync(process.execPath, [...flags, __filename, String(steps)], { stdio: 'inherit' })
  process.exit(status ?? 1)
}
let broken = 0
const report = (what, value, unit, limit) => {
  const ok = value <= limit
  if (!ok) broken++
  console.log(
    `${what.padEnd(52)} ${value.toFixed(2).padStart(10)} ${unit.padEnd(4)} limit ${limit} ${ok ? '' : '  BROKEN'}`,
  )
}
const values = (n) => Float32Array.from({ length: n }, () => Math.random() - 0.5)
const quantile = (list, q) => Float64Array.from(list).sort()[Math.min(list.length - 1, Math.floor(q * list.length))]
const settle = async () => {
  for (let i = 0; i < 3; i++) {
    global.gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

async function flat() {
  const model = new models.MLP([16, 32, 32, 4])
  const optimizer = new optim.AdamW({ lr: optim.schedule.cosine(1e-3, { steps }) })
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer,
    clip: { norm: 1 },
  })
  const y = Int32Array.from({ length: 8 }, (_, i) => i % 4)
  const run = () => step.run({ x: { data: values(128), shape: [8, 16], dtype: 'f32' }, y })
  // V8's own pages grow for about as long.
  const windows = 5
  let most = 0
  const window = async () => {
    for (let i = 0; i < steps / windows; i++) {
      await run()
      if (i % 1000 === 0) most = Math.max(most, process.memoryUsage().rss)
    }
    await settle()
  }
  for (let i = 0; i < windows; i++) await window()
  const before = { rss: process.memoryUsage().rss, ...memory() }
  const heaps = [process.memoryUsage().heapUsed]
  let seconds = 0
  most = before.rss
  for (let w = 0; w < windows; w++) {
    const started = performance.now()
    await window()
    seconds += (performance.now() - started) / 1000
    heaps.push(process.memoryUsage().heapUsed)
  }
  // What V8 compiles for itself comes once; a leak grows in every window.
  const growth = quantile(
    heaps.slice(1).map((h, i) => h - heaps[i]),
    0.5,
  )
  console.log(`JavaScript heap after each window: ${heaps.map((h) => (h / 1024).toFixed(0)).join(', ')} KiB`)
  const after = memory()
  console.log(`${steps} steps, ${((1e6 * seconds) / steps).toFixed(1)} us each`)
  report('resident set, growth after warm-up', (process.memoryUsage().rss - before.rss) / 2 ** 20, 'MiB', 2)
  report('resident set, highest above its start', (most - before.rss) / 2 ** 20, 'MiB', 16) // young garbage on its way
  report('native bytes, growth', after.live - before.live, 'B', 0)
  report('native blocks, growth', after.tensors - before.tensors, '', 0)
  report('allocations during steps', after.allocations - before.allocations, '', 0)
  report('JavaScript heap, growth a step (median window)', (growth * windows) / steps, 'B', 1)
  step.close()
}

/** Microseconds of a call, once it is warm. */
function mean(call, calls = 20000) {
  for (let i = 0; i < calls; i++) call()
  const start = performance.now()
  for (let i = 0; i < calls; i++) call()
  return (1e3 * (performance.now() - start)) / calls
}

async function overhead() {
  const model = new nn.Linear(1, 1, { bias: false })
  const step = compile({ model, loss: ({ x }) => model.forward(x).sum(), optimizer: new optim.SGD({ lr: 1e-6 }) })
  const x = { data: new Float32Array(1), shape: [1, 1], dtype: 'f32' }
  for (let i = 0; i < 20000; i++) await step.run({ x })
  const times = []
  for (let i = 0; i < 20000; i++) {
    const start = performance.now()
    await step.run({ x })
    times.push(1e3 * (performance.now() - start))
  }
  report('a step of five empty kernels, median', quantile(times, 0.5), 'us', 50)
  report('a step of five empty kernels, 99th percentile', quantile(times, 0.99), 'us', 500)
  report(
    'the same on the calling thread, mean',
    mean(() => step.runSync({ x })),
    'us',
    30,
  )
  const f = compile(({ x: v }) => v.mul(2))
  report(
    'one kernel on the calling thread, mean',
    mean(() => f.runSync({ x })),
    'us',
    20,
  )
  step.close()
}

async function eventLoop() {
  const model = new models.ResNet({ depth: 18, classes: 10 })
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.01, momentum: 0.9 }),
  })
  const batch = { x: { data: values(8 * 32 * 32 * 3), shape: [8, 32, 32, 3], dtype: 'f32' }, y: new Int32Array(8) }
  await step.run(batch)
  const late = []
  let due = performance.now() + 1
  let timer = setTimeout(function tick() {
    const now = performance.now()
    late.push(now - due)
    due = now + 1
    timer = setTimeout(tick, 1)
  }, 1)
  const started = performance.now()
  let count = 0
  while (performance.now() - started < 10000) {
    await step.run(batch)
    count++
  }
  clearTimeout(timer)
  console.log(
    `ResNet-18, batch 8: ${((performance.now() - started) / count).toFixed(0)} ms a step, ${late.length} ticks`,
  )
  report('1 ms timer during training, late at the median', quantile(late, 0.5), 'ms', 20)
  report('1 ms timer during training, late at the 99th pct.', quantile(late, 0.99), 'ms', 20)
  step.close()
}

flat()
  .then(overhead)
  .then(eventLoop)
  .then(() => process.exit(broken ? 1 : 0))

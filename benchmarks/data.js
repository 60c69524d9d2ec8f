#!/usr/bin/env node
// `npm run build:all && node benchmarks/data.js`: how fast data comes: the loader, image transforms, weight files.
'use strict'
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { data, hostArray, readSafetensors, writeSafetensors, saveCheckpoint, loadCheckpoint } = require('../dist')

const report = (name, value, unit) =>
  console.log(`${name.padEnd(52)} ${Math.round(value).toLocaleString('en').padStart(12)} ${unit}`)

/** Rows a second: the median of five epochs after one to warm up. */
async function loader(name, dataset, options) {
  const batches = new data.DataLoader(dataset, { batchSize: 128, shuffle: true, seed: 1, ...options })
  const rates = []
  for (let epoch = 0; epoch < 6; epoch++) {
    const start = performance.now()
    let rows = 0
    for await (const { y } of batches) rows += y.data.length
    rates.push((rows / (performance.now() - start)) * 1000)
  }
  report(name, rates.slice(1).sort((a, b) => a - b)[2], 'images/s')
}

async function seconds(body) {
  const times = []
  for (let i = 0; i < 5; i++) {
    const start = performance.now()
    await body()
    times.push(performance.now() - start)
  }
  return times.sort((a, b) => a - b)[2] / 1000
}

async function main() {
  const { train } = await data.mnist()
  const { train: bytes } = await data.mnist({ pixels: 'u8' })
  await loader('MNIST, f32 from bytes, batches of 128', train, {})
  await loader('MNIST, bytes', bytes, {})
  await loader('MNIST, crop 28 of 32, flip, normalize', bytes, {
    transform: data.compose(data.randomCrop(28, { padding: 2 }), data.randomFlip(), data.normalize(0.1307, 0.3081)),
  })
  const n = 10000
  const colour = data.fromArrays({
    x: hostArray(
      Uint8Array.from({ length: n * 3072 }, (_, i) => (i * 31) % 256),
      [n, 32, 32, 3],
    ),
    y: new Int32Array(n),
  })
  await loader('32 x 32 x 3, crop of 40, flip, normalize', colour, {
    transform: data.compose(
      data.randomCrop(32, { padding: 4 }),
      data.randomFlip(),
      data.normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2]),
    ),
  })
  report('Order of 1,000,000 rows', (await seconds(async () => data.permutation(1e6, 1, 0))) * 1000, 'ms')

  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-bench-'))
  try {
    const file = path.join(folder, 'file')
    const tensors = new Map([
      ['a', hostArray(new Float32Array(64 << 18).fill(1))],
      ['b', hostArray(new Float32Array(64 << 18).fill(2))],
    ])
    const rate = async (name, body) => report(name, 128 / (await seconds(body)), 'MiB/s')
    await rate('Safetensors, 128 MiB: write with fsync', () => writeSafetensors(file, tensors))
    await rate('Safetensors, 128 MiB: read', () => readSafetensors(file))
    await rate('Checkpoint, 128 MiB: save with SHA-256 and fsync', () =>
      saveCheckpoint(file, { tensors, state: { step: 1 } }),
    )
    await rate('Checkpoint, 128 MiB: load and verify', () => loadCheckpoint(file))
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

main()

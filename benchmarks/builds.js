#!/usr/bin/env node
// `node benchmarks/builds.js OLD NEW [--only TEXT] [--seconds 4] [--threads 1]`
// Two builds of this package (folders with dist/ and build/Release/auxgrad.node, such as two work trees) in one process,
// which take turns call by call. Neighbours on the same machine change its speed for milliseconds or seconds, so that
// one run of `npm run bench` and the next cannot be compared; here both builds meet the same moments, slow ones too, and
// operands that come from memory as in training, not from the caches where repeating one kernel leaves them.
// Prints quantiles of microseconds a call and the ratio NEW / OLD of each: below 1, NEW is faster.
'use strict'
const path = require('node:path')
const { parseArgs } = require('node:util')
const Table = require('cli-table3')

const matmul = (m, k, n) => (l) => {
  const [a, b] = [l.normal([m, k]), l.normal([k, n])]
  return () => a.matmul(b)
}
const signs = (tokens, outputs, inputs) => (l) => {
  const [delta, kept] = [l.normal([tokens, outputs]), l.signPack(l.normal([tokens, inputs]), 'pm1', 1)]
  return () => l.linearSignWeightGrad(delta, kept, 1, 'pm1')
}
const conv2d = (images, side, channels, size) => (l) => {
  const [x, w] = [l.normal([images, side, side, channels]), l.normal([channels, size, size, channels])]
  return () => l.conv2d(x, w, undefined, { padding: size >> 1 })
}
const rows = (count, columns, f) => (l) => {
  const x = l.normal([count, columns])
  return () => f(l, x)
}
const layerNorm = (count, columns) => (l) => {
  const [gamma, beta] = [l.ones([columns]), l.zeros([columns])]
  return rows(count, columns, (_, x) => l.layerNorm(x, gamma, beta))(l)
}

/** Of each case what it makes of a build of the library: a call whose results are let go after it. */
const cases = {
  'matmul 64 x 64 x 64': matmul(64, 64, 64),
  'matmul 256 x 256 x 256': matmul(256, 256, 256),
  'matmul 1024 x 1024 x 1024': matmul(1024, 1024, 1024),
  'matmul 512 x 768 x 3072': matmul(512, 768, 3072),
  'signs 1024 x 256 x 256': signs(1024, 256, 256),
  'signs 2048 x 512 x 512': signs(2048, 512, 512),
  'signs 4096 x 768 x 768': signs(4096, 768, 768),
  'conv2d 3 x 3, 64 at 32': conv2d(32, 32, 64, 3),
  'conv2d 3 x 3, 256 at 14': conv2d(8, 14, 256, 3),
  'conv2d 1 x 1, 256 at 28': conv2d(8, 28, 256, 1),
  'layerNorm 2048 x 64': layerNorm(2048, 64),
  'layerNorm 10922 x 768': layerNorm(10922, 768),
  'softmax 512 x 49': rows(512, 49, (_, x) => x.softmax()),
  'softmax 8192 x 1024': rows(8192, 1024, (_, x) => x.softmax()),
  'gelu 4 M': rows(4096, 1024, (_, x) => x.gelu()),
  'quantize 4 M to 8 bits': rows(4096, 1024, (l, x) => l.quantize(x, 8)),
}

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string', default: '' },
    seconds: { type: 'string', default: '4' },
    threads: { type: 'string', default: '1' },
  },
})
const [seconds, threads] = [Number(given.seconds), Number(given.threads)]
const chosen = Object.entries(cases).filter(([name]) => name.includes(given.only))
if (positionals.length !== 2 || !(seconds > 0) || !(threads >= 1) || !chosen.length) {
  console.error(
    'builds: expected OLD NEW [--only TEXT] [--seconds 4] [--threads 1], two folders and a part of a name of:',
  )
  console.error(Object.keys(cases).join('\n'))
  process.exit(2)
}
const builds = positionals.map((folder) => require(path.resolve(folder)))
for (const l of builds) l.setThreads(threads)

const quantiles = [0, 0.1, 0.25, 0.5, 0.75, 0.9]
const table = new Table({
  head: ['us: old, new, ratio', ...quantiles.map((q) => `${100 * q} %`)],
  style: { head: [], border: [], compact: true },
})
for (const [name, make] of chosen) {
  process.stderr.write(`${name}\n`)
  const calls = builds.map((l) => {
    const call = make(l)
    return () => l.tidy(() => void call())
  })
  for (const call of calls) call()
  const taken = builds.map(() => [])
  const end = performance.now() + 1000 * seconds
  for (let turn = 0; performance.now() < end; turn++)
    for (const i of turn % 2 ? [1, 0] : [0, 1]) {
      const start = performance.now()
      calls[i]()
      taken[i].push(1000 * (performance.now() - start))
    }
  const [old, now] = taken.map((times) => {
    times.sort((a, b) => a - b)
    return quantiles.map((q) => times[Math.floor(q * (times.length - 1))])
  })
  table.push([name, ...old.map((t, i) => `${t.toFixed(0)} ${now[i].toFixed(0)} ${(now[i] / t).toFixed(2)}`)])
}
console.log(table.toString())

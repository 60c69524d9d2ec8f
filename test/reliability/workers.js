// Eight workers load auxgrad at once, train, and are ended in the middle of a step, over and over. Then the process
// must still train, hold no memory of theirs and have no thread of theirs. node workers.js [rounds] [loadHere]
'use strict'
const { readdirSync, readFileSync } = require('node:fs')
const { Worker, isMainThread, parentPort } = require('node:worker_threads')

const rounds = Number(process.argv[2] ?? 20)
const loadHere = process.argv[3] !== 'only-workers'

if (!isMainThread) {
  const { makeStep } = require('./common')
  const { step, batch } = makeStep(2000)
  const endless = async () => {
    for (;;) {
      await Promise.all([step.run(batch), step.run(batch), step.run(batch)]) // two wait in the queue
      parentPort.postMessage('stepped')
    }
  }
  void endless()
} else if (!process.env.MALLOC_MMAP_THRESHOLD_) {
  // glibc takes blocks as large as the largest one freed so far from its heaps, where they leave holes that grow without
  // end while nothing is held. With a fixed limit the resident set is what is held.
  const { spawnSync } = require('node:child_process')
  const env = { ...process.env, MALLOC_MMAP_THRESHOLD_: '65536' }
  process.exitCode = spawnSync(process.execPath, process.argv.slice(1), { env, stdio: 'inherit' }).status ?? 1
} else {
  const threads = () => readdirSync('/proc/self/task').length
  const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024

  const round = (i) =>
    Promise.all(
      Array.from({ length: 8 }, (_, k) => {
        const worker = new Worker(__filename)
        return new Promise((resolve, reject) => {
          worker.once('error', reject)
          worker.once('exit', resolve)
          // Some before they have loaded it, some in their first step, some later.
          const wait = ((i * 8 + k) * 37) % 120
          if ((i + k) % 4 === 0) setTimeout(() => worker.terminate(), wait)
          else worker.once('message', () => setTimeout(() => worker.terminate(), wait % 15))
        })
      }),
    )

  const main = async () => {
    const here = loadHere ? require('./common').makeStep(200) : undefined
    if (here) await here.step.run(here.batch)
    const counts = []
    const sizes = []
    for (let i = 0; i < rounds; i++) {
      await round(i)
      if (here) {
        const { loss } = await here.step.run(here.batch)
        if (!(loss > 0 && loss < 10)) throw new Error(`loss ${loss}`)
      }
      counts.push(threads())
      sizes.push(resident())
    }
    const early = Math.max(...sizes.slice(0, Math.ceil(rounds / 2)))
    const late = Math.min(...sizes.slice(-Math.ceil(rounds / 4)))
    if (counts[counts.length - 1] > counts[0] + 1) throw new Error(`threads grow: ${counts}`)
    if (late > early * 1.25) throw new Error(`memory grows: ${sizes.map((s) => s.toFixed(0))}`)
    console.log(
      `${rounds} rounds of 8 workers ended in mid-step; ${counts[0]} to ${counts[counts.length - 1]} threads, ${sizes[0].toFixed(0)} to ${sizes[sizes.length - 1].toFixed(0)} MiB`,
    )
  }
  void main()
}

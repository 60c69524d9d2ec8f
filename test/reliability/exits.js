// Ends of a process in the middle of a step: each must have its own exit code, and no signal.
// node exits.js [repetitions]
'use strict'
const { spawnSync } = require('node:child_process')

const fail = () => {
  throw new Error('on purpose')
}
const ends = {
  exit: { code: 7, end: (delay) => setTimeout(() => process.exit(7), delay) },
  uncaught: { code: 1, end: (delay) => setTimeout(fail, delay) },
  rejection: { code: 1, end: (delay) => setTimeout(() => Promise.reject(new Error('on purpose')), delay) },
  natural: { code: 0, end: () => {} },
  'exit-in-worker': { code: 0, worker: true, end: (delay) => setTimeout(() => process.exit(7), delay) },
  'uncaught-in-worker': { code: 1, worker: true, end: (delay) => setTimeout(fail, delay) },
  'main-ends-while-worker-trains': {
    code: 5,
    worker: true,
    main: (delay) => setTimeout(() => process.exit(5), delay + 60),
    end: () => {},
  },
}

if (process.argv[2] === 'child') {
  const { isMainThread, Worker } = require('node:worker_threads')
  const { worker, end, main } = ends[process.argv[3]]
  const delay = Number(process.argv[4])
  if (worker && isMainThread) {
    new Worker(__filename, { argv: process.argv.slice(2) })
    main?.(delay)
  } else {
    const { makeStep } = require('./common')
    const { step, batch } = makeStep(3000)
    const runs = [step.run(batch), step.run(batch), step.run(batch)]
    for (const run of runs) run.catch(() => {})
    end(delay)
  }
} else {
  const repetitions = Number(process.argv[2] ?? 3)
  let count = 0
  for (let i = 0; i < repetitions; i++)
    for (const [name, { code }] of Object.entries(ends)) {
      const delay = (i * 13) % 50
      const result = spawnSync(process.execPath, [...process.execArgv, __filename, 'child', name, String(delay)], {
        encoding: 'utf8',
        timeout: 120000,
      })
      if (result.status !== code || result.signal)
        throw new Error(
          `${name} after ${delay} ms: exit code ${result.status}, signal ${result.signal}, expected ${code}\n${result.stderr}`,
        )
      count++
    }
  console.log(`${count} ends in mid-step with the right exit code`)
}

// Every allocation of making a step, running it, saving and loading fails, each once and then it and all later ones:
// an AuxgradError with a code each time, the live bytes back where they were, an older checkpoint intact, and
// afterwards everything works. node --expose-gc faults.js [every]: with n > 1 only every n-th allocation.
'use strict'
const { spawnSync } = require('node:child_process')
const { mkdtempSync, readFileSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const path = require('node:path')
const { Net, auxgrad, makeStep } = require('./common')
const { native } = require('../../dist/native')

const every = Number(process.argv[2] ?? 1)
const folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-faults-'))
const live = () => auxgrad.memory().live
const { train } = auxgrad

/** Runs body with the k-th allocation failing, k = 1, 2, ... until a run meets none that fails; the number of those. */
async function eachAllocation(name, persistent, body, undo) {
  let met = 0
  for (let k = 1; ; k += every) {
    await undo?.()
    const before = live()
    native().setFault(k, persistent)
    let error
    try {
      await body()
    } catch (caught) {
      // Words only: the error itself keeps the frames it came from, and with them what they held.
      error = { code: caught instanceof auxgrad.AuxgradError ? caught.code : '', stack: caught.stack }
    }
    native().setFault(0, false)
    await undo?.()
    if (live() !== before) throw new Error(`${name}, allocation ${k}: ${before} bytes live before, ${live()} after`)
    if (!error) return met
    if (error.code !== 'AUX_OUT_OF_MEMORY')
      throw new Error(`${name}, allocation ${k}: expected AUX_OUT_OF_MEMORY, got ${error.stack}`)
    met++
  }
}

const collect = async () => {
  for (let i = 0; i < 5; i++) {
    global.gc()
    await new Promise((resolve) => setTimeout(resolve, 5)) // finalisers run between turns of the loop
  }
}

async function main() {
  const model = new Net()
  const first = makeStep(8, model)
  await first.step.run(first.batch)
  const file = path.join(folder, 'checkpoint')
  await train.saveTraining(file, { step: first.step })

  makeStep(8, model).close() // frees the arena that all steps of the model share

  const report = {}
  for (const persistent of [false, true]) {
    const count = async (name, body, undo) => {
      report[name] = (report[name] ?? 0) + (await eachAllocation(name, persistent, body, undo))
    }
    let made
    await count(
      'step',
      async () => {
        made = makeStep(8, model)
        made.step.plan({ x: [8, 64], y: [8] })
        await made.step.run(made.batch)
      },
      () => made?.close(),
    )
    await count('eager', () => {
      auxgrad.tidy(() => {
        const t = auxgrad.tensor([
          [1, 2],
          [3, 4],
        ])
        t.matmul(t).transpose().add(t).softmax(-1).sum().item()
      })
    })
    await count('save', () => train.saveTraining(file, { step: first.step }))
    const saved = readFileSync(file)
    await count('load', () => train.loadTraining(file, { step: first.step }))
    if (Buffer.compare(saved, readFileSync(file)) !== 0) throw new Error('loading changed the checkpoint')
    // What a constructor had made when it failed has no owner: the collector frees it.
    await count('model', () => void new Net(), collect)
  }
  if (report.step < 10 || report.eager < 8 || report.model < 8)
    throw new Error(`too few allocations met: ${JSON.stringify(report)}`)
  await train.loadTraining(file, { step: first.step })
  const { loss } = await first.step.run(first.batch)
  if (!(loss > 0)) throw new Error(`loss ${loss}`)

  // The error is caught: a process that ends by an uncaught one leaves Node's own memory behind, and a leak check sees it.
  const body = `try { require('.').tensor([1]) } catch (error) { console.error(error.code); process.exitCode = 1 }`
  const child = spawnSync(process.execPath, ['-e', body], {
    cwd: path.join(__dirname, '../..'),
    env: { ...process.env, AUXGRAD_FAULTS: 'alloc:1' },
    encoding: 'utf8',
  })
  if (child.status !== 1 || child.stderr.trim() !== 'AUX_OUT_OF_MEMORY')
    throw new Error(`AUXGRAD_FAULTS: exit code ${child.status}, ${child.stderr}`)
  rmSync(folder, { recursive: true })
  console.log(
    `allocations failed one by one: ${JSON.stringify(report)}; each an AUX_OUT_OF_MEMORY, nothing left behind`,
  )
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})

// Every allocation of making a step, running it, saving and loading fails, each once and then it and all later ones:
// an AuxgradError with a code each time, the live bytes back where they were, an older checkpoint intact, and
// afterwards everything works. node faults.js [every]: with n > 1 only every n-th allocation.
'use strict'
const { mkdtempSync, readFileSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const path = require('node:path')
const { auxgrad, makeStep } = require('./common')
const { native } = require('../../dist/native')

const every = Number(process.argv[2] ?? 1)
const folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-faults-'))
const live = () => auxgrad.memory().live
const { train } = auxgrad

/** Runs body with the k-th allocation failing, k = 1, 2, ... until a run meets none that fails; the number of those. */
async function eachAllocation(name, persistent, body, undo) {
  let met = 0
  for (let k = 1; ; k += every) {
    const before = live()
    native().setFault(k, persistent)
    let error
    try {
      await body()
    } catch (caught) {
      error = caught
    }
    native().setFault(0, false)
    await undo?.()
    if (live() !== before) throw new Error(`${name}, allocation ${k}: ${before} bytes live before, ${live()} after`)
    if (!error) return met
    if (!(error instanceof auxgrad.AuxgradError) || error.code !== 'AUX_OUT_OF_MEMORY')
      throw new Error(`${name}, allocation ${k}: expected AUX_OUT_OF_MEMORY, got ${error.stack}`)
    met++
  }
}

async function main() {
  {
    const warm = makeStep(8)
    await warm.step.run(warm.batch)
    warm.dispose()
  }
  const start = live()
  const report = []
  for (const persistent of [false, true]) {
    let made
    report.push(
      await eachAllocation(
        'model and first step',
        persistent,
        async () => {
          await auxgrad.tidy(() => {})
          made = undefined
          made = makeStep(8)
          await made.step.run(made.batch)
        },
        () => {
          made?.dispose()
        },
      ),
    )
  }
  if (live() !== start) throw new Error(`${start} bytes live at the start, ${live()} at the end`)
  rmSync(folder, { recursive: true })
  console.log(`allocations failed one by one: ${report.join(' + ')}; every one an AUX_OUT_OF_MEMORY, nothing left behind`)
}

void main()

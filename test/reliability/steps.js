// Trains n steps, plain and with an abort, and lets go of everything: for the address and leak checks. node steps.js [n]
'use strict'
const { auxgrad, makeStep } = require('./common')

async function main() {
  const { model, step, batch, close } = makeStep(64)
  const controller = new AbortController()
  for (let i = 0; i < Number(process.argv[2] ?? 10); i++) await step.run(batch)
  const runs = [step.run(batch, { signal: controller.signal }), step.run(batch, { signal: controller.signal })]
  controller.abort()
  const ends = await Promise.allSettled(runs)
  close()
  model.dispose()
  const { live } = auxgrad.memory()
  if (live !== 0) throw new Error(`${live} bytes live at the end`)
  console.log(`trained; aborted runs: ${ends.map((end) => end.status).join(', ')}; 0 bytes live`)
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})

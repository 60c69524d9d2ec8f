#!/usr/bin/env node
// `node scripts/native-tests.js PROGRAM [argument...]`: runs the native tests in processes with every n-th of them, as many
// at a time as there are cores, and sums what they count. PROGRAM is `auxgrad_test`, or what runs it (qemu, wine) and then
// it.
'use strict'
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const [command, ...args] = process.argv.slice(2)
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-native-'))
const cores = Math.max(1, Math.min(os.availableParallelism(), 4))
const parts = 6 * cores // a core that comes to its end sooner takes the next
const children = new Set()
let begun = 0
process.on('SIGTERM', () => {
  begun = parts
  for (const child of children) child.kill()
})

/** The output of one part: through a file, as Node gives a child sockets, which a program under wine cannot write to. */
function runPart(part) {
  const file = path.join(folder, String(part))
  const output = fs.openSync(file, 'w')
  const child = spawn(command, [...args, '--part', `${part}/${parts}`], { stdio: ['ignore', output, output] })
  fs.closeSync(output)
  children.add(child)
  return new Promise((resolve) => {
    const end = (how) => {
      children.delete(child)
      const printed = fs.readFileSync(file, 'utf8').replace(/\r/g, '').trimEnd().split('\n').filter(Boolean)
      const counts = /^(\d+) passed, (\d+) failed$/.exec(printed.at(-1) ?? '')
      const [passed, failed] = counts ? counts.slice(1).map(Number) : [0, 0]
      if (counts) printed.pop()
      // A checked build may count no failure and still end with an error: what it found is in the output.
      const broken = failed === 0 && (how !== 'exit code 0' || !counts)
      if (broken) printed.push(`part ${part} of ${parts}: ${how}`)
      resolve({ printed, passed, failed: broken ? 1 : failed })
    }
    child.on('error', (error) => end(error.message))
    child.on('close', (code, signal) => end(signal ?? `exit code ${code}`))
  })
}

async function main() {
  const results = []
  const core = async () => {
    while (begun < parts) results.push(await runPart(++begun))
  }
  await Promise.all(Array.from({ length: cores }, core))
  fs.rmSync(folder, { recursive: true, force: true })
  const sum = (name) => results.reduce((total, result) => total + result[name], 0)
  for (const line of new Set(results.flatMap(({ printed }) => printed))) console.log(line)
  console.log(`${sum('passed')} passed, ${sum('failed')} failed`)
  process.exit(sum('failed') ? 1 : 0)
}

main()

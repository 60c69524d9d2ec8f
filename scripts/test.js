#!/usr/bin/env node
// `npm test`: builds, then the native tests, the types and jest; one closing line counts them all.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
let passed = 0
let failed = 0

function step(name, command, args) {
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
  })
  process.stdout.write(result.stdout ?? '')
  if (result.status !== 0) console.error(`test: ${name} failed`)
  return result
}

for (const [name, args] of [
  ['build', ['scripts/build-native.js', '--programs']],
  ['types', ['node_modules/typescript-7/lib/tsc.js', '--noEmit']],
]) {
  if (step(name, process.execPath, args).status === 0) passed++
  else if (name === 'build') {
    console.log('0 passed, 1 failed') // an old binary would be tested
    process.exit(1)
  } else failed++
}

// Those of plans on a device run on one that is made of the processor.
const library = path.join(root, 'build/Release/auxgrad_host_device.so')
if (fs.existsSync(library)) process.env.AUXGRAD_CUDA_LIBRARY = library
for (const args of [[], ...(fs.existsSync(library) ? [['--device', 'cuda', 'device_', 'plan_file']] : [])]) {
  const native = step('native tests', process.execPath, [
    'scripts/native-tests.js',
    'build/Release/auxgrad_test',
    ...args,
  ])
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(native.stdout ?? '')
  if (counts) {
    passed += Number(counts[1])
    failed += Number(counts[2])
  } else failed++
}

const report = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-')), 'jest.json')
step('jest', process.execPath, [
  '--expose-gc',
  'node_modules/jest/bin/jest.js',
  '--json',
  `--outputFile=${report}`,
  ...process.argv.slice(2),
])
if (fs.existsSync(report)) {
  const result = JSON.parse(fs.readFileSync(report, 'utf8'))
  passed += result.numPassedTests
  failed += result.numFailedTests + result.numRuntimeErrorTestSuites
} else failed++
fs.rmSync(path.dirname(report), { recursive: true, force: true })

console.log(`${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)

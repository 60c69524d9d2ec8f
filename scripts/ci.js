#!/usr/bin/env node
// `.ci/run`: everything that is checked before a merge, from a clean checkout, in under 40 minutes on two cores. Each
// step ends with a line "N passed, M failed"; so does this, with the sums. Name steps to run only those.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const script = (name, ...args) => [process.execPath, path.join(__dirname, name), ...args]

/** Debian packages that a step needs besides a C++ compiler, and the commands by which they are known. */
const tools = {
  'clang-format-14': 'clang-format-14',
  'g++-aarch64-linux-gnu': 'aarch64-linux-gnu-g++',
  'qemu-user-static': 'qemu-aarch64-static',
  'g++-mingw-w64-x86-64-posix': 'x86_64-w64-mingw32-g++-posix',
  wine64: '/usr/lib/wine/wine64',
}

const steps = {
  test: { command: script('test.js') },
  // Types and contracts are part of the first step.
  check: {
    command: script('check.js', 'format-native', 'format', 'lint', 'docs', 'cuda'),
    tools: ['clang-format-14'],
    instead: script('check.js', 'format', 'lint', 'docs'),
  },
  // Before package, which then sees what is published.
  prebuild: { command: script('prebuild.js'), tools: Object.keys(tools), instead: script('prebuild.js', 'linux-x64') },
  'test-prebuild': {
    command: script('test-prebuild.js'),
    tools: Object.keys(tools),
    instead: script('test-prebuild.js', 'linux-x64'),
  },
  package: { command: script('test-package.js') },
  reliability: { command: script('reliability.js') },
}

const has = (command) => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0

function install(packages) {
  const missing = packages.filter((name) => !has(tools[name]))
  if (!missing.length) return true
  if (process.getuid?.() !== 0 || !has('apt-get')) return false
  spawnSync('apt-get', ['update', '-qq'], { stdio: 'ignore' })
  const args = ['install', '-y', '-qq', '--no-install-recommends', ...missing]
  spawnSync('apt-get', args, { stdio: 'ignore', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
  return packages.every((name) => has(tools[name]))
}

const chosen = process.argv.slice(2)
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-ci-'))
let passed = 0
let failed = 0
const notes = []

for (const name of chosen.length ? chosen : Object.keys(steps)) {
  const { command, tools: needed = [], instead } = steps[name]
  let line = command
  if (!install(needed)) {
    notes.push(`${name}: in part only, for want of ${needed.filter((n) => !has(tools[n])).join(', ')}`)
    line = instead
  }
  console.log(`\n== ${name}`)
  const started = Date.now()
  const log = path.join(folder, name)
  const result = spawnSync('sh', ['-c', '"$@" 2>&1 | tee "$LOG"; exit 0', 'sh', ...line], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, LOG: log },
  })
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(fs.readFileSync(log, 'utf8').trimEnd())
  if (result.status === 0 && counts) {
    passed += Number(counts[1])
    failed += Number(counts[2])
  } else {
    failed++
    notes.push(`${name}: ended without a count`)
  }
  console.log(`== ${name}: ${((Date.now() - started) / 1000).toFixed(0)} s`)
}
fs.rmSync(folder, { recursive: true, force: true })
for (const note of notes) console.log(`note: ${note}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)

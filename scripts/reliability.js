#!/usr/bin/env node
// `npm run test:reliability [-- --long] [step...]`: what must not happen to a process that trains.
//   native-asan    every native test with address and undefined-behaviour checks
//   native-tsan    pool, executor and plans under the thread checks (a program without Node: Node itself is not built
//                  for them)
//   addon-asan     the add-on inside Node with address, undefined-behaviour and leak checks, where a kernel that touches
//                  what it was not given is found (native/core/fence.h): these scripts and, with --long, the jest tests
//   workers        workers ended in the middle of a step        exits   processes ended so
//   faults         every allocation fails once
//   files          with --long: damaged files, and kill -9 while saving (npm test has the short forms)
// --long does ten times as much.
'use strict'
const { spawnSync } = require('node:child_process')
const path = require('node:path')
const { works } = require('./build-native.js')

const root = path.resolve(__dirname, '..')
const long = process.argv.includes('--long')
const times = long ? 10 : 1
const chosen = process.argv.slice(2).filter((name) => !name.startsWith('--'))
const script = (name) => path.join(root, 'test/reliability', name)
let passed = 0
let failed = 0

function run(name, command, args, env = {}, accept = (result) => result.status === 0) {
  const started = Date.now()
  const result = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  const ok = accept(result)
  const last = (result.stdout ?? '').trim().split('\n').pop()
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}, ${((Date.now() - started) / 1000).toFixed(0)} s: ${last}`)
  if (!ok) console.log(`${result.stdout}${result.stderr}`.slice(-6000))
  if (ok) passed++
  else failed++
  return result
}

const build = (name, ...args) => run(`build for ${name}`, process.execPath, ['scripts/build-native.js', ...args])
const stress = { AUXGRAD_STRESS: String(times), AUXGRAD_THREADS: '4' }
const asan = 'build/Release-address-undefined'

/** Node with the sanitized add-on. The leak check looks for our frames: what Node itself keeps is not ours to report. */
function sanitized(name, args, env = {}) {
  const library = works('g++', ['-print-file-name=libasan.so'])?.trim()
  run(name, process.execPath, args, {
    LD_PRELOAD: library,
    ASAN_OPTIONS: 'detect_leaks=1:exitcode=99',
    LSAN_OPTIONS: `suppressions=${script('leaks.supp')}:print_suppressions=0`,
    AUXGRAD_BINARY: path.join(root, asan, 'auxgrad.node'),
    AUXGRAD_THREADS: '4',
    ...env,
  })
}

const steps = {
  'native-asan': () => {
    build('address and undefined behaviour', '--sanitize', 'address,undefined', '--programs')
    const tests = ['scripts/native-tests.js', path.join(root, asan, 'auxgrad_test')]
    run('native tests under ASan and UBSan', process.execPath, tests, stress)
  },
  'native-tsan': () => {
    build('threads', '--sanitize', 'thread', '--no-addon', '--programs')
    const program = path.join(root, 'build/Release-thread/auxgrad_test')
    // Address randomisation of newer kernels leaves TSan of gcc 12 no room.
    const fixed = works('setarch', ['-R', 'true']) !== null ? ['setarch', '-R'] : []
    const [command, ...first] = [...fixed, program]
    for (const filter of ['stress', 'plan_', ...(long ? [''] : ['threads'])])
      run(`native tests "${filter || 'all'}" under TSan`, command, [...first, ...(filter ? [filter] : [])], {
        ...stress,
        TSAN_OPTIONS: 'halt_on_error=1',
      })
  },
  'addon-asan': () => {
    build('address and undefined behaviour', '--sanitize', 'address,undefined', '--programs')
    sanitized('ten training steps', ['test/reliability/steps.js', String(10 * times)])
    sanitized('workers ended in mid-step', [script('workers.js'), String(2 * times)])
    sanitized('failing allocations', ['--expose-gc', script('faults.js')])
    const jest = [
      'node_modules/jest/bin/jest.js',
      '--runInBand',
      '--testTimeout=600000',
      ...(long ? [] : ['test/ops/basics', 'test/tensor', 'test/memory/policies']),
    ]
    // The compilers of jest are add-ons too, and keep what they allocate.
    sanitized('jest', ['--expose-gc', ...jest], { ASAN_OPTIONS: 'detect_leaks=0:exitcode=99' })
  },
  workers: () => {
    run('workers ended in mid-step', process.execPath, [script('workers.js'), String(20 * times)])
    run('the same where only workers load auxgrad', process.execPath, [
      script('workers.js'),
      String(5 * times),
      'only-workers',
    ])
  },
  exits: () => run('processes ended in mid-step', process.execPath, [script('exits.js'), String(2 * times)]),
  faults: () => run('failing allocations', process.execPath, ['--expose-gc', script('faults.js')]),
  files: () => {
    const jest = ['--expose-gc', 'node_modules/jest/bin/jest.js', '--runInBand', 'test/io']
    if (long) run('damaged files, and kill -9 while saving', process.execPath, jest, { AUXGRAD_LONG: '1' })
  },
}

for (const name of chosen.length ? chosen : Object.keys(steps)) {
  if (!steps[name]) throw new Error(`no step ${name}; expected ${Object.keys(steps).join(', ')}`)
  steps[name]()
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)

#!/usr/bin/env node
// `npm run compare [-- --speed] [--only cnn,resnet18] [--steps N] [--width N] [--python PROGRAM] [--json FILE]`
// Trains the same models from the same weights on the same batches here and in PyTorch, step by step; one table.
// --speed: seconds a step and bytes, side by side. Without a Python that has torch it says so and ends with 0.
'use strict'
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { execFileSync } = require('node:child_process')
const Table = require('cli-table3')
const { findPython, holdTo, Peer } = require('./peer')

const root = path.resolve(__dirname, '../..')

function fail(message) {
  console.error(`compare: ${message}`)
  process.exit(2)
}

function parse(argv) {
  const o = { speed: false, only: [], steps: undefined, width: undefined, python: [], json: undefined }
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i]
    if (arg === '--speed') {
      o.speed = true
      continue
    }
    if (!['--only', '--steps', '--width', '--python', '--json'].includes(arg))
      fail(`unknown option ${arg}; there are --speed, --only, --steps, --width, --python, --json`)
    const value = argv[++i]
    if (value === undefined) fail(`${arg} needs a value`)
    if (arg === '--only') o.only = value.split(',')
    else if (arg === '--python') o.python = [value]
    else if (arg === '--json') o.json = path.resolve(value)
    else {
      o[arg.slice(2)] = Number(value)
      if (!(Number.isInteger(o[arg.slice(2)]) && o[arg.slice(2)] > 0))
        fail(`${arg}: expected an integer above 0, got ${value}`)
    }
  }
  return o
}

function print(rows) {
  const head = Object.keys(rows[0] ?? { nothing: '' })
  const table = new Table({ head, style: { head: [], border: [], compact: true } })
  for (const row of rows) table.push(head.map((name) => row[name] ?? ''))
  console.log(table.toString())
}

async function main() {
  const options = parse(process.argv.slice(2))
  const python = findPython(options.python.length ? options.python : ['python3', '/usr/bin/python3', 'python'])
  if (!python) {
    console.log('compare: skipped, no Python with torch and numpy was found; --python PROGRAM names one')
    return 0
  }
  for (const file of ['scripts/build-native.js', 'node_modules/typescript/bin/tsc'])
    execFileSync(
      process.execPath,
      [path.join(root, file), ...(file.endsWith('tsc') ? ['-p', 'tsconfig.build.json'] : [])],
      { cwd: root, stdio: 'inherit' },
    )
  holdTo(require('../../dist/native').native().info().isa)
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-compare-'))
  const threads = os.availableParallelism()
  const peers = [new Peer(python, threads, { patient: !options.speed }), new Peer(python, 1)]
  try {
    const hello = await peers[0].hello()
    for (const peer of peers.slice(1)) await peer.hello()
    const { rows, text, ok } = await require(options.speed ? './speed' : './train').run(peers, folder, options)
    print(rows)
    console.log(`${text} PyTorch ${hello.torch}, ${threads} thread(s).`)
    if (options.json)
      fs.writeFileSync(options.json, `${JSON.stringify({ torch: hello.torch, threads, ok, rows }, null, 1)}\n`)
    if (!ok) console.error('compare: a bound is broken')
    return ok ? 0 : 1
  } finally {
    for (const peer of peers) peer.end()
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

main().then(
  (code) => (process.exitCode = code),
  (error) => {
    console.error(error)
    process.exitCode = 1
  },
)

#!/usr/bin/env node
// `npm run bench [-- --quick] [--only gemm,step] [--match TEXT] [--threads 1,2] [--python PROGRAM] [--json FILE]
// [--svg FILE] [--merge FILE]...`
// Builds and runs the native suite, PyTorch taking its turns with the convolutions (and with the dense weight gradients that
// those of signs replace), then whole training steps beside PyTorch's (where a Python with torch is found) and
// TensorFlow.js's (where it is installed), prints the tables, writes the JSON and a roofline. At most 10 minutes, with
// --quick one; meanwhile each case is told on stderr. A ratio with ~ has not settled: the best of one of both sides was
// seen only once.
// Of what only moves memory `fractionOfPeak` is of the peer `stream`: the same bytes read and written in order, without
// arithmetic, measured in turn with the kernel. Of the rest it is of the multiply-add peak, or of what memory allows.
// The last table sums up the families (summary.js): geometric means, the lowest, and what misses the project's goals.
// AUXGRAD_ISA=avx2 holds this library and its peers to AVX2.
// --merge adds the results of other programs (of the same JSON form: {"results":[{"group","name","threads",...}]}).
'use strict'
const { spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const readline = require('node:readline')
const Table = require('cli-table3')
const { findPython, holdTo, Peer } = require('./compare/peer')
const { roofline } = require('./roofline')
const { summary } = require('./summary')

const root = path.resolve(__dirname, '..')

function fail(message) {
  console.error(`bench: ${message}`)
  process.exit(2)
}

function options(argv) {
  const o = {
    json: path.join(root, 'build/bench.json'),
    svg: path.join(root, 'build/roofline.svg'),
    merge: [],
    quick: false,
    only: undefined,
    match: '',
    threads: undefined,
    python: ['/usr/bin/python3', 'python3', 'python'],
  }
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i]
    if (arg === '--quick') {
      o.quick = true
      continue
    }
    if (!['--only', '--match', '--threads', '--python', '--json', '--svg', '--merge'].includes(arg))
      fail(`unknown option ${arg}; there are --quick, --only, --match, --threads, --python, --json, --svg, --merge`)
    if (++i === argv.length) fail(`${arg} needs a value`)
    if (arg === '--merge') o.merge.push(argv[i])
    else if (arg === '--json' || arg === '--svg') o[arg.slice(2)] = path.resolve(argv[i])
    else if (arg === '--only') o.only = argv[i].split(',')
    else if (arg === '--python') o.python = [argv[i]]
    else o[arg.slice(2)] = argv[i]
  }
  return o
}

const sameCase = (row) => (r) => r.group === row.group && r.name === row.name && r.threads === row.threads

// A row of another program joins ours of the same case: its peers' numbers, and the ratio as it measured it.
function mergeRow(rows, row) {
  const own = rows.find(sameCase(row))
  if (!own) return rows.push(row)
  own.peers = { ...own.peers, ...row.peers }
  own.ratioToBestPeer = row.ratioToBestPeer ?? own.gflops / Math.max(...Object.values(own.peers))
}

function runNode(...args) {
  const result = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  if (result.status !== 0) process.exit(result.status ?? 1)
}

/**
 * Runs the native suite, PyTorch (in a process for each number of threads) answering what it asks for.
 * @returns its exit code, the version of PyTorch if that was asked, and why it failed if it did
 */
async function nativeSuite(program, args, python) {
  const child = spawn(program, [...args, ...(python ? ['--ask', 'pytorch'] : [])], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  child.stdin.on('error', () => {}) // it has ended: its exit code tells
  const ended = new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  const peers = new Map()
  let torch
  let failed // why nothing is asked of PyTorch any more
  try {
    for await (const line of readline.createInterface({ input: child.stdout })) {
      const [word, group, name, threads, seconds] = line.split('\t')
      if (word !== 'ask') {
        console.error(line)
        if (line.startsWith('kernels: ')) holdTo(line.slice('kernels: '.length))
        continue
      }
      try {
        if (!failed && !peers.has(threads)) {
          peers.set(threads, new Peer(python, threads, { script: path.join(__dirname, 'peers/conv_torch.py') }))
          torch = (await peers.get(threads).hello()).torch
        }
        const ask = { do: 'time', group, name, seconds: Number(seconds) }
        child.stdin.write(`${failed ?? (await peers.get(threads).ask(ask)).seconds}\n`)
      } catch (error) {
        failed = error.message.replace(/\s+/g, ' ')
        child.stdin.write(`${failed}\n`)
      }
    }
    return { status: await ended, torch, failed }
  } finally {
    for (const peer of peers.values()) peer.end()
    child.kill()
  }
}

/** Whole training steps beside PyTorch's, which trains by backpropagation, and beside TensorFlow.js. */
async function trainingSteps(report, python) {
  runNode('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json')
  const { measure, title } = require('./compare/speed')
  const tfjs = require('./peers/tfjs')
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-bench-'))
  const threads = os.availableParallelism()
  const peers = python ? [new Peer(python, threads), new Peer(python, 1)] : []
  const name = (c) => Object.values(title(c)).join(' ')
  try {
    for (const peer of peers) report.peers.pytorch = `PyTorch ${(await peer.hello()).torch}`
    const rows = await measure(peers, folder, {
      width: 64,
      chosen: (c) => name(c).includes(o.match) && (!o.quick || ['mlp', 'cnn'].includes(c.model)),
      rounds: 2,
      seconds: o.quick ? 0.2 : 1.2,
    })
    for (const { case: c, seconds, theirs, bytes, theirBytes } of rows)
      report.results.push({
        group: 'step',
        name: name(c),
        threads,
        batch: c.batch,
        seconds,
        samplesPerSecond: c.batch / seconds,
        peers: python ? { pytorch: c.batch / theirs } : {},
        ratioToBestPeer: python ? theirs / seconds : null,
        bytes: bytes.total,
        keptBytes: bytes.kept,
        peerSavedBytes: theirBytes?.saved ?? null,
      })
    for (const peer of peers.splice(0)) peer.end()
    if (!tfjs.installed) return report.missing.push(`tfjs: absent (${tfjs.install})`)
    report.tfjs = []
    for (const { case: c } of rows.filter(({ case: r }) => r.rule.name === 'bp' && tfjs.models.includes(r.model))) {
      console.error(`${name(c)} in TensorFlow.js`)
      report.tfjs.push(...(await tfjs.measure(c, folder, { quick: o.quick })))
    }
    for (const { name: own, backend, batch, seconds, version } of report.tfjs) {
      if (version) report.peers.tfjs = `TensorFlow.js ${version}`
      if (seconds) report.results.find((r) => r.name === own).peers[`tfjs ${backend}`] = batch / seconds
    }
  } finally {
    for (const peer of peers) peer.end()
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

function merge(report, other) {
  for (const row of other.results) mergeRow(report.results, row)
  report.peers = { ...report.peers, ...other.peers }
}

const number = (v, digits = 1) => (typeof v === 'number' ? v.toFixed(digits) : '')

function print(report) {
  const { machine } = report
  const kernels = report.results.filter((r) => r.group !== 'step')
  const steps = report.results.filter((r) => r.group === 'step')
  const peers = [
    ...new Set(['openblas', 'blis', 'onednn', 'pytorch', ...kernels.flatMap((r) => Object.keys(r.peers ?? {}))]),
  ]
  const table = new Table({
    head: ['group', 'case', 'threads', 'GF/s', 'GB/s', 'of peak', ...peers, 'ratio'],
    colAligns: ['left', 'left', ...Array(5 + peers.length).fill('right')],
    style: { head: [], border: [], compact: true },
  })
  const open = (r) => r.settled === false && !report.quick
  const missing = (peer) => (report.missing ?? []).some((m) => m.startsWith(`${peer}:`))
  for (const r of kernels) {
    const share = typeof r.fractionOfPeak === 'number' ? `${(100 * r.fractionOfPeak).toFixed(0)} %` : ''
    const cell = (peer) => {
      if (r.wrong?.some((w) => w.startsWith(`${peer}: `))) return missing(peer) ? 'absent' : 'wrong'
      if (r.peers && peer in r.peers) return number(r.peers[peer])
      return missing(peer) && (peer === 'pytorch' ? r.group.startsWith('conv') : r.group === 'gemm') ? 'absent' : ''
    }
    const own = r.wrong?.some((w) => w.startsWith('auxgrad: ')) ? 'WRONG' : number(r.gflops)
    table.push([
      r.group,
      r.name,
      r.threads,
      own,
      number(r.gbs),
      share,
      ...peers.map(cell),
      number(r.ratioToBestPeer, 2) + (r.ratioToBestPeer && open(r) ? ' ~' : ''),
    ])
  }
  if (kernels.length) console.log(table.toString())
  if (steps.length) printSteps(steps, missing('pytorch'))
  if (report.tfjs?.length) printTfjs(report.tfjs, steps)
  printSummary(summary(report))
  const unsettled = kernels.filter(open).length
  if (unsettled)
    console.log(`~ ${unsettled} of ${kernels.length} did not settle: the best of one of both sides was seen only once`)
  console.log(`kernels ${machine.isa}`)
  for (const m of machine.byThreads)
    console.log(`threads ${m.threads}: peak ${number(m.fmaPeakGflops)} GF/s, memory ${number(m.bandwidthGBs)} GB/s`)
  for (const version of Object.values(report.peers ?? {})) console.log(version)
  for (const m of report.missing ?? []) console.log(m)
}

const mib = (bytes) => (typeof bytes === 'number' ? (bytes / 2 ** 20).toFixed(1) : '')

function printSteps(steps, alone) {
  const table = new Table({
    head: [
      'training step',
      'batch',
      'ms',
      'pytorch bp',
      'of its time',
      'samples/s',
      'MiB',
      'kept',
      'pytorch saves',
      'kept of it',
    ],
    colAligns: ['left', ...Array(9).fill('right')],
    style: { head: [], border: [], compact: true },
  })
  for (const r of steps)
    table.push([
      r.name,
      r.batch,
      number(1000 * r.seconds, 2),
      alone ? 'absent' : number((1000 * r.batch) / r.peers.pytorch, 2),
      alone ? '' : number(1 / r.ratioToBestPeer, 2),
      number(r.samplesPerSecond, 0),
      mib(r.bytes),
      mib(r.keptBytes),
      mib(r.peerSavedBytes),
      alone ? '' : number(r.keptBytes / r.peerSavedBytes, 2),
    ])
  console.log(table.toString())
}

/** One row a family of cases: what the README's table is made of. */
function printSummary(rows) {
  const table = new Table({
    head: ['of the best peer', 'threads', 'cases', 'mean', 'goal', 'lowest', 'goal', 'under it', 'the lowest'],
    colAligns: ['left', ...Array(7).fill('right'), 'left'],
    style: { head: [], border: [], compact: true },
  })
  for (const { name, threads, cases, mean, meanGoal, lowest, goal, under } of rows)
    table.push([
      name,
      threads,
      cases,
      ...[mean, meanGoal, lowest.value, goal].map((v) => number(v, 2)),
      under ?? '',
      lowest.name,
    ])
  if (rows.length) console.log(table.toString())
}

/** Steps of TensorFlow.js by backpropagation, and those of ours in its time. */
function printTfjs(rows, steps) {
  const table = new Table({
    head: ['training step', 'tfjs back end', 'batch', 'ms', 'times ours', 'note'],
    colAligns: ['left', 'left', 'right', 'right', 'right', 'left'],
    style: { head: [], border: [], compact: true },
  })
  for (const r of rows) {
    const own = steps.find((s) => s.name === r.name)
    const times = r.seconds && r.seconds / r.batch / (own.seconds / own.batch)
    table.push([
      r.name,
      r.backend,
      r.batch ?? '',
      r.seconds ? number(1000 * r.seconds, 1) : 'none',
      number(times),
      r.note,
    ])
  }
  console.log(table.toString())
}

const o = options(process.argv.slice(2))

async function main() {
  runNode('scripts/build-native.js', '--programs')
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-bench-'))
  const file = path.join(folder, 'native.json')
  const program = path.join(root, 'build/Release', process.platform === 'win32' ? 'auxgrad_bench.exe' : 'auxgrad_bench')
  const native = o.only?.filter((group) => group !== 'step')
  const args = [
    ...(o.quick ? ['--quick'] : []),
    ...(o.threads === undefined ? [] : ['--threads', o.threads]),
    // With --only step the program measures the machine's peaks alone: no case has this name.
    ...(native?.length === 0 ? ['--match', '(none)'] : ['--match', o.match]),
    ...(native?.length ? ['--only', native.join()] : []),
  ]
  const wanted = (group) => !o.only || o.only.includes(group)
  const compared = ['conv', 'conv-sign-gradient', 'step'].some(wanted)
  const python = compared ? findPython(o.python) : undefined
  const run = await nativeSuite(program, [...args, '--json', file], python)
  if (!fs.existsSync(file)) fail(`${program} wrote no results (exit ${run.status})`)
  const report = JSON.parse(fs.readFileSync(file, 'utf8'))
  fs.rmSync(folder, { recursive: true })
  if (run.torch) report.peers.pytorch = `PyTorch ${run.torch}`
  if (run.failed) report.missing.push(`pytorch: ${run.failed}`)
  if (compared && !python)
    report.missing.push('pytorch: absent (no Python that imports torch and numpy: apt-get install python3-torch)')
  if (wanted('step')) await trainingSteps(report, python)
  for (const name of o.merge) {
    const other = JSON.parse(fs.readFileSync(name, 'utf8'))
    if (!Array.isArray(other.results)) fail(`${name}: expected {"results": [...]}`)
    merge(report, other)
  }
  print(report)
  for (const target of [o.json, o.svg]) fs.mkdirSync(path.dirname(target), { recursive: true })
  fs.writeFileSync(o.json, `${JSON.stringify(report, null, 1)}\n`)
  fs.writeFileSync(o.svg, roofline(report))
  console.log(`${o.json}\n${o.svg}`)
  return run.status ?? 1
}

main().then(
  (code) => (process.exitCode = code),
  (error) => {
    console.error(error)
    process.exitCode = 1
  },
)

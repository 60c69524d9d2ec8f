#!/usr/bin/env node
// `npm run bench [-- --quick] [--only gemm,fused] [--threads 1,2] [--json FILE] [--svg FILE] [--merge FILE]...`
// Builds and runs the native suite, prints one table, writes the JSON and a roofline. --merge adds the results of
// other programs (of the same JSON form: {"results":[{"group","name","threads",...}]}).
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const Table = require('cli-table3')
const { roofline } = require('./roofline')

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
    pass: [],
  }
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i]
    if (arg === '--quick') {
      o.pass.push(arg)
      continue
    }
    if (!['--only', '--match', '--threads', '--json', '--svg', '--merge'].includes(arg))
      fail(`unknown option ${arg}; there are --quick, --only, --match, --threads, --json, --svg, --merge`)
    if (++i === argv.length) fail(`${arg} needs a value`)
    if (arg === '--merge') o.merge.push(argv[i])
    else if (arg === '--json' || arg === '--svg') o[arg.slice(2)] = path.resolve(argv[i])
    else o.pass.push(arg, argv[i])
  }
  return o
}

// A row of another program joins ours of the same case: its peers' numbers, and the ratio as it measured it.
function mergeRow(rows, row) {
  const own = rows.find((r) => r.group === row.group && r.name === row.name && r.threads === row.threads)
  if (!own) return rows.push(row)
  own.peers = { ...own.peers, ...row.peers }
  own.ratioToBestPeer = row.ratioToBestPeer ?? own.gflops / Math.max(...Object.values(own.peers))
}

function build() {
  const result = spawnSync(process.execPath, [path.join(root, 'scripts/build-native.js'), '--programs'], {
    stdio: 'inherit',
  })
  if (result.status !== 0) process.exit(result.status ?? 1)
}

const number = (v, digits = 1) => (typeof v === 'number' ? v.toFixed(digits) : '')

function print(report) {
  const { machine } = report
  const peers = [
    ...new Set(['openblas', 'blis', 'onednn', ...report.results.flatMap((r) => Object.keys(r.peers ?? {}))]),
  ]
  const table = new Table({
    head: ['group', 'case', 'threads', 'GF/s', 'GB/s', 'of peak', ...peers, 'ratio'],
    colAligns: ['left', 'left', ...Array(5 + peers.length).fill('right')],
    style: { head: [], border: [], compact: true },
  })
  const missing = (peer) => (report.missing ?? []).some((m) => m.startsWith(`${peer}:`))
  for (const r of report.results) {
    const share = typeof r.fractionOfPeak === 'number' ? `${(100 * r.fractionOfPeak).toFixed(0)} %` : ''
    const cell = (peer) => {
      if (r.wrong?.some((w) => w.startsWith(`${peer}: `))) return 'wrong'
      if (r.peers && peer in r.peers) return number(r.peers[peer])
      return missing(peer) && r.group === 'gemm' ? 'absent' : ''
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
      number(r.ratioToBestPeer, 2),
    ])
  }
  console.log(table.toString())
  console.log(`kernels ${machine.isa}`)
  for (const m of machine.byThreads)
    console.log(`threads ${m.threads}: peak ${number(m.fmaPeakGflops)} GF/s, memory ${number(m.bandwidthGBs)} GB/s`)
  for (const version of Object.values(report.peers ?? {})) console.log(version)
  for (const m of report.missing ?? []) console.log(m)
}

const o = options(process.argv.slice(2))
build()
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-bench-'))
const file = path.join(folder, 'native.json')
const program = path.join(root, 'build/Release', process.platform === 'win32' ? 'auxgrad_bench.exe' : 'auxgrad_bench')
const run = spawnSync(program, [...o.pass, '--json', file], { stdio: ['ignore', 'ignore', 'inherit'] })
if (!fs.existsSync(file)) fail(`${program} wrote no results${run.error ? `: ${run.error.message}` : ''}`)
const report = JSON.parse(fs.readFileSync(file, 'utf8'))
fs.rmSync(folder, { recursive: true })
for (const name of o.merge) {
  const other = JSON.parse(fs.readFileSync(name, 'utf8'))
  if (!Array.isArray(other.results)) fail(`${name}: expected {"results": [...]}`)
  for (const row of other.results) mergeRow(report.results, row)
  report.peers = { ...report.peers, ...other.peers }
}
print(report)
for (const target of [o.json, o.svg]) fs.mkdirSync(path.dirname(target), { recursive: true })
fs.writeFileSync(o.json, `${JSON.stringify(report, null, 1)}\n`)
fs.writeFileSync(o.svg, roofline(report))
console.log(`${o.json}\n${o.svg}`)
process.exit(run.status ?? 1)

#!/usr/bin/env node
// `npm run test:prebuild [-- target...]`: runs the binaries of prebuilds/ on their platforms: linux-x64 on this machine
// with Node 20, 22, 24 and 26, Bun and Deno, linux-arm64 under qemu, win32-x64 under wine. For each: the native tests on
// every instruction set that is there (under qemu, which takes minutes, on the best one), then the package (its tarball,
// installed): exact results, an error, a worker, a clean exit, and ten training steps whose losses equal this machine's.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { facts } = require('./build-native.js')
const { check, fetchNode, finish, install, pack, root } = require('./staging.js')

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-prebuild-'))
const newestGlibc = [2, 28] // what Node 20 itself needs

const wine = ['wine64', 'wine', '/usr/lib/wine/wine64'].find((w) => spawnSync(w, ['--version']).status === 0)
const runners = {
  'linux-x64': {
    prefix: [],
    nodes: [process.execPath, 'linux-x64-22', 'linux-x64-24', 'linux-x64-26', 'linux-x64-bun', 'linux-x64-deno'],
    isas: ['scalar', 'avx2', 'avx512'],
  },
  'linux-arm64': {
    prefix: ['qemu-aarch64-static', '-L', '/usr/aarch64-linux-gnu'],
    nodes: ['linux-arm64-22'],
    isas: ['scalar', 'neon'],
    tested: { AUXGRAD_ISA: 'neon' },
    needs: 'apt-get install qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross',
  },
  'win32-x64': {
    prefix: [wine ?? 'wine64'],
    nodes: ['win32-x64-22'],
    isas: ['scalar', 'avx2', 'avx512'],
    env: { WINEDEBUG: '-all', NODE_SKIP_PLATFORM_CHECK: '1', WINEPREFIX: path.join(os.tmpdir(), 'auxgrad-wine') },
    exe: '.exe',
    needs: 'apt-get install wine64',
  },
}

// Through files, not pipes: Node gives a child sockets, which a Windows program under wine cannot write to.
function run(command, args, options = {}) {
  const started = Date.now()
  const files = ['stdout', 'stderr'].map((name) => path.join(folder, name))
  const [out, err] = files.map((file) => fs.openSync(file, 'w'))
  const result = spawnSync(command, args, { timeout: 1200000, ...options, stdio: ['ignore', out, err] })
  fs.closeSync(out)
  fs.closeSync(err)
  const [stdout, stderr] = files.map((file) => fs.readFileSync(file, 'utf8').replace(/\r/g, ''))
  return { status: result.status, stdout, stderr, seconds: ((Date.now() - started) / 1000).toFixed(1) }
}

/** Losses against those of this machine's own build: equal bits on the same instruction set, five digits otherwise. */
function compareTraining(stdout, isa) {
  const there = JSON.parse(stdout)
  const own = (name) => {
    const env = { ...process.env, AUXGRAD_ISA: name, AUXGRAD_BINARY: path.join(root, 'build/Release/auxgrad.node') }
    return JSON.parse(run(process.execPath, ['train-ten-steps.js'], { cwd: project, env }).stdout)
  }
  const same = isa === 'scalar' || (process.arch === 'x64' && isa.startsWith('avx'))
  const here = (reference[isa] ??= own(same ? isa : 'scalar'))
  if (same)
    return { verdict: 'same bits as here', ok: there.losses.length === 10 && String(there.bits) === String(here.bits) }
  const close = there.losses.every((loss, i) => Math.abs(loss - here.losses[i]) <= 1e-5 * here.losses[i])
  return { verdict: 'the losses of here to 1e-5', ok: there.losses.length === 10 && close }
}

/** Versions of glibc that a binary asks for, above what it may. */
function tooNew(binary, objdump) {
  const { stdout } = run(objdump, ['-T', binary])
  const found = []
  for (const line of stdout.split('\n')) {
    const match = /GLIBC_(\d+)\.(\d+)\S*\)\s+(\S+)/.exec(line)
    if (match && (Number(match[1]) > newestGlibc[0] || Number(match[2]) > newestGlibc[1]))
      found.push(`${match[3]} (${match[1]}.${match[2]})`)
    if (/GLIBCXX_|CXXABI_/.test(line)) found.push(line.trim())
  }
  return { found, lines: stdout.split('\n').length }
}

const targets = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(runners)
const absent = targets.filter((t) => !fs.existsSync(path.join(root, 'prebuilds', t, facts.targets[t].file)))
if (absent.length || !fs.existsSync(path.join(root, 'dist/index.js'))) {
  console.error(`test:prebuild: no prebuilds/${absent[0]}; run npm run build:all && npm run prebuild`)
  process.exit(1)
}
const { tarball } = pack(folder)
const project = install(tarball, path.join(folder, 'project'))
for (const script of ['smoke.js', 'train-ten-steps.js']) {
  const source = path.join(root, 'test/package', script)
  if (fs.existsSync(source)) fs.copyFileSync(source, path.join(project, script))
}
const reference = {}

for (const target of targets) {
  const { prefix, nodes, isas, env: extra = {}, tested, exe = '', needs } = runners[target]
  const env = { ...process.env, ...extra }
  delete env.AUXGRAD_ISA
  if (prefix.length && spawnSync(prefix[0], ['--version'], { env }).status !== 0) {
    check(`${target}: ${prefix[0]} is installed`, false, needs)
    continue
  }
  const through = (program, args, options = {}) =>
    run([...prefix, program][0], [...prefix, program].slice(1).concat(args), { env, ...options })

  if (target.startsWith('linux')) {
    const binary = path.join(root, 'prebuilds', target, facts.targets[target].file)
    const { found, lines } = tooNew(binary, 'objdump')
    check(
      `${target}: no symbol newer than glibc ${newestGlibc.join('.')}`,
      lines > 10 && found.length === 0,
      found.join(', '),
    )
  }
  const program = path.join(root, 'build', target, `auxgrad_test${exe}`)
  const native = run(process.execPath, [path.join(__dirname, 'native-tests.js'), ...prefix, program], {
    env: { ...env, ...tested },
  })
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(native.stdout)
  check(
    `${target}: native tests (${counts?.[1]} in ${native.seconds} s)`,
    native.status === 0 && Number(counts?.[1]) > 0,
    native.stdout + native.stderr,
  )

  for (const name of nodes) {
    const node = name === process.execPath ? name : fetchNode(name)
    const [kind = 'Node'] = /bun|deno/.exec(name) ?? []
    const version = `${kind} ${/v?\d+(\.\d+)+/.exec(through(node, ['--version']).stdout)?.[0]}`
    const script = (file) => (kind === 'deno' ? ['run', '--allow-all', file] : [file])
    for (const isa of isas) {
      const { status, stdout, stderr, seconds } = through(node, script('smoke.js'), {
        cwd: project,
        env: { ...env, AUXGRAD_ISA: isa },
      })
      reference.smoke ??= stdout
      check(
        `${target}: ${version} ${isa}, ${seconds} s`,
        status === 0 && stdout.includes('"worker":true') && stdout === reference.smoke,
        stdout + stderr,
      )
    }
    for (const isa of isas) {
      const { status, stdout, stderr, seconds } = through(node, script('train-ten-steps.js'), {
        cwd: project,
        env: { ...env, AUXGRAD_ISA: isa },
      })
      const { verdict, ok } = status === 0 ? compareTraining(stdout, isa) : { verdict: 'fails', ok: false }
      check(`${target}: ${version} ${isa} trains ten steps, ${verdict}, ${seconds} s`, ok, `${stdout}${stderr}`)
    }
  }
}
fs.rmSync(folder, { recursive: true, force: true })
finish()

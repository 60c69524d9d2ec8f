#!/usr/bin/env node
// `npm run prebuild [-- target...]`: the binaries of a release, stripped, in prebuilds/<platform>-<arch>/. On Linux all
// that can be made there (native/targets.json); on macOS its own.
'use strict'
const { execFileSync, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { binutils, facts, findCompiler } = require('./build-native.js')

const root = path.resolve(__dirname, '..')
const all = Object.keys(facts.targets)
const own = `${process.platform}-${process.arch}`
const fallback = process.platform === 'linux' ? all.filter((t) => !t.startsWith('darwin')) : [own]
const targets = process.argv.length > 2 ? process.argv.slice(2) : fallback

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
  console.log(`${path.relative(root, binary)} ${(fs.statSync(binary).size / 2 ** 20).toFixed(2)} MiB`)
}
console.log(`${targets.length} passed, 0 failed`)

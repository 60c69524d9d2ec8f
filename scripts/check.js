#!/usr/bin/env node
// `npm run check`: formatting (clang-format 14 for C++, prettier for TypeScript and scripts), lint, types, the
// docstrings of everything public, and the contract tests (layers, symbols of the kernel objects). `npm run format` (--fix) writes the formatting.
// Where there is nvcc, the CUDA kernels are compiled too.
// Name steps to run only those: format-native, format, lint, types, docs, contracts, cuda.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const fix = process.argv.includes('--fix')
const chosen = process.argv.slice(2).filter((name) => !name.startsWith('--'))
const bin = (name, file) => [process.execPath, path.join(root, 'node_modules', name, file)]

function sources(folder, pattern) {
  if (!fs.existsSync(path.join(root, folder))) return []
  return fs
    .readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name))
}

function clangFormat() {
  const found = ['clang-format-14', 'clang-format'].find((name) =>
    / version 14\./.test(spawnSync(name, ['--version'], { encoding: 'utf8' }).stdout ?? ''),
  )
  if (!found)
    throw new Error('clang-format 14 is missing (apt-get install clang-format-14); other versions format differently')
  return [
    found,
    fix ? '-i' : '--dry-run',
    '--Werror',
    ...sources('native', /\.(cc|h|cu|cuh)$/),
    ...sources('benchmarks', /\.(cc|h)$/),
  ]
}

const steps = {
  'format-native': clangFormat,
  format: () => [
    ...bin('prettier', 'bin/prettier.cjs'),
    fix ? '--write' : '--check',
    '--log-level',
    'warn',
    'src',
    'test',
    'benchmarks',
    'scripts',
    '*.json',
    '*.js',
  ],
  lint: () => [...bin('oxlint', 'bin/oxlint'), 'src', 'test', 'benchmarks', 'scripts'],
  types: () => [...bin('typescript-7', 'lib/tsc.js'), '--noEmit'],
  // typedoc.json makes an error of whatever is public and not documented, and of links that lead nowhere.
  docs: () => [...bin('typedoc', 'bin/typedoc'), '--emit', 'none'],
  cuda: () =>
    spawnSync('nvcc', ['--version']).status === 0
      ? [process.execPath, path.join(root, 'scripts', 'build-native.js'), '--cuda', '--no-addon']
      : null,
  contracts: () => [...bin('jest', 'bin/jest.js'), 'test/contract'],
}

const names = chosen.length ? chosen : fix ? ['format-native', 'format'] : Object.keys(steps)
let failed = 0
let skipped = 0
for (const name of names) {
  let ok = false
  try {
    if (!steps[name]) throw new Error(`no such step; expected ${Object.keys(steps).join(', ')}`)
    const line = steps[name]()
    if (!line) {
      console.log(`skipped ${name}: no nvcc here`)
      skipped++
      continue
    }
    const [command, ...args] = line
    ok = spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0
  } catch (error) {
    console.error(`${name}: ${error.message}`)
  }
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}`)
  if (!ok) failed++
}
console.log(`${names.length - failed - skipped} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)

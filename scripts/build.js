#!/usr/bin/env node
// `npm run build:all`, and `npm install` in a clone: the add-on and the native programs, then TypeScript to dist/ (CommonJS), then for each entry of
// package.json an ES module that re-exports it by name, so that code and state exist once in a process.
// --js leaves the native part out.
'use strict'
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const run = (file, ...args) => execFileSync(process.execPath, [file, ...args], { cwd: root, stdio: 'inherit' })

if (!process.argv.includes('--js')) run('scripts/build-native.js', '--programs')
fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true }) // nothing of a renamed file stays
// Comments are in the types, where editors look for them.
const tsc = (...options) => run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', ...options)
tsc('--removeComments', '--declaration', 'false')
tsc('--emitDeclarationOnly')

const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
for (const branches of Object.values(manifest.exports)) {
  if (typeof branches === 'string') continue
  const code = path.join(root, branches.require.default)
  const module = path.join(root, branches.import.default)
  const types = path.join(root, branches.import.types)
  const from = `./${path.relative(path.dirname(module), code)}`
  const names = Object.keys(require(code)).sort()
  const list = names.map((name) => `  ${name},\n`).join('')
  fs.writeFileSync(module, `import library from '${from}'\n\nexport const {\n${list}} = library\n`)
  fs.writeFileSync(types, `export * from '${from}'\n`)
}

#!/usr/bin/env node
// `npm run build:all`, and `npm install` in a clone: the add-on and the native programs, then TypeScript to dist/ (CommonJS), then for each entry of
// package.json an ES module that re-exports it by name, so that code and state exist once in a process. It asks Node for the
// package by its name: in a bundle that took the module in, that finds the installed package or says what to do.
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
// As the source is formatted, but indented by tabs: a tenth less to install than what tsc writes.
const prettier = ['node_modules/prettier/bin/prettier.cjs', '--write', '--log-level', 'warn', '--use-tabs']
run(...prettier, '--ignore-path', 'none', 'dist/**/*.{js,d.ts}') // git and .prettierignore leave dist/ out

const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
for (const [entry, branches] of Object.entries(manifest.exports)) {
  if (typeof branches === 'string') continue
  const code = path.join(root, branches.require.default)
  const module = path.join(root, branches.import.default)
  const types = path.join(root, branches.import.types)
  const names = Object.keys(require(code)).sort()
  const list = names.map((name) => `  ${name},\n`).join('')
  fs.writeFileSync(
    module,
    `import { createRequire } from 'node:module'

let library
try {
  library = createRequire(import.meta.url ?? __filename)('${path.posix.join(manifest.name, entry)}')
} catch (cause) {
  const advice = 'If a bundler took it, leave it out of the bundle (esbuild: --external:${manifest.name}, webpack: externals, Next.js: serverExternalPackages)'
  const message = \`${manifest.name} did not load: \${cause.message.split('\\n')[0]}. \${advice}\`
  throw Object.assign(new Error(message, { cause }), { code: 'AUX_NO_NATIVE' })
}

export const {\n${list}} = library\n`,
  )
  fs.writeFileSync(types, `export * from './${path.relative(path.dirname(module), code)}'\n`)
}

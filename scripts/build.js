#!/usr/bin/env node
// `npm run build`: the add-on and the native programs, then TypeScript to dist/.
'use strict'
const { execFileSync } = require('node:child_process')
const path = require('node:path')
const root = path.resolve(__dirname, '..')
const run = (file, ...args) => execFileSync(process.execPath, [file, ...args], { cwd: root, stdio: 'inherit' })
run('scripts/build-native.js', '--programs')
run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json')

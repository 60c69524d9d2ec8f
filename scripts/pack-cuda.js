#!/usr/bin/env node
// `npm run pack:cuda [-- ARCHITECTURES]`: the package of the CUDA kernels for this platform, as a tarball in build/cuda.
// Users install it beside auxgrad, in the same version (src/tensor/device.ts looks for it). Needs CMake and nvcc.
'use strict'
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const architectures = process.argv[2] ?? '80-real;90a-real;90-virtual' // as CMake names them
const platform = `${process.platform}-${process.arch}`
const name = `auxgrad-cuda-${platform}`
const library = 'auxgrad_cuda.so'
const folder = path.join(root, 'build', 'cuda', name)

const build = ['build-native.js', '--no-addon', '--cuda', '--cuda-architectures', architectures]
execFileSync(process.execPath, [path.join(__dirname, build[0]), ...build.slice(1)], { stdio: 'inherit' })
fs.mkdirSync(folder, { recursive: true })
fs.copyFileSync(path.join(root, 'build', 'Release', library), path.join(folder, library))
execFileSync('strip', ['--strip-unneeded', path.join(folder, library)])
fs.copyFileSync(path.join(root, 'LICENSE'), path.join(folder, 'LICENSE'))
const { version, license, repository } = require(path.join(root, 'package.json'))
const manifest = {
  name,
  version,
  description: `The CUDA kernels of auxgrad for ${platform}. Install it beside auxgrad, in the same version.`,
  license,
  repository,
  os: [process.platform],
  cpu: [process.arch],
  libc: ['glibc'],
  files: [library],
}
fs.writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
fs.writeFileSync(
  path.join(folder, 'README.md'),
  `# ${name}\n\n${manifest.description} Then \`model.to('cuda')\` trains on the GPU; it needs a driver, and no CUDA toolkit.\n`,
)
const npm = process.env.npm_execpath ? [process.execPath, process.env.npm_execpath] : ['npm']
execFileSync(npm[0], [...npm.slice(1), 'pack', '--pack-destination', path.dirname(folder)], {
  cwd: folder,
  stdio: 'inherit',
})

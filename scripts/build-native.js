#!/usr/bin/env node
// The only door to the native build: `node scripts/build-native.js [--config Release|Debug] [--sanitize address]
// [--programs] [--no-addon] [--no-cmake]`. With CMake on the machine it drives CMake; without, it drives the C++
// compiler from the same folders and the same flags (native/targets.json).
'use strict'
const { execFileSync, spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const native = path.join(root, 'native')

function options(argv) {
  const result = { config: 'Release', sanitize: '', programs: false, addon: true, cmake: true }
  for (let i = 0; i < argv.length; i++) {
    if (argv[i] === '--config') result.config = argv[++i]
    else if (argv[i] === '--sanitize') result.sanitize = argv[++i]
    else if (argv[i] === '--programs') result.programs = true
    else if (argv[i] === '--no-addon') result.addon = false
    else if (argv[i] === '--no-cmake') result.cmake = false
    else fail(`unknown option ${argv[i]}`)
  }
  if (!['Release', 'Debug'].includes(result.config)) fail(`--config must be Release or Debug, got ${result.config}`)
  return result
}

function fail(message) {
  console.error(`build-native: ${message}`)
  process.exit(1)
}

// A parent make or npm must not steer the inner build.
function cleanEnvironment() {
  const env = { ...process.env }
  for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'CMAKE_GENERATOR']) delete env[name]
  return env
}

function works(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' })
  return result.status === 0 ? result.stdout : null
}

function cmakeVersion() {
  const text = works('cmake', ['--version'])
  const match = text && /version (\d+)\.(\d+)/.exec(text)
  return match ? Number(match[1]) * 100 + Number(match[2]) : 0
}

function includeDirs() {
  const api = path.dirname(require.resolve('node-api-headers/package.json', { paths: [root] }))
  const addon = path.dirname(require.resolve('node-addon-api/package.json', { paths: [root] }))
  return [path.join(api, 'include'), addon]
}

function outputDir(o) {
  return path.join(root, 'build', o.sanitize ? `${o.config}-${o.sanitize.replace(/,/g, '-')}` : o.config)
}

function buildWithCMake(o) {
  const work = path.join(root, 'build', `cmake-${path.basename(outputDir(o))}`)
  const ninja = works('ninja', ['--version']) !== null
  const cached = path.join(work, 'CMakeCache.txt')
  if (fs.existsSync(cached)) {
    const text = fs.readFileSync(cached, 'utf8')
    // A copied or moved checkout, or another generator, cannot reuse its cache.
    const generator = /CMAKE_GENERATOR:INTERNAL=(.*)/.exec(text)?.[1]
    const home = /CMAKE_HOME_DIRECTORY:INTERNAL=(.*)/.exec(text)?.[1]
    if (home !== root || (generator === 'Ninja') !== ninja) fs.rmSync(work, { recursive: true, force: true })
  }
  const define = {
    CMAKE_BUILD_TYPE: o.config,
    OUTPUT: outputDir(o),
    SANITIZE: o.sanitize,
    AUXGRAD_ADDON: o.addon ? 'ON' : 'OFF',
    AUXGRAD_PROGRAMS: o.programs ? 'ON' : 'OFF',
  }
  if (o.addon) define.NODE_INCLUDE_DIRS = includeDirs().join(';')
  const env = cleanEnvironment()
  const configure = ['-S', root, '-B', work, '-G', ninja ? 'Ninja' : 'Unix Makefiles']
  for (const [name, value] of Object.entries(define)) configure.push(`-D${name}=${value}`)
  run('cmake', configure, env)
  run('cmake', ['--build', work, '--parallel', String(os.availableParallelism())], env)
}

function run(command, args, env) {
  const result = spawnSync(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (result.status !== 0) {
    process.stderr.write(result.stdout ?? '')
    fail(`${command} failed${result.error ? `: ${result.error.message}` : ` with exit code ${result.status}`}`)
  }
}

// Newest modification time among a source and the headers its last compilation read.
function stale(object, command) {
  const deps = `${object}.d`
  const stamp = `${object}.cmd`
  if (!fs.existsSync(object) || !fs.existsSync(deps) || !fs.existsSync(stamp)) return true
  if (fs.readFileSync(stamp, 'utf8') !== command) return true
  const built = fs.statSync(object).mtimeMs
  const files = fs.readFileSync(deps, 'utf8').replace(/\\\n/g, ' ').split(/\s+/).slice(1).filter(Boolean)
  return files.some((file) => !fs.existsSync(file) || fs.statSync(file).mtimeMs > built)
}

async function buildDirectly(o) {
  const compiler = [process.env.CXX, 'c++', 'g++', 'clang++'].find((c) => c && works(c, ['--version']) !== null)
  if (!compiler) fail('no C++ compiler found; install one (Debian: apt-get install g++) or set CXX')
  const targets = JSON.parse(fs.readFileSync(path.join(native, 'targets.json'), 'utf8'))
  const arch = process.arch === 'arm64' ? 'arm64' : 'x64'
  const work = path.join(root, 'build', `direct-${path.basename(outputDir(o))}`)
  const output = outputDir(o)
  fs.mkdirSync(path.join(work, 'generated'), { recursive: true })
  fs.mkdirSync(output, { recursive: true })

  const sources = (dir) =>
    fs.existsSync(dir) ? fs.readdirSync(dir).filter((f) => f.endsWith('.cc')).sort().map((f) => path.join(dir, f)) : []
  const stem = (file) => path.basename(file, '.cc')
  const kernels = sources(path.join(native, 'cpu/kernels'))
  const families = kernels.map((k) => `AUXGRAD_FAMILY_ROW(${stem(k)})\n`).join('')
  const inc = path.join(work, 'generated/kernel_families.inc')
  if (!fs.existsSync(inc) || fs.readFileSync(inc, 'utf8') !== families) fs.writeFileSync(inc, families)

  const flags = [...targets.flags, o.config === 'Debug' ? '-g' : '-DNDEBUG']
  const link = ['-pthread']
  if (o.sanitize) {
    flags.push(`-fsanitize=${o.sanitize}`, '-fno-omit-frame-pointer', '-g')
    if (o.sanitize.includes('undefined')) flags.push('-fno-sanitize-recover=all')
    link.push(`-fsanitize=${o.sanitize}`)
  }
  const jobs = []
  const object = (name, source, extra) => {
    const file = path.join(work, `${name}.o`)
    const args = [...flags, ...extra, '-MMD', '-MF', `${file}.d`, '-c', source, '-o', file]
    jobs.push({ file, args, source })
    return file
  }
  const common = []
  for (const folder of ['core', 'cpu'])
    for (const s of sources(path.join(native, folder)))
      common.push(object(`${folder}-${stem(s)}`, s, [`-I${path.join(work, 'generated')}`]))
  for (const [isa, isaFlags] of Object.entries(targets.isa[arch]))
    for (const s of kernels)
      common.push(
        object(`kernels-${stem(s)}-${isa}`, s, [
          ...targets.kernelFlags, ...isaFlags, `-DAUXGRAD_FAMILY=${stem(s)}`, `-DAUXGRAD_ISA=${isa}`,
        ]),
      )
  const binaries = []
  if (o.addon) {
    const defines = targets.addonDefines.map((d) => `-D${d}`)
    const include = includeDirs().flatMap((d) => ['-isystem', d])
    const objects = sources(path.join(native, 'binding')).map((s) => object(`binding-${stem(s)}`, s, [...defines, ...include]))
    const shared = process.platform === 'darwin' ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared']
    binaries.push({ file: path.join(output, 'auxgrad.node'), objects, args: shared })
  }
  if (o.programs) {
    const include = [`-I${native}`, `-I${path.join(work, 'generated')}`]
    const program = (name, folder, extra) => {
      const objects = sources(folder).map((s) => object(`${name}-${stem(s)}`, s, include))
      if (objects.length) binaries.push({ file: path.join(output, name), objects, args: extra })
    }
    program('auxgrad_test', path.join(native, 'test'), [])
    program('auxgrad_bench', path.join(root, 'benchmarks/native'), ['-ldl'])
  }

  const queue = jobs.filter((job) => stale(job.file, job.args.join('\n')))
  const worker = async () => {
    for (let job = queue.shift(); job; job = queue.shift()) {
      await new Promise((resolve) => {
        const child = spawn(compiler, job.args, { stdio: 'inherit' })
        child.on('exit', (code) => {
          if (code !== 0) fail(`${compiler} failed on ${path.relative(root, job.source)}`)
          fs.writeFileSync(`${job.file}.cmd`, job.args.join('\n'))
          resolve()
        })
      })
    }
  }
  await Promise.all(Array.from({ length: os.availableParallelism() }, worker))
  for (const binary of binaries) {
    const temporary = `${binary.file}.tmp`
    execFileSync(compiler, [...binary.objects, ...common, ...link, ...binary.args, '-o', temporary], { stdio: 'inherit' })
    fs.renameSync(temporary, binary.file) // a running process keeps its old file
  }
}

const o = options(process.argv.slice(2))
if (o.cmake && cmakeVersion() >= 321) buildWithCMake(o)
else buildDirectly(o)

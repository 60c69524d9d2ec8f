#!/usr/bin/env node
// The only door to the native build, in a clone and in an installed package:
//   node scripts/build-native.js [--config Release|Debug] [--target linux-x64|linux-arm64|win32-x64|...] [--programs]
//     [--sanitize address,undefined] [--no-addon] [--cuda] [--cuda-architectures LIST]
//     [--no-cmake] [--output FOLDER]
// With CMake on the machine it drives CMake; without, it drives the C++ compiler from the same folders and the same
// flags (native/targets.json). --cuda adds auxgrad_cuda.so, for Hopper or for the list given (as CMake names
// architectures: "80-real;90a-real;90-virtual"), and needs CMake and nvcc. --target builds what is released for a
// platform, with a cross compiler where needed.
'use strict'
const { execFileSync, spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const native = path.join(root, 'native')
const facts = JSON.parse(fs.readFileSync(path.join(native, 'targets.json'), 'utf8'))
// A clone has binding.gyp, a published package has not; there no warning of a newer compiler may stop a build.
const strict = fs.existsSync(path.join(root, 'binding.gyp'))

function options(argv) {
  const result = {
    config: 'Release',
    sanitize: '',
    target: '',
    output: '',
    programs: false,
    addon: true,
    cuda: '',
    cmake: true,
  }
  for (let i = 0; i < argv.length; i++) {
    if (argv[i] === '--config') result.config = argv[++i]
    else if (argv[i] === '--sanitize') result.sanitize = argv[++i]
    else if (argv[i] === '--target') result.target = argv[++i]
    else if (argv[i] === '--output') result.output = path.resolve(argv[++i])
    else if (argv[i] === '--programs') result.programs = true
    else if (argv[i] === '--no-addon') result.addon = false
    else if (argv[i] === '--cuda') result.cuda ||= '90a-real'
    else if (argv[i] === '--cuda-architectures') result.cuda = argv[++i]
    else if (argv[i] === '--no-cmake') result.cmake = false
    else fail(`unknown option ${argv[i]}`)
  }
  if (!['Release', 'Debug'].includes(result.config)) fail(`--config must be Release or Debug, got ${result.config}`)
  // On Windows a plain build needs what a release needs: static run-time libraries and an import library.
  if (!result.target && process.platform === 'win32') {
    result.target = `win32-${process.arch}`
    result.output ||= path.join(root, 'build', result.config)
  }
  if (result.target && !facts.targets[result.target])
    fail(`no target ${result.target}; expected one of ${Object.keys(facts.targets).join(', ')}`)
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

// Headers of Node's C interface and of its C++ wrapper: dependencies of this package, never a download.
function headers(name) {
  try {
    return path.dirname(require.resolve(`${name}/package.json`, { paths: [root] }))
  } catch {
    fail(`the package ${name} is not installed beside auxgrad; run npm install`)
  }
}

const includeDirs = () => [path.join(headers('node-api-headers'), 'include'), headers('node-addon-api')]

function outputDir(o) {
  if (o.output) return o.output
  const name = [o.target || o.config, o.target && o.config !== 'Release' && o.config, o.sanitize.replace(/,/g, '-')]
  return path.join(root, 'build', name.filter(Boolean).join('-'))
}

// The folder of intermediate files: one for each combination that needs its own. A release for this platform is linked
// otherwise, not compiled.
function workDir(o, kind) {
  const own = o.target === `${process.platform}-${process.arch}` && !facts.targets[o.target].flags.length
  return path.join(
    root,
    'build',
    [kind, !own && o.target, o.config, o.sanitize.replace(/,/g, '-')].filter(Boolean).join('-'),
  )
}

// The compiler that makes code for the target, or the first of this machine's.
function findCompiler(o) {
  const target = facts.targets[o.target]
  const own = facts.targets[`${process.platform}-${process.arch}`]?.compilers ?? []
  const found = [process.env.CXX, ...(target?.compilers ?? [...own, 'c++', 'g++', 'clang++'])]
  for (const compiler of found.filter(Boolean)) {
    const machine = works(compiler, ['-dumpmachine'])
    if (machine !== null && (!target || new RegExp(target.machine).test(machine.trim()))) return compiler
  }
  if (target) fail(`no C++ compiler for ${o.target} found; install one (${target.install}) or set CXX`)
  return fail(
    'no C++ compiler found; install one (Debian: apt-get install g++, macOS: xcode-select --install) or set CXX',
  )
}

const binutils = (compiler, tool) => compiler.replace(/(g|clang)\+\+.*$/, tool)

// Windows resolves the functions of node.exe through an import library, made from the lists that Node publishes.
function importLibrary(o, compiler) {
  if (!o.target.startsWith('win32') || !o.addon) return ''
  const folder = path.join(headers('node-api-headers'), 'def')
  const names = new Set()
  for (const file of ['js_native_api.def', 'node_api.def'])
    for (const line of fs.readFileSync(path.join(folder, file), 'utf8').split(/\r?\n/))
      if (/^\s*\w+\s*$/.test(line) && line.trim() !== 'EXPORTS') names.add(line.trim())
  const work = workDir(o, 'import')
  fs.mkdirSync(work, { recursive: true })
  fs.writeFileSync(path.join(work, 'node.def'), `LIBRARY "node.exe"\nEXPORTS\n${[...names].join('\n')}\n`)
  const library = path.join(work, 'libnode.a')
  run(binutils(compiler, 'dlltool'), ['-d', path.join(work, 'node.def'), '-l', library], process.env)
  return library
}

function buildWithCMake(o) {
  const work = workDir(o, 'cmake')
  const ninja = works('ninja', ['--version']) !== null
  const compiler = findCompiler(o)
  const cached = path.join(work, 'CMakeCache.txt')
  if (fs.existsSync(cached)) {
    const text = fs.readFileSync(cached, 'utf8')
    // A copied or moved checkout, another generator or another compiler cannot reuse its cache.
    const generator = /CMAKE_GENERATOR:INTERNAL=(.*)/.exec(text)?.[1]
    const home = /CMAKE_HOME_DIRECTORY:INTERNAL=(.*)/.exec(text)?.[1]
    const before = /AUXGRAD_COMPILER:\w+=(.*)/.exec(text)?.[1]
    if (home !== root || (generator === 'Ninja') !== ninja || before !== compiler)
      fs.rmSync(work, { recursive: true, force: true })
  }
  const define = {
    CMAKE_BUILD_TYPE: o.config,
    CMAKE_CXX_COMPILER: compiler,
    AUXGRAD_COMPILER: compiler,
    OUTPUT: outputDir(o),
    SANITIZE: o.sanitize,
    TARGET: o.target,
    NODE_IMPORT_LIBRARY: importLibrary(o, compiler),
    AUXGRAD_ADDON: o.addon ? 'ON' : 'OFF',
    AUXGRAD_PROGRAMS: o.programs ? 'ON' : 'OFF',
    AUXGRAD_CUDA: o.cuda,
    AUXGRAD_STRICT: strict ? 'ON' : 'OFF',
  }
  if (o.target && o.target !== `${process.platform}-${process.arch}`) {
    define.CMAKE_SYSTEM_NAME = facts.targets[o.target].system
    define.CMAKE_SYSTEM_PROCESSOR = o.target.endsWith('arm64') ? 'aarch64' : 'x86_64'
  }
  if (o.addon) define.NODE_INCLUDE_DIRS = includeDirs().join(';')
  const env = cleanEnvironment()
  const generator = ninja ? 'Ninja' : process.platform === 'win32' ? 'MinGW Makefiles' : 'Unix Makefiles'
  const configure = ['-S', root, '-B', work, '-G', generator, '-Wno-dev', '--no-warn-unused-cli']
  for (const [name, value] of Object.entries(define)) configure.push(`-D${name}=${value}`)
  run('cmake', configure, env)
  const only = o.cuda && !o.addon && !o.programs ? ['--target', 'auxgrad_cuda'] : []
  run('cmake', ['--build', work, ...only, '--parallel', String(os.availableParallelism())], env)
}

function run(command, args, env) {
  const result = spawnSync(command, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
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

const stem = (file) => path.basename(file, '.cc')

function sources(dir) {
  if (!fs.existsSync(dir)) return []
  const names = fs.readdirSync(dir).filter((name) => name.endsWith('.cc'))
  return names.sort().map((name) => path.join(dir, name))
}

// Compiles what is out of date, on every core.
async function compile(compiler, jobs) {
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
}

async function buildDirectly(o) {
  const compiler = findCompiler(o)
  const target = facts.targets[o.target] ?? { flags: [], link: [], sources: [] }
  const arch = o.target ? o.target.split('-')[1] : process.arch
  const windows = o.target.startsWith('win32')
  const work = workDir(o, 'direct')
  const output = outputDir(o)
  fs.mkdirSync(path.join(work, 'generated'), { recursive: true })
  fs.mkdirSync(output, { recursive: true })

  const kernels = sources(path.join(native, 'cpu/kernels'))
  const families = kernels.map((k) => `AUXGRAD_FAMILY_ROW(${stem(k)})\n`).join('')
  const inc = path.join(work, 'generated/kernel_families.inc')
  if (!fs.existsSync(inc) || fs.readFileSync(inc, 'utf8') !== families) fs.writeFileSync(inc, families)

  const flags = [...facts.flags, ...(strict ? facts.strictFlags : []), ...target.flags]
  if (o.config === 'Debug') flags.push('-g')
  const link = ['-pthread', ...target.link]
  if (o.sanitize) {
    flags.push(`-fsanitize=${o.sanitize}`, ...facts.sanitizedFlags)
    if (o.sanitize.includes('undefined')) flags.push(...facts.undefinedFlags)
    link.push(`-fsanitize=${o.sanitize}`)
  }
  const unchecked = o.sanitize.includes('undefined') ? facts.uncheckedFlags : []
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
      common.push(object(`${folder}-${stem(s)}`, s, [...facts.coldFlags, `-I${path.join(work, 'generated')}`]))
  for (const s of target.sources) common.push(object(`target-${stem(s)}`, path.join(native, s), facts.coldFlags))
  for (const [isa, isaFlags] of Object.entries(facts.isa[arch] ?? facts.isa.other))
    for (const s of kernels)
      common.push(
        object(`kernels-${stem(s)}-${isa}`, s, [
          ...facts.kernelFlags,
          ...isaFlags,
          `-DAUXGRAD_FAMILY=${stem(s)}`,
          `-DAUXGRAD_ISA=${isa}`,
        ]),
      )
  const binaries = []
  const loadable = process.platform === 'darwin' ? ['-bundle'] : ['-shared']
  if (o.addon) {
    const defines = facts.addonDefines.map((d) => `-D${d}`)
    const include = includeDirs().flatMap((d) => ['-isystem', d])
    const objects = sources(path.join(native, 'binding')).map((s) =>
      object(`binding-${stem(s)}`, s, [...facts.coldFlags, ...defines, ...include]),
    )
    const shared = [...loadable, ...(process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [])]
    if (!windows) shared.push('-ldl')
    if (windows) shared.push(importLibrary(o, compiler))
    if (target.exports) shared.push(`-Wl,--version-script=${path.join(native, target.exports)}`)
    binaries.push({ file: path.join(output, 'auxgrad.node'), objects, args: shared })
  }
  if (o.programs) {
    const include = [`-I${native}`, `-I${path.join(work, 'generated')}`]
    const program = (name, folder, args = windows ? [] : ['-ldl'], extra = []) => {
      const objects = sources(folder).map((s) => object(`${name}-${stem(s)}`, s, [...extra, ...include]))
      if (objects.length) binaries.push({ file: path.join(output, windows ? `${name}.exe` : name), objects, args })
    }
    program('auxgrad_test', path.join(native, 'test'), undefined, unchecked)
    program('auxgrad_run', path.join(native, 'run'))
    if (!windows && !o.sanitize && !o.target) program('auxgrad_bench', path.join(root, 'benchmarks/native'))
    if (!windows) program('auxgrad_host_device.so', path.join(native, 'test/library'), loadable)
  }

  await compile(compiler, jobs)
  for (const binary of binaries) {
    const temporary = `${binary.file}.tmp`
    execFileSync(compiler, [...binary.objects, ...common, ...binary.args, ...link, '-o', temporary], {
      stdio: 'inherit',
    })
    fs.renameSync(temporary, binary.file) // a running process keeps its old file
  }
}

async function main() {
  const o = options(process.argv.slice(2))
  try {
    fs.mkdirSync(outputDir(o), { recursive: true })
  } catch (error) {
    fail(`cannot write to ${path.join(root, 'build')}: ${error.message}`)
  }
  const cmake = o.cmake && cmakeVersion() >= 321
  if (o.cuda && !cmake) fail('--cuda needs CMake 3.21 or later')
  if (cmake) buildWithCMake(o)
  else await buildDirectly(o)
  return outputDir(o)
}

module.exports = { binutils, facts, findCompiler, works }
if (require.main === module)
  main().then(
    (folder) => console.log(`built ${path.relative(process.cwd(), folder) || '.'}`),
    (error) => fail(error.message),
  )

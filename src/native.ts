import { existsSync } from 'node:fs'
import path from 'node:path'
import { AuxgradError, nativeError } from './errors'

/** A block of native memory (an opaque handle); freed by `release` or, as a last resort, with its wrapper. */
export type Handle = { readonly __storage: unique symbol }
/** A decoded plan, ready to run (an opaque handle). */
export type PlanHandle = { readonly __plan: unique symbol }

/** A submitted run (an opaque handle). */
export type JobHandle = { readonly __job: unique symbol }

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
  platform: string
  compiler: string
}

/** The functions of the add-on (native/binding). Operands are encoded by `graph/encode.ts`. */
export interface Native {
  info(): NativeInfo
  setIsa(name: string): boolean
  setThreads(threads: number): void
  kernels(): string[]
  memory(): MemoryCounters
  resetPeak(): void
  setFault(k: number, persistent: boolean): void

  create(bytes: number, zero: boolean): Handle | null
  release(handle: Handle): void
  write(handle: Handle, byteOffset: number, source: NodeJS.ArrayBufferView): void
  read(handle: Handle, byteOffset: number, target: NodeJS.ArrayBufferView): void

  call(kernel: string, operands: Float64Array, handles: Handle[], inputs: number, numbers: Float64Array): Status | undefined
  scratch(kernel: string, operands: Float64Array, inputs: number, numbers: Float64Array): number

  plan(words: Float64Array, kernels: string[], handles: Handle[]): PlanHandle | Status
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

function load(): Native {
  const root = path.resolve(__dirname, '..')
  const override = process.env.AUXGRAD_BINARY
  const tried: string[] = []
  try {
    if (override) {
      tried.push(override)
      return require(path.resolve(override)) as Native
    }
    tried.push(path.join(root, 'build/Release'), path.join(root, 'prebuilds', `${process.platform}-${process.arch}`))
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    return (require('node-gyp-build') as (root: string) => Native)(root)
  } catch (cause) {
    const places = tried.map((p) => `${p} (${existsSync(p) ? 'there' : 'absent'})`).join(', ')
    throw new AuxgradError(
      'AUX_NO_NATIVE',
      `no native binary that loads on ${process.platform}-${process.arch}, Node ${process.versions.node}; tried ${places}: ` +
        `${(cause as Error).message.split('\n')[0]}. Build one with: npx auxgrad build`,
      { cause },
    )
  }
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

import { expectIntegers } from './errors'
import { binaryPath, maxThreads, native, platformText, version } from './native'

/** What computes here: what a bug report needs. */
export interface Info {
  /** Version of auxgrad. */
  version: string
  /** System, processor family, C library, and Node, Bun or Deno. */
  platform: string
  /** File of the binary in use. */
  binary: string
  /** What compiled it. */
  compiler: string
  /** Instruction set of the kernels; the environment's `AUXGRAD_ISA` may name another of `isaAvailable`. */
  isa: string
  /** Those that this machine has, the slowest first. */
  isaAvailable: string[]
  /** Threads that kernels use, the caller's included. */
  threads: number
}

/**
 * What computes here.
 * @throws AUX_NO_NATIVE where no binary loads
 */
export function info(): Info {
  const { isa, isaAvailable, threads, compiler } = native().info()
  return { version: version(), platform: platformText(), binary: binaryPath(), compiler, isa, isaAvailable, threads }
}

/**
 * Lets the kernels of this process use so many threads (1 to 256), from the next call on; fewer where the system refuses
 * more. By default as many as there are cores, or as a container's limit or `AUXGRAD_THREADS` says. Steps keep to those that they
 * were planned with, where these are fewer: set it first. Results are the same bits with any number.
 * @throws AUX_INVALID_ARGUMENT
 */
export function setThreads(threads: number): void {
  expectIntegers('setThreads', { threads }, 1, maxThreads)
  native().setThreads(threads)
}

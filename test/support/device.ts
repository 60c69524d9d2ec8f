import path from 'node:path'
import { binaryPath } from '../../src/native'

/** The device that tests run on: the processor in memory of its own, which ends the process if it is touched from outside. */
export const library = path.join(path.dirname(binaryPath()), 'auxgrad_host_device.so')

/** Lets `cuda` be that device. */
export function useHostDevice(): void {
  process.env.AUXGRAD_CUDA_LIBRARY = library
}

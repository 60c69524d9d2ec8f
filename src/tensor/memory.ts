import { native, type DeviceHandle } from '../native'
import { deviceNamed } from './device'

/** What auxgrad holds now, in bytes and blocks. */
export interface Memory {
  /** Bytes held now: tensors, parameters, optimizer state and arenas. */
  live: number
  /** Highest value of `live` since the start or the last `resetPeakMemory()`. */
  peak: number
  /** Blocks of memory held now; tensors that share one (views) count once. */
  tensors: number
  /** Blocks ever allocated. */
  allocations: number
}

const handleOf = (what: string, device: string): DeviceHandle | undefined => deviceNamed(what, device)?.handle

/** The counters of this process (or worker), in the memory of the processor or of a device (`cuda`). */
export function memory(device = 'cpu'): Memory {
  const { live, peak, blocks, allocations } = native().memory(handleOf('memory', device))
  return { live, peak, tensors: blocks, allocations }
}

/** Lets `memory().peak` start again from what is held now. */
export const resetPeakMemory = (device = 'cpu'): void => native().resetPeak(handleOf('resetPeakMemory', device))

import { native } from '../native'

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

/** The counters of this process (or worker). */
export function memory(): Memory {
  const { live, peak, blocks, allocations } = native().memory()
  return { live, peak, tensors: blocks, allocations }
}

/** Lets `memory().peak` start again from what is held now. */
export const resetPeakMemory = (): void => native().resetPeak()

import { AuxgradError, fail } from '../errors'
import { check, native, type Handle } from '../native'
import type { Device } from './device'

let made = 0

// What cannot be cloned is shown as its source.
const tensorsCannotBeCloned = (): string => 'tensors are not cloned: send their values, dataSync()'

/**
 * A counted block of memory that tensors share; freed with its last owner. It lies where it was last used: plans take what
 * they read to the device they run on, eager ops to the processor.
 */
export class Storage {
  /** Its number: whoever compares tensors field by field (`assert.deepEqual`, `toEqual`) must not find all alike. */
  readonly id = ++made
  readonly bytes: number
  /** No structured clone (`structuredClone`, `postMessage`) can take it along: it would be without its memory. */
  readonly uncloneable = tensorsCannotBeCloned
  #handle: Handle | null
  #device: Device | null
  #owners = 1
  #users = 0

  /** @throws AUX_OUT_OF_MEMORY naming the bytes asked for. */
  constructor(bytes: number, options: { zero?: boolean; what?: string; device?: Device | null } = {}) {
    const { zero = false, what = 'tensor', device = null } = options
    const handle = native().create(bytes, zero, device?.handle)
    if (!handle)
      throw new AuxgradError(
        'AUX_OUT_OF_MEMORY',
        `${what}: ${device?.name ?? 'the system'} has no ${bytes} bytes to give (auxgrad holds ` +
          `${native().memory(device?.handle).live})`,
      )
    this.#handle = handle
    this.#device = device
    this.bytes = bytes
  }

  get handle(): Handle {
    if (!this.#handle) throw new AuxgradError('AUX_DISPOSED', 'this tensor was disposed')
    return this.#handle
  }

  get disposed(): boolean {
    return this.#handle === null
  }

  /** Where it lies; null is the processor. */
  get device(): Device | null {
    return this.#device
  }

  /**
   * Brings it to the memory of a device (null: the processor) if it lies elsewhere.
   * @throws AUX_OUT_OF_MEMORY, and then it stays where it is; AUX_INVALID_ARGUMENT while a run elsewhere reads it.
   */
  place(device: Device | null): this {
    if (device === this.#device) return this
    if (this.inUse)
      fail(
        'AUX_INVALID_ARGUMENT',
        `a run on ${this.#device?.name ?? 'the processor'} reads this tensor; await it before the tensor is used on ` +
          `${device?.name ?? 'the processor'}`,
      )
    check(native().move(this.handle, device?.handle))
    this.#device = device
    return this
  }

  /** Whether a run reads it or writes to it at this moment. */
  get inUse(): boolean {
    return this.#users > 0
  }

  /** Keeps it where it is until `unpin`. */
  pin(): void {
    this.#users++
  }

  unpin(): void {
    this.#users--
  }

  retain(): this {
    void this.handle
    this.#owners++
    return this
  }

  release(): void {
    if (!this.#handle || --this.#owners > 0) return
    native().release(this.#handle)
    this.#handle = null
  }
}

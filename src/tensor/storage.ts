import { AuxgradError } from '../errors'
import { native, type Handle } from '../native'

/** A counted block of native memory that tensors share; freed with its last owner. */
export class Storage {
  readonly bytes: number
  #handle: Handle | null
  #owners = 1

  /** @throws AUX_OUT_OF_MEMORY naming the bytes asked for. */
  constructor(bytes: number, options: { zero?: boolean; what?: string } = {}) {
    const handle = native().create(bytes, options.zero ?? false)
    if (!handle)
      throw new AuxgradError(
        'AUX_OUT_OF_MEMORY',
        `${options.what ?? 'tensor'}: the system has no ${bytes} bytes to give (auxgrad holds ${native().memory().live})`,
      )
    this.#handle = handle
    this.bytes = bytes
  }

  get handle(): Handle {
    if (!this.#handle) throw new AuxgradError('AUX_DISPOSED', 'this tensor was disposed')
    return this.#handle
  }

  get disposed(): boolean {
    return this.#handle === null
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

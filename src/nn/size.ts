import { fail } from '../errors'

/** Throws unless every value is a size: a whole number from 1 on. */
export function expectSizes(layer: string, sizes: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(sizes))
    if (!Number.isSafeInteger(value) || value < 1)
      fail('AUX_INVALID_ARGUMENT', `${layer}: expected ${name} to be a whole number >= 1, got ${String(value)}`)
}

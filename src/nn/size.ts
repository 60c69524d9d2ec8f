import { expectIntegers } from '../errors'

/** Throws unless every value is a size: a whole number from 1 on. */
export const expectSizes = (layer: string, sizes: Readonly<Record<string, number>>): void =>
  expectIntegers(layer, sizes)

import { expectIntegers } from '../errors'

/** High 32 bits of the product of two 32-bit words. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle & 0xffff)
  return aHigh * bHigh + (middle >>> 16) + (carry >>> 16)
}

/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as native/core/philox.h: writes four
 * random words for one counter to `out`.
 */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): void {
  let [c0, c1, c2, c3] = [counter[0], counter[1], counter[2], counter[3]]
  let [k0, k1] = [key[0], key[1]]
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(c0, 0xd2511f53)
    const high2 = multiplyHigh(c2, 0xcd9e8d57)
    const low0 = Math.imul(c0, 0xd2511f53)
    const low2 = Math.imul(c2, 0xcd9e8d57)
    c0 = (high2 ^ c1 ^ k0) >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c1 = low2 >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
}

/**
 * Random numbers that are a pure function of (seed, stream, place in the stream). A stream is named by three words;
 * `seek` goes to its beginning, so nothing has to be remembered or saved to get the same numbers again.
 */
export class Random {
  readonly #key: Uint32Array
  readonly #counter = new Uint32Array(4)
  readonly #words = new Uint32Array(4)
  #used = 4

  constructor(seed: number) {
    checkSeed('Random', seed)
    this.#key = Uint32Array.of(seed % 2 ** 32, Math.floor(seed / 2 ** 32))
  }

  seek(a = 0, b = 0, c = 0): this {
    this.#counter.set([0, a, b, c])
    this.#used = 4
    return this
  }

  /** A 32-bit word. */
  bits(): number {
    if (this.#used === 4) {
      philox(this.#counter, this.#key, this.#words)
      this.#counter[0]++
      this.#used = 0
    }
    return this.#words[this.#used++]
  }

  /** Uniform in [0, 1), with 24 bits. */
  uniform(): number {
    return (this.bits() >>> 8) * 2 ** -24
  }

  /** A whole number in [0, n), each equally likely; n from 1 to 2^32. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n)
    for (;;) {
      const word = this.bits()
      if (word < limit) return word % n
    }
  }
}

/** Throws unless `seed` can be a key: a whole number from 0 to 2^53 - 1. */
export const checkSeed = (what: string, seed: number): void => expectIntegers(what, { seed }, 0)

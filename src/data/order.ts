import { expectIntegers } from '../errors'
import { Random } from '../tensor/philox'

// Orders of rows: functions of a seed and an epoch, so that nothing has to be saved to have them again.

/** The rows 0 to size - 1 in the order of an epoch: a Fisher-Yates shuffle by counter-based random numbers. */
export function permutation(size: number, seed: number, epoch: number): Uint32Array {
  expectIntegers('permutation', { size, epoch }, 0)
  const random = new Random(seed).seek(0, epoch, 0)
  const order = new Uint32Array(size)
  for (let i = 0; i < size; i++) {
    const j = random.below(i + 1)
    order[i] = order[j]
    order[j] = i
  }
  return order
}

/** @internal As many rows as there are running sums of weights, each drawn from all in proportion to its weight. */
export function drawn(sums: Float64Array, seed: number, epoch: number): Uint32Array {
  const random = new Random(seed).seek(1, epoch, 0)
  const total = sums[sums.length - 1]
  return new Uint32Array(sums.length).map(() => {
    const at = ((random.bits() >>> 5) * 2 ** 26 + (random.bits() >>> 6)) * 2 ** -53 * total // below the total
    let [low, high] = [0, sums.length - 1]
    while (low < high) {
      const middle = (low + high) >>> 1
      if (sums[middle] > at) high = middle
      else low = middle + 1
    }
    return low
  })
}

/** @internal How many times each row has come before in an order. */
export function repeatsIn(order: Uint32Array): Uint32Array {
  const seen = new Uint32Array(order.length)
  return order.map((row) => seen[row]++)
}

/** A block of the arena: bytes, and the first and last step (inclusive) at which it must exist. */
export interface Block {
  /** Its size. */
  readonly bytes: number
  /** First step. */
  readonly from: number
  /** Last step. */
  readonly to: number
  /** Where it lies in the arena. */
  offset: number
}

const alignment = 64

/** Blocks of which all orders are tried, however little is to be gained. */
const many = 10000

export const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment

/** The largest sum of bytes alive at one step: no arena can be smaller. */
export function largestLiveSum(blocks: readonly Block[]): number {
  const change = new Map<number, number>()
  for (const b of blocks) {
    change.set(b.from, (change.get(b.from) ?? 0) + b.bytes)
    change.set(b.to + 1, (change.get(b.to + 1) ?? 0) - b.bytes)
  }
  let live = 0
  let most = 0
  for (const step of [...change.keys()].sort((a, b) => a - b)) {
    live += change.get(step)!
    most = Math.max(most, live)
  }
  return most
}

/**
 * Gives every block an offset so that blocks alive at the same step never overlap; returns the arena's bytes.
 *
 * Best fit in several orders, each refined by moving up the blocks that stick out of the smallest possible arena.
 */
export function allocate(blocks: readonly Block[]): number {
  const bound = largestLiveSum(blocks)
  const length = (b: Block): number => b.to - b.from
  const orders: ((a: Block, b: Block) => number)[] = [
    (a, b) => length(b) - length(a) || b.bytes - a.bytes,
    (a, b) => b.bytes - a.bytes || length(b) - length(a),
    (a, b) => b.bytes * length(b) - a.bytes * length(a),
    (a, b) => a.from - b.from || b.bytes - a.bytes,
    (a, b) => b.to - a.to || b.bytes - a.bytes,
  ]
  let best = Infinity
  let offsets: number[] = []
  const sequences = orders.map((order) => ({ sorted: [...blocks].sort(order), size: 0, tries: 0 }))
  // A few tries of each, next of the one that came out smallest; more of them only if the arena is not within 1 % then. Of
  // many blocks, which a try takes long for, 0.1 % is near enough.
  for (const { tries, enough } of [
    { tries: 5, enough: (blocks.length > many ? 1.001 : 1) * bound },
    { tries: 25, enough: 1.01 * bound },
  ])
    while (best > enough) {
      const open = sequences.filter((s) => s.tries < tries)
      if (!open.length) break
      const next = open.reduce((a, b) => (b.size < a.size ? b : a))
      next.size = place(next.sorted)
      next.tries++
      if (next.size < best) {
        best = next.size
        offsets = blocks.map((b) => b.offset)
      }
      const up = new Set(next.sorted.filter((b) => b.offset + b.bytes > bound))
      next.sorted = [...up, ...next.sorted.filter((b) => !up.has(b))]
    }
  blocks.forEach((b, i) => (b.offset = offsets[i]))
  return best
}

/** Blocks by offset. */
type Shelf = Block[]

function shelve(shelf: Shelf, block: Block): void {
  let low = 0
  let high = shelf.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (shelf[middle].offset < block.offset) low = middle + 1
    else high = middle
  }
  shelf.splice(low, 0, block)
}

/**
 * Places blocks one after the other, each in the smallest gap that holds it; returns the bytes used. What lives within one
 * span of steps (most do) meets only what lives in this span too.
 */
function place(sorted: readonly Block[]): number {
  const all: Shelf = []
  const steps = sorted.reduce((last, b) => Math.max(last, b.to), 0) + 1
  const span = Math.ceil(Math.sqrt(steps))
  const spans = Array.from({ length: Math.ceil(steps / span) }, (): Shelf => [])
  let size = 0
  for (const block of sorted) {
    const [first, last] = [Math.floor(block.from / span), Math.floor(block.to / span)]
    let offset = 0
    let bestOffset = -1
    let bestGap = Infinity
    for (const other of first === last ? spans[first] : all) {
      if (other.to < block.from || other.from > block.to) continue
      const gap = other.offset - offset
      if (gap >= block.bytes && gap < bestGap) {
        bestGap = gap
        bestOffset = offset
      }
      const end = other.offset + other.bytes
      if (end > offset) offset = end
    }
    block.offset = bestOffset >= 0 ? bestOffset : offset
    shelve(all, block)
    for (let i = first; i <= last; i++) shelve(spans[i], block)
    size = Math.max(size, block.offset + block.bytes)
  }
  return size
}

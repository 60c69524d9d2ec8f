import type { Call, Node } from '../graph/graph'
import { bytesOf } from './builder'
import { readersOf } from './order'
import type { Plan } from './plan'

/** Bytes of values that backward reads, as a call has to do with them. */
interface Sums {
  /** Made and read within it: what there is at once when it is run again. */
  inside: number
  /** Made within it and read for calls behind it in the same forward. */
  made: number
  /** Read for it and made by calls in front of it in the same forward. */
  read: number
  /** Kept of it unless it is run again as a whole: neither within calls of its own nor between such. */
  own: number
  /** Given to calls behind it in the same forward: kept if those are run again apart from it. */
  given: number
  /** Whether its caller does something of its own before it calls the next one. */
  followed: boolean
  /** Whether there is a layer with a weight in it. */
  weighted: boolean
}

/** Modules and ranges of modules to be run again. */
interface Cut {
  readonly units: string[]
  /** Bytes that backward keeps even so. */
  kept: number
  /** Most bytes at once: those of a unit when it is run again, and those kept in front of it. */
  peak: number
}

/** Cuts that are worth a plan: what is on its way beside what is kept, plans alone know. */
const candidates = 4

/** Batch statistics are never computed again. */
export const isStatistics = (node: Node): boolean => node.op.statistics === true

/**
 * What is best run again: lists of modules, and of ranges of modules that one forward calls one after the other; the best
 * one first. What a unit makes again is all there at once, beside what is kept in front of it: units are as large as a
 * peak allows, the first ones larger than the last, and the least peaks are looked for. Only modules that are `free` are
 * taken.
 */
export function unitsOf(plan: Plan, free: (path: string) => boolean): (readonly string[])[] {
  const sums = sumsOf(plan)
  const root = [...sums.keys()].find(({ caller }) => !caller)
  if (!root) return []
  const times = new Map<string, number>()
  const count = ({ path, calls }: Call): void => {
    times.set(path, (times.get(path) ?? 0) + 1)
    calls.forEach(count)
  }
  count(root)

  const cutAt = (limit: number, ranges: boolean): Cut => {
    const cut: Cut = { units: [], kept: 0, peak: 0 }
    const visit = (caller: Call): void => {
      cut.kept += of(caller, sums).own
      let run: Call[] = []
      for (const call of caller.calls) {
        const { path } = call
        const { inside, given } = of(call, sums)
        const fits = path !== '' && cut.kept + inside <= limit && free(path)
        if (fits && ranges && times.get(path) === 1) run.push(call)
        else {
          join(run, sums, limit, cut)
          run = []
          if (fits) add(cut, path, cut.kept + inside)
          else visit(call)
          cut.kept += given
        }
      }
      join(run, sums, limit, cut)
    }
    visit(root)
    cut.peak = Math.max(cut.peak, cut.kept)
    return cut
  }

  const whole = plan.kept.reduce((n, { bytes }) => n + bytes, 0)
  const best = (ranges: boolean): Cut[] => {
    const found = new Map<number, Cut>()
    for (let limit = whole; limit > whole / 1000; limit *= 0.97) {
      const cut = cutAt(limit, ranges)
      const known = found.get(cut.units.length)
      if (cut.peak < (known?.peak ?? whole)) found.set(cut.units.length, cut)
    }
    return [...found.values()].sort((a, b) => a.peak - b.peak)
  }
  // Of what lies between modules other methods can take care, as long as it is not run again.
  return [...best(true).slice(0, candidates), ...best(false).slice(0, 1)].map(({ units }) => units)
}

function add(cut: Cut, unit: string, peak: number): void {
  cut.units.push(unit)
  cut.peak = Math.max(cut.peak, peak)
}

/** Cuts calls that follow each other where they give least on, into units that keep the peak within `limit` bytes. */
function join(run: readonly Call[], sums: Map<Call, Sums>, limit: number, cut: Cut): void {
  if (!run.length) return
  const each = run.map((call) => of(call, sums))
  // For every call: bytes made in front of it, and the least that is kept of them if a unit begins with it.
  const made = [each[0].read]
  const kept = [cut.kept]
  // For every end: where the unit begins that ends there, and its bytes.
  const begin = [0]
  const bytes = [0]
  // Where it could begin: the later, the smaller it is, and the more is kept in front of it.
  const begins = [0]
  let ended = 0
  for (let end = 1; end <= run.length; end++) {
    const part = each[end - 1]
    made.push(made[end - 1] + part.inside + part.made)
    ended += part.inside + part.read
    while (begins.length > 1 && kept[begins[0]] + ended - made[begins[0]] > limit) begins.shift()
    begin.push(begins[0])
    bytes.push(ended - made[begins[0]])
    // Of cuts that cost alike that in front of a layer with a weight: its gradient takes room too.
    kept.push(kept[begins[0]] + part.given * (each[end]?.weighted === false ? 1.001 : 1))
    while (begins.length && kept[begins[begins.length - 1]] >= kept[end]) begins.pop()
    begins.push(end)
  }
  cut.kept = kept[run.length]
  for (let end = run.length; end > 0; end = begin[end]) {
    const [first, last] = [run[begin[end]], run[end - 1]]
    const alone = first === last && !each[end - 1].followed
    add(cut, alone ? first.path : `${first.path}..${last.path}`, kept[begin[end]] + bytes[end])
  }
}

function of(call: Call, sums: Map<Call, Sums>): Sums {
  const known = sums.get(call)
  if (known) return known
  const none = { inside: 0, made: 0, read: 0, own: 0, given: 0, followed: false, weighted: false }
  sums.set(call, none)
  return none
}

/** The innermost call around some nodes, and of what it calls the first and the last that they lie in (-1: in front). */
function around(nodes: readonly Node[]): { call: Call; first: number; last: number } {
  const up = (call: Call, depth: number): Call => {
    while (call.depth > depth) call = call.caller!
    return call
  }
  let call = nodes[0].place
  for (const { place } of nodes) {
    let other = up(place, call.depth)
    call = up(call, other.depth)
    while (call !== other) [call, other] = [call.caller!, other.caller!]
  }
  const indices = nodes.map(({ place }) => (place === call ? -1 : up(place, call.depth + 1).index))
  return { call, first: Math.min(...indices), last: Math.max(...indices) }
}

function sumsOf(plan: Plan): Map<Call, Sums> {
  const sums = new Map<Call, Sums>()
  plan.kept.forEach(({ bytes }, i) => {
    if (isStatistics(plan.makers[i])) return
    const { call, first, last } = around([plan.makers[i], ...plan.readers[i]])
    for (let at: Call | undefined = call; at; at = at.caller) of(at, sums).inside += bytes
    if (first < 0) of(call, sums).own += bytes
    else {
      of(call.calls[first], sums).made += bytes
      of(call.calls[last], sums).read += bytes
    }
  })
  const forward = plan.steps.filter(({ phase }) => phase === 'forward')
  for (const [value, readers] of readersOf(forward)) {
    const maker = value.node!
    if (!maker.op.kernel || isStatistics(maker)) continue
    const { call, first, last } = around([maker, ...readers])
    if (first >= 0) for (const at of call.calls.slice(first, last)) of(at, sums).given += bytesOf(value)
  }
  for (const { op, scope, place } of forward) {
    if (scope !== place.path) of(place, sums).followed = true
    if (op.weighted) for (let at: Call | undefined = place; at; at = at.caller) of(at, sums).weighted = true
  }
  return sums
}

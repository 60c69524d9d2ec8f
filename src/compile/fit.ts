import type { Node } from '../graph/graph'
import { assigned, holds, isPolicy, Policies, type MemoryAssignment } from '../memory/assignment'
import { checkpoint } from '../memory/checkpoint'
import type { Answers, MemoryPolicy } from '../memory/policy'
import type { Draft, Plan } from './plan'
import { isStatistics, unitsOf } from './units'

/** A policy and the module, or range of modules, it was chosen for. */
export type ModulePolicy = readonly [path: string, policy: MemoryPolicy]

/** What `fit` may do and how. */
export interface Fitting<Entry> {
  /** Bytes that the plan may take. */
  readonly budget: number
  /** Policies that it may give to any module, and assignments that it may take as they are; in order of preference. */
  readonly methods: readonly MemoryAssignment[]
  /** All modules by path. */
  readonly modules: ReadonlyMap<string, object>
  /** What was asked for: where that is backpropagation, nothing is chosen. */
  readonly given: readonly ModulePolicy[]
  /** The step under a choice. */
  readonly make: (chosen: readonly ModulePolicy[]) => Entry
}

/** To move an element takes a kernel about as long as this many multiplications and additions. */
const operationsPerElement = 40

/** A choice and the step under it: made when it is asked for, again if it was let go; its bytes are remembered. */
class Candidate<Entry extends { readonly draft: Draft }> {
  #entry: Entry | undefined
  #bytes = 0
  #exact = false

  constructor(
    readonly chosen: readonly ModulePolicy[],
    readonly make: (chosen: readonly ModulePolicy[]) => Entry,
  ) {}

  get entry(): Entry {
    return (this.#entry ??= this.make(this.chosen))
  }

  /** Bytes that it takes; where they exceed `limit` in any case, perhaps fewer than it takes. */
  bytes(limit = Infinity): number {
    if (!this.#exact && this.#bytes <= limit) {
      const { draft } = this.entry
      this.#bytes = draft.bytes(limit)
      this.#exact = draft.leastBytes <= limit
    }
    return this.#bytes
  }

  dispose(): void {
    this.#entry?.draft.dispose()
    this.#entry = undefined
  }
}

/** The candidates so far, of which few are made at a time. */
class Candidates<Entry extends { readonly draft: Draft }> {
  readonly #known = new Map<string, Candidate<Entry>>()
  readonly #policies = new Map<MemoryPolicy, number>()

  constructor(readonly fitting: Fitting<Entry>) {}

  under(chosen: readonly ModulePolicy[]): Candidate<Entry> {
    const key = JSON.stringify(chosen.map(([path, policy]) => [path, this.#number(policy)]))
    const known = this.#known.get(key)
    if (known) return known
    const candidate = new Candidate(chosen, this.fitting.make)
    this.#known.set(key, candidate)
    return candidate
  }

  /** Disposes of all others. */
  keep(...candidates: readonly (Candidate<Entry> | undefined)[]): void {
    for (const candidate of this.#known.values()) if (!candidates.includes(candidate)) candidate.dispose()
  }

  #number(policy: MemoryPolicy): number {
    if (!this.#policies.has(policy)) this.#policies.set(policy, this.#policies.size)
    return this.#policies.get(policy)!
  }
}

/**
 * Policies for modules by which a step fits its budget: of the first method for as few modules as will do, those first
 * where a byte costs least; where all of them will not do, as many as take least, and as few as will do of the next
 * method. Where all methods together will not do, the same without the first ones, which may stand in the way of those
 * that save more. Every candidate is drafted, and planned unless it takes too much wherever its values lie: what is
 * estimated is the order alone. Where nothing will do, the smallest plan found. `before` is too large; whatever is
 * passed over is disposed of.
 */
export function fit<Entry extends { readonly draft: Draft }>(
  before: { readonly entry: Entry; readonly chosen: readonly ModulePolicy[] },
  fitting: Fitting<Entry>,
): { readonly entry: Entry; readonly chosen: readonly ModulePolicy[] } {
  const { budget, methods, given } = fitting
  const first = new Candidate(before.chosen, () => before.entry)
  const candidates = new Candidates(fitting)
  let best: Candidate<Entry> | undefined
  try {
    const pinned = given.flatMap(([path, { name }]) => (name === 'backpropagation' ? [path] : []))
    const free = (path: string): boolean => !pinned.some((at) => holds(at, path))
    const apart = (path: string): boolean => free(path) && !pinned.some((at) => holds(path, at))
    const again = (method: MemoryAssignment): boolean => isPolicy(method) && method.at('').recompute !== undefined
    const lists = methods.some(again) ? unitsOf(first.entry.draft.plan, apart) : []
    let smallest = first
    for (let left = methods; left.length; left = left.slice(1))
      for (const units of left.some(again) && lists.length ? lists : [[]]) {
        const tried = search(first, smallest, left, units, free, candidates)
        if (tried.bytes(smallest.bytes()) < smallest.bytes()) smallest = tried
        candidates.keep(smallest)
        if (smallest.bytes() <= budget) return (best = smallest)
      }
    return (best = smallest)
  } finally {
    candidates.keep(best)
    if (best !== first) first.dispose()
  }
}

function search<Entry extends { readonly draft: Draft }>(
  first: Candidate<Entry>,
  kept: Candidate<Entry>,
  methods: readonly MemoryAssignment[],
  units: readonly string[],
  free: (path: string) => boolean,
  candidates: Candidates<Entry>,
): Candidate<Entry> {
  const { budget, modules } = candidates.fitting
  const fits = (candidate: Candidate<Entry>): boolean => candidate.bytes(budget) <= budget
  const again = checkpoint()
  const policies = new Policies(
    units.map((path) => [path, again] as const),
    modules,
  )
  const unitOf = (node: Node): string | undefined => policies.segment(node)?.path
  let base = first
  for (const method of methods) {
    const offered = isPolicy(method)
      ? stepsOf(method, base.entry.draft.plan, unitOf)
      : [{ rows: assigned(method, modules), saved: 1 }]
    const steps = offered
      .map(({ rows, saved }) => ({ rows: rows.filter(([path]) => free(path)), saved }))
      .filter(({ rows }) => rows.length)
    if (!steps.length) continue
    const { chosen } = base
    const after = (count: number): Candidate<Entry> => candidates.under(joined(chosen, steps.slice(0, count)))
    let [best, few, enough, most] = [after(steps.length), 0, steps.length, base.bytes()]
    // What is made again takes room of its own: where all of them will not do, some of them may take less.
    for (let without = 1; !fits(best) && without < enough;) {
      const fewer = after(enough - without)
      const least = best.bytes(most)
      const change = fewer.bytes(least) - least
      if (change <= 0) [best, enough] = [fewer, enough - without]
      without = change < 0 ? 1 : 2 * without
      candidates.keep(kept, base, best)
    }
    if (best.bytes(most) >= most) continue
    if (!fits(best)) {
      base = best
      candidates.keep(kept, base)
      continue
    }
    for (let tries = 1; enough - few > 1; tries++) {
      // Where the bytes should be right, by what the steps between save; by halves where they are not.
      const share = (most - budget) / (most - best.bytes())
      const between = steps.slice(few, enough)
      const count = few + (tries <= 3 ? partOf(between, share) : between.length >> 1)
      const tried = after(count)
      if (fits(tried)) [best, enough] = [tried, count]
      else [few, most] = [count, tried.bytes(budget)]
      candidates.keep(kept, best)
    }
    return best
  }
  return base
}

/** How many steps save this share of what all of them save: at least one, and not all. */
function partOf(steps: readonly Step[], share: number): number {
  let left = share * steps.reduce((n, { saved }) => n + saved, 0)
  const count = steps.findIndex(({ saved }) => (left -= saved) <= 0) + 1
  return Math.min(count || steps.length, steps.length - 1)
}

/** What is chosen after some steps: the later choice for a module takes the place of an earlier one of its kind. */
function joined(chosen: readonly ModulePolicy[], steps: readonly Step[]): readonly ModulePolicy[] {
  const kind = ([path, policy]: ModulePolicy): string => `${policy.at('').recompute !== undefined} ${path}`
  const last = new Map(steps.flatMap((step) => step.rows.map((row) => [kind(row), step])))
  return [
    ...chosen.filter((row) => !last.has(kind(row))),
    ...steps.flatMap((step) => step.rows.filter((row) => last.get(kind(row)) === step)),
  ]
}

/** The module, or range of modules, around a node that may be run again. */
type UnitOf = (node: Node) => string | undefined

/** A choice that goes together, and about how many bytes it saves. */
interface Step {
  readonly rows: readonly ModulePolicy[]
  readonly saved: number
}

/** The choices that a method offers, best first. */
function stepsOf(policy: MemoryPolicy, plan: Plan, unitOf: UnitOf): Step[] {
  const answers = policy.at('')
  if (answers.recompute) return segments(policy, answers.recompute, plan, unitOf)
  if (answers.compress || answers.layer) return values(policy, answers, plan)
  return [{ rows: [['', policy]], saved: 1 }]
}

/**
 * Modules, or ranges of modules, to be run again, first those that save most bytes for the time; without those that save
 * next to nothing. Backward begins with the one that forward ends with: what it makes again is wanted at once, so it is last.
 */
function segments(policy: MemoryPolicy, recompute: (node: Node) => boolean, plan: Plan, unitOf: UnitOf): Step[] {
  const again = (node: Node): string | undefined => (!isStatistics(node) && recompute(node) ? unitOf(node) : undefined)
  const units = new Map<string, { bytes: number; time: number }>()
  let last: string | undefined
  for (const node of plan.steps) {
    const path = node.phase === 'forward' ? again(node) : undefined
    if (path === undefined) continue
    const unit = units.get((last = path))
    if (unit) unit.time += work(node)
    else units.set(path, { bytes: 0, time: work(node) })
  }
  let all = 0
  plan.kept.forEach(({ bytes }, i) => {
    const path = again(plan.makers[i])
    const unit = path === undefined ? undefined : units.get(path)
    if (!unit || plan.readers[i].some((node) => unitOf(node) !== path)) return
    unit.bytes += bytes
    all += bytes
  })
  const least = Math.min(plan.bytes.total / 1000, all / units.size / 10)
  return [...units]
    .filter(([, { bytes }]) => bytes > least)
    .map(([path, { bytes, time }]) => ({ path, bytes, value: path === last ? 0 : bytes / time }))
    .sort((a, b) => b.value - a.value)
    .map(({ path, bytes }) => ({ rows: [[path, policy]], saved: bytes }))
}

/** Modules in which a policy would pack a value that backward keeps as it is, the largest value first. */
function values(policy: MemoryPolicy, answers: Answers, plan: Plan): Step[] {
  const weighted = new Set<string>()
  for (const node of plan.graph.nodes) if (node.op.weighted && node.phase === 'forward') weighted.add(node.scope)
  return plan.kept
    .filter((value, i) => value.policy === 'backpropagation' && plan.makers[i].inputName === null)
    .sort((a, b) => b.bytes - a.bytes)
    .map(({ readers, bytes }) => ({
      rows: readers
        .filter((path) => path !== '' && (answers.compress || weighted.has(path)))
        .map((path): ModulePolicy => [path, policy]),
      saved: bytes,
    }))
}

/** Operations of a node, with what it takes to write its results counted as such. */
function work({ op, inputs, outputs }: Node): number {
  const elements = outputs[0]?.size ?? 0
  const weight = op.weighted && inputs[op.weighted.index]
  return elements * (operationsPerElement + (weight ? (2 * weight.size) / weight.shape[0] : 0))
}

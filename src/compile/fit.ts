import type { Node } from '../graph/graph'
import { assigned, holds, isPolicy, type MemoryAssignment } from '../memory/assignment'
import type { Answers, MemoryPolicy } from '../memory/policy'
import type { KeptValue, Plan } from './plan'

/** A policy and the module it was chosen for. */
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
  /** The plan under a choice. */
  readonly make: (chosen: readonly ModulePolicy[]) => Entry
}

/** To move an element takes a kernel about as long as this many multiplications and additions. */
const operationsPerElement = 40

/** A plan and the choice it is under. */
interface Candidate<Entry> {
  readonly entry: Entry
  readonly chosen: readonly ModulePolicy[]
}

/**
 * Policies for modules by which a step fits its budget: of the first method for as few modules as will do, those first
 * where a byte costs least; where all of them will not do, all of them, and as few as will do of the next method.
 * Every candidate is planned: what is estimated is the order alone. Where nothing will do, the smallest plan found.
 * `first` is too large; whatever is passed over is disposed of.
 */
export function fit<Entry extends { readonly plan: Plan }>(
  first: Candidate<Entry>,
  { make, ...fitting }: Fitting<Entry>,
): Candidate<Entry> {
  const made = [first.entry]
  let found: Candidate<Entry> | undefined
  try {
    const remembered = (chosen: readonly ModulePolicy[]): Entry => made[made.push(make(chosen)) - 1]
    return (found = search(first, { make: remembered, ...fitting }))
  } finally {
    for (const entry of made) if (entry !== found?.entry) entry.plan.dispose()
  }
}

function search<Entry extends { readonly plan: Plan }>(
  first: Candidate<Entry>,
  { budget, methods, modules, given, make }: Fitting<Entry>,
): Candidate<Entry> {
  const bytes = ({ entry }: Candidate<Entry>): number => entry.plan.bytes.total
  const pinned = (path: string): boolean =>
    given.some(([at, { name }]) => name === 'backpropagation' && holds(at, path))
  const units = unitsOf(first.entry.plan, [...modules.keys()])
  let base = first
  for (const method of methods) {
    const offered = isPolicy(method)
      ? stepsOf(method, base.entry.plan, units)
      : [{ rows: assigned(method, modules), saved: 1 }]
    const steps = offered
      .map(({ rows, saved }) => ({ rows: rows.filter(([path]) => !pinned(path)), saved }))
      .filter(({ rows }) => rows.length)
    if (!steps.length) continue
    const { chosen } = base
    const after = (count: number): Candidate<Entry> => {
      const rows = steps.slice(0, count).reduce((all, step) => joined(all, step.rows), chosen)
      return { entry: make(rows), chosen: rows }
    }
    let best = after(steps.length)
    if (bytes(best) >= bytes(base)) continue
    if (bytes(best) > budget) {
      base = best
      continue
    }
    let [few, enough, most] = [0, steps.length, bytes(base)]
    for (let tries = 1; enough - few > 1; tries++) {
      // Where the bytes should be right, by what the steps between save; by halves where they are not.
      const share = (most - budget) / (most - bytes(best))
      const between = steps.slice(few, enough)
      const count = few + (tries <= 3 ? partOf(between, share) : between.length >> 1)
      const tried = after(count)
      if (bytes(tried) <= budget) [best, enough] = [tried, count]
      else [few, most] = [count, bytes(tried)]
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

/** The later choice for a module takes the place of an earlier one of its kind. */
function joined(chosen: readonly ModulePolicy[], rows: readonly ModulePolicy[]): readonly ModulePolicy[] {
  const again = (policy: MemoryPolicy): boolean => policy.at('').recompute !== undefined
  const replaced = ([path, policy]: ModulePolicy): boolean =>
    rows.some(([at, by]) => at === path && again(by) === again(policy))
  return [...chosen.filter((old) => !replaced(old)), ...rows]
}

/** A choice that goes together, and about how many bytes it saves. */
interface Step {
  readonly rows: readonly ModulePolicy[]
  readonly saved: number
}

/** The choices that a method offers, best first. */
function stepsOf(policy: MemoryPolicy, plan: Plan, units: readonly string[]): Step[] {
  const answers = policy.at('')
  if (answers.recompute) return segments(policy, answers.recompute, plan, units)
  if (answers.compress || answers.layer) return values(policy, answers, plan)
  return [{ rows: [['', policy]], saved: 1 }]
}

const isStatistics = (node: Node): boolean => node.op.statistics === true

/** What a module would not keep if it made it again. */
interface Saving {
  /** Bytes of all its calls. */
  readonly bytes: number
  /** Bytes of the call with most: they are there at once when it is run again. */
  readonly once: number
}

/** The paths of a module and of all around it, the outermost first. */
function pathsTo(module: string): string[] {
  const parts = module ? module.split('.') : []
  return ['', ...parts.map((_, i) => parts.slice(0, i + 1).join('.'))]
}

/** What each module would not keep of what it makes by these nodes; without those of next to nothing. */
function savedBy(plan: Plan, paths: readonly string[], again: (maker: Node) => boolean): Map<string, Saving> {
  const values = new Map<Node, KeptValue[]>()
  plan.makers.forEach((maker, i) => {
    if (!again(maker)) return
    const known = values.get(maker)
    if (known) known.push(plan.kept[i])
    else values.set(maker, [plan.kept[i]])
  })
  const calls = new Map(paths.map((path) => [path, { bytes: 0, once: 0, call: 0, last: -1 }]))
  const forward = plan.graph.nodes.filter(({ phase }) => phase === 'forward')
  forward.forEach((node, i) => {
    for (const path of pathsTo(node.scope)) {
      const sums = calls.get(path)
      if (!sums) continue
      if (sums.last !== i - 1) sums.call = 0 // the nodes of a call follow each other
      sums.last = i
      for (const { readers, bytes } of values.get(node) ?? [])
        if (readers.every((at) => holds(path, at))) {
          sums.bytes += bytes
          sums.call += bytes
          sums.once = Math.max(sums.once, sums.call)
        }
    }
  })
  const all = plan.kept.reduce((n, { bytes }, i) => n + (again(plan.makers[i]) ? bytes : 0), 0)
  const least = Math.min(plan.bytes.total / 1000, all / paths.length / 10)
  return new Map([...calls].filter(([, { bytes }]) => bytes > least))
}

/**
 * The modules that are best run again: of nested ones those that save most together, less the largest call, since what it
 * makes again is all there at once.
 */
function unitsOf(plan: Plan, paths: readonly string[]): string[] {
  const saved = savedBy(plan, paths, (maker) => !isStatistics(maker))
  const outermost = (limit: number): string[] => {
    const small = new Set([...saved.keys()].filter((path) => saved.get(path)!.bytes <= limit))
    return [...small].filter((path) => !pathsTo(path).some((around) => around !== path && small.has(around)))
  }
  const gain = (list: string[]): number => {
    const savings = list.map((path) => saved.get(path)!)
    return savings.reduce((n, { bytes }) => n + bytes, 0) - Math.max(0, ...savings.map(({ once }) => once))
  }
  const lists = [...new Set([...saved.values()].map(({ bytes }) => bytes))].map(outermost)
  return lists.reduce((a, b) => (gain(b) > gain(a) ? b : a), [])
}

/** Modules to be run again, first those that save most bytes for the time. */
function segments(
  policy: MemoryPolicy,
  recompute: (node: Node) => boolean,
  plan: Plan,
  units: readonly string[],
): Step[] {
  const again = (node: Node): boolean => !isStatistics(node) && recompute(node)
  const saved = savedBy(plan, units, again)
  const time = new Map<string, number>()
  for (const node of plan.graph.nodes)
    if (node.phase === 'forward' && node.op.kernel && again(node))
      for (const path of pathsTo(node.scope)) if (saved.has(path)) time.set(path, (time.get(path) ?? 0) + work(node))
  const value = (path: string): number => saved.get(path)!.bytes / (time.get(path) ?? 1)
  return [...saved.keys()]
    .sort((a, b) => value(b) - value(a))
    .map((path) => ({ rows: [[path, policy]], saved: saved.get(path)!.bytes }))
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

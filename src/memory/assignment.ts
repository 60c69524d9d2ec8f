import { describe, fail, isForeign, listed } from '../errors'
import type { Call, Node } from '../graph/graph'
import type { Answers, LayerAnswer, LayerCall, MemoryPolicy } from './policy'

const ends = (path: string): string[] => path.split('..')
const isRange = (path: string): boolean => path.includes('..')

/** @internal Whether a path, or both ends of a range of modules, are among these. */
export const namesModules = (path: string, modules: ReadonlyMap<string, object>): boolean =>
  ends(path).every((end) => modules.has(end))

/** True for the modules that a policy is meant for. */
export type ModuleTest = (path: string, module: object) => boolean

/**
 * Which policy answers for which module: names or patterns (`conv2`, `blocks.*.fc1`, `**.fc`) or tests, each with its
 * policy. A policy assigned to a module holds for everything inside it unless something inside has its own.
 *
 * `checkpoint()` may also be assigned to modules that one forward calls one after the other, by the names of the first and
 * the last of them, `layers.0..layers.5`: to all from the start of the first to where that forward calls the next one.
 */
export type MemoryAssignment =
  | MemoryPolicy
  | Readonly<Record<string, MemoryPolicy>>
  | readonly (readonly [string | RegExp | ModuleTest, MemoryPolicy])[]

// Arrays and strings have an `at` too.
/** @internal */
export const isPolicy = (value: unknown): value is MemoryPolicy =>
  typeof value === 'object' && !Array.isArray(value) && typeof (value as MemoryPolicy | null)?.at === 'function'

function expectPolicy(where: string, policy: unknown): MemoryPolicy {
  if (!isPolicy(policy) || isForeign(policy))
    fail('AUX_INVALID_ARGUMENT', `memory: expected a policy such as asa() for ${where}, got ${describe(policy)}`)
  return policy
}

/** @internal `*` stands for one part of a path, `**` for any number of parts. */
export function matcher(pattern: string): RegExp {
  if (typeof pattern !== 'string')
    fail('AUX_INVALID_ARGUMENT', `expected a path or a pattern such as 'blocks.*.fc1', got ${describe(pattern)}`)
  const parts = pattern
    .split('.')
    .map((part) => (part === '**' ? '.*' : part.replace(/[\\^$+?()|[\]{}]/g, '\\$&').replace(/\*/g, '[^.]*')))
  return new RegExp(`^${parts.join('\\.').replace(/\.\*\\\./g, '(?:.*\\.)?')}$`)
}

/** @internal Names or patterns, a regular expression or a test, as a test. */
export function testOf<T>(
  match: string | RegExp | ((path: string, item: T) => boolean),
): (path: string, item: T) => boolean {
  const pattern = typeof match === 'string' ? matcher(match) : match
  // Unlike `test`, `search` begins at the beginning whatever the flags.
  return typeof pattern === 'function' ? pattern : (path) => path.search(pattern) >= 0
}

/**
 * @internal The modules that an assignment names, with their policies; of two for one module the later one counts.
 * @throws AUX_INVALID_ARGUMENT for a pattern that names no module.
 */
export function assigned(
  assignment: MemoryAssignment | undefined,
  modules: ReadonlyMap<string, object>,
): [path: string, policy: MemoryPolicy][] {
  if (!assignment) return []
  if (isPolicy(assignment)) return [['', expectPolicy('the model', assignment)]]
  const rows = Array.isArray(assignment)
    ? (assignment as readonly (readonly [string | RegExp | ModuleTest, MemoryPolicy])[])
    : Object.entries(assignment as Record<string, MemoryPolicy>)
  return rows.flatMap((row): [string, MemoryPolicy][] => {
    if (!Array.isArray(row))
      fail('AUX_INVALID_ARGUMENT', `memory: expected pairs [where, policy] in the list, got ${describe(row)}`)
    const [where, policy] = row as (typeof rows)[number]
    expectPolicy(String(where), policy)
    const range = typeof where === 'string' && isRange(where)
    if (range && !policy.at(where).recompute)
      fail(
        'AUX_INVALID_ARGUMENT',
        `memory: expected checkpoint() for the modules ${where}, got ${policy.name}; name each of them`,
      )
    if (typeof where === 'string' && namesModules(where, modules)) return [[where, policy]]
    const test = testOf<object>(where)
    const found = range ? [] : [...modules].filter(([path, module]) => test(path, module))
    if (!found.length)
      fail(
        'AUX_INVALID_ARGUMENT',
        `memory: ${String(where)} names no module; there are ${listed([...modules.keys()].filter(Boolean), 20)}`,
      )
    return found.map(([path]): [string, MemoryPolicy] => [path, policy])
  })
}

/** A policy and the module it was assigned to. */
export interface Assigned {
  readonly path: string
  readonly policy: MemoryPolicy
  readonly answers: Answers
}

/** @internal Whether a module is the one at `path` or inside it. */
export const holds = (path: string, module: string): boolean =>
  path === '' || module === path || module.startsWith(`${path}.`)

const depth = (path: string): number => (path === '' ? 0 : ends(path)[0].split('.').length)
const inwards = (a: Assigned, b: Assigned): number => depth(b.path) - depth(a.path)

/** The policies of one compilation. */
export class Policies {
  readonly #assigned: Assigned[] = []
  readonly #around = new Map<string, readonly Assigned[]>()
  /** Ranges of modules around the calls of a call. */
  readonly #ranges = new Map<Call, ReadonlyMap<Call, readonly Assigned[]>>()

  constructor(assignment: MemoryAssignment | undefined, modules: ReadonlyMap<string, object>) {
    for (const [path, policy] of assigned(assignment, modules))
      this.#assigned.push({ path, policy, answers: policy.at(path) })
    // Innermost first; of two on one module the later one.
    this.#assigned.reverse().sort(inwards)
  }

  get empty(): boolean {
    return this.#assigned.length === 0
  }

  /** The policies at or around a module, the innermost first. */
  #of(module: string): readonly Assigned[] {
    let found = this.#around.get(module)
    if (!found) this.#around.set(module, (found = this.#assigned.filter(({ path }) => holds(path, module))))
    return found
  }

  enter(module: string, inputs: readonly unknown[]): void {
    for (const { answers } of this.#of(module)) answers.enter?.(module, inputs)
  }

  /** Runs a layer under the innermost policy that answers for it. */
  layer(call: LayerCall): LayerAnswer & { policy: string } {
    for (const { policy, answers } of this.#of(call.module)) {
      const answer = answers.layer?.(call)
      if (answer) return { ...answer, policy: answer.weightGradient ? policy.name : 'backpropagation' }
    }
    return { node: call.graph.add(call.op, call.inputs, call.attrs), policy: 'backpropagation' }
  }

  /** The innermost policy at or around a module that has a say in how values are packed. */
  compressor(module: string): Assigned | undefined {
    return this.#of(module).find(({ answers }) => answers.compress)
  }

  /** Whether backward computes the first input of a node from its result. */
  inverts(node: Node): boolean {
    return this.#of(node.scope).some(({ answers }) => answers.inverts?.(node))
  }

  /** The ranges of modules among the calls of the same forward that hold a call. */
  #rangesOf(call: Call, caller: Call): readonly Assigned[] {
    let held = this.#ranges.get(caller)
    if (!held) {
      const { calls } = caller
      const paths = calls.map(({ path }) => path)
      const all = new Map<Call, Assigned[]>(calls.map((c) => [c, []]))
      for (const range of this.#assigned.filter(({ path }) => isRange(path))) {
        const [first, last] = ends(range.path)
        const from = paths.indexOf(first)
        const to = paths.lastIndexOf(last)
        if (from < 0 || to < 0) continue
        if (to < from)
          fail('AUX_INVALID_ARGUMENT', `memory: ${range.path}: ${last} runs before ${first}; name it first`)
        for (const c of calls.slice(from, to + 1)) all.get(c)!.push(range)
      }
      this.#ranges.set(caller, (held = all))
    }
    return held.get(call)!
  }

  /** The policies of modules and ranges of modules at or around a node, the innermost first. */
  #aroundNode({ scope, place }: Node): readonly Assigned[] {
    const ranges: Assigned[] = []
    for (let call = place; call.caller; call = call.caller) ranges.push(...this.#rangesOf(call, call.caller))
    return ranges.length ? [...this.#of(scope), ...ranges].sort(inwards) : this.#of(scope)
  }

  /**
   * The outermost module, or range of modules, around a node that backward runs again, and whether the node itself is
   * computed again.
   */
  segment(node: Node): { path: string; again: boolean } | undefined {
    let segment: { path: string; again: boolean } | undefined
    for (const { path, answers } of this.#aroundNode(node))
      if (answers.recompute) segment = { path, again: (segment?.again ?? true) && answers.recompute(node) }
    return segment
  }
}

import { expectOptions, fail } from '../errors'
import { asa } from '../memory/asa'
import type { MemoryAssignment } from '../memory/assignment'
import { checkpoint } from '../memory/checkpoint'
import { quantized } from '../memory/quantized'
import { exactBytes, parseBytes, showBytes, type Bytes } from './bytes'
import type { Plan } from './plan'

/** Bytes that a plan may take, and what may be done to keep within them. */
export interface Budget {
  /** All that auxgrad may hold: `plan.bytes.total`. */
  bytes: Bytes
  /**
   * What may be given to modules where a plan would take more, in order of preference: policies, for as many modules as
   * it takes, and assignments, as they are. `[checkpoint({ recompute: 'cheap' }), checkpoint()]` unless you say
   * otherwise, which cost time and nothing else; with none, a plan over the budget is refused at once.
   */
  methods?: readonly MemoryAssignment[]
}

/** @internal @throws AUX_INVALID_ARGUMENT for what is no budget. */
export function parseBudget(budget: Bytes | Budget): { bytes: number; methods: readonly MemoryAssignment[] } {
  if (typeof budget === 'object' && budget !== null) expectOptions('budget', budget, ['bytes', 'methods'])
  const { bytes, methods = [checkpoint({ recompute: 'cheap' }), checkpoint()] } =
    typeof budget === 'object' && budget !== null ? budget : { bytes: budget }
  if (!Array.isArray(methods) || methods.some((m) => typeof m !== 'object' || m === null))
    fail(
      'AUX_INVALID_ARGUMENT',
      `budget: expected methods to be a list of policies or assignments, got ${String(methods)}`,
    )
  return { bytes: parseBytes(bytes), methods }
}

const everywhere = (path: string): boolean => path === ''
const parts = (path: string): boolean => path !== '' && !path.includes('.')
const blocks = (path: string): boolean => path.split('.').length === 2

/** Methods at hand, of which a refusal names the one that takes least. */
export const alternatives: Readonly<Record<string, MemoryAssignment>> = {
  'asa on every layer': [[everywhere, asa()]],
  '8 bits of everything': [[everywhere, quantized()]],
  'checkpointing each part of the model': [[parts, checkpoint()]],
  'asa on every layer and checkpointing each part of the model': [
    [everywhere, asa()],
    [parts, checkpoint()],
  ],
  'checkpointing each block': [[blocks, checkpoint()]],
  'asa on every layer and checkpointing each block': [
    [everywhere, asa()],
    [blocks, checkpoint()],
  ],
}

/** A method at hand, and the bytes of a plan under it. */
export interface Alternative {
  readonly name: string
  readonly bytes: number
}

/** What a plan over the budget is refused with. */
export interface Refusal {
  /** Bytes before any method of the budget was used. */
  before?: number
  /** The method under which the same step takes least, if that is less than so many bytes. */
  alternative?: (below: number) => Alternative | undefined
}

/**
 * Refuses a plan that does not fit, before anything runs.
 * @throws AUX_BUDGET_TOO_SMALL naming the plan's bytes and the smallest that would do.
 */
export function checkBudget(plan: Plan, budget: number | undefined, { before, alternative }: Refusal = {}): void {
  const { total } = plan.bytes
  if (budget === undefined || total <= budget) return
  const other = alternative?.(total)
  const reduced =
    before !== undefined && before > total ? `, ${exactBytes(total)} at least with the methods of the budget` : ''
  const advice = other
    ? `; the smallest with the methods at hand is ${showBytes(other.bytes)} (${other.bytes} bytes, ${other.name})`
    : ''
  plan.dispose()
  fail(
    'AUX_BUDGET_TOO_SMALL',
    `this plan needs ${exactBytes(before ?? total)}${reduced}, more than the budget of ${exactBytes(budget)}${advice}`,
  )
}

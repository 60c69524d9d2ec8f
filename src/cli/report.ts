import Table from 'cli-table3'
import type { ModulePolicy } from '../compile'
import { showBytes } from '../compile/bytes'

/** One line of the result table, and of `--json`. */
export interface RunResult {
  rule: string
  model: string
  seed: number
  epochs: number
  testAccuracy: number
  keptBytes: number
  plannedPeakBytes: number
  /** Not there where no step was left to run. */
  measuredPeakBytes?: number
  secondsPerEpoch?: number
  imagesPerSecond?: number
}

/** What the table says of a run, by column. */
export const factsOf = (r: RunResult): Record<string, string> => ({
  'test accuracy': `${(100 * r.testAccuracy).toFixed(2)} %`,
  'kept for backward': showBytes(r.keptBytes),
  'planned peak': showBytes(r.plannedPeakBytes),
  'measured peak': r.measuredPeakBytes === undefined ? '' : showBytes(r.measuredPeakBytes),
  's / epoch': r.secondsPerEpoch?.toFixed(1) ?? '',
  'images / s': r.imagesPerSecond?.toFixed(0) ?? '',
})

/** A line for each run; where the terminal is too narrow for that, a column. */
export function resultTable(runs: readonly RunResult[], columns = process.stdout.columns ?? Infinity): string {
  if (!runs.length) return ''
  const cells = runs.map((r) => Object.entries({ rule: r.rule, ...factsOf(r) }))
  const names = cells[0].map(([name]) => name)
  const values = cells.map((run) => run.map(([, value]) => value))
  const wide = tableOf(names, values)
  if (wide.indexOf('\n') <= columns) return wide
  const [head, ...rows] = names.map((name, i) => [name, ...values.map((run) => run[i])])
  return tableOf(head, rows)
}

function tableOf(head: string[], rows: string[][]): string {
  const table = new Table({
    head,
    colAligns: head.map((_, i) => (i ? 'right' : 'left')),
    style: { head: [], border: [] },
  })
  table.push(...rows)
  return table.toString()
}

/** Policies with the modules they hold for. */
export function memoryInWords(memory: readonly ModulePolicy[]): string {
  const modules = new Map<string, string[]>()
  for (const [path, { name }] of memory) modules.set(name, [...(modules.get(name) ?? []), path || 'the model'])
  return [...modules].map(([name, paths]) => `${name} of ${paths.join(', ')}`).join('; ') || 'backpropagation'
}

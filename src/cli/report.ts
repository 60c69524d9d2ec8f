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
  measuredPeakBytes: number
  secondsPerEpoch: number
  imagesPerSecond: number
}

export function resultTable(runs: readonly RunResult[]): string {
  const table = new Table({
    head: ['rule', 'test accuracy', 'kept for backward', 'planned peak', 'measured peak', 's / epoch', 'images / s'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  })
  for (const r of runs)
    table.push([
      r.rule,
      `${(100 * r.testAccuracy).toFixed(2)} %`,
      showBytes(r.keptBytes),
      showBytes(r.plannedPeakBytes),
      showBytes(r.measuredPeakBytes),
      r.secondsPerEpoch.toFixed(1),
      r.imagesPerSecond.toFixed(0),
    ])
  return table.toString()
}

/** Policies with the modules they hold for. */
export function memoryInWords(memory: readonly ModulePolicy[]): string {
  const modules = new Map<string, string[]>()
  for (const [path, { name }] of memory) modules.set(name, [...(modules.get(name) ?? []), path || 'the model'])
  return [...modules].map(([name, paths]) => `${name} of ${paths.join(', ')}`).join('; ') || 'backpropagation'
}

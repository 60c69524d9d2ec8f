import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { leaveOnBrokenOutput } from '../../src/cli/output'
import { resultTable } from '../../src/cli/report'
import { cli } from '../support/cli'

test('train reports every rule, and measures the peak that was planned', async () => {
  const { out, code } = await cli('train', '--model', 'mlp', '--limit', '2000', '--epochs', '2', '--json')
  expect(code).toBe(0)
  const { runs } = JSON.parse(out.trimEnd().split('\n').at(-1)!)
  expect(runs.map((r: { rule: string }) => r.rule)).toEqual(['bp', 'asa'])
  for (const run of runs) {
    expect(run).toMatchObject({ model: 'mlp', seed: 1, epochs: 2 })
    expect(run.testAccuracy).toBeGreaterThan(0.6)
    expect(run.measuredPeakBytes).toBe(run.plannedPeakBytes)
    expect(run.imagesPerSecond).toBeGreaterThan(0)
  }
  expect(runs[1].keptBytes).toBeLessThan(runs[0].keptBytes)
})

test('with --json the object is all that stdout gets, and progress goes to stderr', async () => {
  const { out, err } = await cli('train', '--model', 'mlp', '--rule', 'bp', '--limit', '256', '--json')
  expect(out).toMatch(/^\{"runs":\[\{"rule":"bp",.*\}\]\}\n$/)
  expect(err).toMatch(/^mlp on MNIST: 256 images .*\nmlp bp  2\/2 loss \d\.\d{4}  images\/s \d+  left 0 s\n$/)
})

test('a plan that does not fit is refused before the first step', async () => {
  const { err, code } = await cli('train', '--rule', 'bp', '--limit', '256', '--budget', '1MiB')
  expect(code).toBe(3)
  expect(err).toMatch(
    /this plan needs .* bytes\), .* bytes\) at least with the methods of the budget, more than the budget of 1\.00 MiB .* the smallest with the methods at hand is .* bytes/,
  )
})

test('a budget is met, and what that takes is told', async () => {
  const flags = ['--rule', 'bp', '--budget', '50MiB', '--json']
  const train = await cli('train', ...flags, '--limit', '256')
  expect(train.err).toMatch(/bp: checkpoint, cheap parts of stage/)
  const [run] = JSON.parse(train.out.trimEnd().split('\n').at(-1)!).runs
  expect(run.plannedPeakBytes).toBeLessThanOrEqual(50 * 2 ** 20)
  expect(run.measuredPeakBytes).toBe(run.plannedPeakBytes)
  const [plan] = JSON.parse((await cli('plan', ...flags)).out).plans
  expect(plan.bytes.total).toBe(run.plannedPeakBytes)
  expect(plan.memory).toContainEqual(['stage2.0', 'checkpoint, cheap parts'])
})

test('plan draws the arena', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'auxgrad-plan-'))
  const file = path.join(folder, 'arena.svg')
  expect((await cli('plan', '--rule', 'bp', '--svg', file)).out).toMatch(`drawn in ${file}`)
  expect(readFileSync(file, 'utf8')).toMatch(/^<svg [^]*stage1\.0\.conv1 conv2d[^]*<\/svg>\n$/)
  expect(await cli('plan', '--svg', file)).toMatchObject({
    code: 2,
    err: expect.stringMatching(/--svg: expected --rule/),
  })
  const nowhere = path.join(folder, 'none', 'arena.svg')
  expect(await cli('plan', '--rule', 'bp', '--svg', nowhere)).toMatchObject({
    code: 1,
    err: expect.stringContaining(nowhere),
  })
  rmSync(folder, { recursive: true })
})

test('wrong use exits with 2', async () => {
  expect((await cli('train', '--rule', 'nothing')).code).toBe(2)
  expect((await cli('train', '--epochs', '0')).code).toBe(2)
  expect((await cli('train', '--budget', 'much')).code).toBe(2)
  expect((await cli('train', '--lr', '')).code).toBe(2) // not 0
  expect((await cli('train', '--seed', '1e300')).code).toBe(2)
  expect((await cli('train', '--resume')).code).toBe(2)
  expect((await cli('train', '--model', 'constructor')).code).toBe(2)
  expect(await cli('train', '--threads', '257')).toMatchObject({
    code: 2,
    err: expect.stringContaining('expected a whole number from 1 to 256'),
  })
  const { err, code } = await cli('train', '--model', 'mlp', '--rule', 'ara')
  expect(code).toBe(2)
  expect(err).toMatch(/expected one of bp, asa, q2, q8 for mlp, got ara/)
})

test('other optimizers train, remember less, and measure what was planned', async () => {
  const peaks: Record<string, number> = {}
  for (const name of ['adam', 'adam8', 'lion', 'adafactor', 'sm3']) {
    const { out } = await cli(
      'train',
      '--model',
      'mlp',
      '--rule',
      'bp',
      '--optimizer',
      name,
      '--limit',
      '4000',
      '--json',
    )
    const [run] = JSON.parse(out.trimEnd().split('\n').at(-1)!).runs
    expect(run.testAccuracy).toBeGreaterThan(0.6)
    expect(run.measuredPeakBytes).toBe(run.plannedPeakBytes)
    peaks[name] = run.plannedPeakBytes
  }
  expect(peaks.adam8).toBeLessThan(peaks.adam)
  expect(peaks.lion).toBeLessThan(peaks.adam)
  expect(peaks.adafactor).toBeLessThan(peaks.lion)
  const { err, code } = await cli('plan', '--optimizer', 'adamm')
  expect(code).toBe(2)
  expect(err).toMatch(/--optimizer: expected one of adam, adam8, lion, adafactor, sm3, got adamm/)
})

test('plan shows the bytes of each rule', async () => {
  const { out, code } = await cli('plan', '--batch', '32', '--json')
  expect(code).toBe(0)
  const { plans } = JSON.parse(out)
  const kept = Object.fromEntries(plans.map((p: { rule: string; bytes: { kept: number } }) => [p.rule, p.bytes.kept]))
  expect(kept.asa).toBeLessThan(0.9 * kept.bp)
  expect(kept.ara).toBeLessThan(kept.bp)
})

test('what cannot be written is found out before any step', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'auxgrad-train-'))
  const nowhere = path.join(folder, 'none', 'file')
  for (const [option, file] of [
    ['--save', nowhere],
    ['--report', nowhere],
    ['--save', folder],
  ]) {
    const { out, err, code } = await cli('train', '--model', 'mlp', '--limit', '128', '--rule', 'bp', option, file)
    expect(code).toBe(1)
    expect(err).toMatch(`${option}: ${file} cannot be written`)
    expect(out).toBe('')
  }
  rmSync(folder, { recursive: true })
})

test('a finished run has nothing left to do, and another model does not go on from it', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'auxgrad-train-'))
  const file = path.join(folder, 'run')
  const flags = ['train', '--limit', '256', '--rule', 'bp', '--save', file, '--resume']
  expect((await cli(...flags, '--model', 'mlp')).code).toBe(0)
  const again = await cli(...flags, '--model', 'mlp', '--json')
  expect(again.err).toMatch(/has been trained for 1 epoch\(s\), nothing is left to do/)
  const [run] = JSON.parse(again.out).runs
  expect(run.testAccuracy).toBeGreaterThan(0.1)
  expect(run).not.toHaveProperty('imagesPerSecond')
  expect(run).not.toHaveProperty('measuredPeakBytes')
  const other = await cli(...flags, '--model', 'cnn')
  expect(other).toMatchObject({ code: 1, err: expect.stringContaining('is a run with --model mlp, got cnn') })
  const more = await cli(...flags, '--model', 'mlp', '--limit', '300')
  expect(more).toMatchObject({ code: 1, err: expect.stringContaining('is a run with --limit 256, got 300') })
  rmSync(folder, { recursive: true })
})

test('a reader that leaves ends it without a word, a full disk with one', () => {
  const before = [process.stdout, process.stderr].map((stream) => stream.listeners('error'))
  const exit = jest.spyOn(process, 'exit').mockImplementation((() => undefined) as never)
  let said = ''
  const err = jest.spyOn(process.stderr, 'write').mockImplementation((s) => ((said += String(s)), true))
  leaveOnBrokenOutput()
  process.stdout.emit('error', Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }))
  expect(said).toBe('')
  process.stdout.emit('error', Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' }))
  expect(said).toBe('auxgrad: standard output: no space left on the device (ENOSPC)\n')
  process.stderr.emit('error', new Error('write EPIPE'))
  expect(exit.mock.calls).toEqual([[1], [1]])
  exit.mockRestore()
  err.mockRestore()
  for (const [i, stream] of [process.stdout, process.stderr].entries())
    for (const listener of stream.listeners('error'))
      if (!before[i].includes(listener)) stream.off('error', listener as () => void)
})

test('the table of results turns where the terminal is narrow', () => {
  const run = { model: 'cnn', seed: 1, epochs: 1, testAccuracy: 0.99, keptBytes: 2 ** 20, plannedPeakBytes: 2 ** 21 }
  const runs = ['bp', 'asa', 'ara'].map((rule) => ({ rule, ...run, secondsPerEpoch: 12, imagesPerSecond: 3456 }))
  const width = (table: string) => Math.max(...table.split('\n').map((line) => line.length))
  const [wide, narrow] = [resultTable(runs, 120), resultTable(runs, 80)]
  expect(wide).toMatch(/│ rule │ test accuracy │/)
  expect(narrow).toMatch(/│ rule +│ +bp │ +asa │ +ara │/)
  expect(width(wide)).toBeGreaterThan(80)
  expect(width(narrow)).toBeLessThanOrEqual(80)
  for (const fact of ['99.00 %', '1.00 MiB', '2.00 MiB', '12.0', '3456']) {
    expect(wide.split(fact)).toHaveLength(4)
    expect(narrow.split(fact)).toHaveLength(4)
  }
  expect(resultTable([])).toBe('')
})

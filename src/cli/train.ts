import { Command } from 'commander'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { compile } from '../compile'
import { DataLoader, mnist, type MnistBatch } from '../data'
import type { Dataset } from '../data'
import { fail } from '../errors'
import { loadCheckpoint, type Json } from '../io'
import { writeAtomic } from '../io/atomic'
import { maxThreads, native } from '../native'
import { crossEntropy, seed as seedRandom } from '../ops'
import * as optim from '../optim'
import { deviceNamed } from '../tensor/device'
import { memory, resetPeakMemory } from '../tensor/memory'
import * as training from '../train'
import { interruptible } from './interrupt'
import { bytes, device, expectWritable, number, ruleList } from './options'
import { action, exitCode, usage, type Output } from './output'
import { duration, progress, type Progress } from './progress'
import { compared, memoryOf, optimizerOf, optimizers, recipeOf, recipes, rules, type Rule } from './recipes'
import { factsOf, memoryInWords, resultTable, type RunResult } from './report'

interface Options {
  model: string
  rule?: Rule[]
  optimizer: string
  epochs: number
  batch: number
  lr?: number
  seed: number
  budget?: string
  limit?: number
  save?: string
  resume?: boolean
  device: string
  threads?: number
  report?: string
  events?: string
  json?: boolean
}

/** `auxgrad train`: MNIST under several learning rules from the same seed, and a table to compare them. */
export function train(): Command {
  return new Command('train')
    .description('Train a network on MNIST under one or more learning rules, from the same seed, and compare them.')
    .option('--model <name>', `one of ${Object.keys(recipes).join(', ')}`, 'cnn')
    .option(
      '--rule <list>',
      `${rules.join(', ')}, or several with commas (default: ${compared.join(',')}, those that the model has)`,
      ruleList,
    )
    .option('--optimizer <name>', `one of ${Object.keys(optimizers).join(', ')}`, 'adam')
    .option('--epochs <n>', 'passes over the training set', number(1, true), 1)
    .option('--batch <n>', 'images of a step', number(1, true), 128)
    .option(
      '--lr <rate>',
      "highest learning rate, of Adam; others take a multiple of it (default: the model's)",
      number(0, false),
    )
    .option('--seed <n>', 'seed of weights and of the order of images', number(0, true, Number.MAX_SAFE_INTEGER), 1)
    .option(
      '--budget <bytes>',
      'what to keep within, such as 64MiB: parts of the model are run again where it takes that, or refused before the first step',
      bytes,
    )
    .option('--limit <n>', 'use the first n training images only', number(1, true))
    .option(
      '--save <file>',
      'checkpoint after every epoch and when interrupted; with several rules one file each, file.<rule>',
    )
    .option('--resume', 'go on from the checkpoint of --save, if it is there')
    .option('--report <file>', 'a page in HTML: curves, what is kept by layer, the arena')
    .option('--events <folder>', 'events for TensorBoard, in a folder for each rule')
    .option('--device <name>', 'where it runs: cpu, cuda or cuda:1', device, 'cpu')
    .option('--threads <n>', 'threads for the kernels (default: one for each core)', number(1, true, maxThreads))
    .option('--json', 'one JSON object as the last line of stdout, nothing else there; progress goes to stderr')
    .action(action<Options>(run))
}

async function run(options: Options, output: Output): Promise<number> {
  const recipe = recipeOf(options.model)
  const given = options.rule ?? compared.filter((rule) => recipe.memory[rule])
  // What is not there fails before any work.
  for (const rule of given) memoryOf(options.model, rule)
  optimizerOf(options.optimizer)
  if (options.resume && !options.save) usage('--resume: expected --save with the file to go on from')
  if (options.save) expectWritable('--save', options.save)
  if (options.report) expectWritable('--report', options.report)
  const found = deviceNamed('--device', options.device)?.description
  if (options.threads) native().setThreads(options.threads)
  return interruptible(output, 'step', async (signal) => {
    const { train: all, test } = await mnist()
    const data = { train: options.limit ? all.slice(0, options.limit) : all, test }
    const { isa, threads } = native().info()
    output.note(
      `${options.model} on MNIST: ${data.train.size} images to train, ${test.size} to test, epochs ${options.epochs}, ` +
        `batch ${options.batch}, seed ${options.seed}; ` +
        (found ?? `${isa}, ${threads} thread(s)`),
    )
    const runs: RunResult[] = []
    const drawn: training.Run[] = []
    for (const rule of given) {
      const file = options.save && (given.length > 1 ? `${options.save}.${rule}` : options.save)
      const result = signal.aborted ? undefined : await trainOnce(options, rule, data, file, drawn, output, signal)
      if (result) runs.push(result)
    }
    if (options.report) {
      await writeAtomic(options.report, [Buffer.from(training.report(drawn, { title: `${options.model} on MNIST` }))])
      output.note(`curves in ${options.report}`)
    }
    if (runs.length || options.json) output.result({ runs }, resultTable(runs))
    return signal.aborted ? exitCode.interrupted : exitCode.ok
  })
}

/** One run; undefined if it was interrupted. */
async function trainOnce(
  options: Options,
  rule: Rule,
  data: { train: Dataset<MnistBatch>; test: Dataset<MnistBatch> },
  file: string | undefined,
  drawn: training.Run[],
  output: Output,
  signal: AbortSignal,
): Promise<RunResult | undefined> {
  const { model: name, epochs, batch: batchSize, seed } = options
  const recipe = recipeOf(name)
  const held = memory(options.device).live
  resetPeakMemory(options.device)
  seedRandom(seed)
  const model = recipe.make().to(options.device)
  const loader = new DataLoader(data.train, { batchSize, shuffle: true, seed })
  const updates = epochs * loader.length
  const lr = optim.schedule.cosine(options.lr ?? recipe.lr, {
    steps: updates,
    warmUp: Math.min(100, Math.ceil(updates / 20)),
  })
  const optimizer = optimizerOf(options.optimizer)(lr)
  const step = compile({
    model,
    loss: ({ x, y }) => crossEntropy(model.forward(x), y),
    optimizer,
    memory: memoryOf(name, rule),
    budget: options.budget,
  })
  const predict = compile({ model, forward: ({ x }) => model.forward(x).argmax() })
  const history = new training.History()
  const events = options.events === undefined ? undefined : new training.EventWriter(path.join(options.events, rule))
  try {
    const plan = step.plan({
      x: [Math.min(batchSize, data.train.size), 28, 28, 1],
      y: [Math.min(batchSize, data.train.size)],
    })
    if (options.budget) output.note(`${rule}: ${memoryInWords(step.memory)}`)
    const run = { step, loader }
    const made = { model: name, rule, optimizer: options.optimizer, batch: batchSize, seed, limit: data.train.size }
    const save = (to: string): Promise<void> => training.saveTraining(to, run, { extra: made })
    if (file && options.resume && existsSync(file)) {
      await expectMade(file, made)
      await training.loadTraining(file, run)
      output.note(
        loader.epoch < epochs
          ? `${rule}: going on from ${file}, epoch ${loader.epoch + 1}, after ${step.runs} steps`
          : `${rule}: ${file} has been trained for ${loader.epoch} epoch(s), nothing is left to do`,
      )
    }
    await events?.flush() // a folder that cannot be written is found out here
    let seconds = 0
    let rows = 0
    const fitted = training.fit({ step, loader, epochs, signal })
    for await (const event of withBar(fitted, progress(`${name} ${rule.padEnd(3)}`, updates))) {
      const scalars = { ...training.scalarsOf(event), ...(event.type === 'step' ? { lr: lr(step.runs - 1) } : {}) }
      history.scalars(scalars, step.runs)
      events?.scalars(scalars, step.runs)
      if (event.type === 'step') continue
      seconds += event.seconds
      rows += event.rows
      if (file) await save(file)
    }
    if (signal.aborted && file) {
      await save(file)
      output.note(`${rule}: saved to ${file} after ${step.runs} steps`)
    }
    await events?.close()
    const shown = { name: rule, history, plan, facts: {} }
    drawn.push(shown)
    if (signal.aborted) return undefined
    const testAccuracy = await training.accuracy(predict, new DataLoader(data.test, { batchSize }))
    const result: RunResult = {
      rule,
      model: name,
      seed,
      epochs,
      testAccuracy,
      keptBytes: plan.bytes.kept,
      plannedPeakBytes: plan.bytes.total,
      ...(rows > 0 && {
        measuredPeakBytes: memory(options.device).peak - held,
        secondsPerEpoch: (seconds / rows) * data.train.size,
        imagesPerSecond: rows / seconds,
      }),
    }
    // What is planned the report has from the plan.
    const { 'kept for backward': _, 'planned peak': __, ...facts } = factsOf(result)
    shown.facts = facts
    return result
  } finally {
    await events?.close().catch(() => {}) // what it has to say was said above
    predict.close()
    step.close()
    optimizer.dispose()
    model.dispose()
  }
}

/** The events of a run, of which the bar shows each step. */
async function* withBar(
  events: AsyncIterable<training.FitEvent>,
  bar: Progress,
): AsyncGenerator<training.FitEvent, void> {
  try {
    for await (const event of events) {
      if (event.type === 'step')
        bar.update(event.epoch * event.steps + event.step, {
          loss: event.result.loss.toFixed(4),
          'images/s': event.rate.toFixed(0),
          left: duration(event.secondsLeft),
        })
      yield event
    }
  } finally {
    bar.end() // also of a run that fails: it shows the cursor again
  }
}

/** Throws where a run was made by other options than these. */
async function expectMade(file: string, made: Record<string, string | number>): Promise<void> {
  const { state } = await loadCheckpoint(file)
  const extra = ((state as Record<string, Json> | null)?.extra ?? {}) as Record<string, Json>
  for (const [option, value] of Object.entries(made))
    if (extra[option] !== undefined && extra[option] !== value)
      fail('AUX_INVALID_ARGUMENT', `--resume: ${file} is a run with --${option} ${String(extra[option])}, got ${value}`)
}

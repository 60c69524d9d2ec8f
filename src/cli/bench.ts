import Table from 'cli-table3'
import { Command, Option } from 'commander'
import os from 'node:os'
import { compile } from '../compile'
import { showBytes } from '../compile/bytes'
import { maxThreads, native } from '../native'
import { conv2d, conv2dSignWeightGrad, crossEntropy, linearSignWeightGrad, matmul, signPack, uniform } from '../ops'
import { convWeightGradient } from '../ops/conv'
import * as optim from '../optim'
import { deviceNamed } from '../tensor/device'
import { hostArray } from '../tensor/host'
import { memory, resetPeakMemory } from '../tensor/memory'
import { sizeOf, type Shape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { interruptible } from './interrupt'
import { device, number, ruleList } from './options'
import { action, exitCode, usage, type Output } from './output'
import { progress } from './progress'
import { memoryOf, recipeOf, recipes, rules, type Rule } from './recipes'

interface Options {
  model: string[]
  rule?: Rule[]
  batch: number
  device: string
  threads?: number
  steps: boolean
  kernels: boolean
  quick?: boolean
  json?: boolean
}

/** One line of the table, and of `--json`. */
interface BenchResult {
  group: 'kernel' | 'step'
  name: string
  /** The way in which this line does it, where there are several. */
  variant?: string
  /** Best of many. */
  ms: number
  speed: number
  unit: 'GB/s' | 'GF/s' | 'images/s'
  /** Speed in parts of the speed of the first variant. */
  ratio?: number
  plannedPeakBytes?: number
  measuredPeakBytes?: number
}

/** Something to measure. Contenders of one group take turns, so that a slow moment of the machine hits all alike. */
interface Contender {
  group: BenchResult['group']
  name: string
  variant?: string
  /** What one run does, in billions (GF, GB) or images. */
  work: number
  unit: BenchResult['unit']
  once(): Promise<unknown>
  close(): void
  plannedPeakBytes?: number
  measuredPeakBytes?: number
}

/** Makes the contenders of a group; the first one is what the others are compared with. */
type Group = () => Promise<Contender[]>

/** `auxgrad bench`: what this machine does with the kernels and with whole training steps. */
export function bench(): Command {
  return new Command('bench')
    .description(
      'Measure this machine through the library: memory, products, convolutions, weight gradients from signs, and whole training steps.',
    )
    .addOption(
      new Option('--model <list>', `steps of which models: ${Object.keys(recipes).join(', ')}, or several with commas`)
        .default(['mlp', 'cnn'], 'mlp,cnn')
        .argParser((text) => text.split(',')),
    )
    .option('--rule <list>', `${rules.join(', ')}, or several with commas (default: all that a model has)`, ruleList)
    .option('--batch <n>', 'images of a step', number(1, true), 128)
    .option('--device <name>', 'where training steps run: cpu, cuda or cuda:1', device, 'cpu')
    .option('--threads <n>', 'threads for the kernels (default: one for each core)', number(1, true, maxThreads))
    .option('--no-kernels', 'training steps only')
    .option('--no-steps', 'kernels only')
    .option('--quick', 'less exact: some seconds instead of half a minute')
    .option('--json', 'one JSON object as the last line of stdout, nothing else there; progress goes to stderr')
    .addHelpText(
      'after',
      '\nIn a clone of the repository, `npm run bench` measures every kernel in C++, beside OpenBLAS, BLIS and PyTorch.',
    )
    .action(action<Options>(run))
}

async function run(options: Options, output: Output): Promise<number> {
  for (const model of options.model) recipeOf(model) // an unknown name fails before any work
  const found = deviceNamed('--device', options.device)?.description
  if (options.threads) native().setThreads(options.threads)
  const { isa, threads } = native().info()
  const machine = { cpu: os.cpus()[0]?.model.trim() ?? 'unknown', isa, threads }
  output.note(`${machine.cpu}; ${isa}, ${threads} thread(s)${found ? `; steps on ${found}` : ''}; best of many`)
  const groups = [
    ...(options.kernels ? kernels(options.quick ?? false) : []),
    ...(options.steps ? options.model.map((model) => stepsOf(model, options)) : []),
  ]
  return interruptible(output, 'case', async (signal) => {
    const results: BenchResult[] = []
    const bar = progress('bench', groups.length)
    try {
      for (const [i, group] of groups.entries()) {
        if (signal.aborted) break
        const contenders = await group()
        bar.update(i, { now: contenders[0].name })
        results.push(...(await measure(contenders, options.quick ? 0.2 : 2, signal)))
        bar.update(i + 1, { now: contenders[0].name })
      }
    } finally {
      bar.end()
    }
    output.result({ machine, quick: options.quick ?? false, results }, tableOf(results))
    return signal.aborted ? exitCode.interrupted : exitCode.ok
  })
}

/** `seconds` for each contender, in rounds. */
async function measure(contenders: Contender[], seconds: number, signal: AbortSignal): Promise<BenchResult[]> {
  try {
    const best = contenders.map(() => Infinity)
    const rounds = 4
    for (let round = 0; round < rounds && !(round > 0 && signal.aborted); round++)
      for (const [i, { once }] of contenders.entries()) {
        await once() // warm: what the others did is in the caches
        const until = performance.now() + (1000 * seconds) / rounds
        do {
          const start = performance.now()
          await once()
          best[i] = Math.min(best[i], performance.now() - start)
        } while (performance.now() < until)
      }
    return contenders.map(({ group, name, variant, work, unit, plannedPeakBytes, measuredPeakBytes }, i) => ({
      group,
      name,
      ...(variant === undefined ? {} : { variant }),
      ms: best[i],
      speed: (1000 * work) / best[i],
      unit,
      ...(i > 0 ? { ratio: best[0] / best[i] } : {}),
      ...(plannedPeakBytes === undefined ? {} : { plannedPeakBytes, measuredPeakBytes }),
    }))
  } finally {
    for (const c of contenders) c.close()
  }
}

/** A function of tensors that stay where they are: planned once, its result not copied out but for one number. */
function kernel(
  name: string,
  work: number,
  unit: 'GF/s' | 'GB/s',
  inputs: Tensor[],
  f: (inputs: Tensor[]) => Tensor,
  variant?: string,
): Contender {
  const compiled = compile(() => f(inputs).flatten().narrow(0, 0, 1))
  return {
    group: 'kernel',
    name,
    variant,
    work,
    unit,
    once: () => compiled.run({}),
    close: () => {
      compiled.close()
      for (const t of inputs) t.dispose()
    },
  }
}

const values = (shape: Shape): Tensor => uniform(shape, { low: -1, high: 1 })

function kernels(quick: boolean): Group[] {
  const mebi = quick ? 32 : 128
  const copy: Group = async () => [
    kernel(`copy ${mebi} MiB`, (2 * mebi * 2 ** 20) / 1e9, 'GB/s', [values([mebi * 2 ** 18])], ([x]) => x.clone()),
  ]
  const product =
    (m: number, n: number, k: number): Group =>
    async () => [
      kernel(`matmul ${m} x ${n} x ${k}`, (2 * m * n * k) / 1e9, 'GF/s', [values([m, k]), values([k, n])], ([a, b]) =>
        matmul(a, b),
      ),
    ]
  const convolution =
    (image: Shape, outputs: number, size: number): Group =>
    async () => [
      kernel(
        `conv2d ${size}x${size} ${image[3]}-${outputs} on ${image.slice(0, 3).join(' x ')}`,
        (2 * sizeOf(image) * outputs * size * size) / 1e9,
        'GF/s',
        [values(image), values([outputs, size, size, image[3]])],
        ([x, w]) => conv2d(x, w, undefined, { padding: (size - 1) / 2 }),
      ),
    ]
  const linearGradient: Group = async () => {
    const [rows, inputs, outputs] = [4096, 512, 512]
    const work = (2 * rows * inputs * outputs) / 1e9
    const name = `weight gradient of linear ${inputs}-${outputs} on ${rows}`
    const [delta, x] = [values([rows, outputs]), values([rows, inputs])]
    return [
      kernel(name, work, 'GF/s', [delta.clone(), x.clone()], ([d, a]) => d.transpose().matmul(a), 'dense'),
      kernel(name, work, 'GF/s', [delta, signsOf(x)], ([d, s]) => linearSignWeightGrad(d, s, 1, 'pm1'), 'signs'),
    ]
  }
  const convGradient: Group = async () => {
    const image = [32, 32, 32, 64]
    const weight = [64, 3, 3, 64]
    const attrs = { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 } as const
    const work = (2 * sizeOf(image) * 64 * 9) / 1e9
    const name = 'weight gradient of conv2d 3x3 64-64 on 32 x 32 x 32'
    const [delta, x] = [values(image), values(image)]
    const dense = ([d, a]: Tensor[]): Tensor => convWeightGradient(d, a, attrs, weight)
    const signs = ([d, s]: Tensor[]): Tensor => conv2dSignWeightGrad(d, s, attrs, weight, image, 1, 'pm1')
    return [
      kernel(name, work, 'GF/s', [delta.clone(), x.clone()], dense, 'dense'),
      kernel(name, work, 'GF/s', [delta, signsOf(x)], signs, 'signs'),
    ]
  }
  return [
    copy,
    product(1024, 1024, 1024),
    product(4096, 512, 512),
    convolution([32, 32, 32, 64], 64, 3),
    convolution([8, 28, 28, 512], 128, 1),
    linearGradient,
    convGradient,
  ]
}

function signsOf(x: Tensor): Tensor {
  const signs = signPack(x)
  x.dispose()
  return signs
}

/** Training steps of a model on a batch of noise, one contender for each rule. */
const stepsOf =
  (name: string, { rule, batch, device }: Options): Group =>
  async () => {
    const recipe = recipeOf(name)
    const given = rules.filter((r) => recipe.memory[r] && (!rule || rule.includes(r)))
    if (!given.length)
      usage(`--rule: expected one of ${Object.keys(recipe.memory).join(', ')} for ${name}, got ${rule?.join(', ')}`)
    const x = hostArray(
      Float32Array.from({ length: batch * 28 * 28 }, (_, i) => ((i * 2654435761) >>> 8) / 2 ** 24),
      [batch, 28, 28, 1],
    )
    const y = hostArray(Int32Array.from({ length: batch }, (_, i) => i % 10))
    const contenders: Contender[] = []
    for (const r of given) {
      const held = memory(device).live
      resetPeakMemory(device)
      const model = recipe.make().to(device)
      const optimizer = new optim.Adam({ lr: 1e-4 })
      const step = compile({
        model,
        loss: (fields) => crossEntropy(model.forward(fields.x), fields.y),
        optimizer,
        memory: memoryOf(name, r),
      })
      const plannedPeakBytes = step.plan({ x: x.shape, y: y.shape }).bytes.total
      await step.run({ x, y })
      contenders.push({
        group: 'step',
        name: `training step of ${name}, batch ${batch}`,
        variant: r,
        work: batch,
        unit: 'images/s',
        once: () => step.run({ x, y }),
        close: () => {
          step.close()
          optimizer.dispose()
          model.dispose()
        },
        plannedPeakBytes,
        measuredPeakBytes: memory(device).peak - held,
      })
    }
    return contenders
  }

function tableOf(results: readonly BenchResult[]): string {
  const table = new Table({
    head: ['', '', 'ms', 'speed', '', 'ratio', 'planned peak', 'measured peak'],
    colAligns: ['left', 'left', 'right', 'right', 'left', 'right', 'right', 'right'],
    style: { head: [], border: [], compact: true },
  })
  let first = ''
  for (const r of results) {
    table.push([
      r.name === first ? '' : r.name,
      r.variant ?? '',
      r.ms.toFixed(r.ms < 10 ? 2 : 1),
      r.speed.toFixed(r.speed < 100 ? 1 : 0),
      r.unit,
      r.ratio === undefined ? '' : `${r.ratio.toFixed(2)}x`,
      r.plannedPeakBytes === undefined ? '' : showBytes(r.plannedPeakBytes),
      r.measuredPeakBytes === undefined ? '' : showBytes(r.measuredPeakBytes),
    ])
    first = r.name
  }
  return table.toString()
}

import Table from 'cli-table3'
import { Command } from 'commander'
import { compile } from '../compile'
import { showBytes } from '../compile/bytes'
import { writeAtomic } from '../io/atomic'
import { crossEntropy } from '../ops'
import { bytes, device, expectWritable, number } from './options'
import { action, exitCode, usage, type Output } from './output'
import { memoryOf, optimizerOf, optimizers, recipeOf, recipes, rules, type Rule } from './recipes'
import { memoryInWords } from './report'

interface Options {
  model: string
  rule?: Rule
  optimizer: string
  batch: number
  budget?: string
  device: string
  ops?: boolean
  svg?: string
  json?: boolean
}

/** `auxgrad plan`: the bytes of a training step, before any step. */
export function plan(): Command {
  return new Command('plan')
    .description('Show what a training step of a model will hold, by kind, layer and policy, without running it.')
    .option('--model <name>', `one of ${Object.keys(recipes).join(', ')}`, 'cnn')
    .option('--rule <name>', `one of ${rules.join(', ')} (default: compare all that the model has)`)
    .option('--optimizer <name>', `one of ${Object.keys(optimizers).join(', ')}`, 'adam')
    .option('--batch <n>', 'images of a step', number(1, true), 128)
    .option(
      '--budget <bytes>',
      'what to keep within, such as 64MiB: parts of the model are run again where it takes that',
      bytes,
    )
    .option('--device <name>', 'where it would run: cpu, cuda or cuda:1', device, 'cpu')
    .option('--ops', 'list every kernel call with its lifetime and place in the arena')
    .option('--svg <file>', 'draw the arena: what lies where, from which kernel call to which (with --rule)')
    .option('--json', 'one JSON object on stdout')
    .action(action<Options>(run))
}

async function run(options: Options, output: Output): Promise<number> {
  const recipe = recipeOf(options.model)
  const make = optimizerOf(options.optimizer)
  if (options.svg) {
    if (!options.rule) usage('--svg: expected --rule with the one to draw')
    expectWritable('--svg', options.svg)
  }
  const given = options.rule ? [options.rule] : rules.filter((rule) => recipe.memory[rule])
  const plans = given.map((rule) => {
    const memory = memoryOf(options.model, rule)
    const model = recipe.make().to(options.device)
    const step = compile({
      model,
      loss: ({ x, y }) => crossEntropy(model.forward(x), y),
      optimizer: make(() => recipe.lr),
      memory,
      budget: options.budget,
    })
    return { rule, step, plan: step.plan({ x: [options.batch, 28, 28, 1], y: [options.batch] }) }
  })
  const kinds = Object.keys(plans[0].plan.bytes) as (keyof (typeof plans)[0]['plan']['bytes'])[]
  const table = new Table({
    head: ['', ...given],
    colAligns: ['left', ...given.map(() => 'right' as const)],
    style: { head: [], border: [] },
  })
  for (const kind of kinds) table.push([kind, ...plans.map(({ plan }) => showBytes(plan.bytes[kind]))])
  // The plan of one rule says the bytes itself.
  const text = [`${options.model}, batches of ${options.batch}`, String(options.rule ? plans[0].plan : table)]
  if (options.budget) for (const { rule, step } of plans) text.push(`${rule}: ${memoryInWords(step.memory)}`)
  if (options.ops)
    for (const { rule, plan } of plans) {
      const ops = new Table({
        head: ['step', 'phase', 'layer', 'kernel', 'last read', 'offset', 'bytes'],
        style: { head: [], border: [] },
      })
      for (const op of plan.ops)
        ops.push([op.from, op.phase, op.layer, op.kernel, op.to, op.offset < 0 ? '' : op.offset, op.bytes || ''])
      text.push(rule, ops.toString())
    }
  if (options.svg) {
    await writeAtomic(options.svg, [Buffer.from(plans[0].plan.toSVG())])
    output.note(`drawn in ${options.svg}`)
  }
  output.result(
    {
      model: options.model,
      batch: options.batch,
      plans: plans.map(({ rule, step, plan }) => ({
        rule,
        memory: step.memory.map(([module, policy]) => [module, policy.name]),
        bytes: plan.bytes,
        kept: plan.kept,
        ...(options.ops ? { ops: plan.ops } : {}),
      })),
    },
    text.join('\n'),
  )
  return exitCode.ok
}

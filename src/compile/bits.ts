import { expectOptions, fail } from '../errors'
import type { MemoryAssignment } from '../memory/assignment'
import { backprop } from '../memory/backprop'
import type { MemoryPolicy } from '../memory/policy'
import { quantized } from '../memory/quantized'
import { accumulateInto, clear } from '../ops/optim'
import type { CodeBits } from '../ops/quantize'
import { Tensor } from '../tensor/tensor'
import { keep } from '../tensor/tidy'
import { exactBytes, parseBytes, type Bytes } from './bytes'
import { compile } from './compile'
import type { Traceable } from './function'
import { valuesOf, type Batch, type Specs } from './inputs'
import type { Optimizer } from './optimizer'
import { sessionOf } from './session'
import type { StepOptions, TrainingStep } from './step'

/** Options of `allotBits`: those of the training step, whose memory is what is asked for. */
export interface BitsOptions<R extends Traceable = Traceable> extends Omit<StepOptions<R>, 'memory'> {
  /** Bytes that the step may hold in all, as in `compile`. */
  budget: Bytes
  /** How codes are rounded, as in `quantized` (`stochastic`). */
  rounding?: 'stochastic' | 'nearest'
}

/** Modules that read values in common, and so have their bits in common. */
export interface Layer {
  readonly paths: ReadonlySet<string>
  /** Numbers that they keep. */
  readonly elements: number
  /** Squared distance of the gradients from what they are, with two bits in these modules. */
  readonly sensitivity: number
}

/** 32 stands for the values as they are. */
type Bits = CodeBits | 32

/** Variance of rounding to levels that lie 1 / (2^bits − 1) apart, beside that of two bits. */
const noise = (bits: Bits): number => (bits === 32 ? 0 : (3 / (2 ** bits - 1)) ** 2)

/** @internal Squared distance of the gradients with so many bits a layer: noise of layers is independent, and so adds up. */
export const distanceOf = (layers: readonly Layer[], bits: readonly Bits[]): number =>
  layers.reduce((sum, { sensitivity }, i) => sum + sensitivity * noise(bits[i]), 0)

/**
 * @internal Allotments from all values as they are to two bits everywhere, each with fewer bits in one layer than the one
 * before: the layer where that adds least to the distance for each byte saved. Distance is convex in bytes, so none with as
 * few bytes is nearer.
 */
export function allotments(layers: readonly Layer[]): Bits[][] {
  const downward: readonly [Bits, Bits][] = [
    [32, 8],
    [8, 4],
    [4, 2],
  ]
  const steps = layers.flatMap(({ elements, sensitivity }, i) =>
    downward.map(([from, to]) => ({
      i,
      to,
      price: (sensitivity * (noise(to) - noise(from))) / (elements * (from - to)),
    })),
  )
  steps.sort((a, b) => a.price - b.price)
  const bits: Bits[] = layers.map(() => 32)
  const all = [[...bits]]
  for (const { i, to } of steps) {
    bits[i] = to
    all.push([...bits])
  }
  return all
}

/** Changes nothing: notes the gradient of each parameter, or its squared distance from one noted before. */
class Notes implements Optimizer {
  readonly name = 'notes'
  lr = 0
  steps = 0
  readonly #noted = new Map<string, Tensor>()
  readonly #reference: Notes | undefined

  constructor(reference?: Notes) {
    this.#reference = reference
  }

  state(name: string, parameter: Tensor): { noted: Tensor } {
    const known = this.#noted.get(name)
    if (known) return { noted: known }
    const shape = this.#reference ? [] : parameter.shape
    const noted = keep(Tensor.allocate(shape, 'f32', { zero: true, what: `note of ${name}` }))
    this.#noted.set(name, noted)
    return { noted }
  }

  update(name: string, parameter: Tensor, gradient: Tensor): void {
    const { noted } = this.state(name, parameter)
    const from = this.#reference?.state(name, parameter).noted
    clear(noted)
    accumulateInto(noted, from ? gradient.sub(from).square().sum() : gradient)
  }

  /** Of all that was noted. */
  sum(): number {
    return [...this.#noted.values()].reduce((sum, noted) => sum + (noted.item() as number), 0)
  }

  dispose(): void {
    for (const noted of this.#noted.values()) noted.dispose()
  }
}

async function withStep<R extends Traceable, T>(
  options: StepOptions<R>,
  body: (step: TrainingStep<R>) => T | Promise<T>,
): Promise<T> {
  const step = compile(options)
  try {
    return await body(step)
  } finally {
    step.close()
  }
}

const shapesOf = (batch: Batch): Specs =>
  Object.fromEntries([...valuesOf(batch)].map(([name, { shape, dtype }]) => [name, { shape, dtype }]))

/** Merges sets that have a path in common. */
function merged(sets: Iterable<ReadonlySet<string>>): Set<string>[] {
  let groups: Set<string>[] = []
  for (const set of sets) {
    const group = new Set(set)
    groups = groups.filter((other) => {
      const apart = [...other].every((path) => !set.has(path))
      if (!apart) for (const path of other) group.add(path)
      return apart
    })
    groups.push(group)
  }
  return groups
}

/**
 * @internal What the modules of a model keep of a batch, and how far the gradients move if it is kept in two bits, with
 * eight in all others and the same random numbers. The model is as before.
 */
export async function sensitivities<R extends Traceable>(
  options: Omit<BitsOptions<R>, 'budget'>,
  batches: readonly Batch[],
): Promise<Layer[]> {
  const { model, loss, seed, rounding } = options
  const under = <T>(
    memory: MemoryAssignment,
    notes: Notes,
    body: (step: TrainingStep<R>) => T | Promise<T>,
  ): Promise<T> => withStep({ model, loss, seed, memory, optimizer: notes }, body)
  const everywhere = (): boolean => true
  const eight = quantized({ bits: 8, rounding })
  const readers = new Map<Tensor, Set<string>>()
  const recorder: MemoryPolicy = {
    name: eight.name,
    at: (path) => ({
      compress(value) {
        const unpack = eight.at(path).compress!(value)
        if (unpack) readers.set(value, (readers.get(value) ?? new Set()).add(path))
        return unpack
      },
    }),
  }
  const parameters = new Set<Tensor>(Array.from(model.namedParameters(), ([, p]) => p))
  const buffers = [...model.state().values()].filter((t) => !parameters.has(t)).map((t) => [t, t.rawSync()] as const)
  const gradients = new Notes()
  try {
    await under([[everywhere, recorder]], gradients, (step) => step.plan(shapesOf(batches[0])))
    const layers = merged(readers.values()).map((paths) => {
      const own = [...readers].filter(([, by]) => paths.has([...by][0]))
      return { paths, elements: own.reduce((sum, [{ size }]) => sum + size, 0), sensitivity: 0 }
    })
    for (const batch of batches) {
      await under([[everywhere, eight]], gradients, (step) => step.run(batch))
      for (const layer of layers) {
        const distances = new Notes(gradients)
        const two = [(path: string) => layer.paths.has(path), quantized({ bits: 2, rounding })] as const
        await under([[everywhere, eight], two], distances, async (step) => {
          await step.run(batch)
          layer.sensitivity += distances.sum() / batches.length
        }).finally(() => distances.dispose())
      }
    }
    if (!layers.every(({ sensitivity }) => Number.isFinite(sensitivity)))
      fail('AUX_INVALID_ARGUMENT', 'allotBits: the gradients of these batches are not finite')
    return layers
  } finally {
    for (const [t, values] of buffers) t.assign(values)
    gradients.dispose()
  }
}

/**
 * Which values to keep in 8, 4 or 2 bits, and which as they are, so that a training step stays within a budget and its
 * gradients as near as they can to backpropagation's (after Chen et al. 2021, *ActNN*, where the bits of a layer follow
 * from ranges and norms of gradients; here from the gradients themselves). One step with 8 bits everywhere and one more
 * for each layer, with 2 bits there, measure on each batch how far the gradients move; they change nothing in the model
 * and hold as much as 8 bits everywhere do, and the gradients of all parameters. Bits are then taken where that costs
 * least for each byte, until the plan for the first batch fits, and what it leaves free is given back. Modules that read the
 * same value have the same bits.
 * @returns what `compile` takes as `memory`: policies by module
 * @throws AUX_BUDGET_TOO_SMALL if two bits everywhere are too many.
 */
export async function allotBits<R extends Traceable>(
  options: BitsOptions<R>,
  ...batches: Batch[]
): Promise<Record<string, MemoryPolicy>> {
  expectOptions('allotBits', options)
  const { budget, rounding, ...rest } = options
  const limit = parseBytes(budget)
  if (!batches.length) fail('AUX_INVALID_ARGUMENT', 'allotBits: expected a batch to measure on')
  const session = sessionOf(options.model)
  const before = session.memory
  try {
    const layers = await sensitivities(options, batches)
    const all = allotments(layers)
    const memoryOf = (bits: readonly Bits[]): Record<string, MemoryPolicy> => {
      const policy = new Map(bits.map((b) => [b, b === 32 ? backprop() : quantized({ bits: b, rounding })]))
      return Object.fromEntries(
        layers.flatMap(({ paths }, i) => [...paths].map((path) => [path, policy.get(bits[i])!])),
      )
    }
    const bytes = (bits: readonly Bits[]): Promise<number> =>
      withStep({ ...rest, memory: memoryOf(bits) }, (step) => step.plan(shapesOf(batches[0])).bytes.total)
    let [low, high] = [0, all.length - 1]
    const least = await bytes(all[high])
    if (least > limit)
      fail(
        'AUX_BUDGET_TOO_SMALL',
        `allotBits: with two bits everywhere this plan needs ${exactBytes(least)}, more than the budget of ${exactBytes(limit)}`,
      )
    while (low < high) {
      const middle = (low + high) >> 1
      if ((await bytes(all[middle])) <= limit) high = middle
      else low = middle + 1
    }
    // A plan's total is its peak: what is not alive then, or is less than the last step saved, may have more bits.
    const bits = [...all[high]]
    const share = (i: number): number => layers[i].sensitivity * noise(bits[i])
    for (const open = new Set(layers.keys()); open.size;) {
      const i = [...open].reduce((most, other) => (share(other) > share(most) ? other : most))
      const now = bits[i]
      bits[i] = now === 2 ? 4 : now === 4 ? 8 : 32
      if (now === 32 || (await bytes(bits)) > limit) {
        bits[i] = now
        open.delete(i)
      }
    }
    return memoryOf(bits)
  } finally {
    session.memory = before
  }
}

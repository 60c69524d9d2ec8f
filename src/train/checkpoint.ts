import type { TrainingStep } from '../compile'
import { begunOf } from '../compile/optimizer'
import { sessionOf } from '../compile/session'
import { parameterOf } from '../compile/update'
import type { DataLoader, LoaderState } from '../data'
import { describe, expectOptions, fail, listed } from '../errors'
import { badFile } from '../io/file'
import { loadCheckpoint, saveCheckpoint, type Json, type LoadedCheckpoint } from '../io'
import { typedArray } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { sameShape, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import type { EarlyStopping, StoppingState } from './stopping'

/** What goes into a checkpoint, and what a checkpoint is put back into. */
export interface Training {
  /** The training step: its model, optimizer and counts are saved. */
  step: Pick<TrainingStep, 'model' | 'optimizer' | 'runs' | 'stateTensors'>
  /** Its place in the epoch is saved: a resumed run sees the same batches. */
  loader?: Pick<DataLoader, 'state' | 'restore'>
  /** The lowest value of `validate` and the epochs since are saved: a resumed run ends at the same epoch. */
  stopping?: Pick<EarlyStopping, 'state' | 'restore'>
}

interface State {
  optimizer: string
  updates: number
  /** Of `Optimizer`, by path; not there in files of before. */
  begun?: Record<string, number>
  runs: number
  loader: LoaderState | null
  /** Not there in files of before. */
  stopping?: StoppingState | null
  extra: Json
}

/** Runs `body` between two runs of the model, so that it meets a whole step. */
function betweenRuns<T>(what: string, { step }: Training, body: () => T): Promise<T> {
  if (typeof step?.stateTensors !== 'function')
    fail('AUX_INVALID_ARGUMENT', `${what}: expected { step } with a training step, got ${describe(step)}`)
  return sessionOf(step.model).enqueue(async () => body())
}

function* tensorsOf({ step }: Training, saved?: Iterable<string>): Iterable<[string, Tensor]> {
  for (const [name, t] of step.model.state())
    if (t.packed) for (const [part, held] of t.packed.parts) yield [`model.${name}${part}`, held]
    else yield [`model.${name}`, t]
  yield* step.stateTensors(saved)
}

/**
 * Saves a training run as one file, atomically and with a checksum: parameters, buffers, optimizer state and gradient
 * sums (of a frozen parameter only if it has learnt before), the counts that schedule and random numbers depend on, the
 * loader's place, and what early stopping knows: those after the steps asked for so far, whole, also where others are asked
 * for meanwhile. A run resumed from it is bit-identical to one that never stopped.
 * @param options.keep files to keep in all; predecessors become `file.1`, `file.2`, ...
 */
export async function saveTraining(
  file: string,
  training: Training,
  options: { keep?: number; extra?: Json } = {},
): Promise<void> {
  expectOptions('saveTraining', options, ['keep', 'extra'])
  const { step, loader, stopping } = training
  const { tensors, state } = await betweenRuns('saveTraining', training, () => {
    const tensors = new Map<string, HostArray>()
    for (const [name, t] of tensorsOf(training))
      tensors.set(name, { data: t.rawSync(), shape: t.shape, dtype: t.dtype })
    const state: State = {
      optimizer: step.optimizer.name,
      updates: step.optimizer.steps,
      begun: begunOf(step.optimizer, step.model),
      runs: step.runs,
      loader: loader?.state() ?? null,
      stopping: stopping?.state() ?? null,
      extra: options.extra ?? null,
    }
    return { tensors, state }
  })
  await saveCheckpoint(file, { tensors, state: state as unknown as Json, keep: options.keep })
}

/**
 * Puts a saved run back into a step and a loader that were made the same way; resolves to the `extra` it was saved with.
 * Nothing changes unless all of it fits.
 * @throws AUX_BAD_FILE naming what is missing, too much, or of another shape.
 */
export async function loadTraining(
  file: string,
  training: Training,
  options: { fallback?: boolean } = {},
): Promise<Json> {
  expectOptions('loadTraining', options, ['fallback'])
  const loaded = await loadCheckpoint(file, options)
  return betweenRuns('loadTraining', training, () => restore(loaded, training))
}

function restore({ tensors, state: raw, path }: LoadedCheckpoint, training: Training): Json {
  const { step, loader, stopping } = training
  const state = raw as unknown as State
  if (state?.optimizer !== step.optimizer.name)
    fail(
      'AUX_BAD_FILE',
      `${path}: expected a run with the optimizer ${step.optimizer.name}, got ${String(state?.optimizer)}`,
    )
  const own = new Map(tensorsOf(training, tensors.keys()))
  const frozen = new Set(Array.from(step.model.namedParameters(), ([name, p]) => (p.trainable ? undefined : name)))
  // What had not learnt yet has no state in the file: zeros.
  const without = [...own.keys()].filter((name) => !tensors.has(name))
  const missing = without.filter((name) => !frozen.has(parameterOf(name) ?? ''))
  const extra = [...tensors.keys()].filter((name) => !own.has(name))
  if (missing.length || extra.length)
    fail(
      'AUX_BAD_FILE',
      `${path}: expected the state of this model and optimizer; missing ${listed(missing)}, unexpected ${listed(extra)}`,
    )
  for (const [name, t] of own) {
    const value = tensors.get(name)
    if (value && (!sameShape(value.shape, t.shape) || value.dtype !== t.dtype))
      fail(
        'AUX_BAD_FILE',
        `${path}: expected ${name} as ${t.dtype} ${showShape(t.shape)}, got ${value.dtype} ${showShape(value.shape)}`,
      )
  }
  if (loader && !state.loader)
    fail('AUX_BAD_FILE', `${path}: expected the place of a loader, got a run that was saved without one`)
  for (const count of [state.updates, state.runs, ...Object.values(state.begun ?? {})])
    if (!Number.isSafeInteger(count) || count < 0)
      fail('AUX_BAD_FILE', `${path}: expected whole numbers of updates and runs, got ${String(count)}`)
  const before = stopping?.state()
  try {
    stopping?.restore(state.stopping ?? { best: null, waited: 0 })
    if (loader && state.loader) loader.restore(state.loader)
  } catch (cause) {
    stopping?.restore(before!)
    throw badFile(path, (cause as Error).message, cause)
  }
  for (const [name, t] of own) t.assign(tensors.get(name)?.data ?? typedArray(t.dtype, t.size))
  const late = new Set(without.map(parameterOf))
  for (const [name, p] of step.model.namedParameters()) {
    const before = late.has(name) ? state.updates : state.begun?.[name]
    if (before) step.optimizer.begun?.set(p, before)
    else step.optimizer.begun?.delete(p)
  }
  step.optimizer.steps = state.updates
  step.runs = state.runs
  return state.extra
}

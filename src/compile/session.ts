import { describe, expectOptions, fail, nativeError } from '../errors'
import { check, native } from '../native'
import { nextWords } from '../ops/random'
import type { Device } from '../tensor/device'
import type { HostArray } from '../tensor/host'
import { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import type { MemoryAssignment } from '../memory/assignment'
import { bytesOfValue, emptyHost } from './inputs'
import type { Plan } from './plan'

/** Options of one run. */
export interface RunOptions {
  /**
   * Stops the run between two kernels as long as nothing has changed: it then rejects with the signal's reason, whatever
   * that is. After that the step is finished.
   */
  signal?: AbortSignal
}

/** Throws unless it is a signal or none: a run that is under way can no longer refuse what it cannot listen to. */
export function expectSignal(what: string, signal: unknown): void {
  if (signal && !(typeof (signal as AbortSignal).addEventListener === 'function' && 'aborted' in (signal as object)))
    fail('AUX_INVALID_ARGUMENT', `${what}: expected signal to be an AbortSignal, got ${describe(signal)}`)
}

/** The signal that a run is given. */
export function signalOf(options: RunOptions): AbortSignal | undefined {
  expectOptions('run', options, ['signal'])
  if (options instanceof AbortSignal)
    fail('AUX_INVALID_ARGUMENT', 'run: expected an object of options, { signal }, got the signal alone')
  expectSignal('run', options.signal)
  return options.signal
}

/** Sessions with a run on the executor's thread. */
const running = new Set<Session>()
/** How many bodies have been asked for, of all sessions. */
let asked = 0

/**
 * What all plans of one model share: the arena, as large as the hungriest of them, and the queue in which their runs
 * follow each other.
 */
export class Session {
  /** Times that the policies were set anew: older plans follow others. */
  revision = 0
  /** Bytes that no plan of the model may exceed. */
  budget: number | undefined
  /** Highest arena byte that a kernel was given so far. */
  measuredArena = 0
  #memory: MemoryAssignment | undefined
  #device: Device | null = null
  #arena: Storage | null = null
  /** What was asked for: the first is under way. */
  readonly #queue: { ticket: number; ended: Promise<void> }[] = []

  /** Policies of the model's training step; its forward passes alone follow them too. */
  get memory(): MemoryAssignment | undefined {
    return this.#memory
  }

  set memory(memory: MemoryAssignment | undefined) {
    this.#memory = memory
    this.revision++
  }

  /** Where its plans run; null is the processor. */
  get device(): Device | null {
    return this.#device
  }

  /** @throws AUX_INVALID_ARGUMENT while a run is under way. */
  set device(device: Device | null) {
    if (device === this.#device) return
    this.expectIdle('a model was moved to another device while a run of it')
    this.#release()
    this.#device = device
  }

  /** What tells plans of the same inputs apart. */
  get variant(): string {
    return `${this.revision}|${this.#device?.name ?? ''}|`
  }

  /** Runs `body` when all runs asked for before have ended. */
  enqueue<T>(body: () => Promise<T>): Promise<T> {
    const before = this.#queue.at(-1)
    const entry = { ticket: ++asked, ended: Promise.resolve() }
    this.#queue.push(entry)
    const result = before ? before.ended.then(body) : body()
    const done = (): void => void this.#queue.shift()
    entry.ended = result.then(done, done)
    return result
  }

  /**
   * The same for a run. One thread executes the runs of all models, so this one also waits for runs of other models that
   * were asked for before it: many predictions of one model would otherwise take turns with the steps of another. It cannot
   * wait for ever, because it only waits for runs that the thread has already been given, and those wait for nothing.
   */
  enqueueRun<T>(body: () => Promise<T>): Promise<T> {
    const ticket = asked + 1
    const passing = (): Promise<void> | undefined => {
      for (const session of running) {
        const [current, next] = session.#queue
        if (next?.ticket < ticket) return current.ended // by when the next one is running
      }
    }
    const afterThem = async (): Promise<T> => {
      for (let ended; (ended = passing());) await ended
      return body()
    }
    return this.enqueue(() => (passing() ? afterThem() : body())) // what need not wait begins at once, and ends no later
  }

  get #busy(): boolean {
    return this.#queue.length > 0
  }

  /** @throws AUX_INVALID_ARGUMENT while a run is under way: what asks now would be out of turn. */
  expectIdle(asked = 'a synchronous run was asked for while another'): void {
    if (this.#busy) fail('AUX_INVALID_ARGUMENT', `${asked} is under way; await it first`)
  }

  /** Values in, one run on the executor's thread, values out. */
  async execute(
    plan: Plan,
    values: ReadonlyMap<string, HostArray | Tensor>,
    signal?: AbortSignal,
  ): Promise<HostArray[]> {
    signal?.throwIfAborted()
    const handle = plan.handle()
    const arena = this.#write(plan, values)
    const outputs = emptyOutputs(plan)
    const { storages } = plan.program
    for (const s of storages) s.pin()
    running.add(this)
    await new Promise<void>((resolve, reject) => {
      const stop = (): void => native().abort(job as Exclude<typeof job, { code: number }>)
      const job = native().run(handle, arena.handle, (status, stats) => {
        signal?.removeEventListener('abort', stop)
        this.measuredArena = Math.max(this.measuredArena, stats.arenaPeak, plan.inputEnd)
        if (status.code === 0) resolve()
        else reject(signal?.aborted && status.code === 4 ? signal.reason : nativeError(status.code, status.message))
      })
      if ('code' in job) reject(nativeError(job.code, job.message))
      else signal?.addEventListener('abort', stop, { once: true })
    }).finally(() => {
      running.delete(this)
      for (const s of storages) s.unpin()
    })
    return read(plan, arena, outputs)
  }

  /** The same on the calling thread, of an idle session. */
  executeSync(plan: Plan, values: ReadonlyMap<string, HostArray | Tensor>): HostArray[] {
    const handle = plan.handle()
    const arena = this.#write(plan, values)
    const outputs = emptyOutputs(plan)
    const { status, stats } = native().runSync(handle, arena.handle)
    this.measuredArena = Math.max(this.measuredArena, stats.arenaPeak, plan.inputEnd)
    check(status)
    return read(plan, arena, outputs)
  }

  #write(plan: Plan, values: ReadonlyMap<string, HostArray | Tensor>): Storage {
    if (!this.#arena || this.#arena.bytes < plan.arenaBytes) {
      this.#release() // the old one goes first: the two never exist together
      this.#arena = new Storage(plan.arenaBytes, { what: 'the arena of a step', device: plan.device })
    }
    for (const [name, slot] of plan.inputs) {
      const value = values.get(name)
      // The key of random ops, where no training step sets it.
      native().write(this.#arena.handle, slot.offset, value ? bytesOfValue(name, value, slot.dtype) : nextWords())
    }
    return this.#arena
  }

  /** Lets the arena go when the runs asked for so far have ended. */
  dispose(): void {
    if (this.#busy) void this.enqueue(async () => this.#release())
    else this.#release()
  }

  #release(): void {
    this.#arena?.release()
    this.#arena = null
  }
}

/** Where the values of a run go: made before it, since what there is no room for must not be found out when weights have changed. */
const emptyOutputs = (plan: Plan): HostArray[] => plan.outputs.map(({ shape, dtype }) => emptyHost(shape, dtype))

function read(plan: Plan, arena: Storage, outputs: HostArray[]): HostArray[] {
  outputs.forEach(({ data }, i) => native().read(arena.handle, plan.outputs[i].offset, data))
  return outputs
}

const sessions = new WeakMap<object, Session>()

/** The session of a model (or of any other owner of plans). */
export function sessionOf(owner: object): Session {
  const known = sessions.get(owner)
  if (known) return known
  const session = new Session()
  sessions.set(owner, session)
  return session
}

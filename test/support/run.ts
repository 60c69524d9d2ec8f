import { Plan } from '../../src/compile/plan'
import { derive } from '../../src/graph/derive'
import { Graph } from '../../src/graph/graph'
import { check, native } from '../../src/native'
import { typedArray, type TypedArray } from '../../src/tensor/dtype'
import { Storage } from '../../src/tensor/storage'
import type { Tensor } from '../../src/index'

/** A small generator of its own (mulberry32), so that tests do not depend on what they test. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export interface Traced {
  outputs: TypedArray[]
  shapes: (readonly number[])[]
  /** Gradients of sum(weights · output 0) with respect to the inputs asked for. */
  gradients: (TypedArray | undefined)[]
}

/**
 * Traces f on inputs like the given eager tensors, differentiates it, plans it, runs the plan and checks that the
 * measured peak is the planned one.
 */
export function trace(f: (...inputs: Tensor[]) => Tensor | Tensor[], inputs: readonly Tensor[], wanted: readonly number[] = [], weights?: TypedArray): Traced {
  const graph = new Graph()
  const traced = inputs.map((t, i) => graph.input(`x${i}`, t.shape, t.dtype))
  const values = new Map<string, TypedArray>(inputs.map((t, i) => [`x${i}`, t.rawSync()]))
  const outputs = graph.trace(() => [f(...traced)].flat())
  let gradients: (Tensor | undefined)[] = []
  if (wanted.length) {
    const w = graph.input('weights', outputs[0].shape, 'f32')
    values.set('weights', weights!)
    const seed = graph.input('seed', [], 'f32')
    values.set('seed', Float32Array.of(1))
    graph.trace(() => {
      const loss = outputs[0].mul(w).sum()
      gradients = derive(loss, seed, wanted.map((i) => traced[i]), { add: (a, b) => a.add(b) })
    })
  }
  if (graph.usesRandom) values.set('randomKey', Int32Array.of(7, 0, 3, 0))
  const results = [...outputs, ...gradients.filter((g) => g !== undefined)]
  const plan = new Plan(graph, results)
  const arena = new Storage(Math.max(64, plan.arenaBytes))
  try {
    for (const [name, slot] of plan.inputs) native().write(arena.handle, slot.offset, values.get(name)!)
    const { status, stats } = native().runSync(plan.handle(), arena.handle)
    check(status)
    if (stats.arenaPeak > plan.arenaBytes) throw new Error(`measured peak ${stats.arenaPeak}, planned ${plan.arenaBytes}`)
    const read = (slot: (typeof plan.outputs)[number], t: Tensor): TypedArray => {
      const strided = t.shape.reduce((n, d, i) => n + (d - 1) * t.strides[i], 1)
      const raw = typedArray(slot.dtype, t.size === 0 ? 0 : strided)
      native().read(arena.handle, slot.offset, raw)
      return unstride(raw, t)
    }
    const all = results.map((t, i) => read(plan.outputs[i], t))
    let next = outputs.length
    return {
      outputs: all.slice(0, outputs.length),
      shapes: outputs.map((t) => t.shape),
      gradients: gradients.map((g) => (g ? all[next++] : undefined)),
    }
  } finally {
    arena.release()
    plan.dispose()
  }
}

/** Row-major copy of values that lie with a tensor's strides. */
function unstride(raw: TypedArray, t: Tensor): TypedArray {
  const out = typedArray(t.dtype, t.size)
  for (let i = 0; i < out.length; i++) {
    let at = 0
    for (let axis = t.rank - 1, rest = i; axis >= 0; axis--) {
      at += (rest % t.shape[axis]) * t.strides[axis]
      rest = Math.floor(rest / t.shape[axis])
    }
    out[i] = raw[at]
  }
  return out
}

export const bytes = (a: TypedArray): Buffer => Buffer.from(a.buffer, a.byteOffset, a.byteLength)

import { exact, tracing } from '../graph/graph'
import type { Storage } from '../tensor/storage'
import { Tensor, type Layout, type Spec } from '../tensor/tensor'

type Make<A extends readonly unknown[]> = (...args: A) => Tensor

interface Known {
  readonly memory: WeakRef<Storage>
  readonly spec: Spec & Layout
}

/** What was made in traced functions, by its maker and what that was given; for as long as its memory is there. */
const known = new Map<unknown, Map<string, Known>>()
const forgotten = new FinalizationRegistry<() => void>((forget) => forget())

/**
 * A tensor that nobody changes, made by `make`. In traced functions those of one maker and the same numbers share memory:
 * plans of one model then hold nothing that another did not count.
 */
export function constant<A extends readonly unknown[]>(make: Make<A>, ...args: A): Tensor {
  if (!tracing()) return make(...args)
  const made = known.get(make) ?? known.set(make, new Map()).get(make)!
  const key = JSON.stringify(args, exact)
  const before = made.get(key)
  const memory = before?.memory.deref()
  if (memory && !memory.disposed)
    return new Tensor({ dtype: before!.spec.dtype, layout: before!.spec, storage: memory.retain() })
  const t = make(...args)
  const { dtype, shape, strides, offset } = t
  const storage = t.liveStorage()
  const entry = { memory: new WeakRef(storage), spec: { dtype, shape, strides, offset } }
  made.set(key, entry)
  forgotten.register(storage, () => made.get(key) === entry && made.delete(key))
  return t
}

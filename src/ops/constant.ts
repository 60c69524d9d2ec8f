import { exact, tracing } from '../graph/graph'
import type { Storage } from '../tensor/storage'
import { Tensor, type Layout, type Spec } from '../tensor/tensor'

type Make<A extends readonly unknown[]> = (...args: A) => Tensor

/** What was made in traced functions, by its maker and what that was given. */
const known = new Map<unknown, Map<string, { memory: WeakRef<Storage>; spec: Spec & Layout }>>()

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
  made.set(key, { memory: new WeakRef(t.liveStorage()), spec: { dtype, shape, strides, offset } })
  return t
}

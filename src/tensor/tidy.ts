import { types } from 'node:util'
import { describe, fail } from '../errors'
import type { Tensor } from './tensor'

const scopes: Set<Tensor>[] = []

/** @internal Called for each new eager tensor. */
export function registerInScope(tensor: Tensor): void {
  scopes[scopes.length - 1]?.add(tensor)
}

/** @internal An object that is of no class, whichever context (node:vm) made it. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value) as object | null
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function tensorsIn(value: unknown, found: Set<unknown>): Set<unknown> {
  if (typeof value !== 'object' || value === null || found.has(value)) return found
  found.add(value)
  if (Array.isArray(value)) for (const item of value) tensorsIn(item, found)
  else if (isPlainObject(value)) for (const item of Object.values(value)) tensorsIn(item, found)
  return found
}

/**
 * Runs `body` and disposes every eager tensor made inside, except those it returns (alone, or in arrays and plain
 * objects) and those passed to `keep`.
 * @throws AUX_INVALID_ARGUMENT where `body` returns a promise: what it makes later would be nobody's.
 */
export function tidy<T>(body: () => T): T {
  if (typeof body !== 'function') fail('AUX_INVALID_ARGUMENT', `tidy: expected a function, got ${describe(body)}`)
  const scope = new Set<Tensor>()
  scopes.push(scope)
  let result: T | undefined
  try {
    result = body()
    if (types.isPromise(result)) {
      result.catch(() => {}) // of no use to anyone
      fail(
        'AUX_INVALID_ARGUMENT',
        'tidy: expected a function that has ended when it returns, got a promise; dispose() what is made around an await',
      )
    }
    return result
  } finally {
    scopes.pop()
    const returned = tensorsIn(result, new Set())
    for (const tensor of scope) {
      if (!returned.has(tensor)) tensor.dispose()
      else registerInScope(tensor)
    }
  }
}

/** Takes a tensor out of every surrounding `tidy`, so that it lives until it is disposed. */
export function keep<T extends Tensor>(tensor: T): T {
  for (const scope of scopes) scope.delete(tensor)
  return tensor
}

import { expectModule, isContainer } from '../compile/trainable'
import { fail } from '../errors'
import { testOf, type ModuleTest } from '../memory/assignment'
import type { Module } from './module'

/** @internal The modules inside a model that are meant (names or patterns as in `memory`, or tests), by path. */
export function modulesMeant<M extends Module>(
  model: Module,
  where: string | RegExp | ModuleTest,
  is: (module: Module) => module is M,
  what: string,
): [string, M][] {
  expectModule(what.split(':')[0], model)
  const meant = testOf<object>(where)
  const found = [...model.namedModules()].filter(([path, m]) => path && is(m) && meant(path, m)) as [string, M][]
  if (!found.length) fail('AUX_INVALID_ARGUMENT', `${what} inside the model is named by ${String(where)}`)
  return found
}

/** @internal Puts modules in the place of others, wherever those stand in a model. */
export function replaceModules(model: Module, by: ReadonlyMap<unknown, Module>): void {
  const seen = new Set<object>()
  const replace = (holder: object): void => {
    seen.add(holder)
    for (const [key, value] of Object.entries(holder))
      if (by.has(value)) (holder as Record<string, unknown>)[key] = by.get(value)
      else if (isContainer(value) && !seen.has(value)) replace(value)
  }
  for (const [, m] of [...model.namedModules()]) replace(m)
}

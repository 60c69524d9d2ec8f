/** Stable names of what can go wrong; messages may be reworded in any release, codes may not. */
export type ErrorCode =
  | 'AUX_INVALID_ARGUMENT'
  | 'AUX_SHAPE_MISMATCH'
  | 'AUX_DTYPE_MISMATCH'
  | 'AUX_INDEX_OUT_OF_RANGE'
  | 'AUX_OUT_OF_MEMORY'
  | 'AUX_BUDGET_TOO_SMALL'
  | 'AUX_ABORTED'
  | 'AUX_DISPOSED'
  | 'AUX_TRACED_VALUE'
  | 'AUX_NO_GRADIENT'
  | 'AUX_NO_KERNEL'
  | 'AUX_BAD_PLAN'
  | 'AUX_BAD_FILE'
  | 'AUX_WRITE_FAILED'
  | 'AUX_NO_NATIVE'
  | 'AUX_NO_DEVICE'

/** Every error that auxgrad raises on purpose. `code` is for programs, `message` for people. */
export class AuxgradError extends Error {
  /** What went wrong, for programs. */
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'AuxgradError'
    this.code = code
  }
}

export function fail(code: ErrorCode, message: string): never {
  throw new AuxgradError(code, message)
}

// Known to all copies of auxgrad in a process: two versions of it, or one that a test runner has loaded anew.
const copy = Symbol.for('auxgrad.copy')
const own = {}

/** Marks instances of a class as those of this copy of auxgrad. */
export function sign(type: { prototype: object }): void {
  Object.defineProperty(type.prototype, copy, { value: own })
}

/** Whether a value is an instance of a class of another copy of auxgrad. */
export function isForeign(value: unknown): value is object {
  return typeof value === 'object' && value !== null && ((value as { [copy]?: object })[copy] ?? own) !== own
}

/** A value in the words of an error. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (isForeign(value))
    return (
      `a ${value.constructor.name} of another copy of auxgrad, which cannot be shared: ` +
      'keep one (npm ls auxgrad tells of several; jest.resetModules makes another)'
    )
  if (typeof value === 'object' && value !== null) return value.constructor?.name ?? 'an object'
  if (typeof value === 'bigint') return `${value}n`
  return typeof value === 'function' ? 'a function' : String(value)
}

/** Names in the words of an error: all, or the first of many and how many more. */
export function listed(names: Iterable<string>, most = 6): string {
  const all = [...names]
  const rest = all.length - most
  return rest > 1 ? `${all.slice(0, most).join(', ')} and ${rest} more` : all.join(', ') || 'none'
}

/** Throws unless it is an object of options, with no other names than these if some are given: what JavaScript lets through. */
export function expectOptions(what: string, options: unknown, names?: readonly string[]): void {
  if (typeof options !== 'object' || options === null)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected an object of options, got ${describe(options)}`)
  for (const name of names ? Object.keys(options) : [])
    if (!names!.includes(name))
      fail('AUX_INVALID_ARGUMENT', `${what}: there is no option ${name}; there are ${names!.join(', ')}`)
}

/** Those of the options that are given and have these names: what is undefined must not take the place of a default. */
export const picked = <O extends object, K extends keyof O>(options: O, names: readonly K[]): Pick<O, K> =>
  Object.fromEntries(names.flatMap((name) => (options[name] === undefined ? [] : [[name, options[name]]]))) as Pick<
    O,
    K
  >

/** Throws unless each of the named values is a whole number from `least` to `most`. */
export function expectIntegers(
  what: string,
  values: Readonly<Record<string, unknown>>,
  least = 1,
  most = Number.MAX_SAFE_INTEGER,
): void {
  const expected = most === Number.MAX_SAFE_INTEGER ? `>= ${least}` : `from ${least} to ${most}`
  for (const [name, value] of Object.entries(values))
    if (!Number.isSafeInteger(value) || (value as number) < least || (value as number) > most)
      fail('AUX_INVALID_ARGUMENT', `${what}: expected ${name} to be a whole number ${expected}, got ${describe(value)}`)
}

/** Throws unless each of the named values is one of these words. */
export function expectOneOf(what: string, values: Readonly<Record<string, unknown>>, ...words: string[]): void {
  const quoted = words.map((word) => `'${word}'`)
  const expected = `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`
  for (const [name, value] of Object.entries(values))
    if (!words.includes(value as string))
      fail('AUX_INVALID_ARGUMENT', `${what}: expected ${name} to be ${expected}, got ${String(value)}`)
}

/** Codes by number, as native code reports them (native/core/kernel.h). */
const nativeCodes: ErrorCode[] = [
  'AUX_INVALID_ARGUMENT', // 0 is success and never raised
  'AUX_INVALID_ARGUMENT',
  'AUX_INDEX_OUT_OF_RANGE',
  'AUX_OUT_OF_MEMORY',
  'AUX_ABORTED',
  'AUX_BAD_PLAN',
  'AUX_NO_KERNEL',
  'AUX_BAD_FILE',
]

export function nativeError(code: number, message: string): AuxgradError {
  return new AuxgradError(nativeCodes[code] ?? 'AUX_INVALID_ARGUMENT', message)
}

/** A value that JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

/** Thrown by `JsonReader`; the message says what was expected, what came and where. */
export class JsonError extends Error {}

const space = /[ \t\n\r]*/y
const whole = /(?:0|[1-9][0-9]*)(?![0-9.eE])/y
const word = /true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const maxDepth = 64

/** A name for an error message: quoted, and not longer than is of use. */
export const quote = (name: string): string =>
  name.length <= 64 ? JSON.stringify(name) : `${JSON.stringify(name.slice(0, 64))}...`

/**
 * Reads JSON piece by piece, so that a file cannot make it build what is not asked for; `JSON.parse` would also drop
 * all but the last of equal keys without a word.
 */
export class JsonReader {
  #at = 0

  constructor(readonly source: string) {}

  /** Calls `member` for each key, which must read the value. Equal keys are an error. */
  object(member: (key: string) => void): void {
    const keys = new Set<string>()
    this.#expect('{')
    if (this.#accept('}')) return
    do {
      const key = this.string()
      if (keys.has(key)) throw new JsonError(`expected every key once, got ${quote(key)} again at ${this.#at}`)
      keys.add(key)
      this.#expect(':')
      member(key)
    } while (this.#accept(','))
    this.#expect('}')
  }

  /** Calls `item` for each element, which must read it. */
  array(item: () => void): void {
    this.#expect('[')
    if (this.#accept(']')) return
    do item()
    while (this.#accept(','))
    this.#expect(']')
  }

  string(): string {
    if (this.#peek() !== '"') this.#unexpected('a string')
    const start = this.#at++
    for (let c = this.source.charAt(this.#at); c !== '"'; c = this.source.charAt(this.#at)) {
      if (c === '') this.#unexpected('the end of a string')
      this.#at += c === '\\' ? 2 : 1
    }
    const raw = this.source.slice(start, ++this.#at)
    let value: string
    try {
      value = JSON.parse(raw) as string // knows the escapes, and refuses bare control characters
    } catch {
      throw new JsonError(`expected a string, got ${quote(raw)} at ${start}`)
    }
    if (/\p{Surrogate}/u.test(value)) throw new JsonError(`expected valid Unicode, got ${quote(raw)} at ${start}`)
    return value
  }

  /** An integer from 0 to 2^53 - 1, written in digits. */
  integer(): number {
    const digits = this.#match(whole, 'an integer >= 0')
    const value = Number(digits)
    if (!Number.isSafeInteger(value))
      throw new JsonError(`expected an integer below 2^53, got ${quote(digits)} before ${this.#at}`)
    return value
  }

  /** Passes over a value of any kind. */
  skip(depth = 0): void {
    if (depth > maxDepth) throw new JsonError(`expected at most ${maxDepth} levels, got more at ${this.#at}`)
    const next = this.#peek()
    if (next === '{') this.object(() => this.skip(depth + 1))
    else if (next === '[') this.array(() => this.skip(depth + 1))
    else if (next === '"') this.string()
    else this.#match(word, 'a value')
  }

  /** Nothing but `padding` may follow. */
  end(padding: RegExp): void {
    const rest = this.source.slice(this.#at)
    if (!padding.test(rest))
      throw new JsonError(`expected the end, got ${JSON.stringify(rest.trimStart().slice(0, 16))} at ${this.#at}`)
  }

  #peek(): string {
    space.lastIndex = this.#at
    space.test(this.source)
    this.#at = space.lastIndex
    return this.source.charAt(this.#at)
  }

  #accept(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  #expect(character: string): void {
    if (!this.#accept(character)) this.#unexpected(character)
  }

  #match(pattern: RegExp, what: string): string {
    this.#peek()
    pattern.lastIndex = this.#at
    const found = pattern.exec(this.source)
    if (!found) return this.#unexpected(what)
    this.#at = pattern.lastIndex
    return found[0]
  }

  #unexpected(what: string): never {
    const got = this.source.slice(this.#at, this.#at + 16)
    throw new JsonError(`expected ${what}, got ${got ? JSON.stringify(got) : 'the end'} at ${this.#at}`)
  }
}

/** Says where a value is not JSON (a NaN, an undefined, a class), or gives undefined if it is all JSON. */
export function notJson(value: unknown, where: string, above: readonly unknown[] = []): string | undefined {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return undefined
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : `${where} is ${value}`
  if (typeof value !== 'object')
    return `${where} is ${typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`}`
  if (above.includes(value)) return `${where} contains itself`
  const path = [...above, value]
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const problem = notJson(value[i], `${where}[${i}]`, path)
      if (problem) return problem
    }
    return undefined
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) return `${where} is a ${value.constructor.name}`
  for (const [key, item] of Object.entries(value)) {
    const problem = notJson(item, `${where}.${key}`, path)
    if (problem) return problem
  }
  return undefined
}

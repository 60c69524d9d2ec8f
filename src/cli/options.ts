import { InvalidArgumentError } from 'commander'
import { accessSync, constants, statSync } from 'node:fs'
import path from 'node:path'
import { parseBytes } from '../compile/bytes'
import { fail } from '../errors'
import { reasonOf } from '../io/file'
import { isDeviceName } from '../tensor/device'
import { rules, type Rule } from './recipes'

// Parsers of option values; what they refuse is wrong usage (exit code 2).

/** A finite number from `least` to `most`. */
export const number =
  (least: number, whole: boolean, most = Infinity) =>
  (text: string): number => {
    const n = text.trim() === '' ? NaN : Number(text) // of nothing it would be 0
    if (!(n >= least && n <= most) || !Number.isFinite(n) || (whole && !Number.isInteger(n)))
      throw new InvalidArgumentError(
        `expected ${whole ? 'a whole number' : 'a number'} ${most < Infinity ? `from ${least} to ${most}` : `of at least ${least}`}`,
      )
    return n
  }

/** Learning rules, separated by commas. */
export function ruleList(text: string): Rule[] {
  const list = text.split(',') as Rule[]
  for (const rule of list)
    if (!rules.includes(rule)) throw new InvalidArgumentError(`expected ${rules.join(', ')} or several with commas`)
  return list
}

/** The name of a device; whether it is there is found out when a model moves to it. */
export function device(text: string): string {
  if (!isDeviceName(text)) throw new InvalidArgumentError('expected cpu, cuda or cuda:1')
  return text
}

/** A number of bytes such as 64MiB, as it was written. */
export function bytes(text: string): string {
  try {
    parseBytes(text)
    return text
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** Throws where a file could not be written: to be found out before the work whose result it is for. */
export function expectWritable(option: string, file: string): void {
  try {
    if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) throw Object.assign(new Error(), { code: 'EISDIR' })
    accessSync(path.dirname(path.resolve(file)), constants.W_OK)
  } catch (error) {
    fail('AUX_WRITE_FAILED', `${option}: ${file} cannot be written: ${reasonOf(error)}`)
  }
}

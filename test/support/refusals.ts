import type { AuxgradError, ErrorCode } from '../../src/errors'

/** An error with this code and a message like this, for `toThrow` and `rejects.toEqual`. */
export const withCode = (code: ErrorCode, message: string | RegExp = /./): Error =>
  expect.objectContaining({ code, message: expect.stringMatching(message) as string }) as Error

/** The code of the error that a function throws; undefined where it throws none. */
export function codeOf(body: () => unknown): ErrorCode | undefined {
  try {
    body()
    return undefined
  } catch (error) {
    return (error as AuxgradError).code
  }
}

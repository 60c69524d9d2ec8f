import { AuxgradError } from '../errors'
import { reasonOf } from '../io/file'

/** Exit codes of the command line: a promise to scripts. */
export const exitCode = { ok: 0, failed: 1, usage: 2, budget: 3, interrupted: 130 } as const

/** A command that cannot be what was meant: exit code 2. */
export class UsageError extends AuxgradError {
  constructor(message: string) {
    super('AUX_INVALID_ARGUMENT', message)
  }
}

export function usage(message: string): never {
  throw new UsageError(message)
}

/**
 * Ends the process where nothing can be written to standard output any more: silently if its reader has gone, as `head`
 * does, else with the reason.
 */
export function leaveOnBrokenOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') process.stderr.write(`auxgrad: standard output: ${reasonOf(error)}\n`)
    process.exit(exitCode.failed)
  })
  process.stderr.on('error', () => {}) // progress that nobody reads is no reason to end
}

/**
 * Where a command's words go. With `--json`, stdout carries one JSON object a line and nothing else, and text for
 * people goes to stderr; without, text goes to stdout and there is no JSON.
 */
export class Output {
  constructor(readonly json: boolean) {}

  /** A result: its text for people, or its object for programs. */
  result(object: object, text: string): void {
    process.stdout.write(`${this.json ? JSON.stringify(object) : text}\n`)
  }

  /** Text for people only. */
  note(text: string): void {
    ;(this.json ? process.stderr : process.stdout).write(`${text}\n`)
  }

  /** Says what went wrong and returns the exit code that stands for it. */
  error(error: unknown): number {
    const code = error instanceof AuxgradError ? error.code : undefined
    const message = error instanceof Error ? error.message : String(error)
    if (this.json) process.stdout.write(`${JSON.stringify({ error: { code: code ?? 'AUX_FAILED', message } })}\n`)
    process.stderr.write(`auxgrad: ${message}\n`)
    if (!code && error instanceof Error && process.env.AUXGRAD_LOG) process.stderr.write(`${error.stack}\n`)
    if (error instanceof UsageError) return exitCode.usage
    return code === 'AUX_BUDGET_TOO_SMALL' ? exitCode.budget : exitCode.failed
  }
}

/** The body of a command as an action of commander: errors become text (or a JSON line) and an exit code. */
export function action<O extends { json?: boolean }>(
  body: (options: O, output: Output) => Promise<number | void> | number | void,
): (options: O) => Promise<void> {
  return async (options) => {
    const output = new Output(options.json ?? false)
    try {
      process.exitCode = (await body(options, output)) ?? exitCode.ok
    } catch (error) {
      process.exitCode = output.error(error)
    }
  }
}

import { exitCode, type Output } from './output'

/**
 * Runs `body` with a signal that the first Ctrl-C aborts, so that it can end what it is at; the second one leaves the
 * process at once.
 */
export async function interruptible<T>(
  output: Output,
  ending: string,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = new AbortController()
  const interrupt = (): void => {
    if (stop.signal.aborted) process.exit(exitCode.interrupted)
    output.note(`\nending after this ${ending}; once more to leave at once`)
    stop.abort()
  }
  process.on('SIGINT', interrupt)
  try {
    return await body(stop.signal)
  } finally {
    process.off('SIGINT', interrupt)
  }
}

import { main } from '../../src/cli/main'

/** Runs a command in this process; what it wrote, and its exit code. */
export async function cli(...argv: string[]): Promise<{ out: string; err: string; code: number }> {
  const text = { out: '', err: '' }
  const out = jest.spyOn(process.stdout, 'write').mockImplementation((s) => ((text.out += String(s)), true))
  const err = jest.spyOn(process.stderr, 'write').mockImplementation((s) => ((text.err += String(s)), true))
  const before = process.exitCode
  try {
    await main(argv)
    return { ...text, code: Number(process.exitCode ?? 0) }
  } finally {
    process.exitCode = before
    out.mockRestore()
    err.mockRestore()
  }
}

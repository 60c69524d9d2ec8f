import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

/** A folder of its own for a file of tests, gone after the last one. */
export function scratchFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-test-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

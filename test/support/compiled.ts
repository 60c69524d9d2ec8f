import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { transformFileSync } from '@swc/core'

const src = path.resolve(__dirname, '../../src')

/** The sources as JavaScript in a folder of their own, for tests that need another process. */
export function compiled(): { folder: string; remove: () => void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-compiled-'))
  const visit = (from: string, to: string): void => {
    mkdirSync(to, { recursive: true })
    for (const entry of readdirSync(from, { withFileTypes: true })) {
      const [a, b] = [path.join(from, entry.name), path.join(to, entry.name)]
      if (entry.isDirectory()) visit(a, b)
      else if (entry.name.endsWith('.ts')) {
        const { code } = transformFileSync(a, {
          jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
          module: { type: 'commonjs' },
          swcrc: false,
        })
        writeFileSync(b.replace(/\.ts$/, '.js'), code)
      }
    }
  }
  visit(src, path.join(folder, 'src'))
  return { folder: path.join(folder, 'src'), remove: () => rmSync(folder, { recursive: true }) }
}

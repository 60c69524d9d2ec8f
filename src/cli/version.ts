import { readFileSync } from 'node:fs'
import path from 'node:path'

/** Folder of the package, from src/cli as from dist/cli. */
export const packageRoot = path.resolve(__dirname, '../..')

/** Version of this package. */
export function version(): string {
  return (JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as { version: string }).version
}

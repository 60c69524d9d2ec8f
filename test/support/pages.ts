import { transformSync } from '@swc/core'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(__dirname, '../..')

/** A fenced block of a page. */
export interface Block {
  readonly language: string
  readonly text: string
  /** Line of the page, from 1, of the block's first line. */
  readonly line: number
}

/** README.md and the guides. */
export const pages = (): string[] => [
  'README.md',
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
]

export const textOf = (page: string): string => readFileSync(path.join(root, page), 'utf8')

export function blocksOf(page: string): Block[] {
  const blocks: Block[] = []
  let open: { language: string; lines: string[]; line: number } | undefined
  textOf(page)
    .split('\n')
    .forEach((line, i) => {
      const fence = /^```(.*)$/.exec(line)
      if (!fence) open?.lines.push(line)
      else if (open) {
        blocks.push({ language: open.language, text: open.lines.join('\n'), line: open.line })
        open = undefined
      } else open = { language: fence[1].trim(), lines: [], line: i + 2 }
    })
  if (open) throw new Error(`${page}: the block at line ${open.line} has no end`)
  return blocks
}

export const isCode = ({ language }: Block): boolean => language === 'ts' || language === 'js'

/** The blocks of a page as one program, each on the lines where it stands in the page. */
export function programOf(page: string): string {
  const lines: string[] = []
  for (const block of blocksOf(page).filter(isCode)) {
    while (lines.length < block.line - 1) lines.push('')
    lines.push(...block.text.split('\n'))
  }
  return lines.join('\n')
}

/**
 * Runs the blocks of a page, in order, as one program with this library as `auxgrad`; what each block printed, by the
 * line it begins at.
 */
export async function run(page: string, library: object): Promise<Map<number, string>> {
  const printed = new Map<number, string>()
  let source = ''
  for (const block of blocksOf(page).filter(isCode)) {
    printed.set(block.line, '')
    source += `globalThis.__begin(${block.line})\n${block.text}\n`
  }
  const { code } = transformSync(source, {
    filename: page,
    jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
    module: { type: 'commonjs' },
    swcrc: false,
  })
  let at = 0
  const log = (...values: unknown[]): void => {
    const { format } = require('node:util') as typeof import('node:util')
    printed.set(at, `${printed.get(at)}${format(...values)}\n`)
  }
  const scope = globalThis as { __begin?: (line: number) => void }
  scope.__begin = (line) => (at = line)
  try {
    // eslint-disable-next-line @typescript-eslint/no-implied-eval
    const body = new Function('require', 'exports', 'console', `return (async () => {${code}\n})()`) as (
      require: (name: string) => unknown,
      exports: object,
      console: object,
    ) => Promise<void>
    await body((name) => (name === 'auxgrad' ? library : require(name)), {}, { ...console, log })
  } catch (error) {
    throw new Error(`${page}, block at line ${at}: ${(error as Error).message}`, { cause: error })
  } finally {
    delete scope.__begin
  }
  return printed
}

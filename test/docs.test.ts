import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as auxgrad from '../src'
import { native } from '../src/native'
import { useHostDevice } from './support/device'
import { blocksOf, isCode, pages, programOf, run, textOf } from './support/pages'

const root = path.resolve(__dirname, '..')
let folder = ''
const before = process.cwd()

beforeAll(() => {
  native().setThreads(2) // each has scratch of its own: the totals of the pages are those of two
  useHostDevice()
  folder = mkdtempSync(path.join(os.tmpdir(), 'auxgrad-docs-'))
  process.chdir(folder) // examples write files
})
afterAll(() => {
  process.chdir(before)
  rmSync(folder, { recursive: true, force: true })
})

/**
 * Printed text beside what a page says of it: the same words and whole numbers; numbers with a point may differ by 5 %
 * (instruction sets round differently), and how a plan divides the rest into transient and workspace is the kernels'
 * affair. `…` stands for anything within a line.
 */
function expectText(printed: string, said: string): void {
  const number = /\d+\.\d+/g
  const close = (line: string, got: string): boolean => {
    if (/^(transient|workspace) /.test(line)) return got.split(' ')[0] === line.split(' ')[0]
    const parts = line
      .split('…')
      .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/\d+\\\.\d+/g, '(\\d+\\.\\d+)'))
    const found = new RegExp(`^${parts.join('.*').replace(/ +/g, ' +')}$`).exec(got)
    const numbers = [...line.matchAll(number)].map(Number)
    return found !== null && numbers.every((n, i) => Math.abs(Number(found[i + 1]) - n) <= 0.05 * Math.abs(n))
  }
  const got = printed.trimEnd().split('\n')
  const lines = said.split('\n')
  const same = got.length === lines.length && lines.every((line, i) => close(line, got[i]))
  if (!same) expect(printed.trimEnd()).toBe(said)
}

describe.each(pages())('%s', (page) => {
  const blocks = blocksOf(page)

  test('every block is code that runs, what it prints, or a command line', () => {
    for (const { language, line } of blocks)
      expect([page, line, ['ts', 'js', 'text', 'sh'].includes(language)]).toEqual([page, line, true])
  })

  test('links lead somewhere', () => {
    for (const [, target] of textOf(page).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(target)) continue
      expect([target, existsSync(path.join(root, path.dirname(page), target))]).toEqual([target, true])
    }
  })

  if (blocks.some(isCode))
    test('its code runs as it stands and prints what the page says', async () => {
      auxgrad.seed(0)
      const printed = await run(page, auxgrad)
      blocks.forEach((block, i) => {
        if (block.language === 'text' && i > 0 && isCode(blocks[i - 1]))
          expectText(printed.get(blocks[i - 1].line)!, block.text)
      })
    }, 300000) // training, on a machine that may be busy
})

test('the code of every page has the types of the library', () => {
  mkdirSync(path.join(folder, 'types'))
  const files = pages().map((page) => {
    const file = path.join(folder, 'types', path.basename(page).replace(/\.md$/, '.ts'))
    writeFileSync(file, `${programOf(page)}\nexport {}\n`)
    return file
  })
  writeFileSync(
    path.join(folder, 'types/tsconfig.json'),
    JSON.stringify({
      extends: path.join(root, 'tsconfig.json'),
      compilerOptions: {
        rootDir: '/',
        module: 'preserve',
        moduleResolution: 'bundler',
        noUnusedLocals: false,
        types: ['node'],
        typeRoots: [path.join(root, 'node_modules/@types')],
        paths: { auxgrad: [path.join(root, 'src/index.ts')], '*': [path.join(root, 'node_modules/*')] },
      },
      include: [],
      files,
    }),
  )
  const tsc = path.join(root, 'node_modules/typescript-7/lib/tsc.js')
  const { stdout, status } = spawnSync(process.execPath, [tsc, '-p', path.join(folder, 'types')], { encoding: 'utf8' })
  expect([stdout, status]).toEqual(['', 0])
})

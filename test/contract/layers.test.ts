import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(__dirname, '../..')

/** Rooms of src/ in the order in which they build on each other: each may import from itself and from its left. */
const rooms = [
  'errors',
  'native',
  'info',
  'tensor',
  'io',
  'graph',
  'ops',
  'memory',
  'compile',
  'nn',
  'optim',
  'data',
  'train',
  'models',
  'cli',
  'index',
]

/** Who may include whom in C++. */
const native: Record<string, string[]> = {
  'native/core': ['native/core'],
  'native/cpu': ['native/core', 'native/cpu'],
  'native/cuda': ['native/core', 'native/cuda'],
  'native/binding': ['native/core', 'native/cpu', 'native/binding'],
  'native/run': ['native/core', 'native/cpu', 'native/run'],
  'native/test': ['native/core', 'native/cpu', 'native/test'],
  'benchmarks/native': ['native/core', 'native/cpu', 'benchmarks/native'],
}

function files(folder: string, pattern: RegExp): string[] {
  if (!existsSync(path.join(root, folder))) return []
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => pattern.test(name))
    .map((name) => path.posix.join(folder, name))
}

/** These files and all that they include, near or far. */
function withIncludes(sources: string[]): string[] {
  const found = new Set(sources)
  for (const file of found)
    for (const [, name] of readFileSync(path.join(root, file), 'utf8').matchAll(/^#include "([^"]+)"/gm)) {
      const target = path.posix.join(path.posix.dirname(file), name)
      if (existsSync(path.join(root, target))) found.add(target)
    }
  return [...found]
}

const room = (file: string): string => path.posix.relative('src', file).split('/')[0].replace(/\.ts$/, '')

test('src/ imports go one way', () => {
  const all = files('src', /\.ts$/)
  expect(all.length).toBeGreaterThan(40)
  const wrong: string[] = []
  let seen = 0
  for (const file of all) {
    const text = readFileSync(path.join(root, file), 'utf8')
    // Types alone are gone at run time: `import type` may look to the right.
    const imports =
      /^(?:import|export)\s+(?!type\s)(?:[^'"]*?\sfrom\s+)?'(\.[^']*)'|require\('(\.[^']*)'\)|import\('(\.[^']*)'\)/gm
    for (const match of text.matchAll(imports)) {
      const target = path.posix.join(path.posix.dirname(file), match[1] ?? match[2] ?? match[3])
      const [from, to] = [rooms.indexOf(room(file)), rooms.indexOf(room(target))]
      seen++
      if (from < 0 || to < 0 || to > from) wrong.push(`${file} imports ${target}`)
    }
  }
  expect(seen).toBeGreaterThan(200)
  expect(wrong).toEqual([])
})

test('native includes go one way', () => {
  const wrong: string[] = []
  let seen = 0
  for (const [folder, allowed] of Object.entries(native))
    for (const file of files(folder, /\.(cc|h|cu|cuh)$/)) {
      for (const [, name] of readFileSync(path.join(root, file), 'utf8').matchAll(/^#include "([^"]+)"/gm)) {
        if (/^\w+_families\.inc$/.test(name)) continue // written by the build
        const bases = [path.posix.dirname(file), 'native']
        const target = bases.map((base) => path.posix.join(base, name)).find((f) => existsSync(path.join(root, f)))
        seen++
        if (!target || !allowed.some((a) => target === a || target.startsWith(`${a}/`)))
          wrong.push(`${file} includes ${name}`)
      }
    }
  expect(seen).toBeGreaterThan(60)
  expect(wrong).toEqual([])
})

test('kernel sources use no C++ library, allocation or exception', () => {
  const sources = withIncludes(files('native/cpu/kernels', /\.cc$/))
  expect(sources.filter((file) => file.startsWith('native/core/')).length).toBeGreaterThan(10)
  const wrong = sources.flatMap((file) =>
    readFileSync(path.join(root, file), 'utf8')
      .split('\n')
      .map((line, i) => [line.replace(/\/\/.*|"[^"]*"/g, ''), `${file}:${i + 1}: ${line.trim()}`])
      .filter(([code]) => /\bstd::|\bnew\b|\bmalloc\b|\bthrow\b|\btry\b/.test(code))
      .map(([, where]) => where),
  )
  expect(wrong).toEqual([])
})

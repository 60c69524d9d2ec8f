import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'

const build = path.resolve(__dirname, '../../build')

/** Objects of the kernels, by whichever way they were built. */
function kernelObjects(): string[] {
  const folder = ['cmake-Release', 'direct-Release'].map((name) => path.join(build, name)).find(existsSync)
  if (!folder) throw new Error('no build; run npm run build:native')
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => /kernels[_-][^/]*(\/|\.o$)/.test(name) && name.endsWith('.o'))
    .map((name) => path.join(folder, name))
}

/** What a kernel may call: the runtime of its contract, functions of libm, and what compilers call on their own. */
const allowed =
  /^(memcpy|memset|memmove|memcmp|atan2|fmodf|floorf|ceilf|_ZN7auxgrad7Failure3setE.*|_ZN7auxgrad(11serial_pool|11current_isa|11cache_bytes|15machine_has_amx)Ev)$/

const linux = process.platform === 'linux' ? test : test.skip

// A function that two objects of different instruction sets share could be taken from the wrong one by the linker and
// crash older machines: so no weak symbol, one table out, few functions in.
linux('objects of one instruction set share no code with others', () => {
  const objects = kernelObjects()
  expect(objects.length).toBeGreaterThan(20)
  const wrong: string[] = []
  for (const object of objects) {
    const lines = execFileSync('nm', [object], { encoding: 'utf8' }).trim().split('\n')
    const symbols = lines.map((line) => line.trim().split(/\s+/).slice(-2))
    const defined = symbols.filter(([kind]) => /^[A-TV-Z]$/.test(kind) || kind === 'u' || kind === 'v' || kind === 'w')
    const tables = defined.filter(([, name]) => /^_ZN7auxgrad\d+kernels_\w+E$/.test(name))
    if (tables.length !== 1) wrong.push(`${path.basename(object)}: ${tables.length} tables`)
    for (const [kind, name] of defined)
      if (!tables.some(([, t]) => t === name)) wrong.push(`${path.basename(object)}: ${kind} ${name}`)
    for (const [kind, name] of symbols)
      if (kind === 'U' && !allowed.test(name)) wrong.push(`${path.basename(object)}: calls ${name}`)
  }
  expect(wrong).toEqual([])
})

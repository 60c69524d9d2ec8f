import { compile, info, matmul, normal, setThreads, type Inputs } from '../src/index'
import { bytes } from './support/run'

const before = info()
afterEach(() => setThreads(before.threads))

test('info() tells what computes', () => {
  expect(before.isaAvailable).toContain(before.isa)
  expect(before.isaAvailable[0]).toBe('scalar')
  expect(before.binary).toMatch(/\.node$/)
  expect(before.platform).toContain(`${process.platform}-${process.arch}`)
  expect(before.version).toMatch(/^\d+\.\d+\.\d+/)
  expect(before.compiler).toMatch(/^(gcc|clang) \d/)
})

test('setThreads() counts from the next call on and changes no result', async () => {
  const a = normal([300, 200])
  const b = normal([200, 100])
  const product = compile(({ x, y }: Inputs<'x' | 'y'>) => matmul(x, y))
  const results = []
  for (const threads of [1, 3, 2]) {
    setThreads(threads)
    expect(info().threads).toBe(threads)
    results.push(bytes(matmul(a, b).dataSync()), bytes((await product.run({ x: a, y: b })).data))
  }
  expect(new Set(results).size).toBe(1)
})

test.each([
  ['AUXGRAD_ISA', 'AVX2', /expected AUXGRAD_ISA to be one that this machine has \(scalar, .*\), got "AVX2"$/],
  ['AUXGRAD_THREADS', 'all', /expected AUXGRAD_THREADS to be a whole number from 1 to 256, got "all"$/],
  ['AUXGRAD_THREADS', '300', /, got "300"$/],
])('%s=%s in the environment is refused at first use', (name, value, message) => {
  const old = process.env[name]
  process.env[name] = value
  try {
    jest.isolateModules(() => {
      const { info: first } = require('../src/info') as typeof import('../src/info')
      expect(first).toThrow(
        expect.objectContaining({ code: 'AUX_INVALID_ARGUMENT', message: expect.stringMatching(message) }),
      )
      process.env[name] = ''
      expect(first().isa).toBe(before.isa)
    })
  } finally {
    if (old === undefined) delete process.env[name]
    else process.env[name] = old
  }
})

test.each([0, 257, 1.5, NaN, '2', undefined])('setThreads(%p) is refused and changes nothing', (threads) => {
  expect(() => setThreads(threads as number)).toThrow(
    expect.objectContaining({
      code: 'AUX_INVALID_ARGUMENT',
      message: expect.stringMatching(/^setThreads: expected threads to be/),
    }),
  )
  expect(info().threads).toBe(before.threads)
})

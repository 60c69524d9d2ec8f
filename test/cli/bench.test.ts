import { native } from '../../src/native'
import { cli } from '../support/cli'

test('bench measures kernels and training steps, and prints one table', async () => {
  const { out, err, code } = await cli('bench', '--quick', '--model', 'mlp', '--batch', '16')
  expect(err).toMatch(/bench 8\/8/)
  expect(code).toBe(0)
  expect(out).toMatch(/copy 32 MiB .* GB\/s/)
  expect(out).toMatch(/weight gradient of linear 512-512 on 4096 +│ dense .*\n.* signs .*x/)
  expect(out).toMatch(/training step of mlp, batch 16 +│ bp .* images\/s .* MiB .* MiB/)
})

test('with --json the last line is one object; planned and measured peaks are equal', async () => {
  const { out, code } = await cli('bench', '--quick', '--no-kernels', '--model', 'cnn', '--batch', '8', '--json')
  expect(code).toBe(0)
  expect(out.trimEnd().split('\n')).toHaveLength(1)
  const { machine, quick, results } = JSON.parse(out)
  expect(quick).toBe(true)
  expect(machine).toMatchObject({ isa: native().info().isa, threads: native().info().threads })
  expect(results.map((r: { variant: string }) => r.variant)).toEqual(['bp', 'asa', 'ara', 'q2', 'q8'])
  for (const r of results) {
    expect(r).toMatchObject({ group: 'step', name: 'training step of cnn, batch 8', unit: 'images/s' })
    expect(r.speed).toBeCloseTo(8000 / r.ms, 6)
    expect(r.measuredPeakBytes).toBe(r.plannedPeakBytes)
  }
  expect(results[1].plannedPeakBytes).toBeLessThan(results[0].plannedPeakBytes)
  expect(results[1].ratio).toBeCloseTo(results[0].ms / results[1].ms, 6)
  expect(results[0].ratio).toBeUndefined()
})

test('it holds nothing afterwards, refuses wrong use, and names the suite of the repository', async () => {
  const held = native().memory().live
  expect((await cli('bench', '--quick', '--no-kernels', '--model', 'mlp', '--batch', '4', '--json')).code).toBe(0)
  expect(native().memory().live).toBe(held)
  expect((await cli('bench', '--batch', '0')).code).toBe(2)
  const unknown = await cli('bench', '--model', 'vgg')
  expect(unknown).toMatchObject({ code: 2, err: expect.stringMatching(/expected one of mlp, cnn, resnet18, got vgg/) })
  const without = await cli('bench', '--quick', '--no-kernels', '--model', 'mlp', '--rule', 'ara')
  expect(without).toMatchObject({
    code: 2,
    err: expect.stringMatching(/--rule: expected one of bp, asa, q2, q8 for mlp/),
  })
  expect((await cli('bench', '--help')).out).toMatch(/npm run bench/)
})

test('the first Ctrl-C ends it after the case at hand, with what was measured so far', async () => {
  setTimeout(() => process.emit('SIGINT'), 300)
  const { out, err, code } = await cli('bench', '--quick', '--json')
  expect(code).toBe(130)
  expect(err).toMatch(/ending after this case; once more to leave at once/)
  const { results } = JSON.parse(out)
  expect(results.length).toBeGreaterThan(0)
  expect(results.length).toBeLessThan(14)
})

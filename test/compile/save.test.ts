import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import {
  ara,
  asa,
  checkpoint,
  compile,
  hostArray,
  models,
  nn,
  optim,
  q2,
  tensor,
  uniform,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { binaryPath, native } from '../../src/native'
import { snapshot } from '../support/record'
import { generator } from '../support/run'
import { scratchFolder } from '../support/folder'

const folder = scratchFolder()
const at = (name: string): string => path.join(folder, name)
// Beside the add-on: npm test builds both.
const program = path.join(path.dirname(binaryPath()), process.platform === 'win32' ? 'auxgrad_run.exe' : 'auxgrad_run')

const random = generator(5)
const host = (shape: number[]) =>
  hostArray(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
    shape,
  )

interface Row {
  ms: number
  calls: number
}
interface Report {
  kind: string
  isa: string
  threads: number
  steps: { ms: number; values: Record<string, number> }[]
  plannedBytes: number
  measuredBytes: number
  plannedArenaBytes: number
  measuredArenaBytes: number
  outputs: Record<string, { dtype: string; shape: number[]; values: number[] | null }>
  kernels?: (Row & { kernel: string })[]
  calls?: (Row & { call: string })[]
}

function run(file: string, ...options: string[]): Report {
  const text = execFileSync(program, [file, '--json', ...options], { encoding: 'utf8' })
  return JSON.parse(text.trim().split('\n').pop()!) as Report
}

/** Numbers as f32 bit patterns: nine digits give each of them back. */
const bits = (values: Iterable<number>): number[] => [...new Uint32Array(Float32Array.from(values).buffer)]

class Small extends nn.Module {
  readonly conv1 = new nn.Conv2d(1, 8, 3, { padding: 1 })
  readonly norm = new nn.BatchNorm2d(8)
  readonly conv2 = new nn.Conv2d(8, 8, 3, { padding: 1 })
  readonly drop = new nn.Dropout(0.3)
  readonly fc = new nn.Linear(4 * 4 * 8, 5)
  forward(x: Tensor): Tensor {
    x = this.norm.forward(this.conv1.forward(x)).relu().maxPool2d(2)
    x = this.conv2.forward(x).relu().maxPool2d(2)
    return this.fc.forward(this.drop.forward(x.flatten(1)))
  }
}

const batch = { x: host([6, 16, 16, 1]), y: Int32Array.from({ length: 6 }, (_, i) => i % 5) }
const small = (options: Partial<Parameters<typeof compile>[0]> = {}) => {
  const model = new Small()
  const optimizer = new optim.AdamW({ lr: 0.003 })
  const step = compile({
    model,
    loss: ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y),
    optimizer,
    seed: 2 ** 40 + 7,
    ...options,
  })
  return { model, step }
}

const cases: [string, Parameters<typeof small>[0]][] = [
  ['AdamW', {}],
  ['SGD with momentum', { optimizer: new optim.SGD({ lr: 0.1, momentum: 0.9 }) }],
  ['ASA', { memory: asa() } as never],
  ['q2', { memory: q2() } as never],
  ['checkpointing', { memory: checkpoint() } as never],
  ['clipping', { clip: { norm: 0.1 }, indicator: true } as never],
  ['a schedule', { optimizer: new optim.AdamW({ lr: optim.schedule.cosine(0.01, { steps: 12 }) }) }],
  ['accumulation', { accumulate: 3 } as never],
]
test.each(cases)('%s: steps without Node are those of Node, bit for bit', async (name, options) => {
  const { step } = small(options)
  for (let i = 0; i < 4; i++) await step.run({ x: host([6, 16, 16, 1]), y: batch.y })
  const file = at('step.plan')
  await step.save(file, batch)
  const { bytes, arenaBytes } = step.plan({ x: [6, 16, 16, 1], y: [6] })
  const expected: { loss: number; gradNorm?: number }[] = []
  for (let i = 0; i < 5; i++) expected.push(await step.run(batch))
  const reports = [run(file, '--steps', '5'), run(file, '--steps', '5', '--threads', '3', '--profile')]
  for (const report of reports) {
    expect(report).toMatchObject({ kind: 'step', isa: native().info().isa })
    expect(bits(report.steps.map((s) => s.values.loss))).toEqual(bits(expected.map((r) => r.loss)))
    if (name === 'clipping')
      expect(bits(report.steps.map((s) => s.values.gradNorm))).toEqual(bits(expected.map((r) => r.gradNorm!)))
  }
  const [report] = reports
  expect(report.plannedBytes).toBe(bytes.total)
  expect(report.measuredBytes).toBe(bytes.total)
  expect(report.plannedArenaBytes).toBe(arenaBytes)
  expect(report.measuredArenaBytes).toBe(arenaBytes)
  expect(reports[1].kernels!.length).toBeGreaterThan(5)
  expect(reports[1].calls!.some((r) => r.call.startsWith('forward conv2 '))).toBe(true)
  step.close()
})

test('ARA on a residual network, in a file of its own', async () => {
  const model = new models.CNN({ width: 8, classes: 5 })
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.05 }),
    memory: { 'stage1.*': ara() } as MemoryAssignment,
  })
  await step.save(at('ara.plan'), batch)
  const losses: number[] = []
  for (let i = 0; i < 3; i++) losses.push((await step.run(batch)).loss)
  expect(bits(run(at('ara.plan'), '--steps', '3').steps.map((s) => s.values.loss))).toEqual(bits(losses))
  step.close()
})

test('functions: outputs, random numbers, captured tensors that share memory', async () => {
  const w = uniform([3, 4])
  const [a, b] = [w.slice([0, 1]), w.slice([1, 3])]
  const f = compile(({ x, n }) => ({
    y: x.matmul(a.reshape([4, 1])).add(b.sum()),
    noise: uniform([5]),
    n: n.mul(2),
    large: x
      .matmul(w.transpose())
      .sum()
      .mul(uniform([5000])),
  }))
  const inputs = { x: host([2, 4]), n: Int32Array.of(3, -4) }
  await f.save(at('f.plan'), inputs)
  const expected = await f.run(inputs)
  const { kind, outputs, measuredBytes, plannedBytes } = run(at('f.plan'), '--steps', '1')
  expect([kind, measuredBytes]).toEqual(['function', plannedBytes])
  for (const name of ['y', 'noise', 'n'] as const) {
    expect(outputs[name]).toMatchObject({ dtype: expected[name].dtype, shape: expected[name].shape })
    expect(bits(outputs[name].values!)).toEqual(bits(expected[name].data))
  }
  expect(outputs.large).toEqual({ dtype: 'f32', shape: [5000], values: null })
  const second = await f.run(inputs)
  expect(bits(run(at('f.plan'), '--steps', '2').outputs.noise.values!)).toEqual(bits(second.noise.data))
  f.close()
})

test('saving waits for runs and changes nothing', async () => {
  const [a, b] = [small(), small()]
  b.model.loadState(a.model.state())
  const [first, saved, second] = [a.step.run(batch), a.step.save(at('queue.plan'), batch), a.step.run(batch)]
  await Promise.all([first, saved, second])
  await b.step.run(batch)
  expect((await b.step.run(batch)).loss).toBe((await second).loss)
  expect(snapshot(b.model)).toEqual(snapshot(a.model))
  expect(bits([run(at('queue.plan'), '--steps', '1').steps[0].values.loss])).toEqual(bits([(await second).loss]))
})

test('a schedule ends where its rates do; text is for people', async () => {
  const { step } = small({ optimizer: new optim.SGD({ lr: optim.schedule.linear(0.1, { steps: 10 }) }) })
  await step.save(at('short.plan'), batch, { steps: 3 })
  expect(run(at('short.plan'), '--steps', '3').steps).toHaveLength(3)
  const { status, stdout, stderr } = spawnSync(program, [at('short.plan'), '--steps', '4'], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stdout).toMatch(/step 3 {2}loss [\d.]+ {2}[\d.]+ ms/)
  expect(stderr).toMatch(/AUX_INVALID_ARGUMENT.*3 updates/)
  await expect(step.save(at('short.plan'), batch, { steps: 0 })).rejects.toMatchObject({ code: 'AUX_INVALID_ARGUMENT' })
  await expect(step.save(at('no/such.plan'), batch)).rejects.toMatchObject({ code: 'AUX_WRITE_FAILED' })
  await expect(step.save(at('short.plan'), { x: batch.x })).rejects.toMatchObject({ code: 'AUX_INVALID_ARGUMENT' })
  expect(run(at('short.plan'), '--steps', '1').steps).toHaveLength(1)
})

test('what is no plan file is one clear error; so is wrong usage', async () => {
  const { step } = small()
  await step.save(at('good.plan'), batch)
  const good = readFileSync(at('good.plan'))
  const problem = (bytes: Uint8Array): string => {
    writeFileSync(at('bad.plan'), bytes)
    const { status, stderr, signal } = spawnSync(program, [at('bad.plan')], { encoding: 'utf8' })
    expect([status, signal]).toEqual([1, null])
    expect(stderr.trim().split('\n')).toHaveLength(1)
    return stderr
  }
  const edited = (edit: (copy: Buffer) => void): Buffer => {
    const copy = Buffer.from(good)
    edit(copy)
    return copy
  }
  expect(problem(new Uint8Array())).toMatch(/AUX_BAD_FILE.*bad\.plan.*too short/)
  expect(problem(readFileSync(__filename))).toMatch(/AUX_BAD_FILE.*does not begin as one/)
  expect(problem(edited((b) => b.writeUInt8(9, 8)))).toMatch(/AUX_BAD_FILE.*expected version 1, got 9/)
  expect(problem(good.subarray(0, good.length - 100))).toMatch(/AUX_BAD_FILE.*cut short/)
  expect(problem(Buffer.concat([good, Buffer.alloc(3)]))).toMatch(/AUX_BAD_FILE.*other bytes/)
  expect(problem(edited((b) => (b[b.length - 5000] ^= 1)))).toMatch(/AUX_BAD_FILE.*checksum/)
  expect(problem(edited((b) => (b[b.length - 1] ^= 1)))).toMatch(/AUX_BAD_FILE.*checksum/)
  // Thousands of damaged files: an error each time.
  const mutated = spawnSync(
    path.join(path.dirname(program), path.basename(program).replace('run', 'test')),
    ['plan_file_'],
    {
      env: { ...process.env, AUXGRAD_PLAN_FILE: at('good.plan') },
      encoding: 'utf8',
    },
  )
  expect(mutated.stdout).toMatch(/^[1-9]\d* passed, 0 failed/m)
  // A kernel of another version, in a file that is whole.
  const other = edited((b) => {
    b.write('conv2e', b.indexOf('conv2d'))
    createHash('sha256')
      .update(b.subarray(0, -32))
      .digest()
      .copy(b, b.length - 32)
  })
  expect(problem(other)).toMatch(/AUX_NO_KERNEL.*conv2e/)
  expect(spawnSync(program, [folder], { encoding: 'utf8' }).stderr).toMatch(/AUX_BAD_FILE.*not a regular file/)
  expect(spawnSync(program, [at('none')], { encoding: 'utf8' }).stderr).toMatch(/AUX_BAD_FILE.*none.*No such file/)
  for (const args of [[], ['a', 'b'], ['a', '--steps', '0'], ['a', '--steps'], ['a', '--threads', '2x'], ['--what']])
    expect(spawnSync(program, args, { encoding: 'utf8' }).status).toBe(2)
  const env = { ...process.env, AUXGRAD_ISA: 'AVX2' }
  expect(spawnSync(program, ['a'], { env, encoding: 'utf8' })).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/no kernels for AUXGRAD_ISA=AVX2/),
  })
  expect(spawnSync(program, ['--help'], { encoding: 'utf8' }).stdout).toMatch(/--profile/)
})

test('an index out of range is the error of the kernel', async () => {
  const table = tensor([1, 2, 3])
  const f = compile(({ i }) => table.gather(0, i))
  await f.save(at('index.plan'), { i: Int32Array.of(0, 7) })
  const { status, stderr } = spawnSync(program, [at('index.plan')], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stderr).toMatch(/AUX_INDEX_OUT_OF_RANGE.*7/)
})

test('--device: what is missing is one clear error', async () => {
  const f = compile(({ x }) => x.add(1))
  await f.save(at('device.plan'), { x: tensor([1, 2]) })
  const problem = (device: string, library: string): string => {
    const { status, stdout, stderr, signal } = spawnSync(program, [at('device.plan'), '--device', device], {
      env: { ...process.env, AUXGRAD_CUDA_LIBRARY: library, CUDA_VISIBLE_DEVICES: '' },
      encoding: 'utf8',
    })
    expect([status, signal, stdout]).toEqual([1, null, ''])
    expect(stderr.trim().split('\n')).toHaveLength(1)
    return stderr
  }
  expect(problem('gpu', at('none.so'))).toMatch(/AUX_INVALID_ARGUMENT.*"gpu".*expected "cuda" or "cuda:1"/)
  expect(problem('cuda:x', at('none.so'))).toMatch(/AUX_INVALID_ARGUMENT.*"cuda:x".*expected/)
  if (process.platform === 'win32') return
  expect(problem('cuda', at('none.so'))).toMatch(/AUX_INVALID_ARGUMENT.*library of its kernels does not open.*none\.so/)
  expect(problem('cuda:1', at('device.plan'))).toMatch(/AUX_INVALID_ARGUMENT.*does not open.*device\.plan/)
  const built = path.join(path.dirname(program), 'auxgrad_cuda.so')
  if (existsSync(built)) expect(problem('cuda', built)).toMatch(/AUX_INVALID_ARGUMENT: CUDA: ./) // devices are hidden
  const { status, stderr } = spawnSync(program, ['a', '--device', 'cuda', '--threads', '2'], { encoding: 'utf8' })
  expect(status).toBe(2)
  expect(stderr).toMatch(/--threads/)
})

import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { compiled } from '../support/compiled'

const binary = path.resolve(__dirname, '../../build/Release/auxgrad.node')
const sources = compiled()
afterAll(() => sources.remove())

// In a process of its own: the peak of the resident set, before and after the first steps.
const program = `
const fs = require('node:fs')
const { compile, models, nn, optim, asa, checkpoint } = require(process.argv[1])
const status = (name) => 1024 * Number(new RegExp(name + ':\\\\s+(\\\\d+)').exec(fs.readFileSync('/proc/self/status', 'utf8'))[1])
const cases = {
  cnn: () => ({ model: new models.CNN(), x: [64, 28, 28, 1] }),
  asa: () => ({ model: new models.CNN(), x: [64, 28, 28, 1], memory: { stage1: asa(), stage2: asa() } }),
  resnet18: () => ({ model: new models.ResNet({ depth: 18, classes: 10, width: 16 }), x: [16, 32, 32, 3], memory: { 'stage*.*': checkpoint() } }),
}
const { model, x, memory } = cases[process.argv[2]]()
const step = compile({ model, loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y), optimizer: new optim.SGD({ lr: 1e-3 }), memory })
const plan = step.plan({ x, y: { shape: [x[0]], dtype: 'i32' } })
const batch = { x: { data: new Float32Array(x.reduce((a, b) => a * b)).fill(0.5), shape: x, dtype: 'f32' }, y: new Int32Array(x[0]) }
const warm = compile(({ x }) => x.relu().sum())
warm.run({ x: new Float32Array(8) }).then(async () => {
  global.gc()
  const before = status('VmRSS')
  fs.writeFileSync('/proc/self/clear_refs', '5') // the peak starts again from here
  for (let i = 0; i < 3; i++) await step.run(batch)
  console.log(JSON.stringify({ growth: status('VmHWM') - before, arena: plan.arenaBytes }))
})
`

const linux = process.platform === 'linux' ? test : test.skip
linux.each(['cnn', 'asa', 'resnet18'])(
  'the resident set grows by the planned arena, 10 %% and 16 MiB at most: %s',
  (name) => {
    const out = execFileSync(
      process.execPath,
      ['--expose-gc', '-e', program, path.join(sources.folder, 'index.js'), name],
      {
        env: { ...process.env, AUXGRAD_BINARY: binary },
        encoding: 'utf8',
      },
    )
    const { growth, arena } = JSON.parse(out)
    expect(growth).toBeLessThanOrEqual(1.1 * arena + 16 * 2 ** 20)
    expect(growth).toBeGreaterThan(0.5 * arena) // it was really touched
  },
)

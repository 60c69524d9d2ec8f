// What is compared: models, rules for weight gradients, optimizers. train.py has the same models under the same names.
'use strict'
const aux = require('../../dist')
const { nn, models, optim } = aux

/** Two convolutions with bias, max pools and a linear layer on the flattened image; no batch norm. */
class Plain extends nn.Module {
  conv1 = new nn.Conv2d(1, 16, 3, { padding: 1 })
  conv2 = new nn.Conv2d(16, 32, 5, { padding: 2 })
  fc = new nn.Linear(7 * 7 * 32, 10)

  forward(x) {
    x = this.conv1.forward(x).relu().maxPool2d(2)
    x = this.conv2.forward(x).relu().maxPool2d(2)
    return this.fc.forward(x.flatten(1))
  }
}

const kinds = {
  mlp: { options: { sizes: [784, 512, 512, 10] }, make: ({ sizes }) => new models.MLP(sizes) },
  plain: { options: {}, make: () => new Plain() },
  cnn: { options: { width: 32 }, make: (options) => new models.CNN(options) },
  resnet18: {
    options: { layout: 'standard', width: 32 },
    make: (o) => new models.ResNet({ depth: 18, classes: 10, ...o }),
    label: ({ layout, width }) => `resnet18 ${layout} ${width}`,
  },
  // Small ones; speed.js has those of usual size.
  vit: {
    options: { image: 28, channels: 1, patch: 7, layers: 2, features: 64, heads: 4, classes: 10 },
    make: (options) => new models.ViT(options),
    label: ({ image, patch, features, layers }) => `vit ${image}/${patch} ${features}x${layers}`,
  },
  gpt: {
    options: { vocabulary: 32, length: 16, layers: 2, features: 64, heads: 4 },
    make: (options) => new models.GPT(options),
    label: ({ length, features, layers }) => `gpt ${length} ${features}x${layers}`,
  },
}

const bp = { name: 'bp' }
const asa = (alphabet) => ({ name: 'asa', alphabet, epsilon: 0.01, lambda: 100 })
const ara = { name: 'ara', stride: 2 }
/** A rule, and what it does not speak of kept in so many bits. */
const packed = (rule, bits) => ({ ...rule, bits })

const sgd = { name: 'sgd', lr: 0.05, momentum: 0.9, nesterov: false, weightDecay: 0 }
const adam = { name: 'adam', lr: 1e-3, weightDecay: 0 }
const adamw = { name: 'adamw', lr: 1e-3, weightDecay: 0.01 }

/**
 * So small a rate that a ReLU which falls on the other side of 0 hardly moves the losses that follow: networks with batch
 * norm, in which some always do, must then agree to the same 1e-4 as the others.
 */
const gentle = (rule) => ({ ...sgd, lr: rule.name === 'asa' ? 1e-5 : 1e-4 })

/** Every case has the same fields, so that either side can run any of them. */
function makeCase(model, rule, optimizer, other = {}) {
  const { options, ...rest } = other
  return {
    model,
    rule,
    optimizer,
    steps: 100,
    batch: 32,
    clip: 0,
    smoothing: 0,
    accumulate: 1,
    note: '',
    strict: false,
    ...rest,
    options: { ...kinds[model].options, ...options },
  }
}

function cases({ width, steps }) {
  const list = []
  const rules = (model) => [bp, asa('pm1'), asa('01'), ...(model === 'cnn' ? [ara] : [])]
  for (const model of ['mlp', 'plain', 'cnn'])
    for (const rule of rules(model))
      for (const optimizer of [sgd, adam, adamw]) {
        // Signs make a gradient larger than small inputs would: the rate that suits them is smaller.
        const lr = optimizer !== sgd ? optimizer.lr : rule.name === 'asa' ? 0.01 : model === 'cnn' ? 0.02 : 0.05
        list.push(makeCase(model, rule, { ...optimizer, lr }, { steps: steps ?? 100 }))
      }
  const wide = { batch: 16, steps: steps ?? 30 }
  for (const [layout, rule] of [
    ['standard', bp],
    ['standard', asa('pm1')],
    ['ara', bp],
    ['ara', ara],
    ['ara', asa('01')],
  ])
    list.push(makeCase('resnet18', rule, { ...sgd, lr: 0.001 }, { ...wide, options: { layout, width } }))
  const strict = { strict: true, note: 'small rate' }
  for (const rule of [bp, asa('pm1'), ara]) {
    list.push(makeCase('cnn', rule, gentle(rule), { ...strict, steps: steps ?? 100 }))
    const layout = rule === ara ? 'ara' : 'standard'
    list.push(makeCase('resnet18', rule, gentle(rule), { ...strict, batch: 16, steps: 10, options: { layout, width } }))
  }
  const short = { steps: steps ?? 30 }
  for (const model of ['plain', 'cnn']) {
    list.push(makeCase(model, bp, { ...sgd, weightDecay: 0.01 }, { ...short, note: 'weight decay' }))
    list.push(makeCase(model, bp, { ...sgd, nesterov: true }, { ...short, note: 'nesterov' }))
    list.push(makeCase(model, bp, { ...adam, weightDecay: 0.01 }, { ...short, note: 'L2' }))
    list.push(makeCase(model, bp, { ...adamw, weightDecay: 0.3 }, { ...short, note: 'weight decay 0.3' }))
    list.push(makeCase(model, bp, sgd, { ...short, clip: 0.5, note: 'clip 0.5' }))
    list.push(makeCase(model, bp, adamw, { ...short, clip: 0.5, note: 'clip 0.5' }))
    list.push(makeCase(model, bp, sgd, { ...short, smoothing: 0.1, note: 'smoothing 0.1' }))
  }
  for (const rule of [bp, asa('pm1')])
    list.push(
      makeCase(
        'plain',
        rule,
        { ...sgd, lr: 0.02 },
        { ...short, batch: 64, accumulate: 4, clip: 1, note: 'accumulate 4, clip 1' },
      ),
    )
  for (const model of ['vit', 'gpt'])
    for (const rule of [bp, asa('pm1')])
      for (const optimizer of [sgd, adamw]) {
        const lr = optimizer === sgd && rule.name === 'asa' ? 0.01 : optimizer.lr
        list.push(makeCase(model, rule, { ...optimizer, lr }, { steps: steps ?? 20 }))
      }
  return list
}

function makeModel({ model, options }) {
  return kinds[model].make(options)
}

/** All layers with a weight but the first one. */
function behindFirst(model) {
  const layers = [...model.namedModules()].filter(([, m]) => m instanceof nn.Conv2d || m instanceof nn.Linear)
  const rest = new Set(layers.slice(1).map(([name]) => name))
  return (name) => rest.has(name)
}

/** Which modules a rule holds for: transformers keep theirs to the blocks, other networks to all but the first layer. */
const rows = {
  bp: () => [],
  asa: ({ alphabet, epsilon, lambda }, model) => [
    [model.blocks ? /^blocks\.\d+$/ : behindFirst(model), aux.asa({ alphabet, epsilon, lambda })],
  ],
  ara: ({ stride }) => [[/^stage\d$/, aux.ara({ stride })]],
}

/** The memory assignment that a rule stands for. */
const memoryOf = (rule, model) => [
  ...(rule.bits ? [[(path) => path === '', aux.quantized({ bits: rule.bits })]] : []),
  ...rows[rule.name](rule, model),
]

function makeOptimizer({ name, ...options }) {
  if (name === 'sgd') return new optim.SGD(options)
  return name === 'adam' ? new optim.Adam(options) : new optim.AdamW(options)
}

const title = ({ model, options, rule }) => ({
  model: kinds[model].label?.(options) ?? model,
  rule: [rule.name, rule.alphabet, rule.bits && `+ ${rule.bits} bit`].filter(Boolean).join(' '),
})

module.exports = { cases, makeCase, makeModel, makeOptimizer, memoryOf, title, bp, asa, ara, packed, sgd, adamw }

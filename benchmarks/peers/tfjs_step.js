// `node benchmarks/peers/tfjs_step.js '{"backend","model","weights","batches","limit"}'`: a training step of
// TensorFlow.js by backpropagation with Adam, on weights and batches written by ../compare/exchange.js. Starts with a
// 64th of the batch and doubles it while a step stays below `limit` seconds. Prints one JSON object: batch and seconds of
// the last size, loss of the first step; or the kernel that the back end misses.
'use strict'
const path = require('node:path')
const { createRequire } = require('node:module')
const { read } = require('../compare/exchange')

const load = createRequire(path.join(__dirname, 'tfjs/package.json'))

/** Layers in the forms of TensorFlow.js, on tensors by name. */
function network(tf, p) {
  const linear = (x, name) => tf.add(tf.matMul(x, p[`${name}.weight`], false, true), p[`${name}.bias`])
  const conv = (x, name, stride, padding) => tf.conv2d(x, p[`${name}.weight`], stride, padding)
  /** Batch norm of training: statistics of the batch. */
  const norm = (x, name) => {
    const { mean, variance } = tf.moments(x, [0, 1, 2])
    return tf.batchNorm(x, mean, variance, p[`${name}.bias`], p[`${name}.weight`], 1e-5)
  }
  const block = (x, name, stride = 1) => {
    const y = tf.relu(norm(conv(x, `${name}.conv1`, stride, 1), `${name}.norm1`))
    const z = norm(conv(y, `${name}.conv2`, 1, 1), `${name}.norm2`)
    const short = `${name}.shortcut`
    return tf.relu(
      tf.add(z, p[`${short}.conv.weight`] ? norm(conv(x, `${short}.conv`, stride, 0), `${short}.norm`) : x),
    )
  }
  return {
    mlp(x) {
      let y = tf.reshape(x, [x.shape[0], -1])
      const count = Object.keys(p).filter((name) => name.endsWith('.weight')).length
      for (let i = 0; i < count; i++) {
        y = linear(y, `layers.${i}`)
        if (i < count - 1) y = tf.relu(y)
      }
      return y
    },
    cnn(x) {
      let y = tf.maxPool(tf.relu(norm(conv(x, 'stem', 1, 1), 'norm')), 2, 2, 'valid')
      for (const [name, stride] of [
        ['stage1.0', 1],
        ['stage1.1', 1],
        ['stage1.2', 2],
        ['stage2.0', 1],
        ['stage2.1', 1],
      ])
        y = block(y, name, stride)
      return linear(tf.mean(y, [1, 2]), 'fc')
    },
  }
}

async function main({ backend, model, weights, batches, limit }) {
  const tf = load('@tensorflow/tfjs')
  if (backend === 'wasm') {
    const wasm = load('@tensorflow/tfjs-backend-wasm')
    wasm.setWasmPaths(path.join(path.dirname(load.resolve('@tensorflow/tfjs-backend-wasm/package.json')), 'dist/'))
  }
  await tf.setBackend(backend)
  await tf.ready()

  const p = {}
  for (const [name, { data, shape }] of read(weights)) {
    if (/running(Mean|Var)$/.test(name)) continue
    // A convolution's weight is [outputs, height, width, inputs] here, and there it is with the outputs last.
    const value = tf.tensor(data, shape)
    p[name] = tf.variable(shape.length === 4 ? tf.transpose(value, [1, 2, 3, 0]) : value, true, name)
  }
  const all = read(batches)
  const [, most, ...image] = all.get('x').shape
  const size = image.reduce((a, b) => a * b, 1)
  const forward = network(tf, p)[model]
  const optimizer = tf.train.adam(1e-3)

  const step = async (batch) => {
    const x = tf.tensor(all.get('x').data.slice(0, batch * size), [batch, ...image])
    const y = tf.oneHot(tf.tensor(all.get('y').data.slice(0, batch), [batch], 'int32'), 10)
    const start = performance.now()
    const loss = optimizer.minimize(() => tf.losses.softmaxCrossEntropy(y, forward(x)), true)
    const [value] = await loss.data()
    const seconds = (performance.now() - start) / 1000
    tf.dispose([x, y, loss])
    return { batch, seconds, loss: value }
  }

  const first = await step(Math.ceil(most / 64))
  let last = first
  while (last.batch < most && 2 * last.seconds < limit) last = await step(Math.min(most, 2 * last.batch))
  // Twice, if there is time: the first step of a size is the slower one.
  const again = last.seconds < limit ? await step(last.batch) : last
  const seconds = Math.min(last.seconds, again.seconds)
  return { batch: last.batch, seconds, loss: first.loss, lossBatch: first.batch, version: tf.version.tfjs }
}

const command = JSON.parse(process.argv[2])
main(command).then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    const kernel = /Kernel '(\w+)' not registered for backend/.exec(error.message)?.[1]
    if (!kernel) throw error
    console.log(JSON.stringify({ missing: `no kernel ${kernel}` }))
  },
)

// Batches of MNIST for either side: [steps, batch, ...], and one batch of them.
'use strict'
const { data } = require('../../dist')

let set

/** Sums of four uniform numbers around 0, the same every time: noise. */
function* noise() {
  let state = 1
  for (;;) {
    let sum = -2
    for (let i = 0; i < 4; i++) sum += (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
    yield sum
  }
}

/**
 * `steps` batches of shuffled digits; for networks of 32x32x3 images, padded and in three shades. Networks with batch
 * norm get them under noise: on an even background thousands of equal activations pass zero together, and which side
 * they fall on is rounding.
 */
async function batches(model, steps, batch) {
  set ??= (await data.mnist()).train
  const loader = new data.DataLoader(set, { batchSize: batch, shuffle: true, seed: 1, dropLast: true })
  const [size, channels] = model === 'resnet18' ? [32, 3] : [28, 1]
  const pad = (size - 28) / 2
  const x = new Float32Array(steps * batch * size * size * channels)
  const y = new Int32Array(steps * batch)
  let at = 0
  for await (const b of loader) {
    for (let n = 0; n < batch; n++)
      for (let i = 0; i < 28 * 28; i++) {
        const pixel = (((at * batch + n) * size + Math.floor(i / 28) + pad) * size + (i % 28) + pad) * channels
        for (let c = 0; c < channels; c++) x[pixel + c] = b.x.data[n * 28 * 28 + i] * (1 - 0.25 * c)
      }
    y.set(b.y.data, at * batch)
    if (++at === steps) break
  }
  if (model === 'cnn' || model === 'resnet18') {
    const numbers = noise()
    for (let i = 0; i < x.length; i++) x[i] += 0.5 * numbers.next().value
  }
  if (at < steps) throw new Error(`${steps} batches of ${batch} are more than MNIST has`)
  return {
    x: { data: x, shape: [steps, batch, size, size, channels], dtype: 'f32' },
    y: { data: y, shape: [steps, batch], dtype: 'i32' },
  }
}

/** Rows `from` to `to` of batch i, as arrays of their own. */
function slice({ x, y }, i, from, to) {
  const [, batch, ...image] = x.shape
  const size = image.reduce((a, b) => a * b, 1)
  const first = i * batch + from,
    rows = to - from
  return {
    x: { data: x.data.slice(first * size, (first + rows) * size), shape: [rows, ...image], dtype: 'f32' },
    y: { data: y.data.slice(first, first + rows), shape: [rows], dtype: 'i32' },
  }
}

module.exports = { batches, slice }

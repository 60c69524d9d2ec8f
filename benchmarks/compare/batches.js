// Batches for either side: [steps, batch, ...], and one batch of them. Digits for networks of small images, noise for
// those of large ones, sequences with something to learn for language models.
'use strict'
const { data } = require('../../dist')

let set

/** Numbers in [0, 1), the same every time. */
function* uniform() {
  let state = 1
  for (;;) yield (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
}

/** Sums of four uniform numbers around 0: noise. */
function* noise() {
  const numbers = uniform()
  for (;;) {
    let sum = -2
    for (let i = 0; i < 4; i++) sum += numbers.next().value
    yield sum
  }
}

/** Side and channels of a model's images. */
function imageOf({ model, options }) {
  if (model === 'vit') return [options.image, options.channels]
  return model === 'resnet18' ? [32, 3] : [28, 1]
}

/**
 * `steps` batches of shuffled digits, padded and in shades where the network wants larger images and more channels.
 * Networks with batch norm get them under noise: on an even background thousands of equal activations pass zero
 * together, and which side they fall on is rounding.
 */
async function digits(c, steps) {
  const { batch } = c
  set ??= (await data.mnist()).train
  const loader = new data.DataLoader(set, { batchSize: batch, shuffle: true, seed: 1, dropLast: true })
  const [size, channels] = imageOf(c)
  const pad = (size - 28) / 2
  const x = new Float32Array(steps * batch * size * size * channels)
  const y = new Int32Array(steps * batch)
  let at = 0
  for await (const b of loader) {
    for (let n = 0; n < batch; n++)
      for (let i = 0; i < 28 * 28; i++) {
        const pixel = (((at * batch + n) * size + Math.floor(i / 28) + pad) * size + (i % 28) + pad) * channels
        for (let ch = 0; ch < channels; ch++) x[pixel + ch] = b.x.data[n * 28 * 28 + i] * (1 - 0.25 * ch)
      }
    y.set(b.y.data, at * batch)
    if (++at === steps) break
  }
  if (c.model === 'cnn' || c.model === 'resnet18') {
    const numbers = noise()
    for (let i = 0; i < x.length; i++) x[i] += 0.5 * numbers.next().value
  }
  if (at < steps) throw new Error(`${steps} batches of ${batch} are more than MNIST has`)
  return { x, y, shape: [size, size, channels], dtype: 'f32' }
}

/** Images of noise, with random labels. */
function noisy(c, steps) {
  const [size, channels] = imageOf(c)
  const [pixels, labels] = [noise(), uniform()]
  const x = Float32Array.from({ length: steps * c.batch * size * size * channels }, () => pixels.next().value)
  const y = Int32Array.from({ length: steps * c.batch }, () => Math.floor(labels.next().value * c.options.classes))
  return { x, y, shape: [size, size, channels], dtype: 'f32' }
}

/** Sequences in which a token allows four successors; the label of a token is the next one. */
function tokens(c, steps) {
  const { vocabulary, length } = c.options
  const numbers = uniform()
  const random = (n) => Math.floor(numbers.next().value * n)
  const x = new Int32Array(steps * c.batch * length)
  const y = new Int32Array(x.length)
  for (let i = 0; i < x.length; i++) {
    x[i] = i % length ? y[i - 1] : random(vocabulary)
    y[i] = (5 * x[i] + random(4)) % vocabulary
  }
  return { x, y, shape: [length], labels: [length], dtype: 'i32' }
}

/** `steps` batches for a case: x [steps, batch, ...] and labels y. */
async function batches(c, steps) {
  const make = c.model === 'gpt' ? tokens : imageOf(c)[0] > 32 ? noisy : digits
  const { x, y, shape, labels = [], dtype } = await make(c, steps)
  return {
    x: { data: x, shape: [steps, c.batch, ...shape], dtype },
    y: { data: y, shape: [steps, c.batch, ...labels], dtype: 'i32' },
  }
}

/** Rows `from` to `to` of batch i, as arrays of their own. */
function slice(all, i, from, to) {
  const rows = ({ data: values, shape: [, batch, ...rest], dtype }) => {
    const size = rest.reduce((a, b) => a * b, 1)
    const at = (row) => (i * batch + row) * size
    return { data: values.slice(at(from), at(to)), shape: [to - from, ...rest], dtype }
  }
  return { x: rows(all.x), y: rows(all.y) }
}

module.exports = { batches, slice }

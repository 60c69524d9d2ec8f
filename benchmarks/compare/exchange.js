// Tensors on disk for the two programs: NAME.bin (little-endian, row-major) and NAME.json (name, dtype, shape, offset).
'use strict'
const fs = require('node:fs')

const types = { f32: Float32Array, i32: Int32Array }

/** @param tensors pairs of a name and { data, shape, dtype } */
function write(stem, tensors) {
  const header = []
  const parts = []
  let offset = 0
  for (const [name, { data, shape, dtype }] of tensors) {
    header.push({ name, dtype, shape, offset })
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
    offset += data.byteLength
  }
  fs.writeFileSync(`${stem}.bin`, Buffer.concat(parts))
  fs.writeFileSync(`${stem}.json`, JSON.stringify(header))
}

/** A tensor of ours as it is written. */
const host = (t) => ({ data: t.dataSync(), shape: t.shape, dtype: t.dtype })

/** Parameters and buffers of a model. */
const writeState = (stem, model) =>
  write(
    stem,
    [...model.state()].map(([name, t]) => [name, host(t)]),
  )

/** @returns a map from names to { data, shape, dtype } */
function read(stem) {
  const bytes = fs.readFileSync(`${stem}.bin`)
  const tensors = new Map()
  for (const { name, dtype, shape, offset } of JSON.parse(fs.readFileSync(`${stem}.json`, 'utf8'))) {
    const size = shape.reduce((a, b) => a * b, 1)
    const data = new types[dtype](bytes.buffer.slice(bytes.byteOffset + offset, bytes.byteOffset + offset + 4 * size))
    tensors.set(name, { data, shape, dtype })
  }
  return tensors
}

module.exports = { host, read, write, writeState }

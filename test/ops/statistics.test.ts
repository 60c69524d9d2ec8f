import { nn, tensor } from '../../src'

// Long sums in single precision lose digits: what they feed must stay as exact as its own rounding allows.
const shape = [64, 40, 40, 6]
const rows = 64 * 40 * 40
const x = Float32Array.from({ length: rows * 6 }, (_, i) => 3 + Math.sin(i * 0.37) + Math.cos(i * 1.91 + (i % 6)))

test('batch statistics of 100,000 rows', () => {
  const norm = new nn.BatchNorm2d(6, { momentum: 1 })
  const input = tensor(x, shape)
  norm.forward(input).dispose()
  const [mean, variance] = [norm.runningMean.dataSync(), norm.runningVar.dataSync()]
  for (let c = 0; c < 6; c++) {
    let sum = 0
    for (let r = 0; r < rows; r++) sum += x[r * 6 + c]
    const expected = sum / rows
    let squares = 0
    for (let r = 0; r < rows; r++) squares += (x[r * 6 + c] - expected) ** 2
    expect(Math.abs(mean[c] - expected)).toBeLessThan(3e-7)
    expect(Math.abs(variance[c] / (squares / (rows - 1)) - 1)).toBeLessThan(1.2e-7)
  }
  input.dispose()
  norm.dispose()
})

test('bias gradients of 100,000 rows', () => {
  const input = tensor(x, shape)
  const sums = input.sum([0, 1, 2]).dataSync()
  for (let c = 0; c < 6; c++) {
    let sum = 0
    for (let r = 0; r < rows; r++) sum += x[r * 6 + c]
    expect(Math.abs(sums[c] / sum - 1)).toBeLessThan(2e-6)
  }
  input.dispose()
})
